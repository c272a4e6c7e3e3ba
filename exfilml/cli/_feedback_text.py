"""Judgements and precision over time as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click
import pandas as pd

from exfilml.export import printable

if TYPE_CHECKING:
    from exfilml.feedback import Precision

WIDTH: Final = 110
LONGEST: Final = 40
INDENT: Final = "       "
JUDGEMENTS: Final = ("case", "verdict", "judged (UTC)", "by", "local", "place", "bits")
WEEKS: Final = (
    *("week", "judged", "true", "false", "precision", "low", "high"),
    *("alerts", "judged_share"),
)


def judgements_text(table: pd.DataFrame) -> str:
    """Lay out judgements, a line of facts and the reason under it."""
    if len(table) == 0:
        return "no judgements\n"
    rows = [
        (
            row["case"],
            row["verdict"],
            f"{row['judged_at']:%Y-%m-%d %H:%M}",
            *(row[name] for name in ("analyst", "local_ip", "place")),
            None if pd.isna(row["suspicion"]) else f"{row['suspicion']:.1f}",
        )
        for row in table.to_dict("records")
    ]
    header, *lines = _lines(JUDGEMENTS, rows, str.ljust)
    told = [header]
    for line, reason in zip(lines, table["reason"], strict=True):
        told += [line, *_wrapped(reason, INDENT, INDENT)]
    return "\n".join(told) + "\n"


def precision_text(found: Precision) -> str:
    """Lay out precision over time: what it is of, then a line for each week."""
    told = [part for line in found.lines() for part in _wrapped(line, "", "  ")]
    table = found.table.reset_index()
    if len(table):
        shown = [name for name in WEEKS if name in table]
        header = [name.replace("_", " ") for name in shown]
        rows = table[shown].itertuples(index=False)
        told += [
            "",
            *_lines(header, [tuple(map(_figure, row)) for row in rows], str.rjust),
        ]
    return "\n".join(told) + "\n"


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return "-" if pd.isna(value) else f"{value:.2f}"
    return value if isinstance(value, str) else f"{value:,}"


def _lines(header: Sequence[str], rows: list[tuple[Any, ...]], pad: Any) -> list[str]:
    """Lay out a header and rows in columns."""
    table = [tuple(header), *(tuple(map(_cell, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(pad(c, w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return [click.style(lines[0], underline=True), *lines[1:]]


def _cell(text: Any) -> str:
    cell = printable(text) if isinstance(text, str) else "?"
    return cell if len(cell) <= LONGEST else cell[: LONGEST - 1] + "…"


def _wrapped(text: str, first: str, then: str) -> list[str]:
    return textwrap.wrap(
        printable(text), WIDTH, initial_indent=first, subsequent_indent=then
    )
