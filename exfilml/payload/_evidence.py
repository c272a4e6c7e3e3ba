"""What the bytes of one direction of a stream say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PayloadEvidence:
    """Payload evidence of one direction, with the number of bytes it rests on.

    Attributes
    ----------
    stream_bytes
        Payload bytes the stream had, at least `n_bytes`.
    n_bytes
        Bytes seen: head and body slices.
    entropy
        Plug-in Shannon entropy of all bytes seen, bits per byte. Depends on
        `n_bytes` even for random bytes; nan for no bytes.
    p_random
        p-value of "uniform random bytes, n of them", all bytes seen; nan for none.
    head_entropy, head_p_random
        The same for the first ``HEAD_BYTES`` (512) of the stream, as they are.
    body_entropy, body_p_random
        The same for the body: what follows a recognised plaintext header (HTTP,
        TLS handshake, STARTTLS dialogue, ``Salted__``), else what was seen beyond
        the head. TLS record headers and headers that every sampled packet repeats
        are left out. nan if nothing was seen there.
    set_bits
        Mean set bits per byte, 4 for random bytes; nan for no bytes.
    printable
        Share of printable ASCII (0x20 to 0x7e, tab, CR, LF); nan for no bytes.
    verdict
        ``opaque | compressed | encoded | text | structured | unknown``.
    concealed
        Opaque, or opaque once decoded.
    handshake
        Key exchange or encrypted transport recognised by structure at the start
        of the stream, or ``"tls"`` where a recognised plaintext dialogue turns to
        TLS (STARTTLS, ``CONNECT``).
    magic
        File format at the start of the stream, or of the body behind a recognised
        plaintext header.
    encoding
        ``base64 | base32 | hex | url`` when recognised and decoded.
    protocol
        Plaintext grammar at the start of the stream, to verify an application.
    """

    stream_bytes: int
    n_bytes: int
    entropy: float
    p_random: float
    head_entropy: float
    head_p_random: float
    body_entropy: float
    body_p_random: float
    set_bits: float
    printable: float
    verdict: str
    concealed: bool
    handshake: str | None
    magic: str | None
    encoding: str | None
    protocol: str | None

    def values(self) -> tuple[Any, ...]:
        """Return the fields in order, which is that of the flows table's columns."""
        return tuple(getattr(self, name) for name in self.__slots__)
