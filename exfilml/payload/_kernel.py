"""Compiled arithmetic: byte tallies, the randomness test, setting framing aside.

One file because numba's cache notices changes only in the file of the function that
is called, not in those of the functions it calls.

**The randomness test.** Under "n independent uniform bytes" five statistics
are compared with their null distribution, and the smallest p-value is corrected
for having looked five times (Šidák, ``1 - (1 - p)**5``):

1. *byte collisions*: pairs of equal bytes, ``C = sum c(c - 1)/2`` over the 256
   counts. It is Pearson's chi-square in integers, ``X2 = 256/n (2C + n) - n``,
   and is the better form at small ``n``, where chi-square tables do not hold.
   Both tails: too even (a counter, a permutation) is not random either, but is
   rare, so a tenth of the error is spent on it;
2. *nibble collisions*: the same over 16 cells and 2n nibbles, stronger when
   bytes are too few to fill 256 cells;
3. *delta collisions*: the same over ``x[i+1] - x[i] mod 256``, which are again
   independent uniform bytes; sees counters, ramps, periodic filling and other
   serial structure that keeps the byte frequencies even;
4. *bit positions*: ones at each of the eight positions, chi-square with 8
   degrees of freedom; text never sets bit 7;
5. *bit balance*: all set bits, the monobit test of NIST SP 800-22, section 2.1.

The indicators "bytes i and j are equal" are pairwise independent, so the first
three moments of C are exact (``N = n(n-1)/2`` pairs, ``p = 1/cells``)::

    mean = N p      var = N p (1 - p)
    mu3  = N p (1 - p)(1 - 2p) + n(n-1)(n-2) p**2 (1 - p)

and its tail is that of the gamma distribution with these moments (Pearson type
III) with a continuity correction: chi-square's own shape for large n, close to
Poisson for small n. Tests check it against simulation from 8 B to 6 kB.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml._jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD_BYTES: Final = 512
"""Bytes at the start of the stream that ``head_*`` speaks of: a handshake or a
banner would be there."""

OPAQUE_P: Final = 1e-3
"""Randomness is given up below this p-value: one ciphertext in a thousand is
missed, and a window that passes is worth its power, not its p-value."""

FRAME_COLUMNS: Final = 32
"""A per-packet header longer than this is not looked for."""

FRAME_SLICES: Final = 8
"""Fewer sampled slices cannot tell a constant column from chance."""

GRAM_BYTES: Final = 65536
"""Beyond this, 4-byte strings begin to occur three times by chance."""

_TESTS: Final = 5
_LOWER_SHARE: Final = 0.1
_COLUMN_P: Final = 1e-6
_PREAMBLE_P: Final = 1e-6
_SUFFIX_MIN: Final = 256
_GRAM_SLOTS: Final = 131072
_GRAM_MIN: Final = 3

# Positions in the result of `survey`.
ENTROPY, P_RANDOM, SET_BITS, PRINTABLE = 0, 1, 2, 3
HEAD_ENTROPY, HEAD_P = 4, 5
BODY_ENTROPY, BODY_P = 6, 7
N_CONTENT, C_ENTROPY, C_EXPECTED, C_P, C_PRINTABLE = 8, 9, 10, 11, 12
OPAQUE_N, OPAQUE_FROM = 13, 14
C_BASE64, C_HEX, C_BASE32, C_PERCENT, C_SPACE, C_HIGH = 15, 16, 17, 18, 19, 20
C_DELTA, LATER_N, LATER_P = 21, 22, 23
N_RESULTS: Final = 24


@compiled
def upper_gamma(shape: float, x: float) -> float:
    """Regularised upper incomplete gamma function Q(shape, x).

    Series below ``shape + 1``, Lentz's continued fraction above (Press et al.,
    *Numerical Recipes*, section 6.2).
    """
    if x <= 0.0:
        return 1.0
    front = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1.0:
        term = 1.0 / shape
        total = term
        a = shape
        for _ in range(2000):
            a += 1.0
            term *= x / a
            total += term
            if term < total * 1e-12:
                break
        return max(0.0, 1.0 - front * total)
    b = x + 1.0 - shape
    c = 1e300
    d = 1.0 / b
    h = d
    for i in range(1, 2000):
        an = -i * (i - shape)
        b += 2.0
        d = an * d + b
        d = 1.0 / (d if abs(d) > 1e-300 else 1e-300)
        c = b + an / c
        c = c if abs(c) > 1e-300 else 1e-300
        h *= d * c
        if abs(d * c - 1.0) < 1e-12:
            break
    return front * h


@compiled
def collision_tail(pairs: float, n: float, cells: float, upper: bool) -> float:
    """P(C >= pairs), or P(C <= pairs), for n uniform draws from equal cells."""
    if (upper and pairs < 0.5) or n < 2.0:
        return 1.0
    if n < 3.0:
        return 1.0 / cells if upper else 1.0
    p = 1.0 / cells
    n_pairs = 0.5 * n * (n - 1.0)
    mean = n_pairs * p
    var = mean * (1.0 - p)
    mu3 = var * (1.0 - 2.0 * p) + n * (n - 1.0) * (n - 2.0) * p * p * (1.0 - p)
    sd = math.sqrt(var)
    skew = mu3 / (var * sd)
    shape = 4.0 / (skew * skew)
    scale = 0.5 * sd * skew
    shift = mean - shape * scale
    half = -0.5 if upper else 0.5
    tail = float(upper_gamma(shape, (pairs + half - shift) / scale))
    return tail if upper else 1.0 - tail


@compiled
def expected_entropy(n: int) -> float:
    """Mean plug-in Shannon entropy of n uniform random bytes, in bits per byte.

    ``log2 n - 256/n E[c log2 c]`` with ``c ~ Binomial(n, 1/256)``: 5.8 bits at
    64 B, 7.17 at 256 B, 7.59 at 512 B, 7.98 at 8 kB.
    """
    if n <= 1:
        return 0.0
    mean = n / 256.0
    if mean > 256.0:
        return 8.0 - 255.0 / (2.0 * n * math.log(2.0))
    last = min(n, int(mean + 12.0 * math.sqrt(mean) + 12.0))
    odds = 1.0 / 255.0
    pmf = math.exp(n * math.log1p(-1.0 / 256.0))
    total = 0.0
    for c in range(1, last + 1):
        pmf *= (n - c + 1.0) / c * odds
        total += pmf * c * math.log2(c)
    return math.log2(n) - total / mean


@compiled
def tally(
    data: NDArray[np.uint8],
    start: int,
    stop: int,
    counts: NDArray[np.int64],
    deltas: NDArray[np.int64],
) -> None:
    """Add the bytes of ``data[start:stop]`` and their differences to the counts."""
    if stop <= start:
        return
    previous = data[start]
    counts[previous] += 1
    for i in range(start + 1, stop):
        value = data[i]
        counts[value] += 1
        deltas[(value - previous) & 255] += 1
        previous = value


@compiled
def entropy_of(counts: NDArray[np.int64], n: int) -> float:
    """Plug-in Shannon entropy in bits per byte, nan for no bytes."""
    if n == 0:
        return math.nan
    total = 0.0
    for value in range(256):
        c = counts[value]
        if c > 1:
            total += c * math.log2(c)
    return max(0.0, math.log2(n) - total / n)


@compiled
def collisions(counts: NDArray[np.int64]) -> float:
    """Count the pairs of equal draws."""
    total = 0.0
    for i in range(counts.shape[0]):
        total += 0.5 * counts[i] * (counts[i] - 1.0)
    return total


@compiled
def p_uniform(counts: NDArray[np.int64], deltas: NDArray[np.int64], n: int) -> float:
    """p-value of n uniform random bytes, from the two tallies; see the module."""
    if n == 0:
        return math.nan
    nibbles = np.zeros(16, np.int64)
    for value in range(256):
        nibbles[value >> 4] += counts[value]
        nibbles[value & 15] += counts[value]
    pairs = collisions(counts)
    changes = deltas.sum()
    best = 1.0
    # One call inside a loop: inlined four times it would be compiled four times.
    for test in range(4):
        seen, draws, cells, share = pairs, float(n), 256.0, 1.0
        if test == 0:
            share = 1.0 - _LOWER_SHARE
        elif test == 1:
            share = _LOWER_SHARE
        elif test == 2:
            seen, draws, cells = collisions(nibbles), 2.0 * n, 16.0
        else:
            seen, draws = collisions(deltas), float(changes)
        best = min(best, collision_tail(seen, draws, cells, test != 1) / share)

    # Even degrees of freedom: the chi-square tail is a finite sum.
    half = 0.0
    ones = 0
    for bit in range(8):
        at = 0
        for value in range(256):
            at += counts[value] * ((value >> bit) & 1)
        ones += at
        half += 0.5 * (2.0 * at - n) * (2.0 * at - n) / n
    tail = 1.0 + half + half * half / 2.0 + half * half * half / 6.0
    best = min(best, tail * math.exp(-half))

    off = max(0.0, abs(ones - 4.0 * n) - 0.5)
    best = min(best, math.erfc(off / math.sqrt(4.0 * n)))
    if best >= 1.0:
        return 1.0
    return -math.expm1(_TESTS * math.log1p(-best))


@compiled
def frame_columns(body: NDArray[np.uint8], width: int) -> int:
    """Length of a header that every sampled slice begins with, 0 for none.

    A column of a per-packet header (type, session, high bytes of a counter)
    repeats from slice to slice; a column of ciphertext collides by chance only.
    The header ends after the last column whose collisions are impossible.
    """
    slices = body.shape[0] // width
    if slices < FRAME_SLICES:
        return 0
    header = 0
    counts = np.zeros(256, np.int64)
    for column in range(min(FRAME_COLUMNS, width // 2)):
        counts[:] = 0
        for i in range(slices):
            counts[body[i * width + column]] += 1
        if collision_tail(collisions(counts), slices, 256.0, True) < _COLUMN_P:
            header = column + 1
    return header


@compiled
def copy_bytes(
    data: NDArray[np.uint8], start: int, stop: int, out: NDArray[np.uint8], at: int
) -> int:
    """Copy ``data[start:stop]`` to ``out[at:]``; return the new end.

    A loop, because numba needs seconds to compile each assignment of slices.
    """
    for i in range(start, stop):
        out[at] = data[i]
        at += 1
    return at


@compiled
def drop_records(
    data: NDArray[np.uint8], start: int, out: NDArray[np.uint8], at: int, version: int
) -> int:
    """Copy what TLS (or DTLS) records of application data hold; return the end.

    Handshake, alert and change-cipher records are plaintext or tiny; a record
    that does not parse ends the walk and the rest is copied as it is.
    """
    n = data.shape[0]
    i = start
    header = 5 if version == 3 else 13
    while i < n:
        if i + header > n:
            break
        kind, major = data[i], data[i + 1]
        if kind < 20 or kind > 26 or major != version:
            return int(copy_bytes(data, i, n, out, at))
        size = np.int64(data[i + header - 2]) * 256 + np.int64(data[i + header - 1])
        i += header
        stop = min(n, i + size)
        if kind == 23:
            at = copy_bytes(data, i, stop, out, at)
        i = stop
    return int(at)


@compiled
def drop_inline(
    data: NDArray[np.uint8], start: int, stop: int, out: NDArray[np.uint8], at: int
) -> int:
    """Copy ``data[start:stop]`` without TLS record headers; return the new end."""
    i = start
    while i < stop:
        if (
            stop - i >= 5
            and data[i] == 23
            and data[i + 1] == 3
            and data[i + 2] <= 4
            and data[i + 3] <= 72
        ):
            i += 5
            continue
        out[at] = data[i]
        at += 1
        i += 1
    return at


@compiled
def drop_repeats(data: NDArray[np.uint8], n: int) -> int:  # noqa: C901
    """Set repeated framing inside a buffer aside, in place; return the new length.

    Bytes of a 4-byte string that occurs three times or more are framing (session
    identifiers, zero counters, record types): in n <= 65,536 random bytes that
    happens by chance with probability below 1e-5. More than a quarter of such
    bytes is structure, not framing, and everything is kept.
    """
    if n < _SUFFIX_MIN or n > GRAM_BYTES:
        return n
    keys = np.full(_GRAM_SLOTS if n > 8192 else 16384, -1, np.int64)
    seen = np.zeros(keys.shape[0], np.int32)
    slots = np.empty(n, np.int32)
    mask = keys.shape[0] - 1
    gram = np.int64(0)
    for i in range(n):
        gram = ((gram << 8) | data[i]) & 0xFFFFFFFF
        if i < 3:
            continue
        slot = ((gram * 2654435761) >> 15) & mask
        while keys[slot] != -1 and keys[slot] != gram:
            slot = (slot + 1) & mask
        keys[slot] = gram
        seen[slot] += 1
        slots[i] = slot
    marked = np.zeros(n, np.uint8)
    for i in range(3, n):
        if seen[slots[i]] >= _GRAM_MIN:
            for j in range(i - 3, i + 1):
                marked[j] = 1
    framing = 0
    for i in range(n):
        framing += marked[i]
    if framing == 0 or framing * 4 > n:
        return n
    at = 0
    for i in range(n):
        if marked[i] == 0:
            data[at] = data[i]
            at += 1
    return at


@compiled
def drop_blocks(data: NDArray[np.uint8], n: int) -> int:  # noqa: C901
    """Keep one of equal aligned 8-byte blocks, in place; return the new length.

    A block cipher in ECB mode turns equal plaintext blocks into equal ciphertext
    blocks, and is otherwise random (malware still does it). Two equal blocks by
    chance: probability below 1e-11 for n <= 65,536. More than a quarter of
    repeats is structure, and everything is kept.
    """
    if n < _SUFFIX_MIN or n > GRAM_BYTES:
        return n
    blocks = n // 8
    table = np.full(16384, -1, np.int32)
    repeated = np.zeros(blocks, np.uint8)
    dropped = 0
    for block in range(blocks):
        key = np.int64(0)
        for j in range(8):
            key = key * 1000003 + data[block * 8 + j]
        slot = (key ^ (key >> 21)) & 16383
        while table[slot] >= 0:
            same = True
            for j in range(8):
                if data[table[slot] * 8 + j] != data[block * 8 + j]:
                    same = False
                    break
            if same:
                repeated[block] = 1
                dropped += 1
                break
            slot = (slot + 1) & 16383
        if repeated[block] == 0:
            table[slot] = block
    if dropped == 0 or dropped * 4 > blocks:
        return n
    at = 0
    for i in range(n):
        if i >= blocks * 8 or repeated[i // 8] == 0:
            data[at] = data[i]
            at += 1
    return at


@compiled
def opaque_suffix(data: NDArray[np.uint8], n: int) -> int:
    """Where opaque bytes begin after a plaintext preamble, -1 for nowhere.

    A suffix counts when it is at least half of the buffer and 256 B, passes the
    randomness test, and what stands before it fails it by far: otherwise
    compressed data would get several chances to pass.
    """
    counts = np.zeros(256, np.int64)
    deltas = np.zeros(256, np.int64)
    for cut in (0, 16, 32, 64, 128, 256, 512, 1024, 2048):
        if n - cut < _SUFFIX_MIN or 2 * cut > n:
            break
        for side in range(2):
            start, stop = (cut, n) if side == 0 else (0, cut)
            counts[:] = 0
            deltas[:] = 0
            tally(data, start, stop, counts, deltas)
            p = p_uniform(counts, deltas, stop - start)
            if side == 0 and p <= OPAQUE_P:
                break
            if stop == 0 or (side == 0 and cut == 0) or (side == 1 and p < _PREAMBLE_P):
                return int(cut)
    return -1


@compiled
def survey(  # noqa: C901, PLR0912, PLR0915
    head: NDArray[np.uint8],
    body: NDArray[np.uint8],
    width: int,
    start: int,
    records: int,
    out: NDArray[np.float64],
) -> None:
    """Measure one direction of a stream; one call per direction.

    Parameters
    ----------
    head, body
        Bytes, shapes ``(n_head,)`` and ``(n_body,)``.
    width
        Bytes per slice of `body`; 0 if it is not sliced.
    start
        End of a recognised plaintext header in `head`, -1 for none.
    records
        3 for TLS records from `start` on, 254 for DTLS, 0 for none.
    out
        Shape ``(N_RESULTS,)``, filled; the positions are the module's names.
    """
    # Rows: the head, all, the body, the content, the later part of the content.
    tallies = np.zeros((5, 256), np.int64)
    changes = np.zeros((5, 256), np.int64)
    sizes = np.zeros(5, np.int64)
    cut = min(HEAD_BYTES, head.shape[0])
    n = head.shape[0] + body.shape[0]
    tally(head, 0, cut, tallies[0], changes[0])
    sizes[0] = cut
    for value in range(256):
        tallies[1, value] = tallies[0, value]
        changes[1, value] = changes[0, value]
    tally(head, cut, head.shape[0], tallies[1], changes[1])
    tally(body, 0, body.shape[0], tallies[1], changes[1])
    sizes[1] = n
    counts = tallies[1]
    out[SET_BITS] = math.nan
    out[PRINTABLE] = math.nan
    if n > 0:
        ones = 0
        text = counts[9] + counts[10] + counts[13]
        for value in range(256):
            for bit in range(8):
                ones += counts[value] * ((value >> bit) & 1)
            if 32 <= value < 127:
                text += counts[value]
        out[SET_BITS] = ones / n
        out[PRINTABLE] = text / n

    # Content: the stream without a recognised header and without framing.
    content = np.empty(n, np.uint8)
    begin = min(max(start, 0), head.shape[0])
    if records:
        size = drop_records(head, begin, content, 0, records)
    else:
        size = copy_bytes(head, begin, head.shape[0], content, 0)
    in_head = size
    skip = 0
    if body.shape[0]:
        step = width if width > 0 else body.shape[0]
        skip = frame_columns(body, step)
        for i in range(0, body.shape[0], step):
            stop = min(i + step, body.shape[0])
            if records == 3:
                size = drop_inline(body, i, stop, content, size)
            else:
                size = copy_bytes(body, i + skip, stop, content, size)

    lead = min(HEAD_BYTES, in_head) if start < 0 else 0
    sizes[2] = size - lead
    sizes[3] = size
    sizes[4] = size - in_head
    # Where all bytes are content, what was counted needs no second pass.
    same = start < 0 and skip == 0 and records == 0
    if not same:
        tally(content, lead, size, tallies[2], changes[2])
    for value in range(256):
        if same:
            tallies[2, value] = tallies[1, value] - tallies[0, value]
            changes[2, value] = changes[1, value] - changes[0, value]
        tallies[3, value] = tallies[2, value]
        changes[3, value] = changes[2, value]
        if lead:
            tallies[3, value] += tallies[0, value]
            changes[3, value] += changes[0, value]
    tally(content, in_head, size, tallies[4], changes[4])
    for row in range(5):
        entropy = entropy_of(tallies[row], sizes[row])
        p = p_uniform(tallies[row], changes[row], sizes[row])
        if row == 0:
            out[HEAD_ENTROPY], out[HEAD_P] = entropy, p
        elif row == 1:
            out[ENTROPY], out[P_RANDOM] = entropy, p
        elif row == 2:
            out[BODY_ENTROPY], out[BODY_P] = entropy, p
        elif row == 3:
            out[C_ENTROPY], out[C_P] = entropy, p
        else:
            out[LATER_N], out[LATER_P] = sizes[row], p
    counts = tallies[3]
    out[N_CONTENT] = size
    out[C_DELTA] = entropy_of(changes[3], changes[3].sum())
    out[C_EXPECTED] = expected_entropy(size)
    # Plain loops: slices and array expressions would each be compiled apart.
    fits = np.zeros(6, np.int64)
    for value in range(256):
        c = counts[value]
        letter = (65 <= value <= 90) or (97 <= value <= 122)
        digit = 48 <= value <= 57
        line_break = value in (10, 13)
        fits[0] += c * (32 <= value < 127 or value == 9 or line_break)
        fits[1] += c * (letter or digit or line_break or value in (43, 45, 47, 61, 95))
        in_hex = digit or (65 <= value <= 70) or (97 <= value <= 102)
        fits[2] += c * (in_hex or line_break or value in (32, 58))
        in_32 = (65 <= value <= 90) or (50 <= value <= 55)
        fits[3] += c * (in_32 or line_break or value == 61)
        fits[4] += c * (line_break or value in (9, 32))
        fits[5] += c * (value >= 128)
    out[C_PRINTABLE] = fits[0]
    out[C_BASE64] = fits[1]
    out[C_HEX] = fits[2]
    out[C_BASE32] = fits[3]
    out[C_SPACE] = fits[4]
    out[C_HIGH] = fits[5]
    out[C_PERCENT] = counts[37]

    # Framing and preambles cost time and are looked for only where the content
    # as a whole was rejected and is not text.
    out[OPAQUE_N] = 0.0
    out[OPAQUE_FROM] = -1.0
    if out[C_P] > OPAQUE_P:
        out[OPAQUE_N] = size
        out[OPAQUE_FROM] = 0.0
    elif size >= _SUFFIX_MIN and out[C_PRINTABLE] < 0.9 * size:
        found = -1
        for attempt in range(3):
            found = opaque_suffix(content, size)
            if found >= 0:
                break
            if attempt == 0:
                size = drop_blocks(content, size)
            elif attempt == 1:
                size = drop_repeats(content, size)
        if found >= 0:
            out[OPAQUE_N] = size - found
            out[OPAQUE_FROM] = found


@compiled
def unpack_bits(
    text: NDArray[np.uint8],
    values: NDArray[np.uint8],
    width: int,
    out: NDArray[np.uint8],
) -> int:
    """Decode a power-of-two alphabet leniently; return the number of bytes.

    Characters outside the alphabet (value 255) are skipped and nothing is said
    about alignment, so text cut out of the middle still decodes to a stream of
    bits: ciphertext stays uniform at any shift, structure stays structure.
    """
    held = 0
    bits = 0
    at = 0
    for i in range(text.shape[0]):
        value = values[text[i]]
        if value == 255:
            continue
        held = ((held << width) | value) & 0xFFFF
        bits += width
        if bits >= 8:
            bits -= 8
            out[at] = (held >> bits) & 255
            at += 1
    return at


@compiled
def longest_run(text: NDArray[np.uint8], classes: NDArray[np.uint8]) -> tuple[int, int]:
    """Start and stop of the longest run of characters of class 1."""
    best = 0
    at = 0
    size = 0
    for i in range(text.shape[0]):
        if classes[text[i]]:
            size += 1
            if size > best:
                best = size
                at = i + 1
        else:
            size = 0
    return at - best, at


@compiled
def letter_mix(text: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Shares of capital letters, small letters and digits."""
    upper = 0
    lower = 0
    digits = 0
    for i in range(text.shape[0]):
        value = text[i]
        upper += 65 <= value <= 90
        lower += 97 <= value <= 122
        digits += 48 <= value <= 57
    n = max(1, text.shape[0])
    return upper / n, lower / n, digits / n
