"""Text encodings of bytes: recognise, decode leniently, hand the bytes back.

Sampled text is cut at arbitrary places, so strict decoders would refuse it. The
decoders here skip what is outside the alphabet and do not care for alignment:
ciphertext stays uniform at any shift, and structure does not become uniform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

import numpy as np

from exfilml.payload import _kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

RUN_CHARS: Final = 128
"""A shorter run of base64 letters inside text may be an identifier or a path."""

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BASE32 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


_CASE_SHARE: Final = 0.15
_DIGIT_SHARE: Final = 0.04
_HEX_DIGITS: Final = 0.3


def _values(alphabet: bytes, also: bytes = b"") -> NDArray[np.uint8]:
    table = np.full(256, 255, np.uint8)
    for i, letter in enumerate(alphabet):
        table[letter] = i
    for i, letter in enumerate(also):
        table[letter] = len(alphabet) - len(also) + i
    return table


_VALUES: Final = {
    "base64": (6, _values(_BASE64, also=b"-_")),
    "base32": (5, _values(_BASE32)),
    "hex": (4, _values(b"0123456789abcdef")),
}
_VALUES["hex"][1][list(b"ABCDEF")] = np.arange(10, 16, dtype=np.uint8)


def _classes(letters: bytes) -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    table[list(letters)] = 1
    return table


# Line breaks as MIME and PEM write them, backslashes as JSON escapes slashes and
# breaks, percent signs as forms write plus, slash and padding.
_RUN_CLASSES: Final = _classes(_BASE64 + b"-_\r\n\\%")
_HEX_CLASSES: Final = _classes(b"0123456789abcdefABCDEF\r\n:")


def decode(text: bytes, encoding: str) -> bytes:
    """Bytes behind `text`, which may be cut out of a longer encoded stream."""
    if encoding == "url":
        return unquote_to_bytes(text.replace(b"+", b" "))
    width, values = _VALUES[encoding]
    source = np.frombuffer(text, np.uint8)
    out = np.empty(len(text) * width // 8 + 1, np.uint8)
    size = _kernel.unpack_bits(source, values, width, out)
    return out[:size].tobytes()


def recognise(text: bytes, shares: dict[str, float]) -> tuple[str, bytes] | None:
    """Name the encoding of text that is, or holds, encoded bytes, and decode it.

    Parameters
    ----------
    text
        Textual bytes.
    shares
        Share of characters that fit each alphabet (line breaks and padding
        included), keys ``hex``, ``base32``, ``base64``, ``percent``, ``space``.
    """
    # Narrow alphabets first: hex digits are base64 letters too. Words are hidden
    # in a wide alphabet by blanks, in base64 and base32 there are none.
    if shares["hex"] > 0.995 and shares["space"] < 0.4:
        return "hex", decode(text, "hex")
    if shares["base32"] > 0.995:
        return "base32", decode(text, "base32")
    if shares["base64"] > 0.995 and shares["space"] < 0.06 and _mixed(text):
        return "base64", decode(text, "base64")
    if shares["percent"] > 0.12:
        return "url", decode(text, "url")
    return find_run(text)


def find_run(text: bytes) -> tuple[str, bytes] | None:
    """Longest base64 or hex run inside text: form fields, JSON strings, MIME parts."""
    if len(text) < RUN_CHARS:
        return None
    view = np.frombuffer(text, np.uint8)
    start, stop = _kernel.longest_run(view, _RUN_CLASSES)
    if stop - start < RUN_CHARS:
        return None
    run = text[start:stop]
    if _mixed(run):
        if b"%" in run:
            run = unquote_to_bytes(run)
        if b"\\" in run:
            run = run.replace(b"\\r", b"").replace(b"\\n", b"").replace(b"\\/", b"/")
        return "base64", decode(run, "base64")
    start, stop = _kernel.longest_run(view, _HEX_CLASSES)
    if (
        stop - start < RUN_CHARS
        or _kernel.letter_mix(view[start:stop])[2] < _HEX_DIGITS
    ):
        return None
    return "hex", decode(text[start:stop], "hex")


def _mixed(text: bytes) -> bool:
    """Whether letters of both cases and digits mix as they do in base64.

    64 equally likely letters show 41 % capitals, 41 % small letters and 16 %
    digits; camel-case names, paths, hex and word lists are far from that.
    """
    upper, lower, digits = _kernel.letter_mix(np.frombuffer(text, np.uint8))
    return bool(upper > _CASE_SHARE and lower > _CASE_SHARE and digits > _DIGIT_SHARE)
