"""Repeating-key XOR over text: find the period, the key and the text.

``x[i] = text[i] ^ key[i mod p]`` hides nothing from counting (Kasiski 1863; Friedman,
*The Index of Coincidence*, 1922). Bytes a multiple of ``p`` apart were met by the
same key byte and are equal as often as the bytes of the text are, 4 to 10 % of the
time, where unrelated bytes are equal once in 256.

1. **Period.** For each lag k the pairs ``(i, i + k)`` are counted that are equal, and
   those whose highest bits are. A period is a candidate if equal pairs over its
   multiples exceed chance by five standard deviations and four (one in 10⁷ for each
   of 64 periods), are at least `_LEAST_EQUAL` of all pairs and half of what the best
   period shows, and at least `_LEAST_ALIKE` of the highest bits agree, because those
   of ASCII are all zero. The first few are tried and of the best one the divisors:
   the shortest period that explains the bytes as well is the true one.
2. **Key.** For each column ``i mod p`` the key byte with the largest likelihood, out
   of all 256, under byte frequencies of six kinds of text: prose, tables (digits and
   separators), JSON, markup, source code, headers and logs. The kind that explains
   all columns best is used for all; once it is text, the frequencies that came out
   themselves decide the columns of which the kind was not sure.
3. **Confirmation.** What comes out must be text: printable, a mix of letters or
   digits with separators, likely under the kind's frequencies, not made of constant
   columns, and in the order of text: the class of each byte (vowel, digit, blank ...)
   must follow from that of the byte before nearly as well as it does in text.
   Small integers, zero-filled records and UTF-16 have coincidences, too, and can be
   turned into printable bytes, but not into that order.

What it cannot do
-----------------
XOR over compressed, encrypted or other random-looking bytes leaves them
random-looking: there is no coincidence to count, with any key. XOR over binary
records shows lags, but nothing tells the key's bytes from the records' own. Text
whose bytes are even in their alphabet (base64 with a key on top) or mostly beyond
ASCII (Japanese in UTF-8) is not found, nor is a key that starts anew in each of many
short messages.

Measured
--------
No hit in 100,000 random buffers of 64 to 1200 bytes. Of buffers of 128 to 4096 bytes
that are neither text nor random: 3 in 28,000 cut from programs, libraries, byte code,
message catalogues, fonts and array files, 1 in 1,774 directions of real captures,
3 in 11,000 cuts of machine code, UTF-16, UTF-32, integers, floats and smooth curves.
Thresholds were set with a look at these, so expect somewhat more elsewhere.

Share of texts whose period and nine tenths of the text come out, with a random key
over texts that no table was counted on, 20 and 60 bytes for each byte of the key:

==============  ============  ============  ============
text            4-byte key    16-byte key   32-byte key
==============  ============  ============  ============
licences        75, 91 %      88, 95 %      98, 100 %
Python          91, 97 %      98, 100 %     100, 100 %
C headers       78, 96 %      92, 98 %      97, 96 %
log files       51, 68 %      63, 86 %      76, 86 %
HTTP headers    49, 86 %      77, 92 %      87, 95 %
SIP messages    50, 97 %      93, 100 %     100, 100 %
==============  ============  ============  ============

A key of one byte needs no period and 64 bytes of text: 57 to 98 %. About 15 µs for
4 kB of bytes that are nearly random, 40 µs for records, up to 1 ms where a key is
found.

One file because numba's cache notices changes only in the file of the function that
is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml._jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_BYTES: Final = 64
"""Fewer bytes are not asked: too few pairs."""

MAX_BYTES: Final = 4096
"""Bytes that are looked at; the whole is decrypted."""

MAX_PERIOD: Final = 64
"""Longer keys are not looked for."""

BYTES_PER_COLUMN: Final = 20
"""Bytes under each byte of the key that its recovery needs."""

_LAG_BYTES: Final = 1536
_MAX_LAG: Final = 128
_SAMPLED: Final = 40
_TRIES: Final = 4
_MARGIN: Final = 0.25
_LEAST_EQUAL: Final = 0.009
_LEAST_ALIKE: Final = 0.88
_LEAST_PRINTABLE: Final = 0.95
_LEAST_BITS: Final = 1.4
_LEAST_SEPARATORS: Final = 0.06
_LEAST_ORDER: Final = -0.35
_LEAST_SUM: Final = 1.6
_MOST_OF_A_LETTER: Final = 0.2
_SCALE: Final = 32.0


@dataclass(frozen=True, slots=True)
class Xor:
    """A repeating key that was found.

    Attributes
    ----------
    period
        Length of the key.
    key
        The key, at the phase of the first byte of the data.
    plain
        The text.
    """

    period: int
    key: bytes
    plain: bytes


def _likelihood(weights: dict[str, float]) -> NDArray[np.float64]:
    """Bits by which each byte speaks for the text and against uniform bytes."""
    share = np.full(256, 0.002)
    share[32:127] = 0.06
    share[128:] = 0.008
    for letters, weight in weights.items():
        for letter in letters.encode():
            share[letter] = weight
    bits: NDArray[np.float64] = np.log2(256.0 * share / share.sum())
    return bits


# Shares in percent. Letters of prose: any table of English; the rest are rounded
# counts over small samples of CSV, JSON, logs, C and Python.
_LETTERS: Final = {
    "e": 9.0, "t": 6.8, "a": 6.4, "o": 5.8, "in": 5.6, "s": 5.2, "r": 5.0, "h": 4.2,
    "l": 3.4, "d": 3.3, "c": 2.5, "u": 2.4, "m": 2.1, "p": 1.8, "fgw": 1.6, "yb": 1.4,
    "v": 0.9, "k": 0.7, "xjqz": 0.15,
}  # fmt: skip
_CAPITALS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_KINDS: Final = np.stack(
    [
        _likelihood({
            **_LETTERS, " ": 17.0, "\n": 1.2, "\r": 0.4, ".,": 1.1, "'\"-:;()": 0.25,
            _CAPITALS: 0.15, "0123456789": 0.2, "ETAOINSRHLDC": 0.25,
        }),
        _likelihood({
            "0": 9.5, "1": 8.5, "2": 7.0, "3456789": 5.2, ",": 8.0, ".": 4.5, " ": 4.0,
            "\n": 3.0, "\r": 1.0, "\t;": 1.5, "-:": 3.0, '/|"': 1.0, "+_": 0.4,
            "abcdefghijklmnopqrstuvwxyz": 0.45, "eaionrst": 0.8, _CAPITALS: 0.35,
        }),
        _likelihood({
            **{letters: 0.62 * share for letters, share in _LETTERS.items()},
            " ": 11.0, "\n": 2.2, "\r": 0.4, "\t": 0.5, '"': 4.5, ",:": 2.4, "._": 1.4,
            "/-=": 1.2, "()": 0.9, "{}[]": 0.5, "'<>;": 0.5, "&#*+|@%!?\\$": 0.12,
            _CAPITALS: 0.3, "01": 2.2, "2": 1.8, "3456789": 1.2,
        }),
        _likelihood({
            **{letters: 0.58 * share for letters, share in _LETTERS.items()},
            "tdr": 4.5, " ": 7.0, "\n": 2.0, "\r": 0.4, "<>": 5.0, "/": 4.0, "\"'": 2.5,
            "=": 2.0, "-:;.&_#": 0.6, _CAPITALS: 0.3, "01": 1.8, "23456789": 1.0,
        }),
        _likelihood({
            **{letters: 0.35 * share for letters, share in _LETTERS.items()},
            **{letters.upper(): 0.35 * share for letters, share in _LETTERS.items()},
            " ": 16.0, "\n": 2.5, "\r": 0.4, "\t": 0.8, "_": 4.0, "()": 1.6, "*": 1.5,
            ",;": 1.2, '=-/."#': 0.8, "{}[]<>&:": 0.4, "01": 1.0, "23456789": 0.5,
        }),
        _likelihood({
            **{letters: 0.55 * share for letters, share in _LETTERS.items()},
            " ": 7.2, "\n": 2.5, "\r": 2.4, "\t": 0.3, ".": 3.0, ":": 1.9, "-": 1.3,
            '/"': 1.0, "=<>,": 0.7, "@'();": 0.35, "_*": 0.2, "ACEMST": 1.0,
            "BDFGHIKLNOPRUVX": 0.6, "JQWYZ": 0.2, "0": 3.2, "12": 2.4, "3456789": 1.0,
        }),
    ]
)  # fmt: skip


def _by_key() -> NDArray[np.int16]:
    """Scores ``[kind, byte, key]``: rows over all keys that can be added up."""
    keys = np.arange(256)
    scores = np.rint(_KINDS * _SCALE).astype(np.int16)
    return np.ascontiguousarray(scores[:, keys[:, None] ^ keys[None, :]])


_BY_KEY: Final = _by_key()
_SCORES: Final = np.rint(_KINDS * _SCALE).astype(np.int64)


_CLASS_LETTERS: Final = (
    "aeiou", "bcdfghjklmnpqrstvwxyz", _CAPITALS, "0123456789", " \t", "\r\n", ",.;:!?",
    "'\"", "()[]{}<>", "#$%&*+-/=@\\^_`|~",
)  # fmt: skip


def _class_table() -> NDArray[np.uint8]:
    """Class of each byte: its place in `_CLASS_LETTERS` from 1 on, 0 unprintable."""
    table = np.zeros(256, np.uint8)
    for i, letters in enumerate(_CLASS_LETTERS, start=1):
        table[list(letters.encode())] = i
    return table


_CLASSES: Final = _class_table()

# 32 log2 P(class of a byte | class of the byte before), counted over English prose,
# Python, C, CSV, JSON, HTML, log lines of many products, and the headers of mail, web
# and telephony protocols.
_FOLLOWS: Final = np.array(
    [
        [-44, -178, -92, -106, -189, -101, -116, -145, -145, -189, -146],
        [-431, -103, -14, -227, -194, -139, -235, -157, -245, -223, -169],
        [-448, -44, -51, -193, -173, -123, -204, -128, -187, -171, -134],
        [-451, -102, -114, -26, -153, -127, -152, -161, -267, -221, -132],
        [-504, -208, -161, -186, -22, -128, -159, -81, -218, -197, -166],
        [-402, -112, -67, -69, -102, -73, -326, -269, -164, -133, -142],
        [-367, -195, -182, -73, -93, -99, -38, -270, -355, -184, -141],
        [-419, -125, -83, -146, -44, -73, -138, -217, -158, -249, -151],
        [-394, -122, -63, -134, -128, -99, -142, -68, -195, -113, -128],
        [-407, -132, -74, -115, -125, -104, -103, -124, -181, -80, -99],
        [-382, -113, -62, -77, -71, -127, -190, -247, -121, -188, -121],
    ],
    np.int64,
)


def find(data: bytes | NDArray[np.uint8]) -> Xor | None:
    """Undo a repeating-key XOR over text.

    Parameters
    ----------
    data
        Bytes that are not text and not random, from any place in the stream: the
        key need not begin at the first byte. A plaintext preamble must be cut off.

    Returns
    -------
    Xor or None
        None if no key of up to `MAX_PERIOD` bytes turns the data into text, and for
        less than `LEAST_BYTES` or `BYTES_PER_COLUMN` bytes for each byte of the key.

    Notes
    -----
    A key of zeros is none, nor is one of which half the bytes are zero: that is
    text with something between it.
    """
    view = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    if view.shape[0] < LEAST_BYTES:
        return None
    key = np.zeros(MAX_PERIOD, np.uint8)
    period = int(
        search(
            np.ascontiguousarray(view[:MAX_BYTES]),
            _BY_KEY,
            _SCORES,
            _CLASSES,
            _FOLLOWS,
            key,
        )
    )
    if not period:
        return None
    plain = view ^ np.resize(key[:period], view.shape[0])
    return Xor(period, key[:period].tobytes(), plain.tobytes())


@compiled
def count_pairs(words: NDArray[np.uint64], n: int, lag: int) -> tuple[int, int]:
    """Pairs at a distance that are equal, and that differ in the highest bit.

    Eight pairs at a time: ``words[i]`` holds the bytes from i on. Adding 0x7f to the
    low seven bits of each byte carries into its highest bit unless they are zero.
    """
    low = np.uint64(0x7F7F7F7F7F7F7F7F)
    high = np.uint64(0x8080808080808080)
    ones = np.uint64(0x0101010101010101)
    seven, top = np.uint64(7), np.uint64(56)
    differ = np.uint64(0)
    unlike = np.uint64(0)
    pairs = (n - lag) // 8 * 8
    for i in range(0, pairs, 8):
        x = words[i] ^ words[i + lag]
        other = ((((x & low) + low) | x) & high) >> seven
        differ += (other * ones) >> top
        unlike += (((x & high) >> seven) * ones) >> top
    return int(pairs - np.int64(differ)), int(np.int64(unlike))


@compiled
def solve(
    data: NDArray[np.uint8],
    period: int,
    by_key: NDArray[np.int16],
    key: NDArray[np.uint8],
) -> int:
    """Most likely key of a length, into `key`; return the kind of text."""
    n = data.shape[0]
    best_kind = 0
    best_total = np.int64(-(1 << 62))
    keys = np.empty(period, np.uint8)
    scores = np.empty(256, np.int16)
    for kind in range(by_key.shape[0]):
        total = np.int64(0)
        for column in range(period):
            for k in range(256):
                scores[k] = 0
            # Every row at a stride, so that the samples spread over the data.
            rows = (n - column + period - 1) // period
            step = period * max(1, rows // _SAMPLED)
            stop = min(n, column + _SAMPLED * step)
            for i in range(column, stop, step):
                value = data[i]
                for k in range(256):
                    scores[k] += by_key[kind, value, k]
            best = 0
            for k in range(1, 256):
                if scores[k] > scores[best]:
                    best = k
            keys[column] = best
            total += scores[best]
        if total > best_total:
            best_total = total
            best_kind = kind
            for column in range(period):
                key[column] = keys[column]
    return best_kind


@compiled
def refine(
    data: NDArray[np.uint8],
    period: int,
    scores: NDArray[np.int64],
    key: NDArray[np.uint8],
) -> None:
    """Solve again under the frequencies of what came out, twice.

    Digits are nearly even, and one key byte shifts them onto each other as well as
    another; the comma and the line break of the other columns tell which is right.
    """
    n = data.shape[0]
    rows = np.empty((1, 256, 256), np.int16)
    counts = np.empty(256, np.int64)
    for _ in range(2):
        for value in range(256):
            counts[value] = 0
        for i in range(n):
            counts[data[i] ^ key[i % period]] += 1
        for value in range(256):
            # The kind's own share is worth an eighth of the evidence.
            prior = 2.0 ** (scores[value] / _SCALE) / 256.0
            share = 0.875 * counts[value] / n + 0.125 * prior
            bits = np.int16(np.rint(_SCALE * np.log2(256.0 * share)))
            for k in range(256):
                rows[0, value ^ k, k] = bits
        solve(data, period, rows, key)


@compiled
def text_score(  # noqa: C901, PLR0912
    data: NDArray[np.uint8],
    period: int,
    key: NDArray[np.uint8],
    scores: NDArray[np.int64],
    classes: NDArray[np.uint8],
    follows: NDArray[np.int64],
) -> float:
    """Bits per byte by which bytes and their order speak for text; -1 for no text."""
    n = data.shape[0]
    zeros = 0
    for column in range(period):
        zeros += key[column] == 0
    if 2 * zeros > period or zeros == period:
        return -1.0
    order = np.int64(0)
    counts = np.zeros(256, np.int64)
    column = 0
    before = classes[data[0] ^ key[0]]
    for i in range(n):
        value = data[i] ^ key[column]
        counts[value] += 1
        kind = classes[value]
        order += follows[before, kind]
        before = kind
        column += 1
        if column == period:
            column = 0
    total = np.int64(0)
    shares = np.zeros(11, np.int64)
    for value in range(256):
        total += scores[value] * counts[value]
        shares[classes[value]] += counts[value]
        if 1 <= classes[value] <= 3 and counts[value] > _MOST_OF_A_LETTER * n:
            return -1.0
    words = shares[1] + shares[2] + shares[3] + shares[4]
    separators = n - words - shares[0]
    if (
        shares[0] > (1.0 - _LEAST_PRINTABLE) * n
        or words < 0.3 * n
        or separators < _LEAST_SEPARATORS * n
    ):
        return -1.0
    # Bits that the class before tells about the class after, beyond its share.
    gain = order / (_SCALE * n)
    for kind in range(11):
        if shares[kind]:
            gain -= shares[kind] / n * np.log2(shares[kind] / n)
    if gain < _LEAST_ORDER:
        return -1.0
    constant = 0
    for column in range(period):
        for value in range(256):
            counts[value] = 0
        rows = 0
        for i in range(column, n, period):
            counts[data[i]] += 1
            rows += 1
        top = 0
        for value in range(256):
            top = max(top, counts[value])
        constant += 5 * top > 4 * rows if period > 1 else 5 * top > 3 * rows
    if 3 * constant > period:
        return -1.0
    bits = total / (_SCALE * n)
    fits = bits >= _LEAST_BITS and bits + gain >= _LEAST_SUM
    return float(bits + gain) if fits else -1.0


@compiled
def search(  # noqa: C901, PLR0912
    data: NDArray[np.uint8],
    by_key: NDArray[np.int16],
    scores: NDArray[np.int64],
    classes: NDArray[np.uint8],
    follows: NDArray[np.int64],
    key: NDArray[np.uint8],
) -> int:
    """Shortest period whose key turns the data into text, 0 for none."""
    n = data.shape[0]
    longest = min(MAX_PERIOD, n // BYTES_PER_COLUMN)
    used = min(n, _LAG_BYTES)
    lags = min(_MAX_LAG, used // 2)
    if used == _LAG_BYTES:
        # Enough pairs at each lag: multiples add time and no power.
        lags = longest
    words = np.empty(used - 7, np.uint64)
    window = np.uint64(0)
    for i in range(used):
        window = (window >> np.uint64(8)) | (np.uint64(data[i]) << np.uint64(56))
        if i >= 7:
            words[i - 7] = window
    equal = np.zeros(lags + 1, np.int64)
    unlike = np.zeros(lags + 1, np.int64)
    for lag in range(1, lags + 1):
        equal[lag], unlike[lag] = count_pairs(words, used, lag)
    rate = np.zeros(longest + 1, np.float64)
    most = 0.0
    for period in range(1, longest + 1):
        pairs, same, other = 0, 0, 0
        for lag in range(period, lags + 1, period):
            pairs += (used - lag) // 8 * 8
            same += equal[lag]
            other += unlike[lag]
        chance = pairs / 256.0
        if (
            same > chance + 5.0 * np.sqrt(chance) + 4.0
            and same >= _LEAST_EQUAL * pairs
            and other <= (1.0 - _LEAST_ALIKE) * pairs
        ):
            rate[period] = same / pairs
            most = max(most, rate[period])
    tried = 0
    best = 0.0
    found = 0
    for period in range(1, longest + 1):
        if rate[period] == 0.0 or 2.0 * rate[period] < most:
            continue
        kind = solve(data, period, by_key, key)
        score = text_score(data, period, key, scores[kind], classes, follows)
        if score > best + _MARGIN:
            best, found = score, period
        tried += 1
        if tried == _TRIES:
            break
    if found == 0:
        return 0
    # Rows of equal length can make a multiple outshine the period.
    shortest = found
    for shorter in range(found - 1, 0, -1):
        if found % shorter == 0:
            kind = solve(data, shorter, by_key, key)
            score = text_score(data, shorter, key, scores[kind], classes, follows)
            if score > best - _MARGIN:
                shortest = shorter
    kind = solve(data, shortest, by_key, key)
    refine(data, shortest, scores[kind], key)
    return shortest
