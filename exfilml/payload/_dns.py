"""What DNS names carry: questions grouped by the domain their sender asked under.

A query is a message to whoever owns the domain: all that stands below the registered
domain reaches its name server, through any resolver. `read` collects the distinct
names of one direction, counts what they hold below the domain asked for most, and
decodes it where it is written in an alphabet that ordinary names are not
(`_alphabets`).

What is set aside before decoding
---------------------------------
Names of a tunnel hold more than data: counters, session numbers, fixed tags. They
repeat or increase, and ciphertext beside them would look as if it did. Left out of
`DnsNames.data`, but not of `DnsNames.carried`, are, in this order:

1. labels that more than half of the names share (and two at least): a tag;
2. where labels of `_LONG` characters or more hold most of the characters, labels of
   `_SHORT` or fewer: counters, session numbers, the rest of the last piece;
3. elsewhere the first or the last label of each name, if in at least `_COUNTED` names
   it increases from name to name, by length and then by letter, nine times of ten:
   a counter to any base;
4. the first columns of what is left, up to the last that repeats from name to name
   more often than random letters can (z > 5, `_kernel.collision_z`, at least
   `_kernel.FRAME_SLICES` names), and likewise the last columns: headers within a
   label, as `_kernel.frame_columns` finds them in slices. Columns of text repeat as
   well, so that this is done only where ciphertext stands behind (`_framing`).

With less than `_kernel.FRAME_SLICES` names a header inside a label cannot be told from
data and stays.

Limits
------
Only the domain asked for most is judged: names spread over many domains are seen in
part. What A and AAAA answers carry is not collected. A channel of less than
`_alphabets.LEAST_CHARS` characters in one direction of a flow is not decoded; most
resolvers ask each name from a new port, so that one query is one flow.

Sources: RFC 1035, section 4 (messages), RFC 7766, section 8 (length over TCP),
RFC 6762, section 18 (multicast DNS), RFC 6895 (numbers).
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct
from typing import Final

from exfilml.domains import registered_domain
from exfilml.payload import _alphabets, _framing, _kernel

TEXT_BYTES: Final = 8192
"""Bytes of labels, and of answers, that are kept at most."""

_HEADER: Final = 12
_LONG: Final = 16
_SHORT: Final = 8
_COUNTED: Final = 6
_COLUMNS: Final = 24
_COLUMN_Z: Final = 5.0
_MAIN_SHARE: Final = 0.9
_UNREGISTERED: Final = 40
_RECORDS: Final = 64
_HOPS: Final = 8

_COUNTS: Final = Struct(">HHHH").unpack_from
_NUMBER: Final = Struct(">H").unpack_from
_CLASSES: Final = frozenset({1, 3, 4, 254, 255})
_DIGITS: Final = b"0123456789"
_TEXTS: Final = frozenset({16, 99})
_RAW: Final = frozenset({10, 65399})
# Bytes before the name in the data of CNAME, MX and SRV records.
_NAMED: Final = {5: 0, 15: 2, 33: 6}


@dataclass(frozen=True, slots=True)
class DnsNames:
    """What the DNS messages of one direction hold.

    Attributes
    ----------
    domain
        The registered domain under which most bytes of distinct names were asked, in
        small letters. ``in-addr.arpa`` and ``ip6.arpa`` are one each. Empty where
        names end in nothing that can be registered (a label with digits, as dnscat2
        asks its server directly); a public suffix where the label below it is longer
        than anyone registers.
    messages
        DNS messages read, responses included.
    responses
        How many of them are responses: the names there are those of the questions.
    strays
        Bytes of packets at the start of the stream that are no DNS message.
    unique
        Distinct names under `domain`, regardless of case.
    longest
        Longest label below `domain`, in bytes.
    entropy
        Plug-in Shannon entropy of the characters below `domain`, bits per character;
        nan for none.
    carried
        Characters that `entropy` is of: bytes of labels below `domain` over distinct
        names, dots not counted. The upload seen, a lower bound.
    text
        Those labels, one behind the other in order of first appearance, `TEXT_BYTES`
        at most.
    encoding
        ``hex | base16 | base32 | base36 | base62 | base64 | base128 | binary`` where
        the labels are written in an alphabet that ordinary names are not, else None.
        Names that are hashes (of content networks, of virus scanners) are written in
        one too: what is usual here, a baseline must say.
    data
        The bytes behind `encoding`, without what the module sets aside; None without
        an encoding. Fit for a test of randomness; a lower bound of the upload.
    answers
        Data of TXT, NULL, CNAME, MX and SRV answers, `TEXT_BYTES` at most: the
        download.
    """

    domain: str
    messages: int
    responses: int
    strays: int
    unique: int
    longest: int
    entropy: float
    carried: int
    text: bytes
    encoding: str | None
    data: bytes | None
    answers: bytes


def read(
    head: bytes,
    packets: tuple[int, ...],
    slices: bytes,
    width: int,
    *,
    stream: bool,
) -> DnsNames | None:
    """Read the DNS messages of one direction.

    Parameters
    ----------
    head
        First payload bytes, packets one behind the other.
    packets
        Payload bytes of each packet of `head`; empty where that is not known, then
        messages are read one behind the other by their own counts.
    slices
        Starts of later packets, `width` bytes each. A name that is cut there counts
        as far as it is seen, if the other names leave no doubt about the domain.
    stream
        TCP: each message is preceded by its length.

    Returns
    -------
    DnsNames or None
        None if nothing is a DNS message. Defined for any bytes.
    """
    seen = _Seen()
    if stream:
        _read_stream(head, seen)
    elif packets:
        at = 0
        for size in packets:
            message = head[at : at + size] if size > 0 else b""
            at += len(message)
            if message and seen.take(message) < 0:
                seen.strays += len(message)
    else:
        _read_unbounded(head, seen)
    if width > 0:
        for at in range(0, len(slices), width):
            piece = slices[at : at + width]
            seen.take(piece[2:] if stream else piece)
    return seen.judge() if seen.messages else None


def _read_stream(head: bytes, seen: _Seen) -> None:
    at = 0
    while at + 2 < len(head):
        size = int.from_bytes(head[at : at + 2])
        if seen.take(head[at + 2 : at + 2 + size]) < 0:
            seen.strays += len(head) - at
            return
        at += 2 + size


def _read_unbounded(head: bytes, seen: _Seen) -> None:
    """Read messages one behind the other, where packet sizes are not known."""
    while head:
        size = seen.take(head, to_end=True)
        if size < 0:
            seen.strays += len(head)
            return
        head = head[size:]


class _Seen:
    """Messages read so far.

    Attributes
    ----------
    names
        Distinct names in wire format without the last zero byte, as first written, by
        the same in small letters (length bytes are no letters).
    cut
        What is seen of names that go on where the message is cut, likewise.
    """

    __slots__ = ("answers", "cut", "messages", "names", "responses", "strays")

    def __init__(self) -> None:
        self.names: dict[bytes, bytes] = {}
        self.cut: dict[bytes, bytes] = {}
        self.messages = 0
        self.responses = 0
        self.strays = 0
        self.answers = b""

    def take(self, data: bytes, *, to_end: bool = False) -> int:
        """Take in a message, which may be cut; return where it ends, -1 if it is none.

        Unless `to_end` is asked for, records that are not needed are not walked and
        the end is that of what was read. Random bytes pass the checks of the header
        alone with a probability of 1e-10.
        """
        if len(data) < _HEADER or data[2] & 0x78 > 0x30 or data[3] & 0x40:
            return -1
        questions, answers, authority, extra = _COUNTS(data, 4)
        responds = data[2] & 0x80
        if (
            questions > 8
            or max(answers, authority, extra) > 400
            or not (questions or (answers and responds))
        ):
            return -1
        found = _questions(data, questions)
        if found is None:
            return -1
        names, rest, at = found
        self.messages += 1
        for name in names:
            self.names.setdefault(name.lower(), name)
        if rest is not None:
            self.cut.setdefault(rest.lower(), rest)
        if responds:
            self.responses += 1
            if answers:
                at = self._walk(data, at, answers, keep=True)
            answers = 0
        if to_end:
            at = self._walk(data, at, answers + authority + extra, keep=False)
        return at

    def _walk(self, data: bytes, at: int, count: int, *, keep: bool) -> int:
        """Step over records, which may be cut; collect what answers carry."""
        end = len(data)
        for _ in range(min(count, _RECORDS)):
            while at < end and 0 < data[at] < 64:
                at += data[at] + 1
            at += 2 if at < end and data[at] else 1
            if at + 10 > end:
                return end
            (kind,), (size,) = _NUMBER(data, at), _NUMBER(data, at + 8)
            at += 10
            if keep and len(self.answers) < TEXT_BYTES:
                self.answers += _carried(kind, data[at : at + size])[:TEXT_BYTES]
            at += size
        return min(at, end)

    def judge(self) -> DnsNames:
        """Group the names by domain and judge those of the main one."""
        if len(self.names) == 1 and not self.cut:
            # One query is the most common flow of all: what is known of its name.
            ((key, name),) = self.names.items()
            domain, below, longest, entropy = _place(key)
            labels = [_labels(name[:below])]
            keeps_case = key == name or _one_case(name[below:])
            text = b"".join(labels[0])
            if key != name and keeps_case:
                entropy = _entropy(text)
        else:
            domain, labels, keeps_case = self._main()
            longest = max([len(label) for name in labels for label in name], default=0)
            text = b"".join([label for name in labels for label in name])
            entropy = _entropy(text if keeps_case else text.lower())
        encoding, data = None, None
        if len(text) >= _alphabets.LEAST_CHARS and not domain.endswith(".arpa"):
            encoding, data = _decode(_content(labels), keeps_case=keeps_case)
        return DnsNames(
            domain,
            self.messages,
            self.responses,
            self.strays,
            len(labels),
            longest,
            entropy,
            len(text),
            text[:TEXT_BYTES],
            encoding,
            data,
            self.answers[:TEXT_BYTES],
        )

    def _main(self) -> tuple[str, list[list[bytes]], bool]:
        """Find the main domain; return it, the labels below it in each name, and case.

        Case is kept where the domain itself shows one case only.
        """
        sizes: dict[str, int] = {}
        places = {key: _place(key) for key in self.names}
        for key, (domain, *_) in places.items():
            sizes[domain] = sizes.get(domain, 0) + len(key)
        main = max(sizes, key=lambda d: (sizes[d], d)) if sizes else ""
        pieces, tail, keeps_case = [], b"", True
        for key, name in self.names.items():
            domain, below, *_ = places[key]
            if domain == main:
                pieces.append(name[:below])
                tail = key[below:]
                keeps_case = keeps_case and _one_case(name[below:])
        if not sizes or sizes[main] >= _MAIN_SHARE * sum(sizes.values()):
            # A name seen as far as another was seen already is not counted again.
            for key, name in self.cut.items():
                if not any(other.startswith(key) for other in self.names):
                    pieces.append(_without_tail(name, key, tail))
        return main, [_labels(piece) for piece in pieces], keeps_case


def _questions(data: bytes, count: int) -> tuple[list[bytes], bytes | None, int] | None:
    """Names of the questions, what is seen of a name that is cut, and their end."""
    names: list[bytes] = []
    at = start = _HEADER
    begun = 0
    try:
        while begun < count:
            begun += 1
            start = at
            while size := data[at]:
                if size > 63:
                    break
                at += size + 1
            if at - start > 254:
                return None
            if size:
                # A pointer, as multicast DNS has them in later questions.
                name = _unpacked(data, start)
                if name is None:
                    return None
                names.append(name)
                at += 1
            else:
                names.append(data[start:at])
            if data[at + 3] & 0x7F or data[at + 4] not in _CLASSES:
                return None
            at += 5
    except IndexError:
        if len(names) < begun:
            rest = data[start:]
            return (names, rest, len(data)) if len(rest) <= 254 else None
        at = len(data)
    return names, None, at


def _unpacked(data: bytes, start: int) -> bytes | None:
    """Follow the pointers of a name; None unless each points further back."""
    found = b""
    at = limit = start
    for _ in range(_HOPS):
        size = data[at]
        while 0 < size < 64:
            at += size + 1
            size = data[at]
        found += data[limit:at]
        if not size:
            return found if len(found) <= 254 else None
        target = (size & 0x3F) << 8 | data[at + 1]
        if size < 0xC0 or not _HEADER <= target < limit:
            return None
        at = limit = target
    return None


def _carried(kind: int, data: bytes) -> bytes:
    """Return what the data of an answer carries, labels without their lengths."""
    if kind in _TEXTS:
        found, at = [], 0
        while at < len(data):
            found.append(data[at + 1 : at + 1 + data[at]])
            at += 1 + data[at]
        return b"".join(found)
    if kind in _NAMED:
        return b"".join(_labels(data[_NAMED[kind] :]))
    return data if kind in _RAW else b""


def _labels(wire: bytes) -> list[bytes]:
    """Labels of a name in wire format, as far as they go."""
    found, at = [], 0
    while at < len(wire) and 0 < wire[at] < 64:
        found.append(wire[at + 1 : at + 1 + wire[at]])
        at += 1 + wire[at]
    return found


@functools.lru_cache(maxsize=4096)
def _place(key: bytes) -> tuple[str, int, int, float]:
    """Return domain, wire bytes below it, longest label and entropy there."""
    labels = _labels(key)
    if not labels:
        return "", 0, 0, math.nan
    last = labels[-1]
    if last == b"arpa":
        domain, above = b".".join(labels[-2:]).decode("latin-1"), 2
    elif last.translate(None, _DIGITS) != last and last[:4] != b"xn--":
        # No top-level domain has digits (RFC 3696, section 2).
        domain, above = "", 0
    else:
        # A dot within a label is no border of labels.
        text = b".".join([label.replace(b".", b"_") for label in labels])
        name = text.decode("latin-1")
        domain = registered_domain(name) or name
        above = domain.count(".") + 1
        if len(domain) >= _UNREGISTERED and len(labels[-above:][0]) >= _UNREGISTERED:
            domain, above = domain.partition(".")[2], above - 1
    below = labels[: len(labels) - above]
    longest = max(map(len, below), default=0)
    size = sum(map(len, below)) + len(below)
    return domain, size, longest, _entropy(b"".join(below))


def _one_case(wire: bytes) -> bool:
    return wire in (wire.lower(), wire.upper())


def _without_tail(name: bytes, key: bytes, tail: bytes) -> bytes:
    """Drop what is seen of the domain at the end of a name that is cut."""
    at = 0
    while at < len(key):
        if tail.startswith(key[at:]):
            return name[:at]
        at += 1 + key[at]
    return name


def _entropy(text: bytes) -> float:
    """Plug-in Shannon entropy, bits per character."""
    size = len(text)
    if not size:
        return math.nan
    logs = sum([n * math.log2(n) for n in Counter(text).values()])
    return math.log2(size) - logs / size


def _content(names: list[list[bytes]]) -> list[bytes]:
    """Set aside what is no data, as the module says; return the rest of each name."""
    if len(names) > 1:
        shared = Counter([x for name in names for x in {x.lower() for x in name}])
        tags = {x for x, n in shared.items() if n > 1 and 2 * n > len(names)}
        names = [[x for x in name if x.lower() not in tags] for name in names]
    sizes = [len(x) for name in names for x in name]
    if 2 * sum([n for n in sizes if n >= _LONG]) > sum(sizes):
        names = [[x for x in name if len(x) > _SHORT] for name in names]
    else:
        for side in (0, -1):
            if _counts_up([name[side] for name in names if len(name) > 1]):
                names = [_without(name, side) for name in names]
    return [b"".join(name) for name in names]


def _decode(texts: list[bytes], *, keeps_case: bool) -> tuple[str | None, bytes | None]:
    """Name the alphabet of the texts and decode them, headers set aside."""
    found = _alphabets.recognise(texts, keeps_case=keeps_case)
    skip, drop = _columns(texts), _columns([text[::-1] for text in texts])
    if skip or drop:
        framed = _alphabets.recognise(
            [text[skip : len(text) - drop] for text in texts], keeps_case=keeps_case
        )
        if framed is not None and (
            found is None or _framing.is_better(framed[1], found[1])
        ):
            found = framed
    return (None, None) if found is None else found


def _without(name: list[bytes], side: int) -> list[bytes]:
    if len(name) < 2:
        return name
    return name[1:] if side == 0 else name[:-1]


def _counts_up(labels: Sequence[bytes]) -> bool:
    """Whether labels increase from name to name."""
    if len(labels) < _COUNTED:
        return False
    keys = [(len(x), x.lower()) for x in labels]
    steps = sum([a < b for a, b in pairwise(keys)])
    return steps >= 0.9 * (len(labels) - 1)


def _columns(texts: Sequence[bytes]) -> int:
    """How many of the first columns hold a header, 0 for none."""
    cells = max(16, len(set(b"".join(texts).lower())))
    header = 0
    for column in range(_COLUMNS):
        letters = [text[column] for text in texts if column < len(text)]
        size = len(letters)
        if size < _kernel.FRAME_SLICES:
            break
        pairs = sum([n * (n - 1) for n in Counter(letters).values()]) / 2
        if _kernel.collision_z(pairs, size, cells, -0.5) > _COLUMN_Z:
            header = column + 1
    return header
