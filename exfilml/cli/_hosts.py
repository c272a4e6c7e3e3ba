"""The option `--host-events`: what hosts logged, joined to the flows of a command."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exfilml.cli._output import say
from exfilml.exceptions import SourceError

if TYPE_CHECKING:
    import pandas as pd


def _keep(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> None:
    """Keep the option; a mistake in it is told before hours of flows are read."""
    for one in value:
        address, source = _taken_apart(one)
        if not source:
            raise SourceError(f"--host-events {one}: names no file or folder.")
        if not Path(source).exists():
            said, equals, _ = one.partition("=")
            no_address = f", and {said!r} is no IP address"
            raise SourceError(
                f"--host-events {one}: no such file or folder"
                f"{no_address if equals and address is None else ''}."
            )
    context.meta[str(option.name)] = value


HOST_EVENTS = click.option(
    "--host-events",
    multiple=True,
    metavar="[ADDRESS=]SOURCE",
    callback=_keep,
    expose_value=False,
    help="Logs of hosts (Sysmon, Windows Security, audit.log, osquery, Tetragon, "
    "Falco), to say which process opened a flow; with the host's address where the "
    "log does not say it. Repeat for several.",
)


def host_events() -> pd.DataFrame | None:
    """Read the logs of hosts that the command was given, once; None for none."""
    context = click.get_current_context()
    given: tuple[str, ...] = context.meta.get("host_events") or ()
    if not given:
        return None
    if "events of hosts" not in context.meta:
        import pandas as pd

        from exfilml.hosts import read_host_events

        zone = context.meta.get("timezone")
        parts = []
        for one in given:
            address, source = _taken_apart(one)
            parts.append(read_host_events(source, timezone=zone, address=address))
        events = pd.concat(parts, ignore_index=True)
        events = events.sort_values("time", kind="stable", ignore_index=True)
        context.meta["events of hosts"] = events
    found: pd.DataFrame = context.meta["events of hosts"]
    return found


def event_logs() -> list[Path]:
    """Return the logs of hosts that the command was given, which no output may be."""
    given = click.get_current_context().meta.get("host_events") or ()
    return [Path(_taken_apart(one)[1]) for one in given]


def _taken_apart(given: str) -> tuple[str | None, str]:
    address, _, source = given.partition("=")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return None, given
    return address, source


def with_processes(tables: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Say in flows which process opened them, and at the end how many were found."""
    events = host_events()
    if events is None:
        yield from tables
        return
    from exfilml.hosts import add_processes, joinable

    counts: Counter[str] = Counter()
    network = joinable(events)
    for table in tables:
        joined = add_processes(table, network)
        counts.update(joined.attrs["processes"])
        yield joined
    say(_told(counts, len(network)))


def _told(counts: Counter[str], n_events: int) -> str:
    ways = ("connection", "remote end", "local end")
    found = sum(counts[way] for way in ways)
    by = ", ".join(f"{counts[way]:,} by {way}" for way in ways if counts[way])
    text = (
        f"{found:,} of {counts['flows']:,} flows have a process"
        f"{f' ({by})' if by else ''}, from {n_events:,} network events of hosts"
    )
    if counts["ambiguous"]:
        text += f"; {counts['ambiguous']:,} might have another, the nearest is taken"
    return text


def with_context(cases: pd.DataFrame) -> pd.DataFrame:
    """Attach to cases what happened on their hosts, if that is known."""
    events = host_events()
    if events is None or "first_seen" not in cases:
        return cases
    from exfilml.hosts import case_context

    attrs: dict[Any, Any] = cases.attrs
    told = case_context(cases, events)
    told.attrs = attrs
    return told
