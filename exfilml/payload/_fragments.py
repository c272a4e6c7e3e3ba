"""Ciphertext or compressed: the log odds for a fragment without its header.

A test of randomness cannot answer this: compressed bytes are random bytes but for
what their encoder could not remove. Some of what remains is a fact (a frame that
announces where the next one begins), some a statistic (a Huffman code's words are
not equally likely, at any alignment of bits), and for ideal range coders (LZMA, AV1,
VP8) nothing remains between the headers. `measure` collects all of it, and a small
forest of boosted trees, trained by ``datasets/train_fragments.py`` on fragments of
real encoders, turns it into calibrated log odds.

**Statistics.** The serial test of NIST SP 800-22, section 2.11, over overlapping
windows of k bits at every bit offset, in both orders of bits within a byte. With
``c_w`` the counts of the ``2**k`` windows among N::

    psi2_k = 2**k / N * sum((c_w - N / 2**k)**2),   psi2_0 = 0
    z_k    = (psi2_k - psi2_{k-1} - 2**(k-1)) / sqrt(2**k)

``psi2_k - psi2_{k-1}`` is chi-square with ``2**(k-1)`` degrees of freedom for random
bits, and z_k its standardised form. Deflate, brotli, zstd, GIF and lossless WebP fill
bytes from the low bit, bzip2, JPEG, MP3, AAC and FLAC from the high bit.

**Facts**, each with the chance c that random bytes show it at one place:

- JPEG escapes every byte FF of its entropy-coded data as ``FF 00``, or it is a
  restart marker D0-D7: each FF that is not speaks against JPEG, each that is stands
  for a factor 28 (ISO/IEC 10918-1, B.1.1.5).
- GIF: sub-blocks of 255 bytes, so FF at distances of 256 (GIF89a, section 15).
- MPEG audio, ADTS and FLAC frame headers; the next header where the first says
  (c about 2**-24), or FLAC's own CRC-8 (c about 2**-25).
- AAC without ADTS: nearly all frames of a stereo stream begin with ``21 1x``, a
  channel pair with one window for both (c about 2**-12, every 300 bytes).
- NAL units of H.264 and HEVC behind a length or a start code.
- LZMA2: an encoder of liblzma or the LZMA SDK closes a chunk when its 64 kB are
  full but for what one more symbol might need, at 61,439 to 61,444 bytes; the next
  header says so, and a range coder's first byte is zero (c about 4e-8, and once in
  61 kB: sure at 64 kB, one in eight at 8 kB).
- Matroska SimpleBlocks (c about 2**-24), Ogg pages, PNG chunks, zip entries.

Sources: Rukhin et al., NIST SP 800-22; De Gaspari et al., "EnCoD", arXiv 2103.17059;
Friedman, "Greedy function approximation", Annals of Statistics 29 (2001).

One file because numba's cache notices changes only in the file of the function that
is called.
"""

from __future__ import annotations

import importlib.resources
import math
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from exfilml._jit import compiled, compiled_bare
from exfilml.exceptions import ModelFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAGMENT_MIN: Final = 256
"""Fewer bytes have even odds: nothing was measured below."""

FRAGMENT_MAX: Final = 65536
"""Bytes looked at; what lies beyond would cost time and changes little."""

VERDICT_BITS: Final = -2.5
"""Log odds above which a fragment should count as ciphertext: missing ciphertext is
worse than calling deflate opaque, so that less than one in a hundred is lost."""

LOW_BITS: Final = 12
"""Longest window in low-bit-first order."""

HIGH_BITS: Final = 10
"""Longest window in high-bit-first order."""

# Positions in the result of `measure`, behind the z-scores of the windows.
_Z: Final = LOW_BITS + HIGH_BITS
(
    LOG_N, BYTE_Z, DELTA_Z, PEAK, ZEROS, FULLS, TOC, ESCAPED, UNESCAPED, FULL_CHAIN,
    SYNC_CHAIN, SYNC_LONE, NAL, NAL_CHAIN, ZERO_PAIRS, LZMA2, BLOCKS, WORDS, RUN,
    EQUAL, GRAMS, PAIRS_16, PAIRS_20, PAIRS_24, AAC,
) = range(_Z, _Z + 25)  # fmt: skip
N_MEASURES: Final = _Z + 25

