"""DNS messages in captured bytes: the names of questions, and what answers carry.

Written for bytes that anyone may send: pointers are followed back only and a few times,
counts are believed within bounds, and whatever is cut counts as far as it is seen.

Sources: RFC 1035, section 4 (messages), RFC 7766, section 8 (length over TCP),
RFC 6762, section 18 (multicast DNS), RFC 6895 (numbers).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

TEXT_BYTES: Final = 8192
"""Bytes of labels, and of answers, that are kept at most."""

_HEADER: Final = 12
_RECORDS: Final = 64
_HOPS: Final = 8

_COUNTS: Final = Struct(">HHHH").unpack_from
_NUMBER: Final = Struct(">H").unpack_from
_CLASSES: Final = frozenset({1, 3, 4, 254, 255})
_TEXTS: Final = frozenset({16, 99})
_RAW: Final = frozenset({10, 65399})
# Bytes before the name in the data of CNAME, MX and SRV records.
_NAMED: Final = {5: 0, 15: 2, 33: 6}


def read_messages(
    head: bytes,
    packets: tuple[int, ...],
    slices: bytes,
    width: int,
    *,
    stream: bool,
) -> Messages:
    """Read the messages of one direction; the arguments are those of `_dns.read`."""
    seen = Messages()
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
    return seen


def _read_stream(head: bytes, seen: Messages) -> None:
    at = 0
    while at + 2 < len(head):
        size = int.from_bytes(head[at : at + 2])
        if seen.take(head[at + 2 : at + 2 + size]) < 0:
            seen.strays += len(head) - at
            return
        at += 2 + size


def _read_unbounded(head: bytes, seen: Messages) -> None:
    """Read messages one behind the other, where packet sizes are not known."""
    while head:
        size = seen.take(head, to_end=True)
        if size < 0:
            seen.strays += len(head)
            return
        head = head[size:]


class Messages:
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
        return b"".join(labels_of(data[_NAMED[kind] :]))
    return data if kind in _RAW else b""


def labels_of(wire: bytes) -> list[bytes]:
    """Labels of a name in wire format, as far as they go."""
    found, at = [], 0
    while at < len(wire) and 0 < wire[at] < 64:
        found.append(wire[at + 1 : at + 1 + wire[at]])
        at += 1 + wire[at]
    return found
