"""Rankings of flows and cases as a notebook shows them.

A row of facts, and under it the reasons: the strongest at once, all of them when it
is unfolded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from exfilml.blindspots import SEEING
from exfilml.exceptions import OptionError
from exfilml.features import human_bytes
from exfilml.places import service_name
from exfilml.report._html import (
    LEAST_SCALE,
    LONGEST_REASON,
    Shown,
    bar,
    cut,
    name,
    page,
    rows_of,
    tip,
    told,
)

# A table without one of these is no ranking.
NEEDED: Final = ("rank", "suspicion", "reasons")
SUMMARY: Final = 180
_PREFIX: Final = "worst flow: "


def shown_ranking(ranking: pd.DataFrame, rows: int) -> Shown:
    """Show the first rows of a ranking, and say how many there are.

    Raises
    ------
    OptionError
        If the table is no ranking.
    """
    missing = [c for c in NEEDED if c not in ranking]
    if missing:
        raise OptionError(
            f"show: the table has no column {', '.join(missing)}; expected a ranking "
            "as rank_flows or rank_cases returns it (some rows of it will do, but not "
            "some columns)."
        )
    what = "cases" if "flows" in ranking else "flows"
    said = _said_of(ranking, what)
    if ranking.empty:
        empty = f"No {what} are ranked: there were none to rank."
        return Shown(page(f"<p>{empty}</p>"), empty)
    first = ranking.head(rows)
    if len(first) < len(ranking):
        said.append(f"the first {len(first):,} rows of {len(ranking):,} are shown")
    columns = [c for c in _COLUMNS if c.needs(ranking)]
    limits = _limits(ranking)
    numbers = first["suspicion"].to_numpy(dtype=np.float64, na_value=np.nan)
    scale = max(LEAST_SCALE, float(np.nanmax(numbers, initial=0.0)))
    cells = []
    for row in first.to_dict("records"):
        row["_scale"], row["_limit"] = scale, _limit_of(row, limits)
        cells.append([column.cell(row) for column in columns])
    caption = told("; ".join(said), LONGEST_REASON)
    why = [_why(row) for row in first.to_dict("records")]
    body = rows_of(cells, [c.header for c in columns], caption, under=why)
    text = "\n".join(
        [
            "; ".join(said),
            *(
                "  ".join(
                    cut(row.get(c, ""))
                    for c in ("rank", "local_ip", "place", "suspicion", "reasons")
                )
                for row in first.to_dict("records")
            ),
        ]
    )
    return Shown(page(body), text)


def _said_of(ranking: pd.DataFrame, what: str) -> list[str]:
    """Say what rows of a ranking do not: totals, and what was left out."""
    attrs = ranking.attrs
    total = attrs.get("total", len(ranking))
    said = [f"{total:,} {what} ranked"]
    if "alerted" in attrs:
        said.append(f"{attrs['alerted']:,} alert")
    elif "alert" in ranking:
        said.append(f"{int(ranking['alert'].fillna(False).sum()):,} of them alert")
    for limit, name_ in _limits(ranking).values():
        said.append(f"a case alerts from {limit:.1f} bits on, {name_}")
    if attrs.get("inside"):
        said.append(f"{attrs['inside']:,} stay inside the site and come last")
    if attrs.get("suppressed"):
        said.append(f"{attrs['suppressed']:,} cases are kept quiet by approvals")
    if attrs.get("windows_not_covered"):
        windows = ", ".join(attrs["windows_not_covered"])
        said.append(f"sums over {windows} begin with these flows")
    return said


def _limits(ranking: pd.DataFrame) -> dict[str, tuple[float, str]]:
    """Return by capability from which suspicion on a case alerts."""
    return {
        name: (float(about["suspicion"]), SEEING[name])
        for name, about in ranking.attrs.get("thresholds", {}).items()
        if about.get("suspicion") is not None
    }


def _limit_of(
    row: dict[Any, Any], limits: dict[str, tuple[float, str]]
) -> float | None:
    seen = "payload" if row.get("capability") == "payload" else "volume"
    return limits[seen][0] if seen in limits else None


def reasons_of(text: object) -> list[str]:
    """Cut a ranking's reasons into those of each family, strongest first."""
    if not isinstance(text, str):
        return []
    parts = [part for part in text[: 4 * LONGEST_REASON].split("; ") if part]
    return [part.removeprefix(_PREFIX) for part in parts]


