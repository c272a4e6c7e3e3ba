"""Commands that read: `flows` and `sources`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from exfilml.cli._hosts import HOST_EVENTS, event_logs, with_processes
from exfilml.cli._options import FILE, QUIET, SOURCES, asked, read
from exfilml.cli._output import as_given, check_writable, say


@click.command()
@SOURCES
@click.option(
    "--out", type=FILE, required=True, help="File to write: .parquet or .csv."
)
@HOST_EVENTS
@QUIET
def flows(source: tuple[str, ...], out: Path, *, quiet: bool) -> None:
    """Extract flows with payload evidence from captures, and flows from logs.

    SOURCE is a capture, a log (docs/logs.md lists them), a flows file, a
    folder of them, a pattern, or - for standard input.
    """
    from exfilml.exceptions import OutputError
    from exfilml.sources import write_flows

    if out.suffix.lower() not in {".parquet", ".csv"}:
        raise OutputError(f"{out}: the suffix must be .parquet or .csv.")
    check_writable(out, source, *event_logs())
    (table,) = with_processes([read(source, quiet=quiet)])
    write_flows(table, out)
    say(f"{len(table):,} flows written to {out}")


@click.command()
@SOURCES
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="How to print the table.",
)
@QUIET
def sources(source: tuple[str, ...], form: str, *, quiet: bool) -> None:
    """Show what can be read: file, format, flows, seconds, capability, warnings.

    SOURCE is a file, a folder, a pattern, or - for standard input. Every file is read,
    and those that cannot be are listed with the reason.
    """
    from exfilml.export import printable, to_text
    from exfilml.sources import survey
    from exfilml.terminal import survey_text

    shown = not quiet and sys.stderr is not None and sys.stderr.isatty()
    table = survey(
        source,
        **asked(),
        report=(lambda name: say(printable(name))) if shown else None,
    )
    table["file"] = table["file"].map(as_given)
    if form == "table":
        click.echo(survey_text(table), nl=False)
    else:
        click.echo(to_text(table, form), nl=False)