# 4-byte strings that stand inside files: OggS, IDAT, PK (entry, descriptor,
# directory), ftyp's companions moof and mdat, and PDF's "obj" and "stream".
_MARKS: Final = tuple(
    int.from_bytes(mark)
    for mark in (
        b"OggS", b"IDAT", b"PK\3\4", b"PK\7\x08", b"PK\1\2", b"moof", b"mdat",
        b" obj", b"trea",
    )
)  # fmt: skip
_GRAM_SLOTS: Final = 16384

# Cells of the tables of longer windows, and bytes up to which 16 bits can count them.
_WIDE: Final = (2 << LOW_BITS) + (2 << HIGH_BITS)
_SMALL_COUNTS: Final = 16383

_PRINTED: Final = np.array(
    [-(32 <= value < 127 or 9 <= value <= 13) for value in range(256)], np.int64
)
# By which bytes facts are found: alone, with an equal one before them, with a zero
# five bytes on, as the end of a mark and as what stands before such an end.
_ALONE, _PAIRED, _FIFTH, _ENDS, _BEFORE_END = 1, 2, 4, 16, 32
_KINDS_OF: Final = np.zeros(256, np.uint8)
_KINDS_OF[[0xFF, 0xA3]] |= _ALONE
_KINDS_OF[0] |= _PAIRED | _FIFTH
_KINDS_OF[0x80:0xA0] |= _FIFTH
_KINDS_OF[[mark & 255 for mark in _MARKS]] |= _ENDS
_KINDS_OF[[mark >> 8 & 255 for mark in _MARKS]] |= _BEFORE_END

# Layer III (ISO/IEC 11172-3 and 13818-3): kbit/s by index, and samples per second.
_KBITS_1: Final = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2: Final = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_HERTZ: Final = (44100, 48000, 32000)

LONG_BELOW: Final = 2048
"""Windows of 16 bits and more are compared in shorter fragments only: from here on
the shorter windows say as much, and each byte costs eight look-ups."""


@compiled
def serial_z(
    counts: NDArray[np.int32],
    bits: int,
    total: int,
    top: bool,
    out: NDArray[np.float64],
) -> None:
    """Write z_1 .. z_bits of the serial test to `out`; `counts` is folded in place.

    Counts of windows shorter by one bit are sums of two: of the windows that differ
    in their last bit, which is the highest in low-bit-first order (`top`).
    """
    psi = np.zeros(bits + 1, np.float64)
    for k in range(bits, 0, -1):
        cells = 1 << k
        # Integers: exact, and the compiler vectorises the sum.
        squares = np.int64(0)
        for w in range(cells):
            squares += np.int64(counts[w]) * counts[w]
        psi[k] = squares * (cells / total) - total
        half = cells >> 1
        if top:
            for w in range(half):
                counts[w] += counts[w + half]
        else:
            for w in range(half):
                counts[w] = counts[2 * w] + counts[2 * w + 1]
    for k in range(1, bits + 1):
        out[k - 1] = (psi[k] - psi[k - 1] - 0.5 * (1 << k)) / math.sqrt(1 << k)


@compiled_bare
def layer3_bytes(second: int, third: int) -> int:
    """Frame length that an MPEG audio header of layer III announces, 0 for none."""
    rate = third >> 4
    sampling = (third >> 2) & 3
    version = (second >> 3) & 3  # 3 is MPEG-1, 2 is MPEG-2, 0 is MPEG-2.5
    if rate in (0, 15) or sampling == 3 or version == 1 or (second & 0xE6) != 0xE2:
        return 0
    padding = (third >> 1) & 1
    if version == 3:
        return 144000 * _KBITS_1[rate] // _HERTZ[sampling] + padding
    return 72000 * _KBITS_2[rate] // (_HERTZ[sampling] >> (2 - version // 2)) + padding


