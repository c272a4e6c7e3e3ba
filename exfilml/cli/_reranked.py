"""The option `--feedback`: ranked cases in the order that judgements give them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from exfilml.cli._options import FILE
from exfilml.cli._output import say

if TYPE_CHECKING:
    import pandas as pd

FEEDBACK = click.option(
    "--feedback",
    type=FILE,
    metavar="FILE",
    help="Store of judgements: similar cases move up to 3 bits; no alert changes.",
)


def check_feedback(store: Path | None, by: str) -> None:
    """Refuse a store that cannot be read before the work, not after it."""
    from exfilml.exceptions import OptionError
    from exfilml.feedback import Feedback

    if store is None:
        return
    if by == "flow":
        raise OptionError("--feedback orders cases; leave it out, or take --by case.")
    Feedback(store).latest()


def with_feedback(ranking: pd.DataFrame, store: Path, top: int | None) -> pd.DataFrame:
    """Order ranked cases by what was judged of similar ones, and say so."""
    from exfilml.feedback import rerank

    found = rerank(ranking, store, top=top)
    moved = int((found["feedback_bits"] != 0.0).sum())
    say(
        f"feedback: {moved:,} of {len(found):,} cases shown moved by similar ones that "
        "were judged; # is the place without it, and no alert changes"
    )
    return found
