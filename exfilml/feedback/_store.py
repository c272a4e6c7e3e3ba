"""`Feedback`: the judgements of a site, in a file that several analysts share.

**What counts.** Judging a case again adds a judgement: the latest one in the file
counts, whatever the clocks of the analysts said. Withdrawing takes a case out, as if it
had never been judged, until it is judged again. All of it stays in the history.

One file because what adds to the file and what reads it agree on what counts.
"""

from __future__ import annotations

import difflib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from exfilml.declarations import quoted
from exfilml.exceptions import FeedbackError, FeedbackWarning
from exfilml.export import printable
from exfilml.feedback import _database
from exfilml.feedback._facts import FACTS, check_cases, facts_of, positions
from exfilml.feedback._judgement import (
    CLOCKS_US,
    LONGEST_NAME,
    LONGEST_REASON,
    MOST_TOLD,
    WITHDRAWN,
    line_of,
    microseconds,
    past,
    said_of,
    verdict_of,
)
from exfilml.feedback._kept import latest, rows_of, standing, table_of, until
from exfilml.feedback._precision import Precision
from exfilml.feedback._suppress import DAYS, Suppressions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exfilml.detector import Detector


class Feedback:
    """Judgements of cases in a small SQLite file.

    The file is opened for each call only, so that several analysts can share it. It is
    made with the first judgement.

    Parameters
    ----------
    path
        The file.

    Examples
    --------
    >>> import tempfile, pandas as pd
    >>> store = Feedback(tempfile.mkdtemp() + "/office.feedback")
    >>> cases = pd.DataFrame({"case": ["0a1b2c3d4e"], "place": ["vault.example"]})
    >>> store.judge(cases, "0a1b2c3d4e", "false", reason="nightly backup", analyst="kim")
    1
    >>> store.latest()[["case", "verdict", "place"]].to_dict("records")
    [{'case': '0a1b2c3d4e', 'verdict': 'false', 'place': 'vault.example'}]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # SQLite would take what stands before a NUL for the name.
        if not isinstance(path, str | os.PathLike) or "\0" in str(path):
            raise FeedbackError(
                f"feedback: got {quoted(path)}, expected the path of a feedback store."
            )
        self.path: Final = Path(path)

    @classmethod
    def of(cls, feedback: Feedback | str | os.PathLike[str]) -> Feedback:
        """Return a store as it is, and open one that is given as a path."""
        return feedback if isinstance(feedback, Feedback) else cls(feedback)

    def __repr__(self) -> str:
        return f"<Feedback: {self.path}>"

    def judge(
        self,
        cases: pd.DataFrame,
        case: str | Iterable[str],
        verdict: str | bool,
        *,
        reason: str,
        analyst: str,
        at: Any = None,
        model: str | None = None,
    ) -> int:
        """Judge one or several cases of a table alike.

        Parameters
        ----------
        cases
            As `exfilml.rank_cases` gives it, or a file of it (`read_cases`): what the
            case was is kept with the verdict. Of rows with the same id, the one that
            was seen last.
        case
            An id of the column ``case``, or several.
        verdict
            ``true`` (theft) or ``false`` (no theft); also ``tp``, ``fp``,
            ``true-positive``, ``false-positive``, `True` and `False`.
        reason
            Why; it is kept as one line of at most 2,000 characters.
        analyst
            Who judges.
        at
            When, in UTC; `None` for now.
        model
            What the cases were ranked with, such as the hash of a model file.

        Returns
        -------
        int
            Judgements added: all, or after an error none.

        Raises
        ------
        FeedbackError
            If a case is not in the table, a word is no verdict, a text is missing or
            too long, the time lies ahead, or the file cannot be written.
        """
        check_cases(cases, ("case",))
        names = [case] if isinstance(case, str) else list(case)
        if not names:
            return 0
        if not all(isinstance(name, str) for name in names):
            raise FeedbackError(f"case: got {quoted(case)}, expected ids of cases.")
        # A terminal can give what is no text, and no table holds.
        names = list(dict.fromkeys(printable(name.strip()) for name in names))
        said = pd.DataFrame({"case": names})
        said["verdict"] = verdict_of(verdict)
        said["reason"] = line_of("reason", reason, LONGEST_REASON)
        said["analyst"] = line_of("analyst", analyst, LONGEST_NAME)
        return self._add(cases.iloc[positions(cases, names)], said, at, model)

    def judge_each(
        self,
        cases: pd.DataFrame,
        judgements: pd.DataFrame,
        *,
        analyst: str | None = None,
        at: Any = None,
        model: str | None = None,
    ) -> int:
        """Judge cases as a list of judgements says; what cannot be read is counted.

        Parameters
        ----------
        cases, at, model
            As in `judge`.
        judgements
            ``case``, ``verdict``, ``reason``, and ``analyst`` if it is not the same for
            all; `read_judgements` reads it.
        analyst
            Who judges, where the list does not say.

        Returns
        -------
        int
            Judgements added, all of those that can be read at once.

        Raises
        ------
        FeedbackError
            If none can be read, or the file cannot be written.
        """
        check_cases(cases, ("case",))
        said, bad = said_of(judgements, analyst, cases)
        if bad and not said:
            raise FeedbackError(
                f"None of {len(bad):,} judgements can be read; first: {bad[0]}"
            )
        if bad:
            warnings.warn(
                f"{len(bad):,} of {len(judgements):,} judgements could not be read and "
                f"are left out; first: {'; '.join(bad[:MOST_TOLD])}",
                FeedbackWarning,
                stacklevel=2,
            )
        if not said:
            return 0
        table = pd.DataFrame(said)
        names = list(dict.fromkeys(table["case"]))
        where = dict(zip(names, positions(cases, names), strict=True))
        chosen = cases.iloc[[where[name] for name in table["case"]]]
        return self._add(chosen, table, at, model)

    def withdraw(self, case: str, *, reason: str, analyst: str, at: Any = None) -> None:
        """Take a case out: from now on it counts as never judged.

        Parameters
        ----------
        case
            Its id.
        reason, analyst, at
            As in `judge`.

        Raises
        ------
        FeedbackError
            If no judgement of it counts, or the file cannot be written.
        """
        line = line_of("reason", reason, LONGEST_REASON)
        who = line_of("analyst", analyst, LONGEST_NAME)
        moment, case = past(at), printable(str(case).strip())
        _database.read(self.path)
        with _database.writing(self.path) as base:
            table = table_of(self.path, _database.rows_of(base))
            counting = latest(table)
            mine = counting[counting["case"] == case]
            if len(mine) == 0:
                known = _unjudged(case, table, counting)
                raise FeedbackError(f"{self.path}: {known}")
            said = pd.DataFrame(
                [{"case": case, "verdict": WITHDRAWN, "reason": line, "analyst": who}]
            )
            facts = mine[list(FACTS)].reset_index(drop=True)
            (model,) = mine["model"].tolist()
            model = model if isinstance(model, str) else None
            _database.add(base, rows_of(said, facts, moment, model))

    def history(self) -> pd.DataFrame:
        """Return all judgements and withdrawals, in the order in which they came.

        Returns
        -------
        pandas.DataFrame
            ``case``, ``verdict`` (true, false or withdrawn), ``reason``, ``analyst``,
            ``judged_at`` (datetime64[us, UTC]), ``model``, and what the case was:
            ``local_ip``, ``place``, ``direction``, ``protocol``, ``dst_port``, ``app``,
            ``server_name``, ``fingerprint``, ``suspicion`` (bits), ``p_value``,
            ``alert``, ``rank``, ``flows``, ``addresses``, ``first_seen``,
            ``last_seen``, ``up_bytes``, ``capability``, ``payload``; index ``id``.

        Raises
        ------
        FeedbackError
            If there is no file, or it is none of this kind.
        """
        return table_of(self.path, _database.read(self.path))

    def latest(self, *, at: Any = None) -> pd.DataFrame:
        """Return the judgements that count: the latest one of each case.

        Parameters
        ----------
        at
            As it was at some time; `None` for all that the file holds.

        Returns
        -------
        pandas.DataFrame
            As `history`, without cases that were withdrawn.
        """
        return latest(until(self.history(), at))

    def precision(self, cases: pd.DataFrame | None = None) -> Precision:
        """Say how many judged alerts were true, week by week.

        Parameters
        ----------
        cases
            All cases of the time, to say what share of their alerts was judged at all.

        Returns
        -------
        Precision
            Read its text before a figure is passed on: it is of judged alerts only.
        """
        return Precision.of(standing(self.history()), cases)

    def suppressions(
        self,
        *,
        flows: pd.DataFrame | None = None,
        detector: Detector | None = None,
        days: int = DAYS,
        at: Any = None,
    ) -> Suppressions:
        """Draft approvals for a policy from the false positives, see `Suppressions`.

        Parameters
        ----------
        flows, detector
            The flows that were ranked, and with what: they tell the payload class and
            what was sent in a day. Without them, only cases of sources that show no
            payload can be approved.
        days
            How long an approval lasts from the judgement on, 1 to 90.
        at
            Today, in UTC; `None` for now.
        """
        return Suppressions.of(
            self.latest(), flows=flows, detector=detector, days=days, at=at
        )

    def _add(
        self, cases: pd.DataFrame, said: pd.DataFrame, at: Any, model: str | None
    ) -> int:
        moment = past(at)
        name = None if model is None else line_of("model", model, LONGEST_NAME)
        rows = rows_of(said, facts_of(cases), moment, name)
        with _database.writing(self.path) as base:
            (newest,) = base.execute("SELECT max(judged_at) FROM judgement").fetchone()
            _database.add(base, rows)
        ahead = (newest if isinstance(newest, int) else 0) - microseconds(moment)
        if at is None and ahead > CLOCKS_US:
            span = pd.Timedelta(ahead, unit="us").round("s")
            warnings.warn(
                f"{self.path}: an earlier judgement is {span} ahead of this clock: one "
                "of the two clocks is wrong. The order of the file decides which "
                "judgement of a case counts, not the clocks.",
                FeedbackWarning,
                stacklevel=3,
            )
        return len(rows)


def _unjudged(case: str, history: pd.DataFrame, counting: pd.DataFrame) -> str:
    if (history["case"] == case).any():
        return f"case {quoted(case)}: withdrawn already; nothing was changed."
    near = difflib.get_close_matches(str(case)[:60], counting["case"], n=MOST_TOLD)
    hint = f" (did you mean {', '.join(near)}?)" if near else ""
    return f"case {quoted(case)}: no judgement of it{hint}; nothing was changed."
