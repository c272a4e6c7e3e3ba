"""Which alphabet the labels of names are written in, and the bytes behind them.

The question is not whether letters *could* be an encoding - any host name is base64 -
but whether they are one and no host name. Three tests, each for at least
`LEAST_CHARS` letters:

- *Membership*, where ordinary names cannot stay inside: hex digits only (with some
  letters, because numbers are common), or the letters a to p only.
- *Likelihood*, for the letters and digits that names are made of too: the ratio, in
  bits, of "every letter and digit equally likely" to a model of ordinary labels
  (`_COMMON`, and how often letters turn to digits and back, both measured on names
  asked for in public captures and logs). Under the model a ratio of k bits is reached
  with a probability of 2**-k at most; `_LEAST_BITS` = 16 leaves room for names that
  the model does not know: hosts that all end in a number.
- *Mixture* of capitals, small letters and digits for base64, as random letters mix.
  It counts only where letters kept their case: resolvers that randomise it (the
  "0x20" bit, draft-vixie-dnsext-dns0x20) give it to the domain as well, and then the
  case of the labels is not the sender's.

Sources: RFC 4648 (base16, base32, base32hex, base64, base64url); iodine's
``base32.c``, ``base64.c`` and ``base128.c`` for the alphabets of that tunnel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.payload import _kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_CHARS: Final = 40
"""Fewer letters are not told from an ordinary name: 25 bytes of hex or base32."""

_LEAST_BITS: Final = 16.0
_HIGH_SHARE: Final = 0.1
_SURELY: Final = 256

_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz"
_DIGITS: Final = b"0123456789"
_PLAIN: Final = _LETTERS + _DIGITS
_FOUR_BITS: Final = b"0123456789abcdef", b"abcdefghijklmnop"
_FIVE_BITS: Final = (
    _LETTERS + b"234567",
    b"0123456789abcdefghijklmnopqrstuv",
    _LETTERS + b"012345",
    b"ybndrfg8ejkmcpqxot1uwisza345h769",
    b"0123456789abcdefghjkmnpqrstvwxyz",
)
_SIX_BITS: Final = _LETTERS.upper() + _LETTERS + _DIGITS
# What tools write for the last two letters, because names and shells object to some.
_LAST_TWO: Final = b"+-*", b"/_"
_SEVEN_BITS: Final = _LETTERS + _LETTERS.upper() + _DIGITS + bytes(range(0xBC, 0xFE))

# Per mille of the letters and digits in labels of ordinary names.
_COMMON: Final = dict(
    zip(
        _PLAIN,
        (66, 16, 48, 37, 76, 15, 25, 13, 54, 4, 11, 37, 28, 49, 52, 38, 4, 44, 69, 57,
         25, 13, 12, 9, 14, 5, 17, 41, 30, 15, 14, 13, 12, 13, 13, 11),
        strict=True,
    )
)  # fmt: skip
# How often a digit follows a letter, and a letter a digit, in them.
_TO_DIGIT, _TO_LETTER = 0.05, 0.12


def _weights() -> NDArray[np.float64]:
    """Bits for each byte, given that it is a letter, or that it is a digit."""
    weights = np.zeros(256)
    for kind in (_LETTERS, _DIGITS):
        total = sum(_COMMON[c] for c in kind)
        for c in kind:
            weights[c] = math.log2(total / _COMMON[c] / len(_PLAIN))
    return weights


_WEIGHTS: Final = _weights()
# From a letter, a digit, a border between names to one of these.
_TURNS: Final = np.array(
    [
        [-math.log2(1 - _TO_DIGIT), -math.log2(_TO_DIGIT), 0.0],
        [-math.log2(_TO_LETTER), -math.log2(1 - _TO_LETTER), 0.0],
        [0.0, 0.0, 0.0],
    ]
)
_KINDS: Final = np.zeros(256, np.int64)
_KINDS[list(_DIGITS)] = 1
_KINDS[0] = 2


def _values(alphabet: bytes) -> NDArray[np.uint8]:
    table = np.full(256, 255, np.uint8)
    table[list(alphabet)] = np.arange(len(alphabet), dtype=np.uint8)
    return table


_VALUES: Final = {
    alphabet: _values(alphabet)
    for alphabet in (*_FOUR_BITS, *_FIVE_BITS, _SIX_BITS, _SEVEN_BITS)
}
for _value, _last in enumerate(_LAST_TWO, 62):
    _VALUES[_SIX_BITS][list(_last)] = _value


def recognise(pieces: Sequence[bytes], *, keeps_case: bool) -> tuple[str, bytes] | None:
    """Name the alphabet of labels and decode them; None for ordinary names.

    A wrong guess between alphabets of one size does no harm: each maps letters to
    numbers one to one, so uniform letters give uniform bytes whatever the order.

    Parameters
    ----------
    pieces
        What each name carries. Bits that fill no byte at the end of a piece are
        dropped: encoders pad there.
    keeps_case
        Whether capitals and small letters are as they were sent.

    Returns
    -------
    tuple or None
        ``hex | base16 | base32 | base36 | base62 | base64 | base128 | binary`` and
        the bytes. Of the letters of base36 and base62 (and base58) only the first 32
        are decoded, which keeps uniform letters uniform and loses the rest.
    """
    text = b"".join(pieces).replace(b"=", b"")
    if len(text) < LEAST_CHARS:
        return None
    plain = text.isascii()
    if not plain:
        found = _high(text)
        if found == "base128":
            return found, _decode(pieces, _VALUES[_SEVEN_BITS], 7)
        return (found, text) if found else None
    if keeps_case and text not in (text.lower(), text.upper()) and _mixed(text):
        return _six_bits(pieces, text)
    folded = [piece.lower() for piece in pieces]
    alphabet = _folded_alphabet(folded)
    if alphabet is None:
        return None
    name, width, values = alphabet
    return name, _decode(folded, values, width)


def is_ordinary(pieces: Sequence[bytes]) -> bool:
    """Whether letters are surely those of ordinary names, headers in them or not.

    Cheap, so that the many names of an honest flow cost little: small letters and
    digits that are more likely in ordinary labels than if all were equally likely,
    and more than the few letters of hex or base16.
    """
    text = b"".join(pieces)
    folded = text.lower()
    return (
        text in (folded, text.upper())
        and text.isascii()
        and all(folded.translate(None, letters) for letters in _FOUR_BITS)
        and _bits(pieces) < 0
    )


def _high(text: bytes) -> str | None:
    """Name what is not ASCII: text in UTF-8 is a name (RFC 6763, section 4.1.1)."""
    high = len(text) - len(text.decode("ascii", "ignore"))
    if high < _HIGH_SHARE * len(text):
        return None
    try:
        text.decode()
    except UnicodeDecodeError:
        return "base128" if set(text) <= set(_SEVEN_BITS) else "binary"
    return None


def _mixed(text: bytes) -> bool:
    """Whether capitals, small letters and digits mix as in base64.

    Of 64 equally likely letters 41 % are capitals, 41 % small and 16 % digits, and
    two neighbours are of different kinds in 64 % of cases; ``PrinterInRoom12`` is
    far from that.
    """
    if text.translate(None, _SIX_BITS + b"".join(_LAST_TWO)):
        return False
    view = np.frombuffer(text, np.uint8)
    upper, lower, digits = _kernel.letter_mix(view)
    kinds = view >> 5
    turns = np.count_nonzero(kinds[1:] != kinds[:-1]) / (len(text) - 1)
    return bool(upper > 0.15 and lower > 0.15 and digits > 0.04 and turns > 0.45)


def _six_bits(pieces: Sequence[bytes], text: bytes) -> tuple[str, bytes]:
    """Decode base64; base62 and base58 where the last two letters never occur."""
    if len(text) >= _SURELY and not text.translate(None, _SIX_BITS):
        return "base62", _decode(pieces, _values(bytes(sorted(set(text)))[:32]), 5)
    return "base64", _decode(pieces, _VALUES[_SIX_BITS], 6)


def _folded_alphabet(
    pieces: Sequence[bytes],
) -> tuple[str, int, NDArray[np.uint8]] | None:
    """Name, bits per letter and values of an alphabet without capitals."""
    text = b"".join(pieces).replace(b"=", b"")
    letters = bytes(sorted(set(text)))
    digits, only_letters = _FOUR_BITS
    if not letters.translate(None, digits):
        # Numbers alone are addresses, dates and counters.
        few = sum(map(text.count, b"abcdef")) * 16 < len(text)
        return None if few else ("hex", 4, _VALUES[digits])
    if not letters.translate(None, only_letters):
        return "base16", 4, _VALUES[only_letters]
    if letters.translate(None, _PLAIN) or _bits(pieces) < _LEAST_BITS:
        return None
    for alphabet in _FIVE_BITS:
        if not letters.translate(None, alphabet):
            return "base32", 5, _VALUES[alphabet]
    if len(letters) <= 32 and len(text) >= _SURELY:
        return "base32", 5, _values(letters)
    return "base36", 5, _values(letters[:32])


def _bits(pieces: Sequence[bytes]) -> float:
    """Log-likelihood ratio of random letters and digits to ordinary labels."""
    view = np.frombuffer(b"\0".join(pieces), np.uint8)
    return float(_kernel.weigh(view, _WEIGHTS, _KINDS, _TURNS))


def _decode(pieces: Sequence[bytes], values: NDArray[np.uint8], width: int) -> bytes:
    out = np.empty(max(map(len, pieces)) * width // 8 + 1, np.uint8)
    found = []
    for piece in pieces:
        if piece:
            view = np.frombuffer(piece, np.uint8)
            size = _kernel.unpack_bits(view, values, width, out)
            found.append(out[:size].tobytes())
    return b"".join(found)
