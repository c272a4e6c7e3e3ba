"""From facts and statistics to one verdict; every rule with its reason.

One file because the rules are an order: what is asked first decides.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.payload import (
    _dns,
    _encoding,
    _facts,
    _fragments,
    _framing,
    _grammar,
    _http,
    _icmp,
    _kernel,
    _mail,
    _records,
    _websocket,
    _xor,
)
from exfilml.payload._content import Carried, Part
from exfilml.payload._kernel import (
    OPAQUE_BELOW,
    OPAQUE_P,
    PACKED_BELOW,
)
from exfilml.payload._randomness import null

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

PACKED_SHARE: Final = 0.92
"""Entropy as a share of that of random bytes, same length: measured on fragments
of deflate, xz, zstd, jpeg and mp4 it is above, on machine code, certificates and
database pages below."""

MOST_PARTS: Final = 8
"""Parts of a carrier that are judged, the largest first."""

SIGNED: Final = frozenset(
    {"dns", "ntp", "snmp", "dhcp", "radius", "netbios", "kerberos", "ip"}
)
# What follows the grammar's own lines is packed by definition.
_PACKED_GRAMMARS: Final = frozenset({"git"})
HEADER_BYTES: Final = 256
_DEPTH: Final = 2
_LINES: Final = re.compile(rb"(?:[\t\x20-\x7e]{4,}\r?\n)+(?:\r?\n)?")
_EMPTY: Final[NDArray[np.uint8]] = np.zeros(0, np.uint8)
_UPGRADES: Final = frozenset(
    {
        "smtp",
        "ftp",
        "imap",
        "pop3",
        "xmpp",
        "http",
        "nntp",
        "mysql",
        "postgresql",
        "ldap",
    }
)


TCP: Final = 6
ICMP: Final = (1, 58)

VERDICTS: Final = ("opaque", "compressed", "encoded", "text", "structured", "unknown")
SETTLED: Final[tuple[tuple[str, float, bool], ...]] = (
    *((verdict, 1.0, False) for verdict in VERDICTS[:-1]),
    ("unknown", math.nan, False),
    ("opaque", 1.0, True),
    ("opaque", 1.0, True),
    ("compressed", 0.5, False),
)
"""Verdict, probability and concealment by what `_kernel.settle` says."""


@dataclass(slots=True)
class Judged:
    """What one piece of content was found to be."""

    verdict: str
    probability: float
    concealed: bool
    encoding: str | None = None
    period: int | None = None
    opaque_from: float = math.nan
    entropy: float = math.nan
    p_random: float = math.nan
    magic: str | None = None
    size: int = 0


@dataclass(slots=True)
class Facts:
    """What structure says of a direction, and what its carrier holds."""

    handshake: str | None = None
    magic: str | None = None
    grammar: str | None = None
    start: int = -1
    records: int = 0
    carried: Carried | None = None
    names: _dns.DnsNames | None = None
    n_carried: int | None = None


def facts_of(  # noqa: C901 - one branch for each carrier
    head: bytes,
    slices: bytes,
    packets: tuple[int, ...],
    width: int,
    protocol: int,
    *,
    is_dns: bool,
) -> Facts:
    """Find the facts at the start of a direction, and open its carrier.

    `is_dns` tells that a message of DNS with one question was found there.
    """
    datagram = protocol != TCP
    facts = Facts()
    if protocol in ICMP:
        echo = _icmp.read(head, packets, slices, width, may_quote=False)
        facts.carried = Carried((Part(echo.data, None, 0),), b"", 0)
        facts.n_carried = echo.carried
        return facts
    if is_dns:
        facts.grammar = "dns"
    else:
        facts.handshake = _facts.find_handshake(head, datagram=datagram)
        if facts.handshake is None and datagram and _facts.find_rtp(head, packets):
            facts.handshake = "rtp"
        if facts.handshake is None:
            facts.grammar = _grammar.find_protocol(head, datagram=datagram)
        facts.magic = _facts.find_magic(head)
        _find_content(facts, head)
    if facts.grammar == "dns":
        if not _is_short_answer(head, packets):
            _read_names(facts, head, slices, width, packets, stream=not datagram)
    elif facts.records:
        return facts
    elif facts.grammar == "http":
        # A header that goes on behind the head is no content, whatever its fields
        # hold.
        facts.carried = (
            _websocket.unwrap(head, slices, width)
            or _http.unwrap(head, slices, width)
            or Carried((), b"", 0)
        )
    elif facts.grammar == "smtp":
        facts.carried = _mail.unwrap(head, slices, width)
    elif datagram and facts.handshake is None and facts.grammar not in SIGNED:
        facts.carried = _framing.unwrap(head, packets, slices, width)
    return facts


def _find_content(facts: Facts, head: bytes) -> None:
    """Say where a recognised plaintext header ends, and whether records follow."""
    if facts.handshake == "tls":
        facts.start, facts.records = 0, 3
    elif facts.handshake == "dtls":
        facts.records = 254 if head[1] == 254 else 0
        facts.start = 0 if facts.records else -1
    elif facts.handshake == "rdp" or facts.grammar in _UPGRADES:
        upgrade = _facts.find_upgrade(head)
        if upgrade >= 0:
            facts.start, facts.records, facts.handshake = upgrade, 3, "tls"
    if facts.magic == "openssl-salted":
        facts.start = 16


def _read_names(
    facts: Facts,
    head: bytes,
    slices: bytes,
    width: int,
    packets: tuple[int, ...],
    *,
    stream: bool,
) -> None:
    """Read what messages of DNS carry."""
    names = _dns.read(head, packets, slices, width, stream=stream)
    if names is None or 2 * names.strays > len(head):
        # One honest message, and then something else.
        facts.grammar = None
        return
    data = names.data
    if names.responses == names.messages:
        # The names are those of the queries, which are the other side's.
        data = names.answers if len(names.answers) >= OPAQUE_BELOW else None
    else:
        facts.names, facts.n_carried = names, names.carried
    if data:
        facts.carried = Carried((Part(data, None, 0),), b"", 0)


def _measure(
    head: bytes,
    slices: bytes,
    width: int,
    start: int,
    *,
    search: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Run the compiled survey; its figures, and the content without framing."""
    out = np.empty(_kernel.N_RESULTS, np.float64)
    content = np.empty(len(head) + len(slices), np.uint8)
    _kernel.survey(
        _view(head), _view(slices), width, start, 0, search, null(), content, out
    )
    return out, content


