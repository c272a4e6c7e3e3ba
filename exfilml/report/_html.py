"""Pieces of HTML for notebooks: escaped text, bars, small tables.

A piece stands in whatever page the notebook is shown on: it has no script, loads
nothing, inherits the page's colours, light or dark, and reads as plain text where a
page takes its style away. Bars are `exfilml.drawing`'s colours, which stand out from
white and from black.

Names come from whoever sent the packets. All text goes through `told`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from exfilml.drawing import BLUE, RED
from exfilml.export import printable

LONGEST: Final = 60
# The longest bar is of at least so many bits: small ones shall look small.
LEAST_SCALE: Final = 16.0
LONGEST_REASON: Final = 1200
LONGEST_TIP: Final = 300
MOST_TIPS: Final = 12
STYLE: Final = f"""<style>
.exfilml{{font:13px/1.45 system-ui,sans-serif;color:inherit;overflow-x:auto}}
.exfilml table{{border-collapse:collapse;margin:.3em 0;color:inherit;font-size:inherit}}
.exfilml caption{{caption-side:top;text-align:left;color:inherit;padding:.2em 0}}
.exfilml th,.exfilml td{{border:0;border-bottom:1px solid rgba(127,127,127,.35);
padding:.25em .6em;text-align:left;vertical-align:top;color:inherit}}
.exfilml .h td{{border-bottom:0;padding-bottom:0}}
.exfilml .n{{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}}
.exfilml .w{{max-width:60em;overflow-wrap:break-word}}
.exfilml .p{{max-width:16em;overflow-wrap:break-word}}
.exfilml .o{{white-space:nowrap}}
.exfilml .t{{position:relative;display:inline-block;width:5em;height:.75em;
background:rgba(127,127,127,.2);vertical-align:middle}}
.exfilml .t i{{position:absolute;top:0;bottom:0;background:{BLUE}}}
.exfilml .t i.a{{background:{RED}}}
.exfilml .t b{{position:absolute;top:-.2em;bottom:-.2em;width:1px;
background:currentColor}}
.exfilml .x{{font-weight:600;border:1px solid {RED};border-radius:.3em;padding:0 .35em}}
.exfilml p,.exfilml ul{{margin:.3em 0}}
.exfilml summary{{cursor:pointer}}
</style>"""


@dataclass(frozen=True)
class Shown:
    """Something as a notebook shows it.

    Attributes
    ----------
    html
        A piece of HTML without scripts, which loads nothing.
    text
        What stands for it where there is no HTML.
    """

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def told(text: object, longest: int = LONGEST) -> str:
    """Return text that is shown as it stands, cut where it is too long."""
    return html.escape(cut(text, longest), quote=True)


def cut(text: object, longest: int = LONGEST) -> str:
    """Return text without characters that act, and no longer than asked."""
    # An escape is longer than its character: what is cut anyway is not escaped.
    raw = str(text)[: longest + 1]
    shown = printable(raw)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def name(text: object, longest: int = LONGEST) -> str:
    """Return a name from outside, whose direction of writing stays its own."""
    return f"<bdi>{told(text, longest)}</bdi>"


def tip(parts: Sequence[str]) -> str:
    """Return the attribute that shows lines when a pointer rests on an element."""
    lines = "&#10;".join(told(part, LONGEST_TIP) for part in parts[:MOST_TIPS])
    return f' title="{lines}"'


def bar(
    share: float, *, begin: float = 0.0, alert: bool = False, mark: float | None = None
) -> str:
    """Return a bar over a track: shares of its length, with a mark if there is one."""
    left, width = np.clip([begin, share], 0.0, 1.0) * 100.0
    width = min(width, 100.0 - left)
    tone = ' class="a"' if alert else ""
    tick = ""
    if mark is not None and np.isfinite(mark) and 0.0 <= mark <= 1.0:
        tick = f'<b style="left:{mark * 100.0:.1f}%"></b>'
    return (
        f'<span class="t" aria-hidden="true"><i{tone} '
        f'style="left:{left:.1f}%;width:{width:.1f}%"></i>{tick}</span>'
    )


def page(*parts: str) -> str:
    """Put pieces together under the style that they share."""
    return f'{STYLE}<div class="exfilml">{"".join(parts)}</div>'


def rows_of(
    cells: Iterable[Sequence[str]],
    header: Sequence[str],
    caption: str,
    under: Iterable[str] | None = None,
) -> str:
    """Return a table of ready cells; a header that begins with # is of numbers.

    What stands `under` a row has the whole width after the first column.
    """
    heads = "".join(
        f'<th scope="col"{_class(h)}>{told(h.removeprefix("#"))}</th>' for h in header
    )
    body = [
        "".join(
            f"<td{_class(h)}>{cell}</td>" for cell, h in zip(row, header, strict=True)
        )
        for row in cells
    ]
    if under is None:
        lines = "".join(f"<tr>{row}</tr>" for row in body)
    else:
        width = len(header) - 1
        lines = "".join(
            f'<tr class="h">{row}</tr><tr><td></td><td colspan="{width}">{text}</td></tr>'
            for row, text in zip(body, under, strict=True)
        )
    said = f"<caption>{caption}</caption>" if caption else ""
    return f"<table>{said}<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def _class(header: str) -> str:
    return ' class="n"' if header.startswith("#") else ""


def plain_table(table: pd.DataFrame, rows: int) -> str:
    """Return the first rows of any table, every value escaped."""
    header = [
        ("#" if table[c].dtype.kind in "iuf" else "") + str(c) for c in table.columns
    ]
    first = table.head(rows)
    cells = ([_value(v) for v in row] for row in first.itertuples(index=False))
    cut_off = ""
    if len(table) > rows:
        cut_off = f"the first {rows:,} of {len(table):,} rows"
    return rows_of(cells, header, cut_off)


def _value(value: Any) -> str:
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating) and np.isfinite(value):
        number = float(value)
        return f"{number:,.3g}" if abs(number) < 1000 else f"{number:,.0f}"
    missing = value is None or value is pd.NA or value is pd.NaT
    return "–" if missing or str(value) == "nan" else name(value)