@compiled_bare
def flac_header(x: NDArray[np.uint8], i: int, n: int) -> bool:
    """Whether a FLAC frame header with a right CRC-8 stands at `i`."""
    if i + 16 >= n or (x[i + 3] & 1) or (x[i + 3] >> 4) > 10:
        return False
    size = x[i + 2] >> 4
    rate = x[i + 2] & 15
    if size == 0 or rate == 15:
        return False
    first = x[i + 4]
    more = 0
    while more < 7 and (first << more) & 0x80:
        more += 1
    end = i + 5 + max(0, more - 1)
    end += 1 if size == 6 else (2 if size == 7 else 0)
    end += 1 if rate == 12 else (2 if rate > 12 else 0)
    crc = 0
    for j in range(i, end):
        crc ^= x[j]
        for _ in range(8):
            crc = ((crc << 1) ^ 0x07) & 255 if crc & 128 else crc << 1
    return bool(end < n and crc == x[end])


@compiled_bare
def nal_type(first: int, second: int) -> bool:
    """Whether two bytes begin a slice as H.264 or HEVC encoders write it.

    H.264: types 1, 5, 6, then ``first_mb = 0`` and a slice type in Exp-Golomb code;
    HEVC: a layer of zero and temporal id 1, so that the second byte is 01.
    """
    kind = first & 31
    if second == 1 and first in (0, 2, 38, 40, 42, 78):
        return True
    if first & 0x80:
        return False
    if kind in (1, 5):
        top = second & 0xFC
        return top in (0x98, 0x9C, 0x88, 0xE0, 0xA8, 0xAC, 0xB8, 0xBC)
    return kind == 6 and second in (1, 5, 6)


@compiled_bare
def after_full(x: NDArray[np.uint8], i: int, n: int, out: NDArray[np.float64]) -> None:
    """Collect the facts that begin with a byte FF at `i`, ``i + 1 < n``."""
    second = x[i + 1]
    if second == 0 or (0xD0 <= second <= 0xD7):
        out[ESCAPED] += 1.0
    else:
        out[UNESCAPED] += 1.0
    # Only the head of a chain is followed, so that the work stays linear.
    if i < 256 or x[i - 256] != 255:
        at = i + 256
        links = 0.0
        while at < n and x[at] == 255:
            links += 1.0
            at += 256
        out[FULL_CHAIN] = max(out[FULL_CHAIN], links)
    if second < 0xE0 or i + 6 >= n:
        return
    if second in (0xF8, 0xF9) and flac_header(x, i, n):
        out[SYNC_CHAIN] += 1.0
    size = 0
    if second & 0x06:
        size = layer3_bytes(second, x[i + 2])
        out[SYNC_LONE] += size > 0
    elif second & 0xF6 == 0xF0 and (x[i + 2] >> 2) & 15 < 12:
        size = (x[i + 3] & 3) << 11 | x[i + 4] << 3 | x[i + 5] >> 5
        out[SYNC_LONE] += 7 < size < 3000
    if size > 7 and i + size + 1 < n:
        follows = x[i + size] == 255 and x[i + size + 1] == second
        out[SYNC_CHAIN] += follows


@compiled_bare
def after_zeros(x: NDArray[np.uint8], i: int, n: int, out: NDArray[np.float64]) -> None:
    """Collect the facts that begin with two zero bytes at `i`."""
    out[ZERO_PAIRS] += 1.0
    if i + 6 >= n:
        return
    if x[i + 2] == 1 and nal_type(x[i + 3], x[i + 4]):
        out[NAL] += 1.0
        return
    size = (np.int64(x[i + 2]) << 8) | x[i + 3]
    if size < 2 or not nal_type(x[i + 4], x[i + 5]):
        return
    out[NAL] += 1.0
    follow = i + 4 + size
    if follow + 1 < n and x[follow] == 0 and x[follow + 1] < 2:
        out[NAL_CHAIN] += 1.0


@compiled_bare
def simple_block(x: NDArray[np.uint8], i: int, n: int) -> bool:
    """Whether a Matroska SimpleBlock of one of the first four tracks stands at `i`."""
    if i + 9 >= n:
        return False
    first = x[i + 1]
    length = 1
    while length < 5 and not first & (0x100 >> length):
        length += 1
    if length > 4:
        return False
    at = i + 1 + length
    return bool(0x81 <= x[at] <= 0x84 and x[at + 3] in (0x00, 0x80))


