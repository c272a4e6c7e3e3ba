"""The commands `history add`, `query`, `similar` and `prune`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from exfilml.cli._hosts import HOST_EVENTS, host_events, with_processes
from exfilml.cli._options import FILE, QUIET, SOURCES, asked, load
from exfilml.cli._output import say

if TYPE_CHECKING:
    import pandas as pd

    from exfilml.history import History

TABLE_ROWS: Final = 20

HISTORY: Final = click.option(
    "--history",
    "folder",
    type=FILE,
    metavar="DIR",
    required=True,
    help="Folder of the history.",
)
FORMAT: Final = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="How to print the answer.",
)
SINCE: Final = click.option(
    "--since", metavar="WHEN", help="Leave out what starts before (UTC date or time)."
)
UNTIL: Final = click.option(
    "--until", metavar="WHEN", help="Leave out what starts then or later (UTC)."
)


@click.group()
def history() -> None:
    """Keep flows of the past, and ask what was seen before."""


@history.command()
@SOURCES
@HISTORY
@click.option(
    "--model",
    type=FILE,
    metavar="FILE",
    help="Store also what each case looked like, for `history similar`.",
)
@click.option(
    "--home",
    multiple=True,
    metavar="CIDR",
    help="Home network of a new history; repeat for several.  [default: the model's, "
    "or private networks]",
)
@SINCE
@UNTIL
@HOST_EVENTS
@QUIET
def add(
    source: tuple[str, ...],
    folder: Path,
    model: Path | None,
    home: tuple[str, ...],
    since: str | None,
    until: str | None,
    *,
    quiet: bool,
) -> None:
    """Add flows to a history, which is made if DIR is new or empty.

    SOURCE is a capture, a log (docs/logs.md lists them), a flows file, a
    folder of them, a pattern, or - for standard input. All of it is added or, after an
    error, nothing; what the history has already is left out.
    """
    from exfilml.history import History
    from exfilml.spool import Span

    span = Span.parse(since, until)
    _check_apart(source, folder)
    detector = None if model is None else load(model, home)
    networks: Iterable[str] | None = home or None
    fresh = not (folder / "history.json").exists()
    if fresh and networks is None and detector is not None:
        networks = detector.home_
    host_events()
    store = History.open(folder, create=True, home=networks)
    if fresh:
        say(f"{folder}: a new history; home networks: {', '.join(store.home)}")
    with _tables(source, span, in_order=detector is not None, quiet=quiet) as tables:
        added = store.add(with_processes(tables), detector)
    say(f"{folder}: {added}")
    say(f"the history has {store}")


@contextmanager
def _tables(
    source: tuple[str, ...], span: Any, *, in_order: bool, quiet: bool
) -> Iterator[Iterable[pd.DataFrame]]:
    """Give flows in tables of bounded size; a model wants them in order of time."""
    if not in_order:
        from exfilml.sources import iter_flows

        tables = iter_flows(list(source), **asked())
        yield (span.of(table) for table in tables)
        return
    from exfilml.spool import Spool

    with tempfile.TemporaryDirectory(prefix="exfilml-") as temporary:
        spool = Spool(Path(temporary), span, **asked(), also=("uid", "sensor"))
        spool.fill(source, progress=False if quiet else None)
        yield spool.tables()


@history.command()
@HISTORY
@click.option("--host", metavar="ADDRESS", help="Local address.")
@click.option("--place", metavar="NAME", help="Place, as in a ranking.")
@click.option("--address", metavar="ADDRESS|CIDR", help="Remote address or network.")
@click.option("--fingerprint", metavar="HASH", help="Client fingerprint.")
@click.option("--service", metavar="NAME", help="Service, such as https or tcp/8443.")
@SINCE
@UNTIL
@click.option(
    "--by",
    default="host,place,service",
    show_default=True,
    metavar="NAMES",
    help="What a row stands for: host, place, service, address, fingerprint, "
    "server_name, app, process, user_agent, direction, protocol, dst_port, source, day.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Rows to show.  [default: {TABLE_ROWS} in a table, else all]",
)
@FORMAT
def query(
    folder: Path,
    host: str | None,
    place: str | None,
    address: str | None,
    fingerprint: str | None,
    service: str | None,
    since: str | None,
    until: str | None,
    by: str,
    top: int | None,
    form: str,
) -> None:
    """Say what was seen of a host, a place …: when, how often, how much."""
    store = _opened(folder)
    found = store.query(
        host=host,
        place=place,
        cidr=address,
        fingerprint=fingerprint,
        service=service,
        since=since,
        until=until,
        by=[name.strip() for name in by.split(",")],
        limit=top or (TABLE_ROWS if form == "table" else None),
    )
    _show(found, form)
    say(f"{len(found):,} rows shown; the history has {store}")


@history.command()
@click.argument("case")
@HISTORY
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Neighbours to show.",
)
@FORMAT
def similar(case: str, folder: Path, top: int, form: str) -> None:
    """Find cases of the past that look like CASE, and say what agrees.

    CASE is the name that a ranking gives; its flows were added with --model.
    """
    _show(_opened(folder).similar(case, n=top), form)


@history.command()
@HISTORY
@click.option(
    "--keep-days",
    type=click.IntRange(min=1),
    metavar="N",
    help="Days (UTC) to keep, today included.",
)
@click.option("--damaged", is_flag=True, help="Drop files that cannot be read.")
def prune(folder: Path, keep_days: int | None, *, damaged: bool) -> None:
    """Drop the flows and patterns of old days."""
    say(f"{folder}: {_opened(folder).prune(keep_days, damaged=damaged)}")


def _opened(folder: Path) -> History:
    from exfilml.history import History

    return History.open(folder)


def _check_apart(source: tuple[str, ...], folder: Path) -> None:
    """Refuse to read the history itself as a source of flows."""
    from exfilml.exceptions import OptionError

    own = folder.resolve()
    for given in source:
        path = Path(given).resolve()
        if own in (path, *path.parents) or (path.is_dir() and path in own.parents):
            raise OptionError(
                f"--history {folder}: lies in {given}, which is to be read, or the other "
                "way round; give the history a folder of its own."
            )


def _show(table: pd.DataFrame, form: str) -> None:
    from exfilml.export import to_text
    from exfilml.terminal import history_text

    text = history_text(table) if form == "table" else to_text(table, form)
    click.echo(text, nl=False)
