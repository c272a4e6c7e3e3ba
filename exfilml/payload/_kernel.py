"""Compiled arithmetic: byte tallies, the randomness test, setting framing aside.

One file because numba's cache notices changes only in the file of the function that
is called, not in those of the functions it calls.

**The randomness test.** Under "n independent uniform bytes" nine statistics of two
tallies, of bytes and of their differences, are turned into z-scores:

1. *byte collisions*: pairs of equal bytes, ``C = sum c(c - 1)/2`` over the 256
   counts. It is Pearson's chi-square in integers, ``X2 = 256/n (2C + n) - n``;
2. *too even*: the lower tail of the same, for counters and permutations;
3. *nibble collisions*: the same over 16 cells and 2n nibbles, stronger when
   bytes are too few to fill 256 cells;
4. *delta collisions*: the same over ``x[i+1] - x[i] mod 256``, which are again
   independent uniform bytes; sees counters, ramps, periodic filling and other
   serial structure that keeps the byte frequencies even;
5. *bit positions*: ones at each of the eight positions, chi-square with 8
   degrees of freedom; text never sets bit 7;
6. *bit balance*: all set bits, the monobit test of NIST SP 800-22, section 2.1;
7. *runs*: changes between neighbouring bits within bytes, binomial (7n, 1/2); the
   runs test of NIST SP 800-22, section 2.3;
8. *serial correlation* on the circle, ``sum cos(2 pi delta / 256)``, normal with
   variance n/2: smooth signals, samples of sound;
9. *entropy gap*: how far the plug-in entropy is below its mean for n.

Skewed statistics (1 to 5 and 9) become z-scores by the cube root of their gamma
approximation with the exact first three moments (E. B. Wilson and M. M. Hilferty,
1931); of the indicators "bytes i and j are equal" ``N = n(n-1)/2`` are pairwise
independent, so for ``p = 1/cells``::

    mean = N p      var = N p (1 - p)
    mu3  = N p (1 - p)(1 - 2p) + n(n-1)(n-2) p**2 (1 - p)

The nine are dependent, and so no formula combines them: the largest z is compared with
its own distribution, simulated by ``datasets/make_randomness.py`` for every n up to
256 and a grid beyond, under which ``P(p <= alpha) <= alpha`` holds as well as it was
simulated. Where the simulation ends, at 1e-5, the normal tail goes on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from exfilml._jit import compiled, compiled_bare

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD_BYTES: Final = 512
"""Bytes at the start of the stream that ``head_*`` speaks of: a banner or a handshake
would be there."""

START_BYTES: Final = 64
"""Bytes at the start of the stream that ``start_p_random`` speaks of: its first
message, where a key exchange would be."""

OPAQUE_P: Final = 1e-3
"""Randomness is given up below this p-value: one ciphertext in a thousand is
missed, and a window that passes is worth its power, not its p-value."""

UNKNOWN_BELOW: Final = 24
"""Fewer bytes say too little for any verdict from statistics."""

OPAQUE_BELOW: Final = 64
"""Fewer bytes cannot be called opaque: below 64 B the test lets typical binary
headers pass (a 48-byte NTP packet), from 64 B on it rejects text at p < 1e-8
(bit 7 is never set) and records with zero bytes alike."""

PACKED_BELOW: Final = 256
"""Fewer bytes cannot be told compressed from structured by their entropy."""

TEXT_SHARE: Final = 0.9
"""Printable share of text; random bytes show 0.38 and reach 0.9 never."""

LATER_SHARE: Final = 0.5
"""Share of the stream beyond the head from which its slices decide alone: a
dialogue or a handshake in the clear, then ciphertext."""

FRAME_COLUMNS: Final = 32
"""A per-packet header longer than this is not looked for."""

FRAME_SLICES: Final = 8
"""Fewer sampled slices cannot tell a constant column from chance."""

GRAM_BYTES: Final = 65536
"""Beyond this, 4-byte strings begin to occur three times by chance."""

EXACT_BELOW: Final = 256
"""From this length on p-values are interpolated between simulated quantiles; below,
where the scores are few and far between, they are the next larger quantile's."""

STEPS: Final = 8
"""Simulated quantiles a decade of the p-value."""

LEVELS: Final = 5 * STEPS + 1
"""Simulated quantiles: p = 1 to 1e-5."""

# Columns of the table of simulated quantiles, one row a length.
NULL_N, NULL_SD, NULL_SKEW, NULL_Z = 0, 1, 2, 3

# Columns of what is known of a length (`describe`): of the entropy of so many random
# bytes, of pairs among so many draws of 256 cells and among twice as many of 16, each
# with what `cube_root_z` makes of its shape; then the quantiles.
_MEAN, _SD, _SHAPE, _ROOT, _NINTH, _THIRD = range(6)
_ENTROPY, _BYTES, _NIBBLES, _SKEWED, _TAIL, _LEVEL = 0, 6, 12, 18, 19, 20
KNOWN_COLUMNS: Final = _LEVEL + LEVELS

# Beyond this z-score a p-value is zero, as far as numbers go.
_CERTAIN: Final = 40.0
# Below this share of what a z-score asks for, cubed, there is no need to take its root.
_NEARLY: Final = 0.999999
# From this z-score on one more makes a p-value smaller by far more than a tenth.
_STEEP: Final = 3.0

