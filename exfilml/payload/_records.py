"""Opaque bytes in framing: length-prefixed records and padding to a fixed size.

Ciphertext that is sent in messages stands behind lengths, and block protocols fill
the last block. Either keeps the bytes from passing as random, and neither is a
property of what was sent. `contents` takes both away, so that the rest can be judged.

**Records.** A hypothesis says how long the preamble is (0 to 16 bytes), how many
fixed bytes stand before each length (0 to 8), how wide the length is (1, 2 or 4
bytes, either byte order) and whether it counts itself, or all of the header. Under
it the records are walked from start to end; the last may be cut off. Of n bytes r
are left behind a header. A random length of w bytes is at most r with probability
``(r + 1) / 256**w``, is r with ``1 / 256**w``, goes beyond by no more than a record
can with ``C / 256**w``, and t fixed bytes repeat with ``256**-t``. One over the
product Q of these is, as long as the walk goes on, a martingale with mean one, so
that by Markov's inequality a walk over random bytes that ends at record k shows
``Q <= e`` with probability at most e for each of the three ways to end: at the last
byte, inside a record, inside a header. Ends are weighed by ``2**-c / k**2``, c being
0.4 for the first and 1.4 for the others, and hypotheses by ``2**-b`` (`prior_bits`);
either weights add up to less than one (k is 2 at least). With

    -log2 Q  >=  20 + b + c + 2 log2 k

random bytes are taken for records with probability below ``2**-20``, one in a
million, whatever their number.

**Pads.** A run of at least five bytes 0x00, 0x20 or 0xff occurs in n random bytes
with probability below ``3 n 256**-5``, 1e-8 for 4 kB. Runs that end at the same place
of a block of 16 bytes (64, 512 where that holds too) are pads, and all runs that end
there are taken away; likewise the tail of each record. PKCS pads (m bytes of value m)
are the same with another value for each length, ``n 256**-4 / 16`` for those of four
bytes and more that end on a block boundary.

Repeated headers of packets and equal blocks are `_kernel`'s.

One file because numba's cache notices changes only in the file of the function that
is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml._jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_BYTES: Final = 64
"""Fewer bytes are not asked."""

MAX_PREAMBLE: Final = 16
"""Longest preamble before the first record."""

MAX_FIXED: Final = 8
"""Most fixed bytes before a length."""

_LEAST_BITS: Final = 20.0
_SURE_BITS: Final = 512.0
_RECORDS: Final = 3
_WIDE_RECORDS: Final = 2
_PAD_RUN: Final = 5
_PKCS_RUN: Final = 4
_BLOCK: Final = 16
_LONGEST: Final = 16384
_MEAN_BYTES: Final = 16


def contents(data: bytes) -> bytes | None:
    """Take framing and pads away.

    Parameters
    ----------
    data
        First bytes of a direction, up to 4 kB; more is looked at, too.

    Returns
    -------
    bytes or None
        What the records hold, one behind the other, without preamble, headers and
        pads; None where neither framing nor pads fit, or pads are more than half.
        Random bytes give anything else than None less than once in a million.

    Notes
    -----
    A 1-byte length says little: such records are found only behind fixed bytes.
    Three 2-byte lengths are enough for a buffer of up to 1 kB that ends with the
    last record; of larger or cut-off buffers a few more must be seen (records of
    300 bytes are found in 4 kB, records of 1200 bytes are not). Two 4-byte lengths
    are always enough. Records of less than 16 bytes on average are not walked, nor is
    an empty first one; of several forms the one with the shorter preamble is taken
    once it is beyond doubt.

    For bytes that no grammar and no handshake names: the signatures and names inside
    DNS or TLS would be taken out of what says that they are DNS or TLS.
    """
    if len(data) < LEAST_BYTES:
        return None
    view = np.frombuffer(data, np.uint8)
    out = np.empty(len(data), np.uint8)
    size = int(unwrap(view, out))
    return None if size < 0 else out[:size].tobytes()


@compiled
def read_length(data: NDArray[np.uint8], at: int, width: int, little: bool) -> int:
    """Unsigned number of some bytes."""
    value = np.int64(0)
    for i in range(width):
        place = at + width - 1 - i if little else at + i
        value = value * 256 + np.int64(data[place])
    return int(value)


@compiled
def prior_bits(preamble: int, fixed: int, counted: int) -> float:
    """Weigh a hypothesis: ``2**-bits`` adds up to less than one.

    Three quarters for no preamble, the rest shared by the 16; three quarters for no
    fixed bytes, the rest shared by the 8; three quarters for lengths that count what
    follows, an eighth each for those that count themselves and that count all.
    Widths and byte orders share evenly: 1, 2 times two, 4 times two.
    """
    bits = 0.42 if preamble == 0 else 6.0
    bits += 0.42 if fixed == 0 else 5.0
    bits += 0.42 if counted == 0 else 3.0
    return bits + 2.33


@compiled
def walk(
    data: NDArray[np.uint8],
    start: int,
    fixed: int,
    width: int,
    little: bool,
    extra: int,
) -> int:
    """Walk the records from `start`; return their number, 0 for no fit."""
    n = data.shape[0]
    most = min(n, _LONGEST)
    at = start
    records = 0
    while at < n:
        if records > 0:
            for i in range(min(fixed, n - at)):
                if data[at + i] != data[start + i]:
                    return 0
        left = n - at - fixed - width
        if left < 0:
            break
        size = read_length(data, at + fixed, width, little) - extra
        if size < 0 or size > left + most or size + records == 0:
            return 0
        records += 1
        at += fixed + width + size
        # Tables of small numbers would be walked for as long as they are.
        if records * _MEAN_BYTES > at - start + 8 * _MEAN_BYTES:
            return 0
    return records if records >= (_WIDE_RECORDS if width == 4 else _RECORDS) else 0


@compiled
def surprise(
    data: NDArray[np.uint8],
    start: int,
    fixed: int,
    width: int,
    little: bool,
    extra: int,
) -> float:
    """Bits by which a walk that fits surprises, less the weight of its end."""
    n = data.shape[0]
    most = min(n, _LONGEST)
    full = float(1 << (8 * width))
    at = start
    records = 0
    bits = -1.4
    while at < n:
        if records > 0:
            bits += 8.0 * min(fixed, n - at)
        left = n - at - fixed - width
        if left < 0:
            break
        size = read_length(data, at + fixed, width, little) - extra
        records += 1
        if size < left:
            bits += max(0.0, np.log2(full / (left + 1.0)))
        elif size == left:
            bits += 8.0 * width + 1.0
        else:
            bits += max(0.0, np.log2(full / most))
        at += fixed + width + size
    return float(bits - 2.0 * np.log2(records))


@compiled
def ends_in(data: NDArray[np.uint8], start: int, stop: int, value: int) -> int:
    """Length of the run of a value at the end of ``data[start:stop]``."""
    run = 0
    while stop - run > start and data[stop - run - 1] == value:
        run += 1
    return run


@compiled
def copy_unpadded(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    count: int,
    out: NDArray[np.uint8],
) -> int:
    """Copy pieces without their pads; return the bytes copied.

    One kind of pad for all pieces: the value with the longest run, of `_PAD_RUN` at
    least, or PKCS where a piece ends in `_PKCS_RUN` bytes or more of that value.
    """
    kind = -1
    longest = _PAD_RUN - 1
    pkcs = False
    for i in range(count):
        if stops[i] <= starts[i]:
            continue
        last = np.int64(data[stops[i] - 1])
        run = ends_in(data, starts[i], stops[i], last)
        if last in (0, 32, 255) and run > longest:
            kind, longest = int(last), run
        if _PKCS_RUN <= last <= 64 and run == last:
            pkcs = True
    at = 0
    for i in range(count):
        stop = int(stops[i])
        if kind >= 0:
            stop -= ends_in(data, starts[i], stop, kind)
        elif pkcs and stop > starts[i]:
            last = np.int64(data[stop - 1])
            if last > 0 and ends_in(data, starts[i], stop, last) >= last:
                stop -= int(last)
        for j in range(starts[i], stop):
            out[at] = data[j]
            at += 1
    return at


@compiled
def find_pads(data: NDArray[np.uint8]) -> tuple[int, int]:
    """Find the block at whose ends long runs of pad bytes stand.

    Returns its size, 0 for none, and the offset of its ends.
    """
    n = data.shape[0]
    block = 512
    ends = 0
    first = 0
    run = 0
    for i in range(n):
        run = run + 1 if i > 0 and data[i] == data[i - 1] else 1
        if i + 1 < n and data[i + 1] == data[i]:
            continue
        value = data[i]
        padded = run >= _PAD_RUN and value in (0, 32, 255)
        if not padded and not (
            _PKCS_RUN <= value <= _BLOCK and run >= value and (i + 1) % _BLOCK == 0
        ):
            continue
        if ends == 0:
            first = i + 1
        ends += 1
        while block > 1 and (i + 1 - first) % block:
            block = 64 if block == 512 else (16 if block == 64 else 1)
        if block == 1:
            return 0, 0
    if ends == 0:
        return 0, 0
    return block, first % block


@compiled
def unwrap(  # noqa: C901, PLR0912, PLR0915
    data: NDArray[np.uint8], out: NDArray[np.uint8]
) -> int:
    """Copy the contents of records or of padded blocks; -1 where there are none."""
    n = data.shape[0]
    best = 0.0
    form = (0, 0, 0, False, 0)
    for preamble in range(MAX_PREAMBLE + 1):
        for fixed in range(MAX_FIXED + 1):
            for shape in range(5):
                width = 1 if shape == 0 else (2 if shape < 3 else 4)
                little = shape in (2, 4)
                # One byte without fixed ones can surprise nobody.
                if (
                    preamble + fixed + width >= n
                    or width + fixed == 1
                    or best > _SURE_BITS
                ):
                    continue
                # What all three ways to count have in common, before walking.
                first = read_length(data, preamble + fixed, width, little)
                if first > 2 * n + MAX_FIXED + 4:
                    continue
                for counted in range(3):
                    extra = 0
                    if counted == 1:
                        extra = width
                    elif counted == 2:
                        extra = width + fixed
                        if fixed == 0:
                            continue
                    if not walk(data, preamble, fixed, width, little, extra):
                        continue
                    bits = surprise(data, preamble, fixed, width, little, extra)
                    bits -= _LEAST_BITS + prior_bits(preamble, fixed, counted)
                    if bits > best:
                        best = bits
                        form = (preamble, fixed, width, little, extra)
    starts = np.empty(n + 1, np.int64)
    stops = np.empty(n + 1, np.int64)
    count = 0
    kept = n
    if best > 0.0:
        at, fixed, width, little, extra = form
        kept = 0
        while at + fixed + width <= n:
            size = read_length(data, at + fixed, width, little) - extra
            at += fixed + width
            starts[count] = at
            at = min(n, at + size)
            stops[count] = at
            kept += at - starts[count]
            count += 1
    else:
        block, offset = find_pads(data)
        if block == 0:
            return -1
        at = 0
        end = offset or block
        while at < n:
            starts[count] = at
            at = min(n, end)
            stops[count] = at
            count += 1
            end += block
    size = copy_unpadded(data, starts, stops, count, out)
    # Zero-filled tables would come out as what little they hold.
    return -1 if 2 * size < kept or size == 0 else size
