"""Files that sessions move about, written by real encoders.

Pages, JSON, photos, packages, office documents and mail come from seeded generators;
compression is gzip, xz, deflate and JPEG itself, so the bytes carry the structure and
the entropy that such files have.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import tarfile
import zipfile
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import TYPE_CHECKING, Literal

from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    import random
    from pathlib import Path

_SYLLABLES = """
    ba ce di fo gu ha le mi no pu ra se ti vo za ter ing ment al or est
""".split()  # noqa: SIM905


@dataclass
class Corpus:
    """Paths by kind, relative to ``root``.

    Every list has heavy-tailed sizes; a uniform choice is a heavy-tailed choice.
    """

    root: Path
    pages: list[str] = field(default_factory=list)
    api: list[str] = field(default_factory=list)
    photos: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return (self.root / name).stat().st_size


class _Writer:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.words = [
            "".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(3000)
        ]
        self.weights = [1 / (rank + 3) for rank in range(len(self.words))]

    def text(self, n_bytes: int) -> str:
        """Return running text of about `n_bytes` with natural word frequencies."""
        out: list[str] = []
        for word in self.rng.choices(self.words, self.weights, k=n_bytes // 6 + 1):
            stop = self.rng.random() < 0.1
            out.append(word.capitalize() + "." if stop else word)
        return " ".join(out)

    def page(self, n_bytes: int) -> bytes:
        body = "".join(
            f'<div class="card"><h2>{self.text(30)}</h2><p>{self.text(350)}</p></div>\n'
            for _ in range(max(1, n_bytes // 430))
        )
        title = self.text(20)
        return (
            f"<!doctype html><html><head><title>{title}</title></head>"
            f"<body>{body}</body></html>"
        ).encode()

    def rows(self, n_rows: int) -> list[dict[str, object]]:
        pick = self.rng
        return [
            {
                "id": pick.randrange(10**6),
                "name": self.text(14),
                "mail": f"{pick.choice(self.words)}@{pick.choice(self.words)}.example",
                "amount": round(pick.lognormvariate(4, 1.2), 2),
                "active": pick.random() < 0.7,
            }
            for _ in range(n_rows)
        ]

    def table(self, n_rows: int) -> bytes:
        out = io.StringIO()
        rows = self.rows(n_rows)
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().encode()

    def photo(self, width: int) -> bytes:
        rng = self.rng
        height = width * 3 // 4
        image = Image.new("RGB", (width, height), (rng.randrange(256), 120, 90))
        draw = ImageDraw.Draw(image)
        for _ in range(40):
            x, y = rng.randrange(width), rng.randrange(height)
            box = (x, y, x + rng.randrange(4, width), y + rng.randrange(4, height))
            shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
            shape(box, fill=tuple(rng.randrange(256) for _ in range(3)))
        grain = Image.frombytes("L", (width, height), rng.randbytes(width * height))
        image = Image.blend(
            image.filter(ImageFilter.GaussianBlur(2)), grain.convert("RGB"), 0.06
        )
        out = io.BytesIO()
        image.save(out, "JPEG", quality=82)
        return out.getvalue()

    def document(self, n_bytes: int) -> bytes:
        """Return a zip of XML, a table and perhaps a picture: an office document."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("word/document.xml", self.page(n_bytes * 2))
            archive.writestr("data/sheet1.csv", self.table(max(3, n_bytes // 200)))
            if n_bytes > 30_000:
                archive.writestr("word/media/image1.jpeg", self.photo(640))
        return out.getvalue()

    def package(self, n_bytes: int, compression: Literal["gz", "xz"]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(
            fileobj=out, mode="w:xz" if compression == "xz" else "w:gz"
        ) as archive:
            for index in range(6):
                # Code and tables compress about threefold; pictures do not.
                blob = (
                    self.page(n_bytes // 4) if index % 2 else self.table(n_bytes // 250)
                )
                info = tarfile.TarInfo(f"pkg/file{index}")
                info.size = len(blob)
                archive.addfile(info, io.BytesIO(blob))
        return out.getvalue()

    def mail(self, attachment: bytes | None) -> bytes:
        message = EmailMessage()
        message["From"] = f"{self.rng.choice(self.words)}@corp.example"
        message["To"] = f"{self.rng.choice(self.words)}@partner.example"
        message["Subject"] = self.text(30)
        message.set_content(self.text(int(self.rng.lognormvariate(6.0, 0.9))))
        if attachment:
            message.add_attachment(
                attachment, maintype="application", subtype="zip", filename="report.zip"
            )
        return message.as_bytes().replace(b"\n", b"\r\n")


def build(root: Path, rng: random.Random) -> Corpus:  # noqa: C901
    """Write the corpus below `root` and return what is where."""
    make = _Writer(rng)
    corpus = Corpus(root)

    def add(kind: list[str], name: str, blob: bytes) -> None:
        (root / name).write_bytes(blob)
        kind.append(name)

    root.mkdir()
    for i in range(60):
        size = int(rng.lognormvariate(7.2, 1.0))
        add(corpus.pages, f"page{i}.html", make.page(size))
    for i in range(40):
        rows = make.rows(max(1, int(rng.lognormvariate(1.8, 0.9))))
        add(corpus.api, f"api{i}.json", json.dumps({"items": rows}).encode())
    for i in range(24):
        width = min(1600, int(rng.lognormvariate(4.7, 0.7)))
        add(corpus.photos, f"photo{i}.jpg", make.photo(max(width, 64)))
    for i in range(10):
        size = int(rng.lognormvariate(11.3, 1.3))
        kind: Literal["gz", "xz"] = "xz" if i % 2 else "gz"
        add(corpus.packages, f"tool{i}.tar.{kind}", make.package(size, kind))
    for i in range(20):
        size = min(int(rng.lognormvariate(8.0, 1.4)), 400_000)
        add(corpus.documents, f"report{i}.zip", make.document(size))
    for i in range(8):
        rows_count = int(rng.lognormvariate(4.5, 1.3)) + 5
        add(corpus.tables, f"export{i}.csv", make.table(rows_count))
    for i in range(24):
        part = make.document(int(rng.lognormvariate(8.2, 1.2))) if i % 3 == 0 else None
        add(corpus.mails, f"mail{i}.eml", make.mail(part))

    # What night jobs and planted transfers carry: sizes are fixed, not drawn.
    nightly = root / "nightly"
    nightly.mkdir()
    for i in range(12):
        (nightly / f"share{i}.zip").write_bytes(make.document(60_000 + 25_000 * i))
    (nightly / "journal.xml.xz").write_bytes(lzma.compress(make.page(300_000)))
    (root / "customers.csv").write_bytes(make.table(42_000))
    with zipfile.ZipFile(root / "album.zip", "w") as album:
        for i in range(20):
            album.writestr(f"IMG_{i:04}.jpg", make.photo(1280))
    return corpus
