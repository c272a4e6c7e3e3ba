"""Corpora of compressed fragments and ciphertext, made by real encoders at run time.

Nothing is stored: contents are taken from what a Python installation has lying about
(sources, shared libraries, sample photographs, fonts) or are generated, encoded by
the encoders of the ``bench`` extra, and cut at random offsets beyond the headers.
Which fragments come out depends on the seed and on the versions installed.
"""

from __future__ import annotations

from fragments.ciphers import CIPHERS, encrypt
from fragments.contents import Contents
from fragments.corpus import CONTROLS, FAMILIES, SIZES, Corpus, build, cut, draw
from fragments.encoders import ENCODERS

__all__ = [
    "CIPHERS",
    "CONTROLS",
    "ENCODERS",
    "FAMILIES",
    "SIZES",
    "Contents",
    "Corpus",
    "build",
    "cut",
    "draw",
    "encrypt",
]
