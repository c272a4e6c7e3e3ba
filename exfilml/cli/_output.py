"""What commands say and write, apart from their tables."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from exfilml.exceptions import ExfilmlWarning

if TYPE_CHECKING:
    from exfilml.blindspots import Blindspots
    from exfilml.evaluation import Evaluation
    from exfilml.feedback import Precision


# Where standard input is kept while a command runs: a name that was never given.
_KEPT: Final = re.compile(
    rf"{re.escape(tempfile.gettempdir())}/exfilml-[^/\s]+/stdin\b"
)


def as_given(text: str) -> str:
    """Name standard input as it was given."""
    return _KEPT.sub("-", text)


def say(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def working(what: str, *, quiet: bool) -> Iterator[None]:
    """Show on a terminal that a step goes on, and for how long; clear it at the end."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), what, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task(what, total=None)
        yield


def say_error(text: str) -> None:
    from exfilml.export import printable

    say("error: " + "\n".join(printable(line) for line in as_given(text).splitlines()))


def show_warning(
    message: Warning | str, category: type[Warning], *_: object, **__: object
) -> None:
    # Warnings of libraries are for developers; ours say what the user lost.
    if issubclass(category, ExfilmlWarning):
        from exfilml.export import printable

        say(f"warning: {printable(as_given(str(message)))}")


def drop_stdout() -> None:
    """Leave nothing in the buffer that the interpreter would flush again on exit."""
    sys.stdout = open(os.devnull, "w", encoding="ascii")  # noqa: SIM115, PTH123


def check_writable(path: Path, source: tuple[str, ...], *others: Path | None) -> None:
    """Refuse an output place before the work, not after it.

    Also one of the sources or of the other files of the command.
    """
    from exfilml.exceptions import OutputError
    from exfilml.sources import is_read

    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give a file name.")
    folder = (Path(os.path.realpath(path)) if path.is_symlink() else path).parent
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: the folder {folder} may not be written to.")
    # Two names of a file that is yet to be written have nothing else in common.
    told = click.get_current_context().meta
    if (source and is_read(path, source, told.get("columns"))) or any(
        os.path.realpath(path) == os.path.realpath(other)
        or (path.exists() and other.exists() and path.samefile(other))
        for other in others
        if other is not None
    ):
        raise OutputError(
            f"{path}: is another file of this command, which would be overwritten; "
            "give the output a name of its own."
        )


def check_folder(path: Path) -> None:
    """Refuse a folder to write files into before the work; it may be made later."""
    from exfilml.exceptions import OutputError

    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise OutputError(f"{path}: {there} is no folder; give a folder's name.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {there} may not be written to.")


def check_plottable(path: Path, source: tuple[str, ...], *others: Path | None) -> None:
    from importlib.util import find_spec

    from exfilml.exceptions import OutputError

    if path.suffix.lower() not in {".png", ".svg", ".pdf"}:
        raise OutputError(f"{path}: the suffix must be .png, .svg or .pdf.")
    check_writable(path, source, *others)
    if find_spec("matplotlib") is None:
        raise OutputError(
            f"{path}: drawing needs matplotlib; install exfilml[notebook]."
        )


def draw(
    found: Evaluation | Blindspots | Precision, path: Path, inches: tuple[float, float]
) -> None:
    from matplotlib.figure import Figure

    from exfilml.export import complete_file

    figure = Figure(figsize=inches, layout="tight")
    found.plot(figure.subplots())
    with complete_file(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower())
