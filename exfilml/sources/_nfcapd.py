"""nfdump's own files (nfcapd), through the program nfdump.

Their layout changed with each version of nfdump, and is read best by nfdump: files of
1.6 and 1.7, plain or packed by nfdump itself (LZO, LZ4, bzip2, zstd), whichever the
version that is installed knows (Debian's package: ``nfdump``). It is asked for its
format ``fmt`` with the columns of nfdump(1) that all versions have, in UTC.

**Bytes** and packets are NetFlow's (see `_nfdump`), of both directions (``%ibyt``,
``%obyt``). Where an exporter told its sampling rate, nfcapd has multiplied them by it
as they came in (nfcapd(1), ``-s``); ``nfdump -E`` says so, and so do we. Where nobody
told nfcapd, the rate cannot be seen: `sampling` says it.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Final, Self

from exfilml.exceptions import SourceError
from exfilml.sources._directed import SAMPLED, printed
from exfilml.sources._lines import shown
from exfilml.sources._logs import whole
from exfilml.sources._nfdump import FORM
from exfilml.sources._packed import CHUNK, plain_file
from exfilml.sources._reading import DAMAGED, Options, Reading

# nfdump's nffile.h, in the order of bytes of the machine that wrote it; versions are
# small numbers so far.
_MAGICS: Final = (b"\x0c\xa5", b"\xa5\x0c")
_VERSIONS: Final = {n.to_bytes(2, o) for n in range(1, 8) for o in ("big", "little")}
_COLUMNS: Final = {
    "ts": "%ts",
    "te": "%te",
    "sa": "%sa",
    "da": "%da",
    "sp": "%sp",
    "dp": "%dp",
    "pr": "%pr",
    "flg": "%flg",
    "ipkt": "%ipkt",
    "ibyt": "%ibyt",
    "opkt": "%opkt",
    "obyt": "%obyt",
}
_HINT: Final = "Install it (Debian and Ubuntu: apt-get install nfdump)"
# It prints all the time; one that is silent for so long hangs.
_SILENCE: Final = 120.0
_SAMPLER: Final = re.compile(
    r"packet interval: *(\d+), packet space: *(\d+)|interval: *(\d+)"
)


def detect(head: bytes) -> bool:
    """Say from the first bytes whether this is a file of nfcapd."""
    return head.startswith(_MAGICS) and head[2:4] in _VERSIONS


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If there is no nfdump, or it cannot read the file.
    """
    program = shutil.which("nfdump")
    if program is None:
        raise SourceError(
            f"{path}: a file of nfcapd, which the program nfdump reads; there is none "
            f"on PATH. {_HINT}, or print it elsewhere with `nfdump -r FILE -o csv`."
        )
    with plain_file(path, "nfcapd") as (plain, damage):
        rates = _rates(program, plain)
        told = [] if damage is None else [(DAMAGED, f"{path}: {damage}")]
        options = replace(options, timezone="UTC")
        if rates:
            many = ", ".join(f"{rate:,}" for rate in sorted(rates))
            text = f"1 packet in {many}; nfcapd has scaled bytes and packets up"
            told.append((SAMPLED, f"{path}: exporters sampled {text}"))
            options = replace(options, sampling=None)
        with _output(program, plain) as output:
            try:
                yield from printed(output, FORM, path, options, told)
            except SourceError as error:
                said = output.damage
                raise error if said is None else _refusal(path, program, said) from None
            if output.damage is not None and not output.lines:
                raise _refusal(path, program, output.damage)


def _refusal(path: Path, program: str, said: str) -> SourceError:
    version = _ask(program, "-V").strip() or "unknown version"
    return SourceError(
        f"{path}: {said} ({program}, {shown(version)}). If the file is whole, it may "
        "be of another version of nfdump: install that one."
    )


class Output:
    """What nfdump prints, piece by piece, behind a line of names.

    Attributes
    ----------
    damage
        What it complained of, known when all pieces are read; else None.
    lines
        Whether it printed anything.
    """

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        self.damage: str | None = None
        self.lines = False

    def __iter__(self) -> Iterator[bytes]:
        yield ",".join(_COLUMNS).encode() + b"\n"
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while selector.select(_SILENCE):
                data = os.read(self._process.stdout.fileno(), CHUNK)
                if not data:
                    self._end()
                    return
                self.lines = self.lines or not data.startswith(b"No match")
                yield data
        self._process.kill()
        self.damage = f"nfdump said nothing for {_SILENCE:.0f} s, and was ended"

    def _end(self) -> None:
        status = self._process.wait()
        self._errors.seek(0)
        # Only its first words: a damaged file may make it say the same for ever.
        words = self._errors.read(4096).decode("utf-8", "replace")
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        if lines:
            self.damage = f"nfdump says: {shown(lines[0])}"
        elif status:
            self.damage = f"nfdump failed with status {status}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Also on the way out of Ctrl-C, or when nobody wants the rest.
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "TZ": "UTC", "LC_ALL": "C"}


@contextmanager
def _output(program: str, path: Path) -> Iterator[Output]:
    """Have nfdump print a file; it is ended when the block is left."""
    command = (program, "-q", "-N", "-6", "-r", str(path.resolve()))
    form = "fmt:" + ",".join(_COLUMNS.values())
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603 - found on PATH; no shell
            [*command, "-o", form],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(),
        )
        with Output(process, errors) as output:
            yield output


def _rates(program: str, path: Path) -> set[int]:
    """Return the sampling rates that exporters told nfcapd, other than 1."""
    rates = set()
    for line in _ask(program, "-E", str(path.resolve())).splitlines():
        found = _SAMPLER.search(line) if "ampl" in line else None
        if found is not None:
            taken, space, interval = (int(part or 0) for part in found.groups())
            rates.add((taken + space) // taken if taken else interval)
    return {rate for rate in rates if rate > 1}


def _ask(program: str, *arguments: str) -> str:
    """Return what nfdump answers to a short question; nothing if it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - found on PATH; no shell
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SILENCE,
            env=_environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")
