"""Judgements and precision over time as text."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from exfilml.export import printable
from exfilml.terminal._layout import WIDTH, laid_out, width_of_terminal

if TYPE_CHECKING:
    from exfilml.feedback import Precision

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
            _cell(row["case"]),
            row["verdict"],
            f"{row['judged_at']:%Y-%m-%d %H:%M}",
            *(_cell(row[name]) for name in ("analyst", "local_ip", "place")),
            "?" if pd.isna(row["suspicion"]) else f"{row['suspicion']:.1f}",
        )
        for row in table.to_dict("records")
    ]
    header, *lines = laid_out(JUDGEMENTS, rows, right={"bits"})
    told = [header]
    for line, reason in zip(lines, table["reason"], strict=True):
        told.append(line)
        told += textwrap.wrap(
            printable(reason),
            width_of_terminal(),
            initial_indent=INDENT,
            subsequent_indent=INDENT,
        )
    return "\n".join(told) + "\n"


def precision_text(found: Precision) -> str:
    """Lay out precision over time: what it is of, then a line for each week."""
    told = [
        part
        for line in found.lines()
        for part in textwrap.wrap(printable(line), WIDTH, subsequent_indent="  ")
    ]
    table = found.table.reset_index()
    if len(table):
        shown = [name for name in WEEKS if name in table]
        header = tuple(name.replace("_", " ") for name in shown)
        rows = [
            tuple(map(_figure, row)) for row in table[shown].itertuples(index=False)
        ]
        told += ["", *laid_out(header, rows, right=set(header) - {"week"})]
    return "\n".join(told) + "\n"


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return "-" if pd.isna(value) else f"{value:.2f}"
    return value if isinstance(value, str) else f"{value:,}"


def _cell(text: Any) -> str:
    cell = printable(text) if isinstance(text, str) else "?"
    return cell if len(cell) <= LONGEST else cell[: LONGEST - 1] + "…"