@functools.cache
def known_bits(
    magic: str | None,
    grammar: str | None = None,
    handshake: str | None = None,
) -> int:
    """Say as bits what `_kernel.settle` asks of facts."""
    bits = 0
    if magic is not None:
        bits |= _kernel.MAGIC
        if _facts.is_sealed(magic):
            bits |= _kernel.SEALED
        elif _facts.is_packed(magic):
            bits |= _kernel.PACKED
        elif magic == "der":
            bits |= _kernel.SIGNED
    if grammar is not None:
        bits |= _kernel.GRAMMAR
        if grammar in SIGNED:
            bits |= _kernel.SIGNED
    if handshake is not None:
        bits |= _kernel.HANDSHAKE
    return bits


def judge_parts(
    carried: Carried, head: bytes, stream_bytes: int
) -> tuple[Judged, Part]:
    """Judge the parts of a carrier; what is concealed in one of them counts.

    An attacker may put as much text around the ciphertext as he likes, so that the
    largest concealed part decides, and the largest of all where none is.
    """
    *before, last = carried.parts or (Part(b"", None, len(head)),)
    # Many small fields, each too short for a verdict, may be pieces of one thing.
    small = [part for part in before if len(part.data) < OPAQUE_BELOW]
    parts = [part for part in before if len(part.data) >= OPAQUE_BELOW]
    for declared in dict.fromkeys(part.declared for part in small):
        same = [part for part in small if part.declared == declared]
        data = b"".join(part.data for part in same)
        parts.append(Part(data, declared, same[0].start))
    parts.sort(key=lambda part: -len(part.data))
    chosen: tuple[Judged, Part] | None = None
    for part in (last, *parts[:MOST_PARTS]):
        later = carried.later if part is last else b""
        beyond = 1.0 - len(head) / stream_bytes if later and stream_bytes else 0.0
        judged = judge_content(part.data, later, carried.width, beyond)
        judged.opaque_from += part.start
        if chosen is None or _weight(judged) > _weight(chosen[0]):
            chosen = judged, part
    assert chosen is not None
    return chosen


def _weight(judged: Judged) -> tuple[bool, int]:
    return judged.concealed, judged.size


