"""What the bytes of one direction of a stream say."""

from __future__ import annotations

from typing import NamedTuple


class PayloadEvidence(NamedTuple):
    """Payload evidence of one direction, with the number of bytes it rests on.

    The fields are in the order of the flows table's columns.

    Attributes
    ----------
    stream_bytes
        Payload bytes the stream had, at least `n_bytes`.
    n_bytes
        Bytes seen: head and body slices.
    entropy
        Plug-in Shannon entropy of all bytes seen, bits per byte. Depends on
        `n_bytes` even for random bytes; nan for no bytes.
    entropy_z
        The same as a z-score among `n_bytes` random bytes: 0 in the mean, negative for
        less; nan for fewer than two bytes.
    p_random
        p-value of "uniform random bytes, n of them", all bytes seen; nan for none.
    start_p_random
        The same for the first ``START_BYTES`` (64) of the stream.
    head_entropy, head_p_random
        Entropy and p-value of the first ``HEAD_BYTES`` (512) of the stream, as they
        are.
    body_entropy, body_p_random
        The same for the body: what a carrier holds (an HTTP body, a mail's
        attachment, a WebSocket message, the labels of DNS names, echo data), what
        follows a recognised plaintext header (TLS handshake, STARTTLS dialogue,
        ``Salted__``), else what was seen beyond the head. TLS record headers and
        headers that every sampled packet repeats are left out. nan if nothing was
        seen there.
    set_bits
        Mean set bits per byte, 4 for random bytes; nan for no bytes.
    printable
        Share of printable ASCII (0x20 to 0x7e, tab, CR, LF); nan for no bytes.
    verdict
        ``opaque | compressed | encoded | text | structured | unknown``.
    verdict_probability
        How likely the verdict is right, given the bytes. Opaque and compressed:
        between these two, at even prior odds (0.5 below 256 B, where nothing tells
        them apart); encoded: of what the decoded bytes were found to be; 1 for facts;
        nan for unknown.
    concealed
        Opaque, or opaque once decoded, or obscured with a repeating key.
    opaque_from
        Offset in the stream at which opaque bytes begin, known to 16 bytes behind text
        in ASCII, to 64 behind anything else, and not behind less than 16 bytes of text
        or 64 of others; nan where nothing is opaque.
    fully_encrypted
        Opaque from the first byte, without any handshake, and not exempt under the
        rules of Wu et al. (2023).
    handshake
        Key exchange or encrypted transport recognised by structure at the start
        of the stream, or ``"tls"`` where a recognised plaintext dialogue turns to
        TLS (STARTTLS, ``CONNECT``).
    magic
        File format at the start of the stream, or of the body behind a recognised
        plaintext header.
    encoding
        ``base64 | base32 | hex | url`` when recognised and decoded, ``xor`` for a
        repeating key; in DNS names also ``base128``.
    xor_period
        Length of the repeating key; None where there is none.
    protocol
        Plaintext grammar at the start of the stream, to verify an application.
    declared
        Media type or file name that a carrier gives for its content.
    misdeclared
        The content is opaque, and cannot be what was declared.
    carried_bytes
        Bytes where the protocol carries no data of users, estimated for the whole
        stream: in the labels of distinct names asked under one registered domain, in
        echo data that neither fill nor repeat. None for other protocols.
    names
        Distinct DNS names seen under that domain; None where no DNS was read.
    longest_label
        Longest label of these, in characters.
    domain
        That registered domain.
    """

    stream_bytes: int
    n_bytes: int
    entropy: float
    entropy_z: float
    p_random: float
    start_p_random: float
    head_entropy: float
    head_p_random: float
    body_entropy: float
    body_p_random: float
    set_bits: float
    printable: float
    verdict: str
    verdict_probability: float
    concealed: bool
    opaque_from: float
    fully_encrypted: bool
    handshake: str | None
    magic: str | None
    encoding: str | None
    xor_period: int | None
    protocol: str | None
    declared: str | None
    misdeclared: bool
    carried_bytes: int | None
    names: int | None
    longest_label: int | None
    domain: str | None