_SUFFIX_MIN: Final = 256
_COPY_MIN: Final = 32
_WINDOW: Final = 128
_TEXT_MIN: Final = 16
_NEAR: Final = 64
_PREAMBLE_P: Final = 1e-6
_COLUMN_Z: Final = 5.0
_GRAM_MIN: Final = 3
# log(2) for the two tails of a symmetric statistic.
_TWO_TAILS: Final = 1.3862943611198906
_COSINES: Final = np.cos(2.0 * np.pi * np.arange(256) / 256.0)
_COSINE_UNIT: Final = 32768
_ROUGH_COSINES: Final = np.round(_COSINE_UNIT * _COSINES).astype(np.int32)
# Of nibbles: masks of their bits, and changes from bit to bit.
_NIBBLE_BITS: Final = -(np.arange(16) >> np.arange(4)[:, None] & 1)
_TURNS: Final = np.array(
    [((value ^ (value >> 1)) & 7).bit_count() for value in range(16)]
)
_SET_BITS: Final = np.array([value.bit_count() for value in range(256)], np.int32)
# Enough for the counts that `expected_entropy` sums over.
_LOG_2: Final = np.array([math.log2(max(c, 1)) for c in range(512)])
# c log2 c of the counts that samples have.
_C_LOG_C: Final = np.arange(2048) * np.log2(np.maximum(np.arange(2048), 1))

# Masks of the bytes that are printable, base64, hex and base32 (line breaks and padding
# included), blanks, beyond ASCII: -1 for these, and 0.
_CLASSES: Final = np.zeros((6, 256), np.int32)
for _row, _members in enumerate(
    (
        bytes(range(32, 127)) + b"\t\r\n",
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\r\n",
        b"0123456789abcdefABCDEF :\r\n",
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567=\r\n",
        b" \t\r\n",
        bytes(range(128, 256)),
    )
):
    _CLASSES[_row, list(_members)] = -1

# Positions in the result of `survey`; the first are evidence, in its order.
ENTROPY, ENTROPY_Z, P_RANDOM, START_P = 0, 1, 2, 3
HEAD_ENTROPY, HEAD_P, BODY_ENTROPY, BODY_P = 4, 5, 6, 7
SET_BITS, PRINTABLE = 8, 9
N_EVIDENCE: Final = 10
N_CONTENT, C_ENTROPY, C_SHARE, C_P, C_PERCENT = 10, 11, 12, 13, 14
OPAQUE_N, OPAQUE_FROM, LATER_N, LATER_P = 15, 16, 17, 18
# In the order of `_CLASSES`.
C_PRINTABLE, C_BASE64, C_HEX, C_BASE32, C_SPACE, C_HIGH = 19, 20, 21, 22, 23, 24
FOLLOWED: Final = 25
N_RESULTS: Final = 26

# What is known of a piece of content beside its bytes, as bits (`settle`).
SEALED, PACKED, SIGNED, GRAMMAR, HANDSHAKE, MAGIC = 1, 2, 4, 8, 16, 32
CARRIED: Final = 64
"""A carrier holds the content, which is judged for itself."""

# What `settle` says. The first six are verdicts, in the order of `VERDICTS`; the
# others are open.
OPAQUE, COMPRESSED, ENCODED, TEXT, STRUCTURED, UNKNOWN = range(6)
IS_SEALED, BEHIND_HANDSHAKE, HOLDS_PACKED = 6, 7, 8
READ_TEXT, PASSED, LATER_PASSED, REJECTED, UNSETTLED = 9, 10, 11, 12, 13

# Columns of the table of directions that are judged together. First where its head is
# in the samples (the slices follow), bytes of head and slices, where the sizes of its
# packets are and how many, its payload bytes, seen or not.
AT, HEAD, SLICES, SIZES_AT, PACKETS, STREAM, PROTOCOL = range(7)
# Then what is found on the way: see `survey` and `settle`, and `_skim.skim`.
START, RECORDS, SEARCH, KNOWN, SETTLED = range(7, 12)
LOOKUP, NAME_AT, NAME_BYTES = 12, 13, 14
SIDE_COLUMNS: Final = 15


@compiled_bare
def cube_root_z(x: float, shape: float) -> float:
    """z-score of a gamma variable with this shape and scale 1."""
    if x <= 0.0:
        return -3.0 * math.sqrt(shape)
    root = (x / shape) ** (1.0 / 3.0)
    return float((root - 1.0 + 1.0 / (9.0 * shape)) * 3.0 * math.sqrt(shape))


@compiled
def collision_z(pairs: float, n: float, cells: float, half: float) -> float:
    """z-score of the pairs of equal draws among n from equal cells.

    `half` is the continuity correction: -0.5 for the upper tail, 0.5 for the lower.
    """
    if n < 3.0:
        return 0.0
    mean, sd, shape = moments(n, cells)
    return float(
        cube_root_z(shape + (pairs + half - mean) / sd * math.sqrt(shape), shape)
    )


@compiled_bare
def moments(n: float, cells: float) -> tuple[float, float, float]:
    """Mean and deviation of the pairs among n draws, and the shape of their gamma."""
    p = 1.0 / cells
    mean = 0.5 * n * (n - 1.0) * p
    var = mean * (1.0 - p)
    mu3 = var * (1.0 - 2.0 * p) + n * (n - 1.0) * (n - 2.0) * p * p * (1.0 - p)
    sd = math.sqrt(var)
    skew = mu3 / (var * sd)
    return mean, sd, 4.0 / (skew * skew)


@compiled
def describe_shape(known: NDArray[np.float64], at: int, shape: float) -> None:
    """Write down what `cube_root_z` makes of a shape."""
    known[at + _SHAPE] = shape
    known[at + _ROOT] = math.sqrt(shape)
    known[at + _NINTH] = 1.0 / (9.0 * shape)
    known[at + _THIRD] = 1.0 / (3.0 * math.sqrt(shape))


@compiled
def describe_draws(known: NDArray[np.float64], n: int) -> None:
    """Write down what is known of pairs among n bytes."""
    for at, draws, cells in ((_BYTES, 1.0 * n, 256.0), (_NIBBLES, 2.0 * n, 16.0)):
        mean, sd, shape = 0.0, 0.0, 0.0
        if draws >= 3.0:
            mean, sd, shape = moments(draws, cells)
        known[at + _MEAN], known[at + _SD] = mean, sd
        describe_shape(known, at, shape)


