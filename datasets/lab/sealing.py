"""Made-up data, encrypted with a throwaway key: what the planted transfers carry.

Written before the first packet, so that a transfer costs no more than its own client.
"""

from __future__ import annotations

import base64
import hashlib
import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

# A fixed key, printed here: whoever wants to look inside the captures can.
KEY = bytes(range(32))
CIPHERS = (
    "aes-256-ctr", "rc4", "chacha20", "aes-128-cbc", "3des-cbc", "aes-256-gcm",
    "camellia-256-cbc", "xor-repeating", "aes-256-cbc-salted", "aes-128-ctr",
)  # fmt: skip
_PIECE = 1 << 16


@dataclass(frozen=True)
class Load:
    """One encrypted file: a slice of the source, a cipher, an encoding."""

    file: str
    offset: int
    n_bytes: int
    cipher: str
    encoding: str = ""


def write(load: Load, source: bytes, folder: Path) -> None:
    """Encrypt one load and write it."""
    repeated = source * (1 + (load.n_bytes + load.offset % len(source)) // len(source))
    at = load.offset % len(source)
    plain = repeated[at : at + load.n_bytes]
    nonce = hashlib.sha256(load.file.encode()).digest()
    (folder / load.file).write_bytes(
        encode(seal(plain, load.cipher, nonce), load.encoding)
    )


def encode(data: bytes, encoding: str) -> bytes:
    """Return ciphertext as a carrier wants it: base64, a JSON document, a mail."""
    if encoding == "base64":
        return base64.b64encode(data)
    if encoding == "json":
        document = {
            "id": data[:8].hex(),
            "kind": "blob",
            "data": base64.b64encode(data).decode(),
        }
        return json.dumps(document).encode()
    if encoding == "mail":
        lines = base64.encodebytes(data).replace(b"\n", b"\r\n")
        head = (
            b"From: office@corp.example\r\nTo: info@elsewhere.example\r\n"
            b"Subject: scan\r\nMIME-Version: 1.0\r\n"
            b"Content-Type: multipart/mixed; boundary=cut\r\n\r\n--cut\r\n"
            b"Content-Type: text/plain\r\n\r\nplease find attached\r\n--cut\r\n"
            b"Content-Type: application/octet-stream; name=scan.bin\r\n"
            b"Content-Transfer-Encoding: base64\r\n\r\n"
        )
        return head + lines + b"--cut--\r\n"
    return data


def seal(plain: bytes, cipher: str, nonce: bytes) -> bytes:
    """Encrypt with the cipher of that name; `nonce` has 32 bytes.

    Raises
    ------
    ValueError
        If there is no such cipher.
    """
    if cipher == "xor-repeating":
        key = hashlib.sha256(KEY + nonce).digest()[: 13 + nonce[0] % 19]
        stream = key * (len(plain) // len(key) + 1)
        number = int.from_bytes(plain, "big") ^ int.from_bytes(
            stream[: len(plain)], "big"
        )
        return number.to_bytes(len(plain), "big")
    if cipher == "aes-256-gcm":
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        # As tools do that encrypt piece by piece: nonce, ciphertext, tag.
        out = []
        for at in range(0, len(plain), _PIECE):
            own = hashlib.sha256(nonce + at.to_bytes(8, "big")).digest()[:12]
            piece = plain[at : at + _PIECE]
            out.append(own + AESGCM(KEY).encrypt(own, piece, None))
        return b"".join(out)
    return _with_library(plain, cipher, nonce)


def _with_library(plain: bytes, cipher: str, nonce: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    front = b""
    key = KEY
    if cipher == "aes-256-cbc-salted":
        # What `openssl enc -pbkdf2` writes, its header included.
        derived = hashlib.pbkdf2_hmac("sha256", b"throwaway", nonce[:8], 10_000, 48)
        key, nonce, front = derived[:32], derived[32:], b"Salted__" + nonce[:8]
    kinds: dict[str, tuple[Any, Any]] = {
        "aes-256-ctr": (_algorithm("AES")(key), modes.CTR(nonce[:16])),
        "aes-128-cbc": (_algorithm("AES")(key[:16]), modes.CBC(nonce[:16])),
        "aes-256-cbc-salted": (_algorithm("AES")(key), modes.CBC(nonce[:16])),
        "rc4": (_algorithm("ARC4")(key[:16]), None),
        "chacha20": (_algorithm("ChaCha20")(key, nonce[:16]), None),
        "3des-cbc": (_algorithm("TripleDES")(key[:24]), modes.CBC(nonce[:8])),
        "camellia-256-cbc": (_algorithm("Camellia")(key), modes.CBC(nonce[:16])),
        "aes-128-ctr": (_algorithm("AES")(key[:16]), modes.CTR(nonce[:16])),
    }
    if cipher not in kinds:
        raise ValueError(f"no cipher {cipher!r}; there are {', '.join(CIPHERS)}")
    algorithm, mode = kinds[cipher]
    if "cbc" in cipher:
        size = algorithm.block_size // 8
        fill = size - len(plain) % size
        plain += bytes([fill]) * fill
    encryptor = Cipher(algorithm, mode).encryptor()
    return front + encryptor.update(plain) + encryptor.finalize()


def _algorithm(name: str) -> Any:
    """Return an algorithm wherever this version of the library keeps it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from cryptography.hazmat.decrepit.ciphers import algorithms as old
        except ImportError:
            old = None
        from cryptography.hazmat.primitives.ciphers import algorithms

        return getattr(old, name, None) or getattr(algorithms, name)
