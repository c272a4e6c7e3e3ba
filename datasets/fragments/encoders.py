"""Real encoders, one function a file type: contents in, one file out."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator

    from fragments.contents import Contents

    Encoder = Callable[[Contents, Generator], bytes]


def _pick(rng: Generator, *choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _document(c: Contents, rng: Generator, most: int = 1_000_000) -> bytes:
    # Log-uniform: many documents for the bytes, and some long enough for 64 kB.
    return c.document(rng, int(most * 8 ** -rng.random()))


def _gzip(c: Contents, rng: Generator) -> bytes:
    return gzip.compress(_document(c, rng), int(_pick(rng, 1, 4, 6, 6, 9)), mtime=0)


def _zip(c: Contents, rng: Generator) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(int(rng.integers(2, 9))):
            archive.writestr(f"folder/file{i}.bin", _document(c, rng, 400_000))
    return out.getvalue()


def _libdeflate(c: Contents, rng: Generator) -> bytes:
    import deflate

    data = deflate.gzip_compress(_document(c, rng), int(_pick(rng, 1, 3, 6, 9, 12)))
    return bytes(data)


def _zopfli(c: Contents, rng: Generator) -> bytes:
    import zopfli.gzip

    return bytes(zopfli.gzip.compress(_document(c, rng, 300_000), numiterations=2))


def _bzip2(c: Contents, rng: Generator) -> bytes:
    return bz2.compress(_document(c, rng), int(_pick(rng, 1, 5, 9)))


def _xz(c: Contents, rng: Generator) -> bytes:
    return lzma.compress(_document(c, rng), preset=int(_pick(rng, 0, 3, 6)))


def _7z(c: Contents, rng: Generator) -> bytes:
    import py7zr

    out = io.BytesIO()
    with py7zr.SevenZipFile(out, "w") as archive:
        for i in range(int(rng.integers(1, 4))):
            archive.writestr(_document(c, rng, 700_000), f"file{i}.bin")
    return out.getvalue()


def _zstd(c: Contents, rng: Generator) -> bytes:
    import zstandard

    level = int(_pick(rng, 1, 3, 3, 9, 17))
    return zstandard.ZstdCompressor(level).compress(_document(c, rng))


def _brotli(c: Contents, rng: Generator) -> bytes:
    import brotli

    data = brotli.compress(_document(c, rng, 800_000), quality=_pick(rng, 1, 5, 9))
    return bytes(data)


def _lz4(c: Contents, rng: Generator) -> bytes:
    import lz4.frame

    data = lz4.frame.compress(_document(c, rng), compression_level=_pick(rng, 0, 9))
    return bytes(data)


def _snappy(c: Contents, rng: Generator) -> bytes:
    import cramjam

    return bytes(cramjam.snappy.compress(_document(c, rng)))


def _parquet(c: Contents, rng: Generator) -> bytes:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    kind = _pick(rng, "snappy", "zstd", "gzip")
    pq.write_table(
        c.table(rng, int(rng.integers(8_000, 30_000))), out, compression=kind
    )
    return out.getvalue()


def _docx(c: Contents, rng: Generator) -> bytes:
    """Zip deflated XML and stored photographs, as word processors do."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        words = c.text(rng, 500_000).decode("latin-1").split("\n")
        runs = [
            f'<w:p w:rsidR="{int(m):08X}"><w:r><w:t xml:space="preserve">'
            f"{line.replace('&', '&amp;').replace('<', '&lt;')}</w:t></w:r></w:p>"
            for line, m in zip(
                words, rng.integers(0, 2**32, len(words)).tolist(), strict=True
            )
        ]
        archive.writestr("word/document.xml", "".join(runs))
        for i in range(int(rng.integers(0, 3))):
            photo = zipfile.ZipInfo(f"word/media/image{i}.jpeg")
            archive.writestr(photo, c.jpeg(rng, 800, 600))
    return out.getvalue()