@compiled_bare
def long_windows(
    x: NDArray[np.uint8],
    n: int,
    seen: NDArray[np.uint16],
    out: NDArray[np.float64],
) -> None:
    """Count windows of 16 bits seen before, and those that agree for 20 and 24.

    Repeated words of a Huffman code, one behind the other. Low bit first; of windows
    seen more than twice only the last is compared in its further bits. Written as
    z-scores of the numbers expected in random bits. `seen` is scratch of 65,536 cells.
    """
    # How often a window was seen, and the byte that followed it last, in one cell:
    # fewer than `LONG_BELOW` bytes, and none of them a branch that cannot be guessed.
    seen[:] = 0
    pairs: Any = 0
    agree4: Any = 0
    agree8: Any = 0
    stop = n - 3
    for i in range(stop):
        v: Any = (
            np.int64(x[i])
            | (np.int64(x[i + 1]) << 8)
            | (np.int64(x[i + 2]) << 16)
            | (np.int64(x[i + 3]) << 24)
        )
        for s in range(8):
            w = (v >> s) & 0xFFFF
            more = (v >> (s + 16)) & 255
            cell: Any = np.int64(seen[w])
            before = cell & 255
            differ = more ^ (cell >> 8)
            pairs += before
            agree4 += ((differ & 15) == 0) & (before != 0)
            agree8 += (differ == 0) & (before != 0)
            seen[w] = (more << 8) | min(before + 1, 255)
    total = 8.0 * stop
    expected = total * (total - 1.0) / 131072.0
    out[PAIRS_16] = (pairs - expected) / math.sqrt(expected)
    out[PAIRS_20] = (agree4 - expected / 16.0) / math.sqrt(expected / 16.0)
    out[PAIRS_24] = agree8 - expected / 256.0


@compiled
def count_windows(
    x: NDArray[np.uint8],
    n: int,
    wide: Any,
    low: NDArray[np.int32],
    high: NDArray[np.int32],
) -> None:
    """Count windows of `LOW_BITS` and `HIGH_BITS` bits at each bit of ``x[:n - 2]``.

    Three bytes hold those that begin in the first (or, in high-bit-first order, whose
    last bit is in the last). To count takes longest: windows that are one bit longer
    are counted at each second bit, and each of these holds two.
    """
    more_low = wide[: 2 << LOW_BITS]
    more_high = wide[2 << LOW_BITS : _WIDE]
    more_low[:] = 0
    more_high[:] = 0
    for i in range(n - 2):
        v = np.int64(x[i]) | (np.int64(x[i + 1]) << 8) | (np.int64(x[i + 2]) << 16)
        for s in range(0, 8, 2):
            more_low[(v >> s) & ((2 << LOW_BITS) - 1)] += 1
        v = (np.int64(x[i]) << 16) | (np.int64(x[i + 1]) << 8) | np.int64(x[i + 2])
        for s in range(0, 8, 2):
            more_high[(v >> s) & ((2 << HIGH_BITS) - 1)] += 1
    for w in range(1 << LOW_BITS):
        low[w] = (
            np.int32(more_low[w]) + np.int32(more_low[w + (1 << LOW_BITS)])
            + np.int32(more_low[2 * w]) + np.int32(more_low[2 * w + 1])
        )  # fmt: skip
    for w in range(1 << HIGH_BITS):
        high[w] = (
            np.int32(more_high[w]) + np.int32(more_high[w + (1 << HIGH_BITS)])
            + np.int32(more_high[2 * w]) + np.int32(more_high[2 * w + 1])
        )  # fmt: skip


