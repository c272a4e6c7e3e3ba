"""Rankings, models and results as a notebook shows them.

`show` takes what the library returned and gives an object that a notebook displays;
a ranking stays the DataFrame it is. Nothing is loaded from anywhere, and there is no
script: it works in a notebook that is not trusted, and in a mail.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from exfilml.blindspots import Blindspots
from exfilml.detector import Detector
from exfilml.drift import Drift
from exfilml.evaluation import Evaluation
from exfilml.exceptions import OptionError
from exfilml.report._card import shown_card
from exfilml.report._case import shown_case, shown_triage
from exfilml.report._html import LONGEST_REASON, Shown, page, plain_table, told
from exfilml.report._ranking import shown_ranking
from exfilml.triage.case import Case, Triage

__all__ = ["Shown", "show"]

ROWS: Final = 20
# More rows make a page that browsers choke on.
MOST_ROWS: Final = 2000


def show(thing: Any, *, rows: int = ROWS) -> Shown:
    """Return something that a notebook displays: bars, reasons, nothing cut silently.

    Parameters
    ----------
    thing
        A ranking of `exfilml.rank_flows` or `exfilml.rank_cases`, whole or some of its
        rows; an `exfilml.Detector`; what `exfilml.triage_cases` returned, or one case
        of it; or what `exfilml.evaluate`, `exfilml.drift` or `exfilml.blindspots`
        returned.
    rows
        How many rows of a table are shown, 1 … 2000; the caption says how many there
        are.

    Raises
    ------
    OptionError
        If `thing` is nothing of the kind, or `rows` no such number.
    """
    whole = isinstance(rows, int | np.integer) and rows is not True
    if not (whole and 1 <= rows <= MOST_ROWS):
        raise OptionError(f"rows: got {rows!r}, expected a number, 1 to {MOST_ROWS:,}.")
    if isinstance(thing, pd.DataFrame):
        return shown_ranking(thing, int(rows))
    if isinstance(thing, Detector):
        return shown_card(thing)
    if isinstance(thing, Triage):
        return shown_triage(thing, int(rows))
    if isinstance(thing, Case):
        return shown_case(thing)
    if isinstance(thing, Evaluation | Drift | Blindspots):
        return _result(thing, int(rows))
    raise OptionError(
        f"show: got {type(thing).__name__}, expected a ranking (a DataFrame of "
        "rank_flows or rank_cases), a Detector, or what triage_cases, evaluate, drift "
        "or blindspots returned."
    )


def _result(found: Evaluation | Drift | Blindspots, rows: int) -> Shown:
    """Show the sentences of a result, and its table folded up."""
    lines = found.lines()
    items = "".join(f"<li>{told(line.strip(), LONGEST_REASON)}</li>" for line in lines)
    table = found.stability if isinstance(found, Drift) else found.table
    about = (
        "by scenario"
        if isinstance(found, Evaluation)
        else "evidence, column by column"
        if isinstance(found, Drift)
        else "all cells"
    )
    folded = f"<details><summary>{about}</summary>{plain_table(table, rows)}</details>"
    return Shown(page(f"<ul>{items}</ul>", folded), "\n".join(lines))