def _pdf(c: Contents, rng: Generator) -> bytes:
    """Deflated text and fonts, photographs as they are, objects between them."""
    parts = [b"%PDF-1.7\n"]

    def add(number: int, entries: bytes, data: bytes) -> None:
        parts.append(
            b"%d 0 obj\n<< %s /Length %d >>\nstream\n" % (number, entries, len(data))
            + data
            + b"\nendstream\nendobj\n"
        )

    for i in range(int(rng.integers(8, 20))):
        kind = rng.random()
        if kind < 0.65:
            lines = c.text(rng, int(rng.integers(8_000, 60_000))).split(b"\n")
            page = b"".join(
                b"BT /F1 10 Tf 56 %d Td (%s) Tj ET\n" % (800 - 12 * (k % 60), line)
                for k, line in enumerate(lines)
            )
            add(i, b"/Filter /FlateDecode", zlib.compress(page))
        elif kind < 0.8 and c.fonts:
            font = c.fonts[int(rng.integers(len(c.fonts)))].read_bytes()
            add(i, b"/Filter /FlateDecode /Length1 9", zlib.compress(font[:200_000]))
        else:
            photo = c.jpeg(rng, 640, 480)
            add(i, b"/Subtype /Image /Filter /DCTDecode", photo)
    return b"".join(parts)


def _woff2(c: Contents, rng: Generator) -> bytes:
    from fontTools.ttLib import TTFont

    font = TTFont(c.fonts[int(rng.integers(len(c.fonts)))])
    font.flavor = "woff2"
    out = io.BytesIO()
    font.save(out)
    return out.getvalue()


def _sides(rng: Generator) -> tuple[int, int]:
    width = int(rng.integers(500, 1300))
    return width, int(width * rng.uniform(0.6, 1.0))


