"""Log odds of ciphertext against compressed data, for a fragment without its header."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import math
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilml.exceptions import ModelFileError
from exfilml.payload import _fragments
from exfilml.payload._fragments import (
    FRAGMENT_MAX,
    FRAGMENT_MIN,
    N_MEASURES,
    ciphertext_log_odds,
    read_forest,
    shipped_forest,
)


def random_bytes(n: int, seed: int = 0) -> np.ndarray:
    """Seeded bytes that stand for ciphertext."""
    return np.frombuffer(np.random.default_rng(seed).bytes(n), np.uint8).copy()


def measures(data: np.ndarray) -> np.ndarray:
    """All measures of one fragment."""
    out = np.empty(N_MEASURES)
    _fragments.measure(data, out)
    return out


STDLIB = b"".join(
    path.read_bytes() for path in sorted(Path(subprocess.__file__).parent.glob("s*.py"))
)


# Promises that hold for any bytes.


@given(
    st.one_of(
        st.binary(max_size=2000),
        st.builds(
            lambda b, n: (b * n)[:70_000], st.binary(max_size=24), st.integers(0, 6000)
        ),
        st.builds(
            lambda parts, n: (b"".join(parts) * n)[:9000],
            st.lists(
                st.sampled_from([
                    b"\xff\xfb\x90\x64", b"\xff\xf1\x50\x80\x02\x1f\xfc", b"\xff" * 9,
                    b"\xff\xf8\xc9\x18\x00\xc2", b"\0\0\0\x05A\x9a", b"\0\0\x01\x65\x88",
                    b"\xa3\x42\x10\x81\0\x10\x80", b"\xa3\xff", b"\x81\0\0\xef\xfe\0",
                    b"OggS", b"IDAT", b"\0" * 300, b"\xff" + bytes(255), b"\x21\x10",
                ]),
                min_size=1,
            ),
            st.integers(1, 500),
        ),
    )
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_finite_odds(data: bytes) -> None:
    """No bytes raise, and too few say nothing."""
    bits = ciphertext_log_odds(np.frombuffer(data, np.uint8))
    assert math.isfinite(bits)
    if len(data) < FRAGMENT_MIN:
        assert bits == 0.0


@pytest.mark.parametrize("n", [0, 1, 2, 3, FRAGMENT_MIN - 1])
def test_too_few_bytes_have_even_odds(n: int) -> None:
    """Also those that are no ciphertext by any measure."""
    assert ciphertext_log_odds(np.zeros(n, np.uint8)) == 0.0


def test_the_form_of_the_buffer_does_not_matter() -> None:
    """Writable or not, contiguous or strided; the buffer stays as it was."""
    data = random_bytes(8192)
    before = data.copy()
    fixed = data.copy()
    fixed.flags.writeable = False
    expected = ciphertext_log_odds(data[::2].copy())
    assert ciphertext_log_odds(data[::2]) == expected
    assert ciphertext_log_odds(fixed) == ciphertext_log_odds(data)
    assert data.flags.writeable
    assert (data == before).all()


def test_cost_is_bounded() -> None:
    """What lies beyond the bytes looked at changes nothing."""
    data = random_bytes(4 * FRAGMENT_MAX)
    expected = ciphertext_log_odds(data[:FRAGMENT_MAX])
    data[FRAGMENT_MAX:] = 0
    assert ciphertext_log_odds(data) == expected


def test_a_chain_of_full_bytes_costs_no_more_than_its_length() -> None:
    """An attacker's bytes cannot make the walk along GIF blocks quadratic."""
    ciphertext_log_odds(random_bytes(4096))
    hostile = np.full(FRAGMENT_MAX, 255, np.uint8)
    begin = time.perf_counter()
    ciphertext_log_odds(hostile)
    assert time.perf_counter() - begin < 0.5


# Measures.


@given(st.binary(min_size=300, max_size=700))
@settings(max_examples=30, deadline=None)
def test_windows_of_bits_are_counted_as_defined(data: bytes) -> None:
    """The serial test agrees with its definition, in both orders of bits."""
    x = np.frombuffer(data, np.uint8)
    found = measures(x)
    n = len(x) - 2
    for longest, order, offset in (
        (_fragments.LOW_BITS, "little", 0),
        (_fragments.HIGH_BITS, "big", _fragments.LOW_BITS),
    ):
        bits = np.unpackbits(x, bitorder=order).astype(np.int64)
        # Windows that begin in the first n bytes; or that end in the last n.
        first = 0 if order == "little" else 24 - longest - 7
        begins = first + np.arange(8 * n)
        window = np.zeros(8 * n, np.int64)
        psi = [0.0]
        for k in range(1, longest + 1):
            window = 2 * window + bits[begins + k - 1]
            counts = np.bincount(window, minlength=1 << k).astype(float)
            psi.append(float((counts**2).sum() * (2.0**k / (8 * n)) - 8 * n))
            z = (psi[k] - psi[k - 1] - 2.0 ** (k - 1)) / math.sqrt(2.0**k)
            assert found[offset + k - 1] == pytest.approx(z, rel=1e-6, abs=1e-6), k