def _suspicion(row: dict[Any, Any]) -> str:
    bits = row["suspicion"]
    if pd.isna(bits):
        return "–"
    alert = row.get("alert") is True
    scale, limit = row["_scale"], row["_limit"]
    badge = ' <span class="x">alert</span>' if alert else ""
    drawn = bar(
        bits / scale, alert=alert, mark=None if limit is None else limit / scale
    )
    tips = tip(reasons_of(row["reasons"]))
    return f'<span class="o"{tips}>{drawn} {bits:.1f}{badge}</span>'


def _time(row: dict[Any, Any]) -> str:
    seen = row["first_seen"] if "first_seen" in row else row["start"]
    return "?" if pd.isna(seen) else f'<span class="o">{seen:%Y-%m-%d %H:%M}</span>'


def _service(row: dict[Any, Any]) -> str:
    protocol, port = row["protocol"], row["dst_port"]
    if pd.isna(protocol):
        return "?"
    kind = {6: "tcp", 17: "udp"}.get(int(protocol))
    if kind is None:
        return told(service_name(int(protocol), 0))
    if pd.isna(port):
        return f"{kind}, many ports"
    known = service_name(int(protocol), int(port)).partition("/")[0]
    return f"{kind}/{int(port)}" + (f" {told(known)}" if known != kind else "")


def _why(row: dict[Any, Any]) -> str:
    parts = reasons_of(row["reasons"])
    if isinstance(row.get("context"), str):
        parts.append(f"on the host: {row['context']}")
    hidden = row.get("not_visible")
    if isinstance(hidden, str) and hidden:
        parts.append(f"not visible: {hidden}")
    # The number of flows has a column of its own.
    if len(parts) > 1 and "flows" in row and parts[0] == f"{row['flows']} flows":
        parts = parts[1:]
    if not parts:
        return "–"
    if len(parts) == 1 and len(parts[0]) <= SUMMARY:
        return f'<div class="w">{told(parts[0], SUMMARY)}</div>'
    items = "".join(f"<li>{told(part, LONGEST_REASON)}</li>" for part in parts)
    more = f" (+{len(parts) - 1})" if len(parts) > 1 else ""
    return (
        f'<div class="w"><details><summary>{told(parts[0], SUMMARY)}{more}</summary>'
        f"<ul>{items}</ul></details></div>"
    )


def _named(column: str) -> Callable[[dict[Any, Any]], str]:
    def cell(row: dict[Any, Any]) -> str:
        value = row[column]
        shown = isinstance(value, str) and value
        return f'<div class="p">{name(value)}</div>' if shown else "?"

    return cell


def _size(column: str) -> Callable[[dict[Any, Any]], str]:
    def cell(row: dict[Any, Any]) -> str:
        return "?" if pd.isna(row[column]) else human_bytes(row[column])

    return cell


def _count(column: str) -> Callable[[dict[Any, Any]], str]:
    def cell(row: dict[Any, Any]) -> str:
        return "?" if pd.isna(row[column]) else f"{int(row[column]):,}"

    return cell


@dataclass(frozen=True)
class _Column:
    """A column of a ranking as it is shown; a header with # is of numbers."""

    header: str
    of: tuple[str, ...]
    cell: Callable[[dict[Any, Any]], str]

    def needs(self, ranking: pd.DataFrame) -> bool:
        """Say whether a ranking has what the column is made of; netflow has no app."""
        there = all(c in ranking for c in self.of)
        return there and (self.of != ("app",) or bool(ranking["app"].notna().any()))


_COLUMNS: Final = (
    _Column("#rank", ("rank",), _count("rank")),
    _Column("suspicion (bits)", ("suspicion", "reasons"), _suspicion),
    _Column("first seen (UTC)", ("first_seen",), _time),
    _Column("start (UTC)", ("start",), _time),
    _Column("local host", ("local_ip",), _named("local_ip")),
    _Column("place", ("place",), _named("place")),
    _Column("service", ("protocol", "dst_port"), _service),
    _Column("app", ("app",), _named("app")),
    _Column("#flows", ("flows",), _count("flows")),
    _Column("#up", ("up_bytes",), _size("up_bytes")),
    _Column("#down", ("down_bytes",), _size("down_bytes")),
)