@compiled_bare
def count_bytes(
    x: NDArray[np.uint8],
    n: int,
    counts: NDArray[np.int32],
    deltas: NDArray[np.int32],
    grams: NDArray[np.uint32],
    out: NDArray[np.float64],
) -> None:
    """Count bytes, differences, runs and strings of four bytes seen before."""
    counts[:] = 0
    deltas[:] = 0
    grams[:] = 0
    held = np.int64(0)
    before = np.int64(-1)
    # Masks instead of branches, which nobody could guess.
    printed = np.int64(0)
    same = np.int64(0)
    longest_print = np.int64(0)
    longest_same = np.int64(0)
    repeats = 0
    twins = 0
    for i in range(n):
        value = np.int64(x[i])
        counts[value] += 1
        deltas[(value - before) & 255] += 1
        printed = (printed + 1) & _PRINTED[value]
        longest_print = max(longest_print, printed)
        same = (same + 1) & -np.int64(value == before)
        longest_same = max(longest_same, same)
        before = value
        held = ((held << 8) | value) & 0xFFFFFFFF
        if i >= 3:
            # A slot keeps the last one only.
            twins += (held & 0xFFF0) == 0x2110
            slot = ((held * 2654435761) >> 15) & (_GRAM_SLOTS - 1)
            repeats += np.int64(grams[slot]) == held
            grams[slot] = held
    out[RUN] = longest_print
    out[EQUAL] = longest_same
    out[AAC] = twins
    out[GRAMS] = repeats


@compiled_bare
def facts_at(x: NDArray[np.uint8], i: int, n: int, out: NDArray[np.float64]) -> None:
    """Collect the facts that the byte at `i` may begin, or end."""
    value = np.int64(x[i])
    if value == 255:
        if i + 1 < n:
            after_full(x, i, n, out)
    elif value == 0xA3:
        out[BLOCKS] += simple_block(x, i, n)
    elif (value & 0xE0) == 0x80 and i + 5 < n and x[i + 5] == 0:
        packed = (np.int64(x[i + 3]) << 8) | x[i + 4]
        out[LZMA2] += 0xEFFE <= packed <= 0xF003
    if value == 0 and i > 0 and x[i - 1] == 0:
        after_zeros(x, i - 1, n, out)
    if i >= 3 and _KINDS_OF[value] & _ENDS and _KINDS_OF[x[i - 1]] & _BEFORE_END:
        held = (
            (np.int64(x[i - 3]) << 24) | (np.int64(x[i - 2]) << 16)
            | (np.int64(x[i - 1]) << 8) | value
        )  # fmt: skip
        for mark in _MARKS:
            out[WORDS] += held == mark


@compiled_bare
def find_facts(x: NDArray[np.uint8], n: int, out: NDArray[np.float64]) -> None:
    """Collect the facts of all bytes; most begin nothing, which three of them tell."""
    inner = max(1, n - 5)
    facts_at(x, 0, n, out)
    for i in range(1, inner):
        kind = _KINDS_OF[x[i]]
        if (
            (kind & _ALONE)
            | (kind & _KINDS_OF[x[i - 1]] & _PAIRED)
            | (kind & _KINDS_OF[x[i + 5]] & _FIFTH)
            | ((kind >> 4) & (_KINDS_OF[x[i - 1]] >> 5) & 1)
        ):
            facts_at(x, i, n, out)
    for i in range(inner, n):
        facts_at(x, i, n, out)


@compiled
def measure(x: NDArray[np.uint8], out: NDArray[np.float64]) -> None:
    """Measure ``FRAGMENT_MIN`` bytes or more.

    Parameters
    ----------
    x
        The fragment, shape ``(n,)``; the first ``FRAGMENT_MAX`` bytes are read.
    out
        Shape ``(N_MEASURES,)``, filled; the positions are the module's names.
    """
    n = min(x.shape[0], FRAGMENT_MAX)
    for j in range(N_MEASURES):
        out[j] = 0.0
    counts = np.empty(256, np.int32)
    deltas = np.empty(256, np.int32)
    low = np.empty(1 << LOW_BITS, np.int32)
    high = np.empty(1 << HIGH_BITS, np.int32)
    # The large tables are filled one after the other, in one place: it stays near.
    scratch = np.empty(1 << 17, np.uint8)
    count_bytes(x, n, counts, deltas, scratch.view(np.uint32)[:_GRAM_SLOTS], out)
    find_facts(x, n, out)
    if n < LONG_BELOW:
        long_windows(x, n, scratch.view(np.uint16), out)
    if n <= _SMALL_COUNTS:
        count_windows(x, n, scratch.view(np.uint16), low, high)
    else:
        count_windows(x, n, scratch.view(np.int32), low, high)
    serial_z(low, LOW_BITS, 8 * (n - 2), True, out[:LOW_BITS])
    serial_z(high, HIGH_BITS, 8 * (n - 2), False, out[LOW_BITS:_Z])

    mean = n / 256.0
    spread = math.sqrt(mean)
    squares = 0.0
    changes = 0.0
    peak = 0
    for cell in range(256):
        squares += (counts[cell] - mean) * (counts[cell] - mean)
        changes += (deltas[cell] - mean) * (deltas[cell] - mean)
        peak = max(peak, counts[cell])
    out[LOG_N] = math.log2(n)
    out[BYTE_Z] = (squares / mean - 255.0) / math.sqrt(510.0)
    out[DELTA_Z] = (changes / mean - 255.0) / math.sqrt(510.0)
    out[PEAK] = (peak - mean) / spread
    out[ZEROS] = (counts[0] - mean) / spread
    out[FULLS] = (counts[255] - mean) / spread
    # Opus names its mode in the first byte of each packet, and keeps it: full band
    # at 20 ms mostly, in mono or stereo (RFC 6716, section 3.1).
    out[TOC] = (max(counts[0xFC], counts[0xF8]) - mean) / spread