def _saved(image: Any, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _png(c: Contents, rng: Generator) -> bytes:
    width, height = _sides(rng)
    drawn = c.screen if rng.random() < 0.35 else c.picture
    return _saved(drawn(rng, width, height), "PNG", compress_level=_pick(rng, 3, 6, 9))


def _jpeg(c: Contents, rng: Generator) -> bytes:
    return _saved(
        c.picture(rng, *_sides(rng)),
        "JPEG",
        quality=int(rng.integers(60, 97)),
        subsampling=_pick(rng, 0, 2, 2),
        optimize=bool(rng.random() < 0.4),
        progressive=bool(rng.random() < 0.3),
    )


def _webp(c: Contents, rng: Generator) -> bytes:
    width, height = _sides(rng)
    image = c.picture(rng, width * 3 // 2, height * 3 // 2)
    return _saved(image, "WEBP", quality=int(rng.integers(80, 97)), method=2)


def _webp_lossless(c: Contents, rng: Generator) -> bytes:
    image = c.picture(rng, *_sides(rng))
    return _saved(image, "WEBP", lossless=True, quality=20, method=1)


def _avif(c: Contents, rng: Generator) -> bytes:
    width, height = _sides(rng)
    image = c.picture(rng, width * 3 // 2, height * 3 // 2)
    return _saved(image, "AVIF", quality=int(rng.integers(75, 93)), speed=9)


def _gif(c: Contents, rng: Generator) -> bytes:
    drawn = c.screen if rng.random() < 0.35 else c.picture
    return _saved(drawn(rng, *_sides(rng)).quantize(int(_pick(rng, 64, 256))), "GIF")


def _add_sound(file: Any, codec: str, rate: int, bits: int, wave: Any) -> list[Any]:
    """Add a stereo stream to an open container; return its packets."""
    import av

    stream = file.add_stream(codec, rate=rate, layout="stereo")
    if bits:
        stream.bit_rate = bits
    form = stream.format.name
    if form.startswith("s16"):
        wave = (wave * 32767).astype(np.int16)
    elif form.startswith("s32"):
        wave = (wave * 2147483000.0).astype(np.int32)
    if not form.endswith("p"):
        wave = np.ascontiguousarray(wave.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(wave, format=form, layout="stereo")
    frame.sample_rate = rate
    frame.pts = 0
    return [packet for chunk in (frame, None) for packet in stream.encode(chunk)]


def _audio(codec: str, container: str, *rates: int) -> Encoder:
    def encode(c: Contents, rng: Generator) -> bytes:
        import av

        rate = 48_000 if codec == "libopus" else int(_pick(rng, 44_100, 48_000))
        wave = c.sound(rng, 10.0 if codec == "flac" else 22.0, rate)
        bits = int(_pick(rng, *rates)) if rates else 0
        out = io.BytesIO()
        with av.open(out, "w", format=container) as file:
            file.mux(_add_sound(file, codec, rate, bits, wave))
        return out.getvalue()

    return encode


def _video(
    codec: str, audio: str, container: str, *qualities: str, **fixed: str
) -> Encoder:
    """Encode pictures and sound, interleaved by time as players need them."""

    def encode(c: Contents, rng: Generator) -> bytes:
        import av

        width, height = _pick(rng, (480, 272), (640, 360))
        out = io.BytesIO()
        with av.open(out, "w", format=container) as file:
            stream = file.add_stream(codec, rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": str(_pick(rng, *qualities)), **fixed}
            stream.codec_context.thread_count = 1
            bits = int(_pick(rng, 96_000, 128_000))
            sound = c.sound(rng, 90 / 25, 48_000)
            packets = _add_sound(file, audio, 48_000, bits, sound)
            for array in c.clip(rng, 90, width, height):
                frame = av.VideoFrame.from_ndarray(array, format="rgb24")
                packets += stream.encode(frame)
            packets += stream.encode(None)
            file.mux(sorted(packets, key=lambda p: (p.dts or 0) * p.time_base))
        return out.getvalue()

    return encode


_VP9: Final = {"deadline": "realtime", "cpu-used": "8"}
_X265: Final = {"preset": "superfast", "x265-params": "log-level=none:pools=none"}

ENCODERS: Final[dict[str, tuple[tuple[str, ...], float, Encoder]]] = {
    # name: modules needed, share of the bytes asked for (slow encoders), encoder
    "gzip": ((), 1.0, _gzip),
    "zip": ((), 1.0, _zip),
    "libdeflate": (("deflate",), 1.0, _libdeflate),
    "zopfli": (("zopfli",), 0.4, _zopfli),
    "bzip2": ((), 1.0, _bzip2),
    "xz": ((), 1.0, _xz),
    "7z": (("py7zr",), 0.8, _7z),
    "zstd": (("zstandard",), 1.0, _zstd),
    "brotli": (("brotli",), 1.0, _brotli),
    "lz4": (("lz4",), 1.0, _lz4),
    "snappy": (("cramjam",), 1.0, _snappy),
    "parquet": (("pyarrow",), 1.0, _parquet),
    "docx": (("PIL",), 1.0, _docx),
    "pdf": (("PIL",), 1.0, _pdf),
    "woff2": (("fontTools", "brotli"), 0.4, _woff2),
    "png": (("PIL",), 1.0, _png),
    "jpeg": (("PIL",), 1.0, _jpeg),
    "webp": (("PIL",), 1.0, _webp),
    "webp lossless": (("PIL",), 1.0, _webp_lossless),
    "avif": (("PIL",), 0.8, _avif),
    "gif": (("PIL",), 1.0, _gif),
    "mp3": (("av",), 0.8, _audio("libmp3lame", "mp3", 96_000, 128_000, 192_000)),
    "opus": (("av",), 0.8, _audio("libopus", "ogg", 64_000, 96_000, 160_000)),
    "aac": (("av",), 0.8, _audio("aac", "adts", 96_000, 128_000, 192_000)),
    "flac": (("av",), 0.8, _audio("flac", "flac")),
    "mp4": (
        ("av",),
        0.8,
        _video("libx264", "aac", "mp4", "18", "24", preset="veryfast"),
    ),
    "hevc": (("av",), 0.4, _video("libx265", "aac", "mp4", "18", "24", **_X265)),
    "webm": (
        ("av",),
        0.6,
        _video("libvpx-vp9", "libopus", "webm", "28", "36", **_VP9),
    ),
}