def judge_content(
    data: bytes, later: bytes, width: int, later_share: float, depth: int = 0
) -> Judged:
    """Judge what a carrier or an encoding held: facts of files, then statistics."""
    if not data and not later:
        return Judged("unknown", math.nan, concealed=False)
    magic = _facts.find_magic(data)
    start = 16 if magic == "openssl-salted" else 0
    found, content = _measure(data, later, width, start)
    settled = _kernel.settle(found, known_bits(magic), later_share)
    judged = decide(
        settled, found.tolist(), content, data, later, magic, None, None, depth
    )
    judged.entropy = float(found[_kernel.C_ENTROPY])
    judged.p_random = float(found[_kernel.C_P])
    judged.magic = magic
    judged.size = len(data) + len(later)
    return judged


def _is_short_answer(head: bytes, packets: tuple[int, ...]) -> bool:
    """Whether a message of DNS is one response of ordinary size.

    Its question is that of the query, which is judged on the other side, and its
    answers are a download.
    """
    return len(packets) == 1 and len(head) <= 512 and bool(head[2] & 0x80)


def decide(  # noqa: C901, PLR0911, PLR0912
    settled: int,
    found: list[float],
    content: NDArray[np.uint8],
    head: bytes,
    slices: bytes,
    magic: str | None,
    grammar: str | None,
    handshake: str | None,
    depth: int = 0,
) -> Judged:
    """Verdict of one piece of content.

    In this order, because a fact is worth more than a statistic; what needs figures
    and facts only is settled in compiled code, by `_kernel.settle`:

    1. A container of ciphertext (``Salted__``, age, encrypted zip, ``gpg -c``)
       is opaque by definition; a compressed format is compressed.
    2. Under ``UNKNOWN_BELOW`` bytes of content: what the grammar says, else
       unknown.
    3. Printable: encoded if an encoding is recognised, else text; unless later slices
       decide (4).
    4. Randomness not rejected: opaque from ``OPAQUE_BELOW`` bytes on, where the
       test has the power to reject text and records; also when only framing, or a
       preamble of less than half, or windows of less than a third, had to be set
       aside, or when the later slices pass and stand for more than half of the
       stream. What the trained odds then hold for compressed by far is compressed,
       and so is what begins with a compressed format behind a preamble.
    5. Records with lengths or padding around opaque bytes are opaque.
    6. Text under a repeating key: encoded, and concealed.
    7. Rejected, yet nearly the entropy of random bytes: compressed.
    8. The rest is structured, or text in UTF-8.
    """
    if settled < _kernel.READ_TEXT:
        verdict, probability, concealed = SETTLED[settled]
        start = math.nan
        if settled == _kernel.IS_SEALED:
            start = 0.0
        elif settled == _kernel.BEHIND_HANDSHAKE:
            start = found[_kernel.OPAQUE_FROM]
        return Judged(verdict, probability, concealed, opaque_from=start)
    size = int(found[_kernel.N_CONTENT])
    if settled == _kernel.READ_TEXT:
        return _read_text(content[:size].tobytes(), found, size, depth)
    later = int(found[_kernel.LATER_N])
    if settled == _kernel.PASSED:
        followed = bool(found[_kernel.FOLLOWED])
        joined = int(consecutive(found[_kernel.OPAQUE_N], found[_kernel.LATER_N]))
        # A header short enough to pass in the crowd would tell the odds a lie.
        skip = min(HEADER_BYTES, joined // 8)
        start = found[_kernel.OPAQUE_FROM]
        if not followed:
            start = _opaque_start(head, start)
        if start and _packed_near(head, int(start)):
            return Judged("compressed", 1.0, concealed=False)
        return _opaque(
            content[skip:joined], start,
            grammar if grammar in _PACKED_GRAMMARS else magic, followed=followed,
        )  # fmt: skip
    if settled == _kernel.LATER_PASSED:
        start = _opaque_start(head, float(len(head)))
        if handshake is not None and magic is None:
            return Judged("opaque", 1.0, concealed=True, opaque_from=start)
        return _opaque(content[size - later : size], start, magic, followed=False)
    if magic is None and grammar is None and handshake is None:
        framed = _records.contents(head)
        if framed is not None and len(framed) >= OPAQUE_BELOW:
            inner, _ = _measure(framed, b"", 0, 0)
            if inner[_kernel.C_P] > OPAQUE_P:
                return _opaque(_view(framed), 0.0, magic, followed=False)
    if handshake is None:
        begin = _text_ends(head)
        key = _xor.find(_view(head[begin:]))
        if key is not None:
            return Judged(
                "encoded", 1.0, concealed=True, encoding="xor", period=key.period,
                opaque_from=float(begin),
            )  # fmt: skip
    if found[_kernel.C_SHARE] >= PACKED_SHARE:
        odds = _fragments.ciphertext_log_odds(_view(head))
        return Judged("compressed", 1.0 - _probability(odds), concealed=False)
    if found[_kernel.C_HIGH] and _is_utf8(head):
        return Judged("text", 1.0, concealed=False)
    # The content may have been cut to find opaque bytes in it; what came in is whole.
    printable = found[_kernel.C_PRINTABLE] / size
    run = _encoding.find_run(head + slices) if printable > 0.5 else None
    if run is not None:
        return _judge_decoded(run, depth)
    return Judged("structured", 1.0, concealed=False)


def consecutive(opaque: ArrayLike, later: ArrayLike) -> NDArray[np.int64]:
    """How many of the opaque bytes follow each other: slices stand behind."""
    joined = np.subtract(opaque, later)
    return np.where(joined < PACKED_BELOW, opaque, joined).astype(np.int64)


def _opaque_start(head: bytes, otherwise: float) -> float:
    """Where a preamble ends, if what is left of the head is opaque."""
    start = _kernel.preamble_end(_view(head), 0, len(head), null())
    rest, _ = _measure(head[start:], b"", 0, -1, search=False)
    return float(start) if rest[_kernel.C_P] > OPAQUE_P else otherwise


def _packed_near(data: bytes, end: int) -> bool:
    """Whether a compressed format begins where a text or a preamble ends.

    Or a little before: the first bytes of some magic numbers read as text.
    """
    return any(
        _facts.is_packed(_facts.find_magic(data[at : at + HEADER_BYTES]))
        for stop in {end, _kernel.text_end(_view(data), 0, len(data))}
        for at in range(max(1, stop - 8), stop + 1)
    )


def _text_ends(data: bytes) -> int:
    """Offset behind the printable lines that `data` begins with, 0 for none."""
    found = _LINES.match(data)
    return found.end() if found else 0


def _view(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8) if data else _EMPTY


def _opaque(
    content: NDArray[np.uint8],
    start: float,
    magic: str | None,
    *,
    followed: bool,
) -> Judged:
    """Give the verdict on bytes that passed the randomness test.

    The trained odds are those of bytes that follow each other (`followed`): what is
    left where framing was taken out, and slices of packets, would tell them a lie.
    """
    if magic:
        # A document or an archive of stored members, with something packed inside.
        return Judged("compressed", 0.5, concealed=False)
    odds = _fragments.ciphertext_log_odds(content) if followed else 0.0
    return by_odds(odds, start)


def by_odds(odds: float, start: float) -> Judged:
    """Give the verdict on them by the odds alone."""
    if odds < _fragments.VERDICT_BITS:
        return Judged("compressed", 1.0 - _probability(odds), concealed=False)
    return Judged("opaque", _probability(odds), concealed=True, opaque_from=start)


def _probability(log2_odds: float) -> float:
    return float(1.0 / (1.0 + 2.0 ** -max(-50.0, min(50.0, log2_odds))))


def _read_text(text: bytes, found: list[float], size: int, depth: int) -> Judged:
    """Text, or what it encodes."""
    shares = {
        "base64": found[_kernel.C_BASE64] / size,
        "hex": found[_kernel.C_HEX] / size,
        "base32": found[_kernel.C_BASE32] / size,
        "percent": found[_kernel.C_PERCENT] / size,
        "space": found[_kernel.C_SPACE] / size,
    }
    decoded = _encoding.recognise(text, shares)
    if decoded is None:
        return Judged("text", 1.0, concealed=False)
    return _judge_decoded(decoded, depth)


def _judge_decoded(decoded: tuple[str, bytes], depth: int) -> Judged:
    """Judge what was encoded; nested encodings are followed `_DEPTH` times."""
    encoding, data = decoded
    if depth >= _DEPTH:
        return Judged("encoded", math.nan, concealed=False, encoding=encoding)
    inner = judge_content(data, b"", 0, 0.0, depth + 1)
    return Judged(
        "encoded", inner.probability, concealed=inner.concealed, encoding=encoding,
        opaque_from=0.0 if inner.concealed else math.nan,
    )  # fmt: skip


def _is_utf8(data: bytes) -> bool:
    """Whether the first bytes are UTF-8 text that is not ASCII."""
    sample = data[:512]
    try:
        text = sample.decode()
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:
            return False
        text = sample[: error.start].decode()
    controls = sum(map(text.count, map(chr, (*range(9), *range(14, 32)))))
    return controls * 50 <= len(text)
