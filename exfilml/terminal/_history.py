"""Answers of the history as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import Any, Final

import pandas as pd

from exfilml.export import printable
from exfilml.features import human_bytes
from exfilml.terminal._layout import laid_out, width_of_terminal

LONGEST: Final = 40
INDENT: Final = "       "
# Of neighbours: for other programs.
_UNTOLD: Final = ("model", "uid", "shared", "direction", "down_bytes")
_WORDS: Final = ("agrees", "differs")
_RIGHT: Final = frozenset(
    {"flows", "days", "hosts", "up_bytes", "down_bytes", "largest_day_up_bytes"}
    | {"distance", "suspicion", "dst_port"}
)


def history_text(table: pd.DataFrame) -> str:
    """Lay out an answer: a line for each row, and under it what agrees and differs."""
    if len(table) == 0:
        return "nothing\n"
    words = [name for name in _WORDS if name in table]
    hidden = {*words, *(_UNTOLD if words else ())}
    names = tuple(str(name) for name in table.columns if name not in hidden)
    rows = [
        tuple(_cell(name, row[name]) for name in names)
        for row in table.to_dict("records")
    ]
    header, *told = laid_out(names, rows, right=_RIGHT)
    lines = [header]
    for at, line in enumerate(told):
        lines.append(line)
        for name in words:
            lines += textwrap.wrap(
                printable(f"{name}: {table[name].iloc[at] or 'nothing'}"),
                width_of_terminal(),
                initial_indent=INDENT,
                subsequent_indent=INDENT,
            )
    return "\n".join(lines) + "\n"


def _cell(name: str, value: Any) -> str:
    """Write a value as a reader wants it; names come from packets."""
    if pd.isna(value):
        return "-"
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d}" if name == "day" else f"{value:%Y-%m-%d %H:%M}"
    if name.endswith("_bytes"):
        return human_bytes(value)
    if isinstance(value, float):
        return f"{value:.1f}"
    text = printable(str(value))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
