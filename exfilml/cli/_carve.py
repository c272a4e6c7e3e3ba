"""The command `carve`."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from exfilml.cli._options import (
    CAPTURES,
    FILE,
    OTHER_HOME,
    POLICY,
    QUIET,
    declared_policy,
    load,
)
from exfilml.cli._output import check_writable, say
from exfilml.exceptions import OutputError

if TYPE_CHECKING:
    import pandas as pd

    from exfilml.carve import Filters

EVERY: Final = "all"
SHOWN: Final = 10

CASE_MODEL = click.option(
    "--model",
    type=FILE,
    help="Model file that the case was ranked with.  [default: the shipped model]",
)
CASE_FLOWS = click.option(
    "--flows",
    type=FILE,
    metavar="FILE",
    help="Flows of these captures, as exfilml flows writes them: they are not read anew.",
)
HEX = click.option(
    "--hex",
    "head",
    type=click.IntRange(0, 1 << 20),
    default=64,
    show_default=True,
    metavar="N",
    help="First bytes to show of each direction.",
)


@click.command()
@click.argument("case")
@CAPTURES
@click.option("--out", type=FILE, help="Write the packets to a .pcap or .pcapng file.")
@CASE_MODEL
@OTHER_HOME
@POLICY
@CASE_FLOWS
@click.option(
    "--payload",
    type=FILE,
    metavar="DIR",
    help="Write what each direction carried to files in this folder.",
)
@HEX
@click.option(
    "--top",
    type=click.IntRange(0),
    default=SHOWN,
    show_default=True,
    metavar="N",
    help="Directions to show, the longest first.",
)
@click.option(
    "--slack",
    type=float,
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How far packets may lie before and behind a flow's time.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="How to print the directions.",
)
@QUIET
def carve(
    case: str,
    capture: tuple[str, ...],
    out: Path | None,
    model: Path | None,
    home: tuple[str, ...],
    policy: Path | None,
    flows: Path | None,
    payload: Path | None,
    head: int,
    top: int,
    slack: float,
    form: str,
    *,
    quiet: bool,
) -> None:
    """Take the packets of a case out of captures, and look into them.

    CASE is the name that exfilml rank gives it, with the same --model, --home and
    --policy; "all" stands for every flow. CAPTURE is pcap or pcapng, also packed. Shows
    filters for tshark and tcpdump that select the same packets, and of each direction
    its bytes and gaps, what it begins with, and where opaque bytes begin.
    """
    from exfilml.carve import (
        carve_packets,
        describe_streams,
        follow_streams,
        packet_filters,
        write_streams,
    )
    from exfilml.export import printable, to_text

    if out is not None:
        check_writable(out, capture, model, policy, flows)
    if payload is not None and payload.exists() and not payload.is_dir():
        raise OutputError(f"{payload}: is no folder; --payload writes several files.")
    table = case_flows(case, capture, flows, model, home, policy, quiet=quiet)
    with tempfile.TemporaryDirectory(prefix="exfilml-") as folder:
        place = Path(folder) / "case.pcapng" if out is None else out
        carved = carve_packets(capture, table, place, slack_s=slack)
        streams = follow_streams(place, table, slack_s=slack)
        streams.sort(key=lambda stream: -stream.length)
        told = None
        if payload is not None:
            told = write_streams(streams, table, payload)
        shown = streams[: top if form == "table" else None]
        described = describe_streams(shown, table, head=head)
    filters = packet_filters(
        table, wrapped=carved.wrapped, fragments=carved.fragments > 0, slack_s=slack
    )
    say(printable(f"{carved}{'' if out is None else f', written to {out}'}"))
    if form == "table":
        click.echo(_filters(filters))
        for row in described.itertuples(index=False):
            click.echo("\n" + _direction(row, len(table) > 1))
    else:
        click.echo(to_text(described, form), nl=False)
    if len(shown) < len(streams):
        say(f"{len(shown):,} of {len(streams):,} directions shown; --top shows more")
    if not streams:
        say("no direction carried anything")
    if told is not None:
        say(f"{len(told):,} files written to {payload}, and streams.csv, gaps.csv")


def case_flows(
    case: str,
    capture: tuple[str, ...],
    flows: Path | None,
    model: Path | None,
    home: tuple[str, ...],
    policy: Path | None,
    *,
    quiet: bool,
) -> pd.DataFrame:
    """Return the flows of a case in captures, or in a file that stands for them."""
    from exfilml.exceptions import CarveError
    from exfilml.sources import read_flows

    declared = declared_policy(policy, home)
    detector = None if case == EVERY else load(model, home)
    source: Any = list(capture) if flows is None else flows
    table = read_flows(source, progress=False if quiet else None)
    if detector is None:
        return table
    from exfilml.ranking import flows_of_case

    found = flows_of_case(detector, table, case, policy=declared)
    if not len(found):
        raise CarveError(
            f"case {case!r}: is none of {len(table):,} flows of "
            f"{capture[0] if flows is None else flows}. Take the name from the column case "
            "of exfilml rank, and give the same --model, --home and --policy."
        )
    return found


def _filters(filters: Filters) -> str:
    text = f"tshark -Y {shlex.quote(filters.tshark)}\ntcpdump {shlex.quote(filters.tcpdump)}"
    if filters.width != "flows":
        text += (
            f"\nThere are too many flows for an exact filter: these select all of the "
            f"{filters.width}."
        )
    return text


def _direction(row: Any, several: bool) -> str:
    """Lay out one direction."""
    import pandas as pd

    from exfilml.carve import hexdump
    from exfilml.export import printable

    flow = f" (flow {row.flow})" if several else ""
    lines = [f"{row.source} → {row.destination} {row.protocol}{flow}"]
    held = f"{row.bytes:,} bytes"
    if not pd.isna(row.messages):
        held += f" in {row.messages:,} messages"
    if row.connections > 1:
        held += f" of {row.connections:,} connections"
    lines.append(f"  {held}; {_missing(row)}")
    doubts = []
    if row.differing:
        doubts.append(
            f"{row.differing:,} of {row.repeated:,} bytes sent again are not the same: "
            "the first are shown"
        )
    if row.outside:
        doubts.append(f"{row.outside:,} segments have no place in the stream")
    lines += [f"  {doubt}" for doubt in doubts]
    lines.append(f"  {_content(row)}")
    if row.head_hex:
        first = _first_held(row.gap_list)
        lines += [
            f"  {line}"
            for line in hexdump(bytes.fromhex(row.head_hex), first).split("\n")
        ]
    return "\n".join(map(printable, lines))


def _first_held(gap_list: str) -> int:
    """Return the offset of the first byte that is there."""
    begin, _, end = gap_list.partition(",")[0].partition("-")
    return int(end) if begin == "0" else 0


def _missing(row: Any) -> str:
    parts = []
    if row.gaps:
        what = f"{row.missing:,} bytes missing in {row.gaps:,} gaps"
        if row.cut:
            what += f", {row.cut:,} of them cut off by the capture"
        parts.append(f"{what}: {row.gap_list}")
    else:
        parts.append("no gaps")
    if not row.begin_seen:
        parts.append("its beginning was not captured")
    if not row.end_seen:
        parts.append("its end was not seen")
    return "; ".join(parts)


def _content(row: Any) -> str:
    import pandas as pd

    facts = [
        f"{name} {value}"
        for name, value in (
            ("handshake", row.handshake),
            ("format", row.magic),
            ("encoding", row.encoding),
        )
        if isinstance(value, str)
    ]
    text = ", ".join([row.verdict, *facts])
    if pd.isna(row.opaque_from):
        return f"{text}; no opaque bytes found"
    near = f" (± {row.opaque_within})" if row.opaque_within else ""
    begin = f"from byte {row.opaque_from:,}{near} on"
    if isinstance(row.encoding, str):
        return f"{text}; concealed {begin}"
    return f"{text}; opaque {begin}, p {row.p_uniform:.2g} of uniform random bytes"
