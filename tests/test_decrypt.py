"""Keys that fit are found, with the cipher that the test used; wrong ones are not."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilml.exceptions import OptionError
from exfilml.payload import find_magic, p_uniform
from exfilml.triage import _keys
from exfilml.triage.decrypt import MAGIC_RATE, try_keys

pytest.importorskip("cryptography")
from cryptography.hazmat.decrepit.ciphers import algorithms as old
from cryptography.hazmat.decrepit.ciphers import modes as old_modes
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

TEXT = b"account,iban,balance\n" + b"".join(
    b"%d,DE%020d,%d.%02d EUR\n" % (i, i * 7919**3, i * 37, i % 100) for i in range(60)
)
KEY = hashlib.sha256(b"a key of the test").digest()
IV = hashlib.sha256(b"its IV").digest()


def padded(data, block):
    padder = padding.PKCS7(8 * block).padder()
    return padder.update(data) + padder.finalize()


def sealed(algorithm, mode, data):
    encryptor = Cipher(algorithm, mode).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def chacha(key, nonce):
    return algorithms.ChaCha20(key, nonce)


CASES = {
    "RC4": (KEY[:16], lambda: sealed(old.ARC4(KEY[:16]), None, TEXT)),
    "AES-ECB": (
        KEY,
        lambda: sealed(algorithms.AES(KEY), modes.ECB(), padded(TEXT, 16)),
    ),
    "AES-CBC": (
        KEY[:16],
        lambda: (
            IV[:16]
            + sealed(algorithms.AES(KEY[:16]), modes.CBC(IV[:16]), padded(TEXT, 16))
        ),
    ),
    "AES-CTR": (
        KEY,
        lambda: sealed(algorithms.AES(KEY), modes.CTR(bytes(16)), TEXT),
    ),
    "AES-CFB": (
        KEY[:24],
        lambda: (
            IV[:16] + sealed(algorithms.AES(KEY[:24]), old_modes.CFB(IV[:16]), TEXT)
        ),
    ),
    "AES-OFB": (
        KEY,
        lambda: IV[:16] + sealed(algorithms.AES(KEY), old_modes.OFB(IV[:16]), TEXT),
    ),
    "AES-GCM": (KEY, lambda: IV[:12] + AESGCM(KEY).encrypt(IV[:12], TEXT, None)),
    "ChaCha20-Poly1305": (
        KEY,
        lambda: IV[:12] + ChaCha20Poly1305(KEY).encrypt(IV[:12], TEXT, None),
    ),
    "ChaCha20, counter from 1": (
        KEY,
        lambda: (
            IV[:12]
            + sealed(chacha(KEY, (1).to_bytes(4, "little") + IV[:12]), None, TEXT)
        ),
    ),
    "3DES-CBC": (
        KEY[:24],
        lambda: (
            IV[:8] + sealed(old.TripleDES(KEY[:24]), modes.CBC(IV[:8]), padded(TEXT, 8))
        ),
    ),
    "Blowfish-CBC": (
        KEY[:16],
        lambda: (
            IV[:8] + sealed(old.Blowfish(KEY[:16]), modes.CBC(IV[:8]), padded(TEXT, 8))
        ),
    ),
    "Camellia-CBC": (
        KEY,
        lambda: (
            IV[:16] + sealed(old.Camellia(KEY), modes.CBC(IV[:16]), padded(TEXT, 16))
        ),
    ),
    "SM4-CBC": (
        KEY[:16],
        lambda: (
            IV[:16]
            + sealed(algorithms.SM4(KEY[:16]), modes.CBC(IV[:16]), padded(TEXT, 16))
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_cipher_is_found_with_its_key(name):
    key, seal = CASES[name]
    found = try_keys(seal(), [f"hex:{key.hex()}"], offsets=[0])
    assert found.hits, str(found)
    best = found.hits[0]
    assert best.cipher == name
    assert best.key == key
    assert best.plaintext.startswith(TEXT)
    assert best.false_hit < 1e-9
    assert found.looked_encrypted


def test_salsa20_is_found():
    salsa = pytest.importorskip("Cryptodome.Cipher.Salsa20")
    data = IV[:8] + salsa.new(KEY, IV[:8]).encrypt(TEXT)
    (best, *_) = try_keys(data, [f"hex:{KEY.hex()}"], offsets=[0]).hits
    assert (best.cipher, best.plaintext) == ("Salsa20", TEXT)


@pytest.mark.parametrize("name", ["AES-CBC", "RC4", "AES-GCM"])
def test_wrong_keys_fit_nowhere(name):
    data = CASES[name][1]()
    wrong = hashlib.sha256(b"another").hexdigest()
    found = try_keys(data, [f"hex:{wrong}", f"hex:{wrong[:32]}"])
    assert found.hits == ()
    assert str(found).startswith(f"No key fits: {found.tried:,} attempts.")
    assert found.tried > 1000


@settings(deadline=None, max_examples=30)
@given(st.binary(min_size=16, max_size=400), st.binary(min_size=1, max_size=40))
def test_any_bytes_and_keys_end_in_an_answer(data, key):
    found = try_keys(data, [f"hex:{key.hex()}"], offsets=[0], iterations=[1])
    assert found.tried > 0
    for hit in found.hits:
        assert 0 <= hit.false_hit <= 0.01


def test_random_bytes_are_never_decrypted():
    """Twenty buffers under keys of every reading."""
    draw = np.random.default_rng(8)
    hits = sum(
        len(try_keys(draw.bytes(300), [draw.bytes(16).hex()], offsets=[0]).hits)
        for _ in range(20)
    )
    assert hits == 0


def test_structure_that_any_key_leaves_is_no_hit():
    """Repeated blocks stay repeated under every key of ECB."""
    repeated = os.urandom(16) * 40
    assert try_keys(repeated, [f"hex:{KEY[:16].hex()}"], offsets=[0]).hits == ()


def test_a_password_and_its_derivations():
    key = hashlib.md5(b"hunter2", usedforsecurity=False).digest()
    data = sealed(old.TripleDES(key + key[:8]), modes.ECB(), padded(TEXT, 8))
    best = try_keys(data, ["hunter2"], offsets=[0]).hits[0]
    assert (best.cipher, best.key_name) == ("3DES-ECB", "MD5 of text")
    salt = b"salt of report"
    stream = hashlib.pbkdf2_hmac("sha1", b"hunter2", salt, 1000, 48)
    data = sealed(algorithms.AES(stream[:32]), modes.CBC(stream[32:]), padded(TEXT, 16))
    best = try_keys(data, ["text:hunter2"], salts=[salt], offsets=[0]).hits[0]
    assert best.cipher == "AES-CBC"
    assert best.key_name.startswith("PBKDF2 (SHA1, 1,000 iterations")
    assert best.iv_name == "derived with the key"


@pytest.mark.parametrize("options", [["-md", "md5"], ["-md", "sha256"], ["-pbkdf2"]])
def test_what_openssl_encrypts(options):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    done = subprocess.run(
        ["openssl", "enc", "-aes-256-cbc", "-pass", "pass:hunter2", *options],
        input=TEXT,
        capture_output=True,
        check=True,
    )
    best = try_keys(done.stdout, ["hunter2"]).hits[0]
    assert best.cipher == "AES-CBC"
    assert best.offset == 16
    assert best.plaintext.startswith(TEXT)


def test_the_hit_that_keeps_the_magic_number_comes_first():
    """Of IVs that fit all blocks but the first, the one that fits that as well."""
    salt = b"saltsal0"
    stream = hashlib.pbkdf2_hmac("sha256", b"hunter2", salt, 10_000, 48)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        # Like a photo: nearly random, so that a spoilt first block does not stand out.
        photo = np.random.default_rng(0).integers(0, 200, 2000, dtype=np.uint8)
        file.writestr("photo.bin", photo.tobytes())
    archive = packed.getvalue()
    secret = sealed(
        algorithms.AES(stream[:32]), modes.CBC(stream[32:]), padded(archive, 16)
    )
    found = try_keys(b"Salted__" + salt + secret, ["text:hunter2"])
    assert len(found.hits) > 1
    assert found.hits[0].iv_name == "derived with the key"
    assert found.hits[0].plaintext.startswith(archive)
    assert " of 0 at most" not in str(found)


def test_offset_and_given_iv():
    data = b"\x07\x00\x01" + sealed(
        algorithms.AES(KEY), modes.CBC(IV[:16]), padded(TEXT, 16)
    )
    best = try_keys(data, [KEY.hex()], ivs=[IV[:16]]).hits[0]
    assert (best.offset, best.iv) == (3, IV[:16])
    assert best.iv_name.endswith("(given)")
    assert best.plaintext.startswith(TEXT)


def test_xor_with_a_key_and_without():
    key = b"secret7"
    data = bytes(b ^ key[i % 7] for i, b in enumerate(TEXT))
    found = try_keys(data, ["text:secret7"], offsets=[0])
    assert not found.looked_encrypted
    assert {hit.key_name for hit in found.hits} >= {"text", "recovered without a key"}
    assert all(hit.plaintext == TEXT for hit in found.hits)
    (alone,) = try_keys(data, []).hits
    assert (alone.key, alone.plaintext) == (key, TEXT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hex:0a0B", [("hex", b"\x0a\x0b")]),
        ("0x0a0b", {"hex", "text"}),
        ("0a 0b:0c", {"hex", "text"}),
        ("base64:AAE=", [("base64", b"\0\1")]),
        ("text:hex:00", [("text", b"hex:00")]),
        ("abcd", {"hex", "base64", "text"}),
    ],
)
def test_readings(text, expected):
    found = _keys.readings(text)
    if isinstance(expected, set):
        assert {name for name, _ in found} == expected
    else:
        assert found == expected


@pytest.mark.parametrize(
    "text", ["", "hex:", "hex:0", "hex:xy", "base64:*", "a" * 5000]
)
def test_what_is_no_key_is_refused(text):
    with pytest.raises(OptionError, match="expected"):
        _keys.readings(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": b"short"}, "5 bytes of data: expected 16 or more"),
        ({"offsets": []}, "expected one or more, from 0 on"),
        ({"offsets": [-1]}, "expected one or more, from 0 on"),
        ({"iterations": [0]}, "iterations 0: expected 1 or more"),
        ({"salts": [b"x"] * 65}, "65 salts: expected at most 64"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(OptionError, match=message):
        try_keys(options.pop("data", bytes(64)), ["hex:00"], **options)


def test_magic_numbers_are_as_rare_in_random_bytes_as_is_said():
    data = np.random.default_rng(4).bytes(200_000 + 32)
    found = sum(find_magic(data[i : i + 32]) is not None for i in range(200_000))
    assert found <= 5 + 2 * MAGIC_RATE * 200_000


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_is_known_by_its_magic_number(pack):
    """Compressed bytes cannot be told from random ones by any test."""
    archive = pack(np.random.default_rng(5).bytes(3000))
    data = IV[:16] + sealed(algorithms.AES(KEY), modes.CTR(IV[:16]), archive)
    found = try_keys(data, [KEY.hex()])
    (best, *_) = found.hits
    assert (best.cipher, best.plaintext, best.verdict) == (
        "AES-CTR",
        archive,
        "compressed",
    )
    assert 0 < best.false_hit < 1e-9


def test_the_quick_p_value_is_valid_for_random_bytes_and_sees_text():
    draw = np.random.default_rng(6)
    for size in (16, 64, 300, 1024):
        p = np.array([p_uniform(draw.bytes(size)) for _ in range(2000)])
        for level in (0.5, 0.1, 0.01):
            assert (p <= level).mean() <= level + 4 * (level / 2000) ** 0.5
    assert p_uniform(TEXT[:64]) < 1e-6
    assert np.isnan(p_uniform(b""))


@pytest.mark.parametrize(
    ("data", "keys"),
    [("text" * 9, [KEY.hex()]), (bytes(99), "hunter2"), (bytes(99), [KEY]), (b"", 3)],
)
def test_what_is_no_bytes_or_no_list_of_texts_is_refused(data, keys):
    """A key alone would be read letter by letter."""
    with pytest.raises(OptionError, match="expected"):
        try_keys(data, keys)