@compiled
def describe(null: NDArray[np.float64], n: int, known: NDArray[np.float64]) -> None:
    """Write down what is known of n random bytes, from the table of quantiles."""
    describe_draws(known, n)
    row, share = null_row(null, n)
    skew = quantile(null, row, share, NULL_SKEW)
    known[_ENTROPY + _MEAN] = expected_entropy(n)
    known[_ENTROPY + _SD] = quantile(null, row, share, NULL_SD) / n
    known[_SKEWED] = skew >= 0.01
    describe_shape(known, _ENTROPY, 4.0 / (skew * skew) if skew >= 0.01 else 1.0)
    for level in range(LEVELS):
        known[_LEVEL + level] = quantile(null, row, share, NULL_Z + level)
    # Of the normal distribution, where the simulation ends.
    known[_TAIL] = max(upper_normal(known[_LEVEL + LEVELS - 1]), 1e-300)


@compiled
def describe_all(
    null: NDArray[np.float64],
    lengths: NDArray[np.float64],
    powers: NDArray[np.float64],
) -> None:
    """Fill the tables of `Null`; see there."""
    for n in range(1, lengths.shape[0]):
        describe(null, n, lengths[n])
    for level in range(LEVELS):
        powers[level] = 10.0 ** (-level / STEPS)


class Null(NamedTuple):
    """What is known of uniform random bytes.

    Attributes
    ----------
    table
        Simulated quantiles, one row a simulated length.
    lengths
        What follows from it for each length up to some thousands, shape
        ``(n, KNOWN_COLUMNS)``; none but time is lost where there are no rows.
    powers
        p-values of the quantiles, shape ``(LEVELS,)``.
    """

    table: NDArray[np.float64]
    lengths: NDArray[np.float64]
    powers: NDArray[np.float64]


@compiled_bare
def two_sided(z: float) -> float:
    """z-score whose one tail holds about what both tails of `z` do."""
    return math.sqrt(max(0.0, z * z - _TWO_TAILS))


@compiled_bare
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
        total += pmf * c * _LOG_2[c]
    return math.log2(n) - total / mean


@compiled_bare
def entropy_of_random(n: int, null: Any) -> tuple[float, float]:
    """Mean and deviation of the plug-in entropy of n uniform random bytes."""
    if n < null.lengths.shape[0]:
        return null.lengths[n, _ENTROPY + _MEAN], null.lengths[n, _ENTROPY + _SD]
    row, share = null_row(null.table, n)
    return expected_entropy(n), quantile(null.table, row, share, NULL_SD) / n