@compiled_bare
def forest_sum(
    x: NDArray[np.float64],
    roots: NDArray[np.int32],
    column: NDArray[np.int16],
    threshold: NDArray[np.float64],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    value: NDArray[np.float64],
) -> float:
    """Sum the leaves that `x` reaches; a leaf has column -1."""
    total = 0.0
    trees = roots.shape[0]
    last = trees - trees % 4
    for t in range(0, last, 4):
        # Four at a time, none of which waits for another.
        a, b, c, d = roots[t], roots[t + 1], roots[t + 2], roots[t + 3]
        going = True
        while going:
            going = False
            ca, cb, cc, cd = column[a], column[b], column[c], column[d]
            if ca >= 0:
                a = left[a] if x[ca] <= threshold[a] else right[a]
                going = True
            if cb >= 0:
                b = left[b] if x[cb] <= threshold[b] else right[b]
                going = True
            if cc >= 0:
                c = left[c] if x[cc] <= threshold[c] else right[c]
                going = True
            if cd >= 0:
                d = left[d] if x[cd] <= threshold[d] else right[d]
                going = True
        # In the order of the trees: no sum of others is the same.
        total += value[a]
        total += value[b]
        total += value[c]
        total += value[d]
    for t in range(last, trees):
        node = roots[t]
        while column[node] >= 0:
            node = left[node] if x[column[node]] <= threshold[node] else right[node]
        total += value[node]
    return total


@compiled
def fragment_bits(
    data: NDArray[np.uint8],
    base: float,
    roots: NDArray[np.int32],
    column: NDArray[np.int16],
    threshold: NDArray[np.float64],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    value: NDArray[np.float64],
) -> float:
    """Measure and judge ``FRAGMENT_MIN`` bytes or more, in one compiled call."""
    out = np.empty(N_MEASURES, np.float64)
    measure(data, out)
    return base + float(forest_sum(out, roots, column, threshold, left, right, value))


@compiled
def bits_of_many(
    data: NDArray[np.uint8],
    places: NDArray[np.int64],
    base: float,
    roots: NDArray[np.int32],
    column: NDArray[np.int16],
    threshold: NDArray[np.float64],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    value: NDArray[np.float64],
    bits: NDArray[np.float64],
) -> None:
    """Measure and judge many fragments, at the places (start, stop) of `data`."""
    for i in range(places.shape[0]):
        bits[i] = 0.0
        if places[i, 1] - places[i, 0] >= FRAGMENT_MIN:
            bits[i] = fragment_bits(
                data[places[i, 0] : places[i, 1]], base, roots, column, threshold,
                left, right, value,
            )  # fmt: skip


class Forest(NamedTuple):
    """Boosted trees as flat arrays; nodes of all trees one behind the other.

    Attributes
    ----------
    base
        Log odds before any tree, in bits.
    roots
        First node of each tree.
    column
        Position in `measure`'s result that a node asks for, -1 for a leaf.
    threshold
        Rows with a value up to this go left.
    left, right
        Children; always behind their parent, so that every walk ends.
    value
        What a leaf adds to the log odds, in bits.
    """

    base: float
    roots: NDArray[np.int32]
    column: NDArray[np.int16]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float64]