def planted(*parts: tuple[int, bytes], n: int = 4096, seed: int = 0) -> np.ndarray:
    """Random bytes with something written into them."""
    data = random_bytes(n, seed)
    for at, part in parts:
        data[at : at + len(part)] = np.frombuffer(part, np.uint8)
    return data


@pytest.mark.parametrize(("name", "parts"), [
    ("SYNC_CHAIN", [(100 + 417 * i, b"\xff\xfb\x90\x64") for i in range(4)]),
    ("SYNC_CHAIN", [(100 + 300 * i, b"\xff\xf1\x50\x80\x25\x9f\xfc") for i in range(4)]),
    ("FULL_CHAIN", [(9 + 256 * i, b"\xff") for i in range(9)]),
    ("NAL", [(500, b"\0\0\x03\x20A\x9a")]),
    ("NAL_CHAIN", [(500, b"\0\0\x03\x20\x02\x01"), (504 + 800, b"\0\0\x02")]),
    ("LZMA2", [(500, b"\x82\x34\x55\xef\xfe\0")]),
    ("BLOCKS", [(500, b"\xa3\x41\x30\x81\0\x17\x80")]),
    ("WORDS", [(500, b"OggS"), (700, b"PK\3\4")]),
    ("RUN", [(500, b"the text of an XML part")]),
])  # fmt: skip
def test_facts_are_found(name: str, parts: list[tuple[int, bytes]]) -> None:
    """A fact planted into random bytes is counted."""
    at = getattr(_fragments, name)
    before, after = measures(random_bytes(4096))[at], measures(planted(*parts))[at]
    assert after > before


def test_flac_headers_are_checked_by_their_crc() -> None:
    """A sync code alone is no fact, a right CRC-8 is."""
    header = b"\xff\xf8\xc9\x18\x07"
    crc = 0
    for byte in header:
        crc ^= byte
        for _ in range(8):
            crc = ((crc << 1) ^ 7) & 255 if crc & 128 else crc << 1
    right = measures(planted((90, header + bytes([crc]))))
    wrong = measures(planted((90, header + bytes([crc ^ 1]))))
    at = _fragments.SYNC_CHAIN
    assert right[at] == wrong[at] + 1


@pytest.mark.parametrize("parts", [
    [(100 + 417 * i, b"\xff\xfb\x90\x64") for i in range(9)],
    [(9 + 256 * i, b"\xff") for i in range(15)],
    [(900 * i + 7, b"\0\0\x03\x80A\x9a") for i in range(4)],
    [(280 * i + 7, b"\xa3\x41\x11\x81\0\x17\x80") for i in range(9)],
], ids=["mp3", "gif", "mp4", "webm"])  # fmt: skip
def test_facts_speak_against_ciphertext(parts: list[tuple[int, bytes]]) -> None:
    """The same random bytes have lower odds with frames in them, by far."""
    for seed in range(5):
        plain = ciphertext_log_odds(random_bytes(4096, seed))
        framed = ciphertext_log_odds(planted(*parts, seed=seed))
        assert framed < min(plain - 3, _fragments.VERDICT_BITS)


# Odds.


@pytest.mark.parametrize("n", [256, 512, 1024, 4096, 16384])
def test_ciphertext_rarely_has_low_odds(n: int) -> None:
    """Calibrated: a true ciphertext below -3 bits is as rare as it should be.

    Of fragments with log odds below -b, less than one in ``1 + 2**b`` is ciphertext,
    so of ciphertext less than ``2**-b`` lies there.
    """
    bits = [ciphertext_log_odds(random_bytes(n, seed)) for seed in range(1500)]
    error = 4 * math.sqrt(0.01 / len(bits))
    assert np.mean(np.array(bits) < -3) < 0.01 + error
    assert np.mean(np.array(bits) < 0) < 0.11 + error
    assert np.median(bits) > 1


@pytest.mark.parametrize(("name", "pack", "share"), [
    ("deflate", lambda d: zlib.compress(d)[200:], 0.9),
    ("gzip -1", lambda d: gzip.compress(d, 1)[200:], 0.9),
    ("bzip2", lambda d: bz2.compress(d)[200:], 0.9),
])  # fmt: skip
def test_compressed_fragments_have_low_odds(name: str, pack, share: float) -> None:
    """Of 4 kB cut out of the middle of a compressed file, most are recognised."""
    data = np.frombuffer(pack(STDLIB), np.uint8)
    starts = range(0, len(data) - 4096, 4096)
    low = [ciphertext_log_odds(data[s : s + 4096]) < 0 for s in starts]
    assert len(low) > 20
    assert np.mean(low) > share, name