@compiled_bare
def tally(
    data: NDArray[np.uint8],
    start: int,
    stop: int,
    counts: Any,
    deltas: Any,
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


@compiled_bare
def entropy_of(counts: Any, n: int) -> float:
    """Plug-in Shannon entropy in bits per byte, nan for no bytes."""
    if n == 0:
        return math.nan
    total = 0.0
    for value in range(0, 256, 4):
        # Nothing is added for counts of 0 and 1, the most common ones.
        if (
            counts[value] | counts[value + 1] | counts[value + 2] | counts[value + 3]
            > 1
        ):
            for at in range(value, value + 4):
                c = counts[at]
                if c >= 2048:
                    total += c * math.log2(c)
                elif c > 1:
                    total += _C_LOG_C[c]
    return max(0.0, math.log2(n) - total / n)


@compiled_bare
def collisions(counts: Any) -> float:
    """Count the pairs of equal draws."""
    # Integers: exact, and the compiler vectorises the sum.
    twice: Any = 0
    for i in range(counts.shape[0]):
        twice += np.int64(counts[i]) * (np.int64(counts[i]) - 1)
    return float(0.5 * twice)


@compiled_bare
def null_row(null: NDArray[np.float64], n: int) -> tuple[int, float]:
    """Row of the largest simulated length up to n, and where n is on the way to the next.

    The latter as a share of the logarithm.
    """
    last = null.shape[0] - 1
    if n >= null[last, NULL_N]:
        return last, 0.0
    low = 0
    high = last
    while high - low > 1:
        middle = (low + high) // 2
        if null[middle, NULL_N] <= n:
            low = middle
        else:
            high = middle
    if n <= null[low, NULL_N]:
        return low, 0.0
    wide = math.log(null[high, NULL_N] / null[low, NULL_N])
    return low, math.log(n / null[low, NULL_N]) / wide


@compiled_bare
def quantile(null: NDArray[np.float64], row: int, share: float, column: int) -> float:
    """Value of a column of the table between two rows."""
    here = float(null[row, column])
    if share == 0.0:
        return here
    there = float(null[row + 1, column])
    if column >= NULL_Z and null[row, NULL_N] < EXACT_BELOW:
        return max(here, there)
    return here + share * (there - here)


@compiled_bare
def larger(
    best: float, x: float, shape: float, root: float, ninth: float, third: float
) -> Any:
    """Larger of `best`, which is not negative, and ``cube_root_z(x, shape)``.

    Of most scores it can be told without a cube root that they are smaller.
    """
    ratio = x / shape
    least = best * third + 1.0 - ninth
    if x <= 0.0 or ratio < _NEARLY * least * least * least:
        return best
    return max(best, (ratio ** (1.0 / 3.0) - 1.0 + ninth) * 3.0 * root)


@compiled_bare
def larger_pairs(
    best: float, pairs: float, half: float, lengths: Any, n: int, at: int
) -> Any:
    """Larger of `best` and `collision_z`."""
    sd = lengths[n, at + _SD]
    if sd == 0.0:
        return best
    shape, root = lengths[n, at + _SHAPE], lengths[n, at + _ROOT]
    x = shape + (pairs + half - lengths[n, at + _MEAN]) / sd * root
    return larger(
        best, x, shape, root, lengths[n, at + _NINTH], lengths[n, at + _THIRD]
    )


@compiled_bare
def larger_gap(best: float, entropy: float, lengths: Any, n: int) -> Any:
    """Larger of `best` and the score of an entropy below its mean."""
    sd = lengths[n, _ENTROPY + _SD]
    if sd <= 0.0:
        # Of one byte, too.
        return best
    gap = (lengths[n, _ENTROPY + _MEAN] - entropy) / sd
    if lengths[n, _SKEWED] == 0.0:
        return max(best, gap)
    shape, root = lengths[n, _ENTROPY + _SHAPE], lengths[n, _ENTROPY + _ROOT]
    return larger(
        best, shape + gap * root, shape, root, lengths[n, _ENTROPY + _NINTH],
        lengths[n, _ENTROPY + _THIRD],
    )  # fmt: skip


@compiled_bare
def larger_tails(best: float, z: float) -> Any:
    """Larger of `best` and `two_sided`."""
    if z * z - _TWO_TAILS < _NEARLY * best * best:
        return best
    return max(best, two_sided(z))


@compiled_bare
def larger_of_bits(best: float, counts: Any, size: int, lengths: Any, n: int) -> Any:
    """Larger of `best` and the scores of nibbles, bit positions, balance and runs."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0
    changes = 0
    twice = 0
    for value in range(16):
        clear = 0
        set_here = 0
        lower = 0
        for other in range(8):
            clear += counts[16 * value + other]
            set_here += counts[16 * value + 8 + other]
        for other in range(16):
            lower += counts[16 * other + value]
        upper = clear + set_here
        both = upper + lower
        # Within nibbles, and from the last bit of the upper to the first of the lower.
        changes += (clear if value & 1 else set_here) + both * _TURNS[value]
        twice += both * (both - 1)
        s0 += lower & _NIBBLE_BITS[0, value]
        s1 += lower & _NIBBLE_BITS[1, value]
        s2 += lower & _NIBBLE_BITS[2, value]
        s3 += lower & _NIBBLE_BITS[3, value]
        s4 += upper & _NIBBLE_BITS[0, value]
        s5 += upper & _NIBBLE_BITS[1, value]
        s6 += upper & _NIBBLE_BITS[2, value]
        s7 += upper & _NIBBLE_BITS[3, value]
    best = larger_pairs(best, 0.5 * twice, -0.5, lengths, n, _NIBBLES)
    half = 0.0
    for set_bits in (s7, s6, s5, s4, s3, s2, s1, s0):
        half += 0.5 * (2.0 * set_bits - size) * (2.0 * set_bits - size) / size
    ones = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7
    best = larger(best, half, 4.0, 2.0, 1.0 / 36.0, 1.0 / 6.0)
    off = max(0.0, abs(ones - 4.0 * size) - 0.5)
    best = larger_tails(best, off / math.sqrt(2.0 * size))
    off = max(0.0, abs(changes - 3.5 * size) - 0.5)
    return larger_tails(best, off / math.sqrt(1.75 * size))


@compiled_bare
def moves_of(deltas: Any) -> int:
    """How many differences there are."""
    moves = 0
    for value in range(256):
        moves += deltas[value]
    return moves


@compiled_bare
def larger_of_deltas(best: float, deltas: Any, moves: int, lengths: Any, n: int) -> Any:
    """Larger of `best` and the scores of differences."""
    if moves == 0:
        return best
    best = larger_pairs(best, collisions(deltas), -0.5, lengths, n, _BYTES)
    # Whole numbers are added up many at once, in any order: as far as it may be off.
    rough = 0
    for value in range(256):
        rough += np.int64(deltas[value]) * _ROUGH_COSINES[value]
    z = (abs(rough) + moves) / _COSINE_UNIT / math.sqrt(0.5 * moves)
    if z * z - _TWO_TAILS < _NEARLY * best * best:
        return best
    circle = 0.0
    for value in range(256):
        circle += deltas[value] * _COSINES[value]
    return max(best, two_sided(circle / math.sqrt(0.5 * moves)))


@compiled_bare
def largest_z(
    counts: Any, deltas: Any, size: int, entropy: float, moves: int, lengths: Any,
    n: int, m: int,
) -> Any:  # fmt: skip
    """Largest of the nine z-scores; beyond `_CERTAIN` a large one of them.

    What is known of so many bytes is in row `n`, of so many differences in row `m`.
    """
    pairs = collisions(counts)
    best = larger_pairs(0.0, pairs, -0.5, lengths, n, _BYTES)
    if best > _CERTAIN:
        return best
    if size >= 3:
        shape, root = lengths[n, _BYTES + _SHAPE], lengths[n, _BYTES + _ROOT]
        x = (
            shape
            + (pairs + 0.5 - lengths[n, _BYTES + _MEAN])
            / (lengths[n, _BYTES + _SD])
            * root
        )
        best = max(best, -cube_root_z(x, shape))
    best = larger_gap(best, entropy, lengths, n)
    best = larger_of_bits(best, counts, size, lengths, n)
    return larger_of_deltas(best, deltas, moves, lengths, m)


@compiled_bare
def upper_normal(z: float) -> float:
    """P(Z >= z) for a standard normal Z."""
    return 0.5 * math.erfc(z / math.sqrt(2.0))


@compiled_bare
def p_uniform(counts: Any, deltas: Any, n: int, entropy: float, null: Any) -> Any:
    """p-value of n uniform random bytes, from the two tallies; see the module.

    Parameters
    ----------
    counts, deltas
        Tallies of bytes and of their differences, shapes ``(256,)``.
    n
        Number of bytes.
    entropy
        Of `counts`, see `entropy_of`.
    null
        A `Null`.
    """
    if n == 0:
        return math.nan
    if n >= null.lengths.shape[0]:
        return p_of_many(counts, deltas, n, entropy, null.table, null.powers)
    moves = moves_of(deltas)
    z = largest_z(counts, deltas, n, entropy, moves, null.lengths, n, moves)
    return p_of(z, n, null.lengths, n, null.powers)


@compiled_bare
def p_of(z: float, size: int, lengths: Any, n: int, powers: Any) -> Any:
    """p-value of the largest z-score."""
    if z > _CERTAIN:
        return 0.0
    # They ascend: all are compared sooner than some are looked for.
    low = 0
    for level in range(1, LEVELS):
        low += lengths[n, _LEVEL + level] <= z
    if low == LEVELS - 1:
        return powers[low] * min(1.0, upper_normal(z) / lengths[n, _TAIL])
    if size >= EXACT_BELOW:
        here, there = lengths[n, _LEVEL + low], lengths[n, _LEVEL + low + 1]
        if there > here:
            between = max(0.0, z - here) / (there - here)
            return 10.0 ** (-(low + between) / STEPS)
    return powers[low]


@compiled
def p_of_many(
    counts: Any, deltas: Any, n: int, entropy: float, table: Any, powers: Any
) -> Any:
    """p-value of more bytes than samples have."""
    known = np.zeros((2, KNOWN_COLUMNS), np.float64)
    moves = moves_of(deltas)
    describe(table, n, known[0])
    if moves:
        describe_draws(known[1], moves)
    z = largest_z(counts, deltas, n, entropy, moves, known, 0, 1)
    return p_of(z, n, known, 0, powers)


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
    counts = np.zeros(256, np.int32)
    for column in range(min(FRAME_COLUMNS, width // 2)):
        counts[:] = 0
        for i in range(slices):
            counts[body[i * width + column]] += 1
        if collision_z(collisions(counts), slices, 256.0, -0.5) > _COLUMN_Z:
            header = column + 1
    return header


@compiled_bare
def copy_bytes(
    data: NDArray[np.uint8], start: int, stop: int, out: NDArray[np.uint8], at: int
) -> int:
    """Copy ``data[start:stop]`` to ``out[at:]``; return the new end.

    A loop, because numba needs seconds to compile each assignment of slices; with
    unsigned indices, because it would ask of signed ones whether they are negative,
    one by one.
    """
    for i in range(stop - start):
        out[np.uintp(at + i)] = data[np.uintp(start + i)]
    return at + max(0, stop - start)


@compiled_bare
def explicit_nonce(data: NDArray[np.uint8], start: int) -> int:
    """Bytes of explicit nonce that TLS 1.2 records of AES-GCM begin with: 8 or 0.

    RFC 5288, section 3: any 8 bytes, and a counter with all that are used. Three
    records in a row that count up by one do so by chance once in 2**128.
    """
    i = np.int64(start)
    seen = 0
    last = np.uint64(0)
    while i + 13 <= data.shape[0] and 20 <= data[i] <= 26 and data[i + 1] == 3:
        size = np.int64(data[i + 3]) * 256 + np.int64(data[i + 4])
        if data[i] == 23 and size >= 8:
            nonce = np.uint64(0)
            for j in range(8):
                nonce = (nonce << np.uint64(8)) | np.uint64(data[i + 5 + j])
            # A record that was sent twice repeats its nonce.
            if seen and nonce != last + np.uint64(1) and nonce != last:
                return 0
            seen += 1
            last = nonce
        i += 5 + size
    return 8 if seen >= 3 else 0


@compiled_bare
def drop_records(
    data: NDArray[np.uint8],
    start: int,
    out: NDArray[np.uint8],
    at: int,
    version: int,
    nonce: int,
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
            at = copy_bytes(data, min(i + nonce, stop), stop, out, at)
        i = stop
    return int(at)


@compiled_bare
def drop_inline(
    data: NDArray[np.uint8],
    start: int,
    stop: int,
    out: NDArray[np.uint8],
    at: int,
    nonce: int,
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
            i += 5 + nonce
            continue
        out[at] = data[i]
        at += 1
        i += 1
    return at


@compiled
def table_size(entries: int) -> int:
    """Slots of a hash table that is at most half full; clearing more takes longer."""
    size = 64
    while size < 2 * entries:
        size *= 2
    return size


@compiled
def drop_copies(data: NDArray[np.uint8], n: int) -> int:
    """Keep one of equal runs of 32 bytes or more, in place; return the new length.

    Segments that were sent twice, or caught twice, look as if ciphertext repeated.
    By chance two runs of 32 random bytes are equal with probability n**2 / 2 * 2**-256.
    """
    if n < _SUFFIX_MIN or n > GRAM_BYTES:
        return n
    size = table_size(n)
    hashes = np.full(size, -1, np.int32)
    places = np.empty(size, np.int32)
    at = 0
    i = 0
    key = np.uint64(0)
    read = 0
    while i < n:
        length = 0
        if i + _COPY_MIN <= n:
            # The next eight bytes, of which all but the last were read before.
            for j in range(max(i, read), i + 8):
                key = (key << np.uint64(8)) | np.uint64(data[j])
            read = i + 8
            code = np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(47))
            slot = code & (size - 1)
            while hashes[slot] != -1 and hashes[slot] != code:
                slot = (slot + 1) & (size - 1)
            # What was copied stands before `at`; offsets in the table are of there.
            if hashes[slot] == code:
                other = places[slot]
                while (
                    i + length < n
                    and other + length < at
                    and data[other + length] == data[i + length]
                ):
                    length += 1
            if length < _COPY_MIN:
                hashes[slot] = code
                places[slot] = at
        if length >= _COPY_MIN:
            i += length
            continue
        data[at] = data[i]
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
    keys = np.full(table_size(n), -1, np.int64)
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
    table = np.full(table_size(blocks), -1, np.int32)
    mask = table.shape[0] - 1
    repeated = np.zeros(blocks, np.uint8)
    dropped = 0
    for block in range(blocks):
        key = np.int64(0)
        for j in range(8):
            key = key * 1000003 + data[block * 8 + j]
        slot = (key ^ (key >> 21)) & mask
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
            slot = (slot + 1) & mask
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


@compiled_bare
def text_end(data: NDArray[np.uint8], start: int, n: int) -> int:
    """Where text ends that begins at `start`; `start` for none.

    At the largest sum of 1 for each printable byte and -3 for each other (CUSUM: E. S.
    Page, Biometrika 41, 1954). Random bytes reach 16 once in three million.
    """
    total = 0
    best = 0
    end = start
    for i in range(start, n):
        total += 1 if _CLASSES[0, data[i]] else -3
        if total > best:
            best = total
            end = i + 1
        elif total < best - _NEAR:
            break
    return end if best >= _TEXT_MIN else start


@compiled_bare
def fails_by_far(counts: Any, deltas: Any, n: int, null: Any) -> Any:
    """Whether the p-value of n bytes is below `_PREAMBLE_P`.

    Most are far from it, which is told by less than the p-value itself.
    """
    if n < null.lengths.shape[0]:
        lengths = null.lengths
        # The p-value here is 1e-5, and a tenth of it well before one more.
        last = lengths[n, _LEVEL + LEVELS - 1]
        best = larger_pairs(last, collisions(counts), -0.5, lengths, n, _BYTES)
        if last > _STEEP and best > last + 1.0:
            return True
        best = larger_of_bits(best, counts, n, lengths, n)
        if last > _STEEP and best > last + 1.0:
            return True
        moves = moves_of(deltas)
        best = larger_of_deltas(best, deltas, moves, lengths, moves)
        if larger_gap(best, entropy_of(counts, n), lengths, n) == last:
            return False
    return p_uniform(counts, deltas, n, entropy_of(counts, n), null) < _PREAMBLE_P


@compiled
def preamble_end(data: NDArray[np.uint8], start: int, n: int, null: Any) -> int:
    """Where a preamble ends that goes on at `start`; `start` for nowhere.

    Windows of 64 B that fail the test by far are followed until there is none for
    96 B. The preamble ends where the text does that the last of them begins with, or
    else with its middle.
    """
    counts = np.empty(256, np.int32)
    deltas = np.empty(256, np.int32)
    end = start
    last = -1
    at = start
    while at + _NEAR <= n and at - end <= 3 * _NEAR // 2:
        counts[:] = 0
        deltas[:] = 0
        tally(data, at, at + _NEAR, counts, deltas)
        if fails_by_far(counts, deltas, _NEAR, null):
            last = at
            end = at + _NEAR // 2
        at += _NEAR // 2
    at = max(last, start)
    text = text_end(data, at, n)
    return int(text if text > at else end)


@compiled
def opaque_suffix(data: NDArray[np.uint8], n: int, null: Any) -> int:  # noqa: C901
    """Where opaque bytes begin after a plaintext preamble, -1 for nowhere.

    A suffix counts when it is at least half of the buffer and 256 B, passes the
    randomness test, and what stands before it fails it by far: otherwise
    compressed data would get several chances to pass. The preamble ends with its
    last 8 bytes whose neighbourhood fails, so that the place is known to 8 bytes.
    """
    # Of all, of what stands before a cut, and of what begins there.
    tallies = np.zeros((6, 256), np.int32)
    counts, deltas, before, turns, behind, moves = (
        tallies[0], tallies[1], tallies[2], tallies[3], tallies[4], tallies[5],
    )  # fmt: skip
    # The second half is in every suffix that counts: most records end here.
    tally(data, n // 2, n, counts, deltas)
    if fails_by_far(counts, deltas, n - n // 2, null):
        return -1
    tally(data, 0, n // 2, counts, deltas)
    if n > 1:
        deltas[(data[n // 2] - data[n // 2 - 1]) & 255] += 1
    previous = 0
    for cut in (0, 16, 32, 64, 128, 256, 512, 1024, 2048):
        if n - cut < _SUFFIX_MIN or 2 * cut > n:
            break
        tally(data, previous, cut, before, turns)
        if previous > 0:
            turns[(data[previous] - data[previous - 1]) & 255] += 1
        for value in range(256):
            behind[value] = counts[value] - before[value]
            moves[value] = deltas[value] - turns[value]
        if cut > 0:
            moves[(data[cut] - data[cut - 1]) & 255] -= 1
        p = p_uniform(behind, moves, n - cut, entropy_of(behind, n - cut), null)
        if p > OPAQUE_P:
            if cut == 0:
                return 0
            if fails_by_far(before, turns, cut, null):
                at = cut
                while at - 8 > previous:
                    behind[:] = 0
                    moves[:] = 0
                    tally(data, at - 8, min(n, at + 56), behind, moves)
                    near = min(n, at + 56) - at + 8
                    p = p_uniform(behind, moves, near, entropy_of(behind, near), null)
                    if p < 0.01:
                        break
                    at -= 8
                return int(at)
        previous = cut
    return -1


@compiled
def keep_windows(  # noqa: C901
    data: NDArray[np.uint8], n: int, null: Any
) -> tuple[int, int]:
    """Keep the windows that may be opaque, in place; new length and first place.

    Windows of 128 B that fail the randomness test by far (a random one does so once
    in a million) are text, records or padding between ciphertext. What is left must
    be two thirds of the buffer and pass the test together, which compressed data
    does not: its windows fail by little or not at all, and all of it stays.
    """
    windows = n // _WINDOW
    if windows < 6:
        return 0, -1
    counts = np.zeros((2, 256), np.int32)
    deltas = np.zeros((2, 256), np.int32)
    good = np.zeros(windows, np.uint8)
    kept = 0
    first = -1
    for i in range(windows):
        if 3 * (i * _WINDOW - kept) > n:
            return 0, -1
        counts[0] = 0
        deltas[0] = 0
        tally(data, i * _WINDOW, (i + 1) * _WINDOW, counts[0], deltas[0])
        if fails_by_far(counts[0], deltas[0], _WINDOW, null):
            continue
        good[i] = 1
        kept += _WINDOW
        if first < 0:
            first = i * _WINDOW
        for value in range(256):
            counts[1, value] += counts[0, value]
            deltas[1, value] += deltas[0, value]
    if kept == windows * _WINDOW or 3 * kept < 2 * n:
        return 0, -1
    entropy = entropy_of(counts[1], kept)
    if p_uniform(counts[1], deltas[1], kept, entropy, null) <= OPAQUE_P:
        return 0, -1
    at = 0
    for i in range(windows):
        if good[i]:
            at = copy_bytes(data, i * _WINDOW, (i + 1) * _WINDOW, data, at)
    return kept, first


@compiled
def survey(  # noqa: C901, PLR0912, PLR0915
    head: NDArray[np.uint8],
    body: NDArray[np.uint8],
    width: int,
    start: int,
    records: int,
    search: bool,
    null: Any,
    content: NDArray[np.uint8],
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
    search
        Whether to look for opaque bytes behind a preamble and between framing.
        A preamble short enough to pass in the crowd is set aside as well.
    null
        What is known of random bytes, a `Null`.
    content
        Shape ``(n_head + n_body,)``, filled: the stream without a recognised header
        and without framing. Where it is opaque it begins with the
        ``out[OPAQUE_N]`` bytes that are; ``out[FOLLOWED]`` says whether nothing was
        taken out between these.
    out
        Shape ``(N_RESULTS,)``, filled; the positions are the module's names.
    """
    # The same bytes give the same numbers, and are counted and tested once.
    tallies = np.zeros((4, 256), np.int32)
    counts, deltas = tallies[0], tallies[1]
    head_counts, head_deltas = tallies[2], tallies[3]
    first = min(START_BYTES, head.shape[0])
    cut = min(HEAD_BYTES, head.shape[0])
    n = head.shape[0] + body.shape[0]
    tally(head, 0, first, counts, deltas)
    entropy = entropy_of(counts, first)
    p = p_uniform(counts, deltas, first, entropy, null)
    out[START_P] = p
    if cut > first:
        tally(head, first, cut, counts, deltas)
        entropy = entropy_of(counts, cut)
        p = p_uniform(counts, deltas, cut, entropy, null)
    out[HEAD_ENTROPY], out[HEAD_P] = entropy, p
    for value in range(256):
        head_counts[value] = counts[value]
        head_deltas[value] = deltas[value]
    if n > cut:
        tally(head, cut, head.shape[0], counts, deltas)
        tally(body, 0, body.shape[0], counts, deltas)
        entropy = entropy_of(counts, n)
        p = p_uniform(counts, deltas, n, entropy, null)
    out[ENTROPY], out[P_RANDOM] = entropy, p
    out[ENTROPY_Z] = math.nan
    out[SET_BITS] = math.nan
    out[PRINTABLE] = math.nan
    if n > 0:
        ones = 0
        text = 0
        for value in range(256):
            ones += counts[value] * _SET_BITS[value]
            text += counts[value] & _CLASSES[0, value]
        out[SET_BITS] = ones / n
        out[PRINTABLE] = text / n
    if n > 1:
        mean, sd = entropy_of_random(n, null)
        if sd > 0.0:
            out[ENTROPY_Z] = (entropy - mean) / sd

    begin = min(max(start, 0), head.shape[0])
    nonce = 0
    if records:
        nonce = explicit_nonce(head, begin) if records == 3 else 0
        size = drop_records(head, begin, content, 0, records, nonce)
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
                size = drop_inline(body, i, stop, content, size, nonce)
            else:
                size = copy_bytes(body, i + skip, stop, content, size)

    # The body, then all content.
    lead = min(HEAD_BYTES, in_head) if start < 0 else 0
    if start < 0 and skip == 0 and records == 0:
        # All bytes are content, and the body is what the head is not.
        for value in range(256):
            head_counts[value] = counts[value] - head_counts[value]
            head_deltas[value] = deltas[value] - head_deltas[value]
        body_entropy = entropy_of(head_counts, size - lead)
        body_p = p_uniform(head_counts, head_deltas, size - lead, body_entropy, null)
    else:
        counts[:] = 0
        deltas[:] = 0
        tally(content, lead, size, counts, deltas)
        body_entropy = entropy_of(counts, size - lead)
        body_p = p_uniform(counts, deltas, size - lead, body_entropy, null)
        entropy, p = body_entropy, body_p
        if lead:
            for value in range(256):
                counts[value] += head_counts[value]
                deltas[value] += head_deltas[value]
            entropy = entropy_of(counts, size)
            p = p_uniform(counts, deltas, size, entropy, null)
    out[BODY_ENTROPY], out[BODY_P] = body_entropy, body_p
    out[N_CONTENT], out[C_ENTROPY], out[C_P] = size, entropy, p
    # Asked of what is text, and of what is not random.
    asked = 1
    for kind in range(_CLASSES.shape[0]):
        fits = 0
        if kind < asked:
            for value in range(256):
                fits += counts[value] & _CLASSES[kind, value]
            if kind == 0 and (p <= OPAQUE_P or fits >= TEXT_SHARE * size):
                asked = _CLASSES.shape[0]
        out[C_PRINTABLE + kind] = fits
    out[C_PERCENT] = counts[37]
    out[C_SHARE] = math.nan
    if size >= _SUFFIX_MIN and p <= OPAQUE_P:
        # Counters and ramps have even byte frequencies, but not even differences.
        least = min(entropy, entropy_of(deltas, deltas.sum()))
        out[C_SHARE] = least / entropy_of_random(size, null)[0]
    out[LATER_N] = size - in_head
    out[LATER_P] = math.nan
    if size > in_head:
        counts[:] = 0
        deltas[:] = 0
        tally(content, in_head, size, counts, deltas)
        entropy = entropy_of(counts, size - in_head)
        out[LATER_P] = p_uniform(counts, deltas, size - in_head, entropy, null)

    # Framing and preambles cost time and are looked for only where the content
    # as a whole was rejected and is not text.
    out[OPAQUE_N] = 0.0
    out[OPAQUE_FROM] = math.nan
    out[FOLLOWED] = 1.0
    if size > 0 and out[C_P] > OPAQUE_P:
        found = 0
        if search and records == 0:
            found = preamble_end(content, 0, in_head, null)
            if in_head - found < _NEAR:
                found = 0
            elif found:
                copy_bytes(content, found, size, content, 0)
        out[OPAQUE_N] = size - found
        out[OPAQUE_FROM] = begin + found
    elif search and size >= _SUFFIX_MIN and out[C_PRINTABLE] < 0.9 * size:
        # Compressed data behind a text get no more chances to pass than alone. A
        # binary handshake is left, because what follows it is not judged alone.
        found = text_end(content, 0, size)
        if found == 0:
            found = preamble_end(content, 0, size // 2 + _NEAR, null)
        controls = 0
        for i in range(found):
            controls += content[i] < 128 and not _CLASSES[0, content[i]]
        if 32 * controls > found:
            found = 0
        if 0 < found <= min(size // 2, size - _SUFFIX_MIN):
            copy_bytes(content, found, size, content, 0)
            size -= found
            begin += found
        attempt = 0
        while True:
            found = opaque_suffix(content, size, null)
            if found >= 0:
                found = preamble_end(content, found, size, null)
                out[FOLLOWED] = attempt == 0
                out[OPAQUE_N] = size - found
                out[OPAQUE_FROM] = begin + found
                copy_bytes(content, found, size, content, 0)
                return
            before = size
            while size == before and attempt < 3:
                if attempt == 0:
                    size = drop_copies(content, size)
                elif attempt == 1:
                    size = drop_blocks(content, size)
                else:
                    size = drop_repeats(content, size)
                attempt += 1
            if size == before:
                break
        out[FOLLOWED] = 0.0
        kept, found = keep_windows(content, size, null)
        if kept:
            out[OPAQUE_N] = kept
            out[OPAQUE_FROM] = begin + found


@compiled_bare
def settle(out: NDArray[np.float64], known: int, later_share: float) -> int:  # noqa: C901, PLR0911
    """Say what the figures of `survey` and the facts settle; see `_verdict.decide`.

    Parameters
    ----------
    out
        What `survey` found.
    known
        The bits above.
    later_share
        Share of the stream behind the head.
    """
    if known & CARRIED:
        return UNSETTLED
    if known & SEALED:
        return IS_SEALED
    if known & PACKED:
        return COMPRESSED
    size = out[N_CONTENT]
    if size < UNKNOWN_BELOW:
        if not known & GRAMMAR:
            return STRUCTURED if known & HANDSHAKE else UNKNOWN
        return TEXT if out[PRINTABLE] >= TEXT_SHARE else STRUCTURED
    later_decides = (
        later_share >= LATER_SHARE
        and out[LATER_N] >= PACKED_BELOW
        and out[LATER_P] > OPAQUE_P
    )
    if out[C_PRINTABLE] / size >= TEXT_SHARE and not later_decides:
        return READ_TEXT
    whole = out[C_P] > OPAQUE_P
    # Signatures and keys inside short binary messages are random, and no payload.
    if out[OPAQUE_N] >= OPAQUE_BELOW and (whole or not known & SIGNED):
        if not known & HANDSHAKE:
            return PASSED
        return HOLDS_PACKED if known & MAGIC else BEHIND_HANDSHAKE
    if later_decides:
        return LATER_PASSED
    if whole:
        return STRUCTURED if known & (GRAMMAR | HANDSHAKE) else UNKNOWN
    return STRUCTURED if known & SIGNED else REJECTED


@compiled
def survey_many(
    samples: NDArray[np.uint8],
    sides: NDArray[np.int64],
    width: int,
    null: Any,
    contents: NDArray[np.uint8],
    found: NDArray[np.float64],
) -> None:
    """Measure many directions, and settle what can be settled.

    Parameters
    ----------
    samples
        Head and slices of each direction, one behind the other.
    sides
        The table of directions, shape ``(n, SIDE_COLUMNS)``; `SETTLED` is filled.
    width, null
        As for `survey`.
    contents
        As many bytes as `samples`, filled: the content of each direction, at its
        place.
    found
        Shape ``(n, N_RESULTS)``, filled.
    """
    for i in range(sides.shape[0]):
        side = sides[i]
        begin = side[AT]
        middle = begin + side[HEAD]
        end = middle + side[SLICES]
        survey(
            samples[begin:middle], samples[middle:end], width, side[START],
            side[RECORDS], side[SEARCH] != 0, null, contents[begin:end], found[i],
        )  # fmt: skip
        later_share = 1.0 - side[HEAD] / side[STREAM] if side[STREAM] else 0.0
        side[SETTLED] = settle(found[i], side[KNOWN], later_share)


@compiled_bare
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


@compiled_bare
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


@compiled_bare
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


@compiled_bare
def weigh(
    text: NDArray[np.uint8],
    weights: NDArray[np.float64],
    kinds: NDArray[np.int64],
    turns: NDArray[np.float64],
) -> float:
    """Sum the weight of each character and that of each turn from kind to kind."""
    total = 0.0
    for i in range(text.shape[0]):
        total += weights[text[i]]
        if i:
            total += turns[kinds[text[i - 1]], kinds[text[i]]]
    return total