_KINDS: Final = {
    "base": np.float64,
    "roots": np.int32,
    "column": np.int16,
    "threshold": np.float64,
    "left": np.int32,
    "right": np.int32,
    "value": np.float64,
}


def read_forest(file: IO[bytes]) -> Forest:
    """Read and check the arrays of a forest.

    Parameters
    ----------
    file
        An ``.npz`` of plain arrays.

    Raises
    ------
    ModelFileError
        If it is no such file, or holds anything but a forest that can be walked
        within its bounds.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            if sorted(stored.files) != sorted(_KINDS):
                raise ModelFileError(
                    f"fragments model: holds {sorted(stored.files)}, "
                    f"expected {sorted(_KINDS)}"
                )
            arrays = {name: stored[name] for name in _KINDS}
    except ModelFileError:
        raise
    except Exception as error:
        # A damaged archive fails in many ways: zipfile's, zlib's, numpy's own.
        raise ModelFileError(f"fragments model: cannot be read: {error}") from error
    for name, kind in _KINDS.items():
        array = arrays[name]
        if array.dtype != kind or array.ndim != (name != "base"):
            raise ModelFileError(
                f"fragments model: '{name}' is {array.dtype} with {array.ndim} "
                f"dimensions, expected {np.dtype(kind)}"
            )
        if not np.isfinite(array).all():
            raise ModelFileError(f"fragments model: '{name}' is not finite")
    nodes = arrays["column"].shape[0]
    at = np.arange(nodes)
    inner = arrays["column"] >= 0
    sound = (
        nodes > 0
        and all(
            len(arrays[k]) == nodes for k in ("threshold", "left", "right", "value")
        )
        and ((arrays["roots"] >= 0) & (arrays["roots"] < nodes)).all()
        and ((arrays["column"] >= -1) & (arrays["column"] < N_MEASURES)).all()
        and all(
            ((arrays[k] > at) & (arrays[k] < nodes))[inner].all()
            for k in ("left", "right")
        )
    )
    if not sound:
        raise ModelFileError("fragments model: its trees lead outside their arrays")
    base = float(arrays.pop("base"))
    return Forest(base, *(np.ascontiguousarray(arrays[k]) for k in Forest._fields[1:]))


@cache
def shipped_forest() -> Forest:
    """Read the forest that the library ships, once."""
    path = importlib.resources.files("exfilml").joinpath("data/fragments.npz")
    with path.open("rb") as file:
        return read_forest(file)


def ciphertext_log_odds(data: NDArray[np.uint8]) -> float:
    """Say how much likelier a fragment is ciphertext than compressed, in bits.

    Parameters
    ----------
    data
        Contiguous bytes of a stream, shape ``(n,)``, without a known header.

    Returns
    -------
    float
        ``log2(P(ciphertext) / P(compressed))`` at even prior odds, compressed types
        equally likely among each other; 0 below ``FRAGMENT_MIN`` bytes. The figure
        for true ciphertext is bounded by the types that cannot be told from it.

    Notes
    -----
    Meant for bytes that a test of randomness does not reject by far; text and
    records get low odds too, but are better judged by other means.
    """
    if data.shape[0] < FRAGMENT_MIN:
        return 0.0
    view = np.ascontiguousarray(data[:FRAGMENT_MAX])
    if view.flags.writeable:
        # One type for the compiler, whether the bytes can be written or not.
        view = view.view()
        view.flags.writeable = False
    return float(fragment_bits(view, *shipped_forest()))


def log_odds_of_many(
    data: NDArray[np.uint8], places: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Say the same of many fragments, in one call and without the interpreter's lock.

    Parameters
    ----------
    data
        Shape ``(n,)``.
    places
        Start and stop of each fragment, shape ``(m, 2)``.
    """
    bits = np.empty(len(places))
    data = data.view()
    data.flags.writeable = False
    bits_of_many(data, places, *shipped_forest(), bits)
    return bits
