"""A judgement: a verdict on a case, why, by whom, when, and what the case was."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from exfilml.declarations import meant, quoted
from exfilml.exceptions import FeedbackError
from exfilml.export import printable
from exfilml.feedback._facts import FIRST, LAST, unknown_case

TRUE: Final = "true"
FALSE: Final = "false"
WITHDRAWN: Final = "withdrawn"
VERDICTS: Final[Mapping[str, str]] = {
    "true": TRUE,
    "tp": TRUE,
    "true-positive": TRUE,
    "false": FALSE,
    "fp": FALSE,
    "false-positive": FALSE,
}
"""Words for a verdict, in either case; what they mean."""

LONGEST_REASON: Final = 2000
LONGEST_NAME: Final = 200
MOST_TOLD: Final = 3
# Clocks of two analysts may differ by so much without a word.
CLOCKS_US: Final = 5 * 60 * 1_000_000


def verdict_of(given: Any) -> str:
    """Return ``true`` or ``false`` for a word that means it.

    Raises
    ------
    FeedbackError
        If it is no word for a verdict.
    """
    if isinstance(given, bool | np.bool_):
        return TRUE if given else FALSE
    text = given.strip().lower().replace(" ", "-") if isinstance(given, str) else ""
    if text not in VERDICTS:
        near = meant(text, VERDICTS) if text else ""
        raise FeedbackError(
            f"verdict {quoted(given)}: unknown{near}; expected true (theft; also tp, "
            "true-positive) or false (no theft; also fp, false-positive)."
        )
    return VERDICTS[text]


def line_of(what: str, given: Any, longest: int) -> str:
    """Return a text as one line that no terminal acts upon.

    Raises
    ------
    FeedbackError
        If it says nothing, or is too long to be kept: it is not cut in silence.
    """
    if not isinstance(given, str) or not given.strip():
        raise FeedbackError(f"{what}: got {quoted(given)}, expected a text.")
    # A first cut, so that a megabyte is not gone through in vain.
    text = printable(" ".join(given[: 20 * longest].split()))
    if len(text) > longest or len(given) > 20 * longest:
        raise FeedbackError(
            f"{what}: {len(given):,} characters, expected at most {longest:,}; keep the "
            "rest where it belongs, such as a ticket, and name that here."
        )
    return text


def moment_of(at: Any) -> pd.Timestamp:
    """Return a time in UTC; `None` for now, and UTC where no zone is given.

    Raises
    ------
    FeedbackError
        If it is no time.
    """
    if at is None:
        return pd.Timestamp(dt.datetime.now(dt.UTC))
    try:
        moment = pd.Timestamp(at)
        moment = (
            moment.tz_localize("UTC") if moment.tz is None else moment.tz_convert("UTC")
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise FeedbackError(
            f"at: got {quoted(at)}, expected a time such as 2026-03-09T10:00Z."
        ) from error
    if pd.isna(moment):
        raise FeedbackError("at: got no time, expected one such as 2026-03-09T10:00Z.")
    if not FIRST <= moment < LAST:
        raise FeedbackError(
            f"at: got {quoted(at)}, expected a time between {FIRST.year} and {LAST.year}."
        )
    return moment


def microseconds(moment: pd.Timestamp) -> int:
    """Return a time in microseconds since 1970."""
    return int(moment.as_unit("us").to_datetime64().astype(np.int64))


def check_judgements(judgements: Any) -> None:
    """Refuse what is no list of judgements."""
    wanted = ("case", "verdict", "reason")
    if not isinstance(judgements, pd.DataFrame) or not set(wanted) <= set(
        judgements.columns
    ):
        raise FeedbackError(
            "judgements: expected a table with the columns " + ", ".join(wanted) + "."
        )


def said_of(
    judgements: pd.DataFrame, analyst: str | None, cases: pd.DataFrame
) -> tuple[list[dict[str, str]], list[str]]:
    """Return the judgements of a list that can be read, and what the others lack.

    Only the first few of the others are told in full.
    """
    check_judgements(judgements)
    known = set(cases["case"].astype("str"))
    said: list[dict[str, str]] = []
    bad: list[str] = []
    for row, given in zip(judgements.index, judgements.to_dict("records"), strict=True):
        case, who = printable(str(given["case"]).strip()), given.get("analyst")
        if not (isinstance(who, str) and who.strip()):
            who = analyst
        try:
            if case not in known:
                # To look for what was meant takes a while.
                hinted = len(bad) < MOST_TOLD
                text = unknown_case(case, cases) if hinted else "unknown case"
                raise FeedbackError(text)
            said.append(
                {
                    "case": case,
                    "verdict": verdict_of(given["verdict"]),
                    "reason": line_of("reason", given["reason"], LONGEST_REASON),
                    "analyst": line_of("analyst", who, LONGEST_NAME),
                }
            )
        except FeedbackError as error:
            bad.append(f"row {row}: {error}")
    return said, bad


def past(at: Any) -> pd.Timestamp:
    """Return when a judgement is made; not ahead of now."""
    moment = moment_of(at)
    if at is not None and microseconds(moment) > microseconds(moment_of(None)) + (
        CLOCKS_US
    ):
        raise FeedbackError(
            f"at: {moment:%Y-%m-%d %H:%M} UTC lies ahead; expected when the case was "
            "judged."
        )
    return moment
