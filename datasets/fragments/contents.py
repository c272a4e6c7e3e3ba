"""What is compressed and encrypted: documents, pictures, sounds, clips, tables.

Files are split by name into a side for training and one for testing, so that no
source file, photograph or font is on both; what is generated is seeded apart.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sysconfig
import zlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

SIDES: Final = ("train", "test")
_TEXT: Final = (".py", ".pyi", ".txt", ".rst", ".md", ".html", ".css", ".js", ".h")
_WORDS: Final = [
    "GET",
    "POST",
    "login",
    "logout",
    "upload",
    "download",
    "session",
    "user",
    "admin",
    "cache",
    "miss",
    "hit",
    "error",
    "warning",
    "timeout",
    "retry",
    "connection",
    "closed",
    "opened",
    "worker",
    "queue",
    "task",
    "done",
    "failed",
    "payment",
    "order",
    "item",
    "stock",
    "index",
    "search",
    "report",
    "monthly",
    "export",
    "import",
    "sync",
]


def _package(name: str) -> Path | None:
    found = importlib.util.find_spec(name)
    return Path(found.origin).parent if found and found.origin else None


class Contents:
    """Contents of one side.

    Parameters
    ----------
    side
        ``train`` or ``test``.
    """

    def __init__(self, side: str) -> None:
        self.side = side
        self.missing: list[str] = []

    def _ours(self, path: Path) -> bool:
        """Whether a file belongs to this side; by name, wherever it is installed."""
        name = f"{path.parent.name}/{path.name}".encode()
        return zlib.crc32(name) % 2 == SIDES.index(self.side)

    def _files(self, suffixes: tuple[str, ...], least: int) -> list[Path]:
        roots = {Path(sysconfig.get_path("stdlib"))}
        for name in ("numpy", "scipy", "pandas", "sklearn", "matplotlib", "numba"):
            package = _package(name)
            if package is not None:
                roots.add(package)
        found = [
            path
            for root in sorted(roots)
            for path in sorted(root.rglob("*"))
            if path.suffix in suffixes
            and "site-packages" not in path.relative_to(root).parts
            and self._ours(path)
            and path.stat().st_size >= least
        ]
        # By name alone, so that the order does not follow the place of installation.
        return sorted(found, key=lambda path: zlib.crc32(path.name.encode()))

    @cached_property
    def _texts(self) -> list[Path]:
        return self._files(_TEXT, 4000)

    @cached_property
    def _libraries(self) -> list[Path]:
        return self._files((".so",), 100_000)

    @cached_property
    def fonts(self) -> list[Path]:
        """TrueType fonts that matplotlib ships."""
        return self._files((".ttf",), 60_000)

    @cached_property
    def _photographs(self) -> list[Any]:
        from PIL import Image

        found: list[Path] = []
        for name, under in (
            ("sklearn", "datasets/images"),
            ("skimage", "data"),
            ("matplotlib", "mpl-data/sample_data"),
        ):
            package = _package(name)
            if package is None:
                self.missing.append(f"photographs of {name}")
                continue
            found += [
                path
                for path in sorted((package / under).glob("*"))
                if path.suffix in (".jpg", ".png") and path.stat().st_size > 45_000
            ]
        # Every second one: names hash unevenly among few files. The two views of
        # one scene are neighbours and would end on both sides.
        found = [path for path in found if path.stem != "motorcycle_right"]
        ours = found[SIDES.index(self.side) :: 2]
        return [Image.open(path).convert("RGB") for path in ours]

    def text(self, rng: Generator, size: int) -> bytes:
        """Source files, one behind the other as in an archive."""
        parts: list[bytes] = []
        while sum(map(len, parts)) < size:
            parts.append(self._texts[int(rng.integers(len(self._texts)))].read_bytes())
        return b"".join(parts)[:size]

    def library(self, rng: Generator, size: int) -> bytes:
        """Machine code and its tables."""
        data = self._libraries[int(rng.integers(len(self._libraries)))].read_bytes()
        start = int(rng.integers(0, max(1, len(data) - size)))
        return data[start : start + size]

    def log(self, rng: Generator, size: int) -> bytes:
        """Write lines of a made-up server's log."""
        words = rng.choice(_WORDS, (size // 60 + 1, 4))
        times = 1.7e9 + np.cumsum(rng.exponential(0.4, len(words)))
        marks = rng.integers(0, 2**32, len(words))
        lines = [
            f"{t:.3f} INFO [{m:08x}] {w[0]} {w[1]}/{w[2]}?id={m % 9973} {w[3]}\n"
            for t, w, m in zip(times.tolist(), words, marks.tolist(), strict=True)
        ]
        return "".join(lines).encode()[:size]

    def csv(self, rng: Generator, size: int) -> bytes:
        """Write rows of numbers and names."""
        n = size // 40 + 1
        walk = np.cumsum(rng.normal(size=n))
        amounts = rng.gamma(2.0, 50.0, n)
        who = rng.choice(_WORDS, n)
        rows = [
            f"{i},{w},{a:.2f},{v:.4f},{int(a) % 7}\n"
            for i, (w, a, v) in enumerate(zip(who, amounts, walk, strict=True))
        ]
        return "".join(rows).encode()[:size]

    def json(self, rng: Generator, size: int) -> bytes:
        """Write records with nested fields."""
        n = size // 90 + 1
        values = rng.normal(size=n)
        rows = [
            {
                "id": i,
                "name": f"{_WORDS[i % 29]}-{int(k)}",
                "value": round(float(v), 6),
                "tags": [_WORDS[int(k) % len(_WORDS)], _WORDS[int(k) % 11]],
            }
            for i, (v, k) in enumerate(
                zip(values, rng.integers(0, 10**6, n), strict=True)
            )
        ]
        return json.dumps(rows).encode()[:size]

    def records(self, rng: Generator, size: int) -> bytes:
        """Write fixed binary records: counter, time, small numbers, a float."""
        n = size // 24 + 1
        kinds = np.dtype(
            [("i", "<u4"), ("t", "<u8"), ("a", "<u2"), ("b", "<u2"), ("v", "<f8")]
        )
        rows = np.zeros(n, kinds)
        rows["i"] = np.arange(n)
        rows["t"] = 1_700_000_000_000 + np.cumsum(rng.integers(1, 900, n))
        rows["a"] = rng.poisson(40, n)
        rows["b"] = rng.integers(0, 6, n)
        rows["v"] = np.round(rng.normal(20, 4, n), 1)
        return rows.tobytes()[:size]

    def floats(self, rng: Generator, size: int) -> bytes:
        """Measurements: a rounded random walk, or a smooth signal with noise."""
        n = size // 4 + 1
        if rng.random() < 0.5:
            walk = np.round(np.cumsum(rng.normal(size=n)), 2)
        else:
            walk = np.sin(np.arange(n) / 90.0) + rng.normal(0, 0.05, n)
        return walk.astype(np.float32).tobytes()[:size]

    def pixels(self, rng: Generator, size: int) -> bytes:
        """Raw pixels, as in a bitmap."""
        side = int(np.sqrt(size / 3)) + 1
        return bytes(self.picture(rng, side, side).tobytes()[:size])

    def document(self, rng: Generator, size: int) -> bytes:
        """One document of a kind drawn at random."""
        kinds = (
            self.text, self.text, self.text, self.library, self.library, self.log,
            self.csv, self.json, self.records, self.floats, self.pixels,
        )  # fmt: skip
        return kinds[int(rng.integers(len(kinds)))](rng, size)

    def picture(self, rng: Generator, width: int, height: int) -> Any:
        """Cut out of a photograph, turned and resized; an image of Pillow."""
        from PIL import Image

        photo = self._photographs[int(rng.integers(len(self._photographs)))]
        share = float(rng.uniform(0.4, 1.0))
        w, h = int(photo.width * share), int(photo.height * share)
        x = int(rng.integers(0, photo.width - w + 1))
        y = int(rng.integers(0, photo.height - h + 1))
        cut = photo.crop((x, y, x + w, y + h))
        if rng.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < 0.3:
            cut = cut.rotate(float(rng.uniform(-20, 20)), Image.Resampling.BICUBIC)
        cut = cut.resize((width, height), Image.Resampling.BICUBIC)
        # Resizing up leaves no grain; sensors always do.
        grain = rng.normal(0, float(rng.uniform(0, 4)), (height, width, 1))
        array = np.asarray(cut, np.float32) + grain
        return Image.fromarray(np.clip(array, 0, 255).astype(np.uint8))

    def screen(self, rng: Generator, width: int, height: int) -> Any:
        """Text drawn on a plain ground, as on a screen; an image of Pillow."""
        from PIL import Image, ImageDraw

        dark = rng.random() < 0.5
        page = Image.new("RGB", (width, height), "#1e1e1e" if dark else "white")
        pen = ImageDraw.Draw(page)
        lines = self.text(rng, 12_000).decode("latin-1").splitlines()
        for row, line in enumerate(lines[: height // 14]):
            pen.text((6, 14 * row), line[:160], fill="#ddd" if dark else "#222")
        inset = self.picture(rng, width // 3, height // 3)
        page.paste(inset, (width // 2, height // 2))
        return page

    def sound(self, rng: Generator, seconds: float, rate: int) -> NDArray[np.float32]:
        """Play notes with overtones, beats and breath, stereo; shape ``(2, n)``."""
        n = int(seconds * rate)
        out = np.zeros((2, n), np.float32)
        for _ in range(int(6 * seconds)):
            length = int(rng.uniform(0.08, 0.9) * rate)
            start = int(rng.integers(0, max(1, n - length)))
            t = np.arange(min(length, n - start)) / rate
            pitch = 55.0 * 2 ** (rng.integers(0, 48) / 12)
            wave = np.zeros(len(t))
            for overtone in range(1, int(rng.integers(2, 9))):
                bend = 1 + 0.003 * np.sin(2 * np.pi * rng.uniform(3, 7) * t)
                wave += np.sin(2 * np.pi * pitch * overtone * t * bend) / overtone**1.3
            if rng.random() < 0.35:
                wave = rng.normal(size=len(t))
            decay = np.exp(-t * rng.uniform(1, 14)) * np.minimum(1, t * 200)
            side = rng.uniform(0.2, 0.8)
            loud = 0.12 * decay * wave
            out[0, start : start + len(t)] += side * loud
            out[1, start : start + len(t)] += (1 - side) * loud
        out += rng.normal(0, 0.002, out.shape).astype(np.float32)
        return np.clip(out, -0.98, 0.98)

    def clip(self, rng: Generator, frames: int, width: int, height: int) -> list[Any]:
        """Camera that wanders over a photograph while things move; arrays (h, w, 3)."""
        wide = np.asarray(self.picture(rng, 2 * width, 2 * height))
        thing = np.asarray(self.picture(rng, width // 4, height // 4))
        speed = rng.uniform(0.3, 3.0, 4)
        out = []
        for i in range(frames):
            x = int((width / 2) * (1 + np.sin(i * speed[0] / 40)))
            y = int((height / 2) * (1 + np.cos(i * speed[1] / 40)))
            frame = wide[y : y + height, x : x + width].astype(np.int16)
            u = int((width * 0.35) * (1 + np.cos(i * speed[2] / 15)))
            v = int((height * 0.35) * (1 + np.sin(i * speed[3] / 15)))
            frame[v : v + height // 4, u : u + width // 4] = thing
            frame += rng.integers(-3, 4, frame.shape, dtype=np.int16)
            out.append(np.clip(frame, 0, 255).astype(np.uint8))
        return out

    def table(self, rng: Generator, rows: int) -> Any:
        """Columns of a made-up shop; a pyarrow table."""
        import pyarrow as pa

        return pa.table(
            {
                "id": np.arange(rows),
                "time": 1_700_000_000 + np.cumsum(rng.integers(1, 60, rows)),
                "who": rng.choice(_WORDS, rows),
                "amount": np.round(rng.gamma(2.0, 50.0, rows), 2),
                "signal": np.cumsum(rng.normal(size=rows)),
                "note": [
                    " ".join(words) for words in rng.choice(_WORDS, (rows, 3)).tolist()
                ],
            }
        )

    def jpeg(self, rng: Generator, width: int, height: int) -> bytes:
        """One photograph as JPEG, for what embeds photographs."""
        out = io.BytesIO()
        quality = int(rng.integers(70, 95))
        self.picture(rng, width, height).save(out, "JPEG", quality=quality)
        return out.getvalue()
