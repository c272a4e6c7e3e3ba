"""The most common directions of all, look-ups and TLS, told in compiled code.

A look-up of one name is one datagram with one question and one answer, or several for
the same name (A and AAAA). `skim` finds these among many directions. Whatever else is
in their messages - names beside each other, pointers, a name that is cut, data in
answers - is left to `_dns`, as are messages over TCP. All other directions but those
that begin with a record of TLS are left to `_facts` and `_grammar`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exfilml._jit import compiled_bare
from exfilml.payload._kernel import (
    AT,
    HEAD,
    LOOKUP,
    NAME_AT,
    NAME_BYTES,
    PACKETS,
    PROTOCOL,
    SIZES_AT,
    SLICES,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What `skim` finds: neither, a message that `_dns` is to read; and, nothing being left to
# find, answers that hold nothing, one name, TLS.
OTHER, TO_READ, ANSWERS, ONE_NAME, TLS = range(5)

ANSWER_BYTES: Final = 512
"""A response up to this size is one of ordinary size."""

JUDGED_FROM: Final = 64
"""Fewer bytes of data in answers cannot be judged (`_kernel.OPAQUE_BELOW`)."""

_TCP, _ICMP, _ICMPV6 = 6, 1, 58
_RECORDS: Final = 64


@compiled_bare
def number(data: Any, at: Any) -> Any:
    """Two bytes, big-endian."""
    return (data[at] + 0) * 256 + data[at + 1]


@compiled_bare
def is_dns(data: Any, first: Any, last: Any, whole: Any) -> Any:  # noqa: PLR0911
    """Whether one DNS message starts at `first` (RFC 1035, section 4.1).

    Flags and counts must be possible and the first name must parse into labels;
    `whole` also asks that nothing follows where no record is announced.
    """
    if last - first < 17:
        return False
    questions = number(data, first + 4)
    records = questions
    for at in (6, 8, 10):
        records += number(data, first + at)
    opcode, reserved = data[first + 2] >> 3 & 15, data[first + 3] & 0x40
    if opcode > 6 or reserved or questions > 8 or records < 1 or records > 400:
        return False
    at = first + 12
    while at < last and data[at]:
        size = data[at] + 0
        if size & 0xC0 == 0xC0:
            at += 1
            break
        if size > 63 or at + size >= last:
            return False
        at += 1 + size
    if at - first > 266 or at + 5 > last:
        return False
    kind, of = number(data, at + 1), number(data, at + 3)
    if not (0 < kind <= 262 or kind in (32768, 32769, 65399)):
        return False
    if (of & 0x7FFF) not in (1, 3, 4, 254, 255) and kind != 41:
        return False
    return not (whole and records == 1 and questions == 1 and at + 5 != last)


@compiled_bare
def name_end(data: Any, at: Any, last: Any) -> Any:
    """Where the zero byte of a plain, whole name is that begins at `at`; -1 if none."""
    start = at
    while at < last and data[at]:
        if data[at] > 63:
            return -1
        at += data[at] + 1
    return at if at < last and at - start <= 254 else -1


@compiled_bare
def questions_end(data: Any, at: Any, last: Any, count: Any) -> Any:
    """Where plain, whole questions end; -1 if they are not."""
    for _ in range(count):
        at = name_end(data, at, last)
        if at < 0 or at + 5 > last or data[at + 3] & 0x7F:
            return -1
        if data[at + 4] not in (1, 3, 4, 254, 255):
            return -1
        at += 5
    return at


@compiled_bare
def answer_bytes(data: Any, at: Any, last: Any, count: Any) -> Any:
    """Bytes that the data of answers holds; `JUDGED_FROM` where that is a guess."""
    held = 0
    for _ in range(min(count, _RECORDS)):
        while at < last and 0 < data[at] < 64:
            at += data[at] + 1
        at += 2 if at < last and data[at] else 1
        if at + 10 > last:
            break
        kind, size = number(data, at), number(data, at + 8)
        at += 10
        if kind in (16, 99, 10, 65399):
            return JUDGED_FROM
        if kind in (5, 15, 33):
            # CNAME, MX, SRV: the letters of a name.
            stop = min(at + size, last)
            label = at + (0 if kind == 5 else (2 if kind == 15 else 6))
            while label < stop and 0 < data[label] < 64:
                held += min(data[label] + 0, stop - label - 1)
                label += data[label] + 1
        at += size
    return held


@compiled_bare
def is_same_name(data: Any, one: Any, other: Any, size: Any) -> Any:
    """Whether two names are equal but for case."""
    for i in range(size):
        a, b = data[one + i], data[other + i]
        if a != b and ((a ^ b) != 32 or not 97 <= (a | 32) <= 122):
            return False
    return True


@compiled_bare
def is_tls(data: Any, first: Any, last: Any) -> Any:  # noqa: PLR0911
    """Whether a TLS record, with what must be inside it, starts at `first`."""
    length = last - first
    if length < 6 or data[first + 1] != 3 or data[first + 2] > 4:
        # SSL 2 framing around a client hello of SSL 3 or TLS (RFC 5246, E.2).
        return (
            length > 10
            and data[first] == 0x80
            and data[first + 2] == 1
            and data[first + 3] == 3
            and data[first + 4] <= 3
            and data[first + 5] == 0
        )
    kind, inner = data[first], data[first + 5]
    size = number(data, first + 3)
    if not 0 < size <= 18432:
        return False
    after = first + 5 + size
    # A header of four bytes, whose length is below 65,536.
    is_message = length > 6 and data[first + 6] == 0
    if kind == 22 and inner in (1, 2) and is_message and (
        # A hello that fills its record: what follows may be lost. 2**-34.
        length > 8 and number(data, first + 7) + 4 == size
    ):  # fmt: skip
        return True
    if last >= after + 3 and not (
        20 <= data[after] <= 24 and data[after + 1] == 3 and data[after + 2] <= 4
    ):
        return False
    if kind == 22:
        # Encrypted handshake messages show any type, hellos a short list.
        if last > after:
            return True
        return is_message and (
            inner in (0, 1, 2, 4, 8, 16, 20, 22) or 11 <= inner <= 15
        )
    if kind == 20:
        return size == 1 and inner == 1
    if kind == 21:
        return inner in (1, 2) if size == 2 else 16 <= size <= 96
    return kind == 23


@compiled_bare
def is_file(data: Any, first: Any, last: Any) -> Any:
    """Whether a magic number stands where a file has it that begins with anything."""
    if last - first >= 8 and data[first + 4] == 0x66:
        return data[first + 5] == 0x74 and data[first + 6] == 0x79
    return last - first >= 262 and data[first + 257] == 0x75


@compiled_bare
def skim_one(data: Any, sizes: Any, side: Any) -> Any:  # noqa: C901, PLR0911, PLR0912
    """Say what one direction of datagrams holds."""
    at = side[AT]
    end = at + side[HEAD]
    if side[HEAD] < 17 or data[at + 4] or data[at + 5] != 1:
        return OTHER
    if not is_dns(data, at, end, False):
        return OTHER
    if side[PACKETS] == 1 and side[HEAD] <= ANSWER_BYTES and data[at + 2] & 0x80:
        return ANSWERS
    if side[PACKETS] == 0 or side[SLICES]:
        return TO_READ
    responds = data[at + 2] & 0x80
    held = messages = 0
    side[NAME_BYTES] = -1
    for i in range(side[PACKETS]):
        size = sizes[side[SIZES_AT] + i]
        if size <= 0 or at == end:
            continue
        last = min(end, at + size)
        if last - at < 12 or data[at + 2] & 0x78 > 0x30 or data[at + 3] & 0x40:
            return TO_READ
        questions, answers = number(data, at + 4), number(data, at + 6)
        if (
            questions != 1 or answers > 400 or data[at + 2] & 0x80 != responds
            or number(data, at + 8) > 400 or number(data, at + 10) > 400
        ):  # fmt: skip
            return TO_READ
        behind = questions_end(data, at + 12, last, questions)
        if behind < 0:
            return TO_READ
        if responds:
            held += answer_bytes(data, behind, last, answers)
        else:
            name, size = at + 12, behind - 5 - at - 12
            if side[NAME_BYTES] < 0:
                side[NAME_AT], side[NAME_BYTES] = name, size
            elif size != side[NAME_BYTES] or not is_same_name(
                data, name, side[NAME_AT], size
            ):
                return TO_READ
        at = last
        messages += 1
    if messages == 0:
        return TO_READ
    if responds:
        return ANSWERS if held < JUDGED_FROM else TO_READ
    return ONE_NAME


@compiled_bare
def skim(
    data: NDArray[np.uint8], sizes: NDArray[np.int64], sides: NDArray[np.int64]
) -> None:
    """Look for look-ups, and for TLS.

    Parameters
    ----------
    data, sides
        As for `_kernel.survey_many`; `LOOKUP` is filled, and where it is `ONE_NAME`
        the place of the name, as first written and without its last zero byte.
    sizes
        Sizes of packets, those of all directions.
    """
    for i in range(sides.shape[0]):
        side = sides[i]
        side[LOOKUP] = OTHER
        if side[PROTOCOL] == _TCP:
            first, last = side[AT], side[AT] + side[HEAD]
            # From eight bytes on a handshake is named (`_facts.find_handshake`).
            if last - first >= 8 and data[first] < 128 and is_tls(data, first, last):
                side[LOOKUP] = OTHER if is_file(data, first, last) else TLS
        elif side[PROTOCOL] not in (_ICMP, _ICMPV6):
            side[LOOKUP] = skim_one(data, sizes, side)