def test_text_and_records_have_low_odds() -> None:
    """Nothing with plain structure comes near even odds."""
    for data in (STDLIB, np.arange(4000, dtype=np.uint32).tobytes()):
        for n in (256, 1024, 8192):
            assert ciphertext_log_odds(np.frombuffer(data, np.uint8, n, 900)) < -3


# The file of arrays.


def stored(**changes: object) -> io.BytesIO:
    """Write the shipped forest with some arrays changed."""
    arrays = {k: np.asarray(v).copy() for k, v in shipped_forest()._asdict().items()}
    arrays |= changes
    file = io.BytesIO()
    np.savez(file, **{k: v for k, v in arrays.items() if v is not None})
    file.seek(0)
    return file


def test_the_shipped_forest_can_be_read_again() -> None:
    """What is written is what is read."""
    again = read_forest(stored())
    for ours, theirs in zip(shipped_forest(), again, strict=True):
        assert np.array_equal(ours, theirs)


def test_the_shipped_forest_is_the_documented_one() -> None:
    """Origin, licence and checksum stand in the models' README."""
    root = Path(_fragments.__file__).parents[2]
    data = (root / "exfilml" / "data" / "fragments.npz").read_bytes()
    readme = (root / "models" / "README.md").read_text()
    assert hashlib.sha256(data).hexdigest() in readme


def spoiled(name: str, at: int, value: float) -> np.ndarray:
    """One array of the shipped forest with one element changed."""
    array = np.asarray(getattr(shipped_forest(), name)).copy()
    array[at] = value
    return array


@pytest.mark.parametrize("change", [
    lambda: {"roots": None},
    lambda: {"more": np.zeros(3)},
    lambda: {"left": spoiled("left", 0, 10**9)},
    lambda: {"right": spoiled("right", 0, -1)},
    lambda: {"left": spoiled("left", 0, 0)},
    lambda: {"roots": spoiled("roots", 0, 10**9)},
    lambda: {"column": spoiled("column", 0, N_MEASURES)},
    lambda: {"column": spoiled("column", 0, -2)},
    lambda: {"value": spoiled("value", 0, math.nan)},
    lambda: {"threshold": spoiled("threshold", 0, math.inf)},
    lambda: {"value": shipped_forest().value[:-1]},
    lambda: {"value": shipped_forest().value.astype(np.float32)},
    lambda: {"value": shipped_forest().value.reshape(1, -1)},
    lambda: {"value": np.array([None] * 3, object)},
    lambda: {"column": np.zeros(0, np.int16)},
    lambda: {"base": np.array([1.0])},
])  # fmt: skip
def test_a_spoiled_forest_is_refused(change) -> None:
    """Nothing that could lead a walk astray gets as far as compiled code."""
    with pytest.raises(ModelFileError, match="fragments model"):
        read_forest(stored(**change()))


@pytest.mark.parametrize("cut", [0, 3, 100, -1000])
def test_a_file_cut_off_is_refused(cut: int) -> None:
    """Damage is one clear error."""
    data = stored().getvalue()
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_forest(io.BytesIO(data[: cut if cut >= 0 else len(data) + cut]))


def test_every_flipped_byte_is_an_error_or_a_forest() -> None:
    """No damage crashes, none goes on with arrays that were not checked."""
    data = bytearray(stored().getvalue())
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 60).tolist():
        data[at] ^= 0x41
        try:
            forest = read_forest(io.BytesIO(bytes(data)))
        except ModelFileError:
            pass
        else:
            assert np.isfinite(forest.value).all()
        data[at] ^= 0x41


def test_importing_does_not_read_the_forest() -> None:
    """Arrays are read when the first fragment is judged."""
    code = (
        "from exfilml.payload import _fragments as f;"
        "print(f.shipped_forest.cache_info().currsize)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == "0"


def test_many_fragments_have_the_odds_of_each() -> None:
    """Wherever they are; what is too short has even odds."""
    data = np.frombuffer(np.random.default_rng(3).bytes(9000), np.uint8)
    places = np.array([(0, 4096), (100, 356), (8000, 8255), (4096, 6143), (5, 5)])
    expected = [ciphertext_log_odds(data[a:b]) for a, b in places]
    assert _fragments.log_odds_of_many(data, places).tolist() == expected
    assert expected[2] == expected[4] == 0.0
