"""One page for the people who work on the cases, in one file.

Facts become dictionaries (`exfilml.report.page._header`, `exfilml.report.page._case`), and
templates draw these; nothing is computed there and nothing is drawn here. The file
needs no network: style and script are inside, allowed by their hashes in a
content-security policy that forbids all else. All that is shown is in the page's
elements, none of it in the script, so a name cannot become one; without scripts, as
in the preview of a mail, every case is simply open.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from markupsafe import Markup, escape

import exfilml
from exfilml.exceptions import ReportError
from exfilml.export import complete_file
from exfilml.policy import Policy
from exfilml.ranking import at_home
from exfilml.report.page import _case, _header
from exfilml.report.page._answers import incidents
from exfilml.report.page._drawing import asset, content_policy, environment
from exfilml.report.page._explained import Explained, explain_rows
from exfilml.report.page._pictures import FAMILY_TEXT
from exfilml.report.page._wording import (
    cell,
    cut,
    name,
    plural,
    real,
    time_text,
)
from exfilml.triage.case import LEVELS, Triage

if TYPE_CHECKING:
    from exfilml.detector import Detector
    from exfilml.triage.case import Case

# More rows than anybody reads; a table of them is for other tools.
MOST_ROWS: Final = 1000
# Many mail servers refuse more than a few MB. What opens under the rows beyond is
# shown in brief.
MOST_DETAIL_BYTES: Final = 2_200_000
# How many cases a print shows in full.
PRINTED: Final = 25
FRAME_HEIGHT: Final = 720
_COUNTED: Final = ("capability", "not_visible")
_NEEDED: Final = ("suspicion", "alert", "case", "local_ip", "place", "reasons")


class RankingReport:
    """A ranking or a triage as one HTML file that needs nothing else.

    Parameters
    ----------
    ranking
        What `exfilml.rank_cases`, `exfilml.rank_flows` or `exfilml.triage_cases` gave.
    detector
        The detector that ranked. With it the page says what is usual.
    flows
        The flows that were ranked. Of a plain ranking, the page then shows the flows
        behind each row and what each family of evidence contributes, for which the
        flows are scored again; a triage holds them already.
    policy
        The policy that was ranked with, as there.
    title
        Heading of the page.

    Raises
    ------
    ReportError
        If `ranking` is neither.

    Examples
    --------
    >>> cases = exfilml.rank_cases(detector, today)  # doctest: +SKIP
    >>> report = exfilml.RankingReport(cases, detector=detector, flows=today)
    ... # doctest: +SKIP
    >>> report.write("cases.html")  # doctest: +SKIP
    """

    def __init__(
        self,
        ranking: pd.DataFrame | Triage,
        *,
        detector: Detector | None = None,
        flows: pd.DataFrame | None = None,
        policy: Policy | str | os.PathLike[str] | None = None,
        title: str | None = None,
    ) -> None:
        _check(ranking)
        self.ranking = ranking
        self.detector = detector
        self.flows = flows
        self.policy = policy
        self.title = title

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page; the file appears under its name when it is complete.

        Raises
        ------
        OutputError
            If the place cannot be written.
        """
        page = self.html()
        with complete_file(os.fspath(path)) as part:
            part.write_text(page, encoding="utf-8", newline="")

    def _repr_html_(self) -> str:
        """Return the page in a frame, which keeps its style and script to itself."""
        return (
            '<iframe title="exfilml report" sandbox="allow-scripts allow-popups '
            f'allow-modals" width="100%" height="{FRAME_HEIGHT}" '
            f'frameborder="0" srcdoc="{escape(self.html())}"></iframe>'
        )

    def html(self) -> str:
        """Return the page."""
        subject = self._subject()
        style, script = asset("page.css"), asset("page.js")
        facts = self._facts(subject)
        return (
            environment()
            .get_template("page.html")
            .render(
                facts,
                cases=self._cases(subject),
                policy=content_policy(style, script),
                style=Markup(style),  # noqa: S704 (ours)
                script=Markup(script),  # noqa: S704 (ours)
            )
        )

    def _subject(self) -> _header.Subject:
        given = self.ranking
        if isinstance(given, Triage):
            every = [case.row for case in given.cases]
            counted = {c: Counter(cell(row.get(c)) for row in every) for c in _COUNTED}
            return _header.Subject(
                *("case", [*every[:MOST_ROWS]], len(every), counted),
                answered=True,
                about=given.about,
            )
        about: dict[str, Any] = {str(k): v for k, v in given.attrs.items()}
        if self.flows is not None:
            about["flows"] = len(self.flows)
            if len(self.flows):
                starts = self.flows["start"]
                about |= {"first": starts.min(), "last": starts.max()}
        about |= {"made": pd.Timestamp.now("UTC"), "version": exfilml.__version__}
        about.setdefault("alerted", int(given["alert"].fillna(False).sum()))
        kind = "case" if "first_seen" in given else "flow"
        rows: list[Mapping[Any, Any]] = [*given.head(MOST_ROWS).to_dict("records")]
        counted = {
            c: Counter(map(cell, given[c].tolist() if c in given else ()))
            for c in _COUNTED
        }
        return _header.Subject(kind, rows, len(given), counted, False, about)

    def _facts(self, subject: _header.Subject) -> dict[str, Any]:
        first, last = _header.period(subject)
        noun = subject.kind
        levels = Counter(c.decision.level for c in self._answered)
        alerts = sum(bool(row.get("alert")) for row in subject.rows)
        return {
            "title": name(self.title or f"Ranked {noun}s"),
            "noun": noun,
            "period": ""
            if first is None or last is None
            else f"{time_text(first)} to {time_text(last)} UTC",
            "tiles": _header.tiles(subject),
            "alerted": subject.alerted,
            "levels": [
                {"name": level, "count": levels[level]} for level in reversed(LEVELS)
            ],
            "notices": _header.notices(subject),
            "unseen": _header.unseen(subject),
            "seen": _header.seen(subject),
            "about": _header.about(subject, self.detector, self._home),
            "incidents": incidents(self.ranking, MOST_ROWS)
            if isinstance(self.ranking, Triage)
            else [],
            "answered": subject.answered,
            "heading": f"{noun.capitalize()}s, the most suspicious first",
            "seen_head": "Last seen" if noun == "case" else "Start",
            "shown": f"{len(subject.rows):,}",
            "shown_alerts": f"{alerts:,}",
            "empty": _empty(subject),
            "glossary": [{"name": k, "text": v} for k, v in FAMILY_TEXT.items()],
        }

    @property
    def _answered(self) -> tuple[Case, ...]:
        return self.ranking.cases if isinstance(self.ranking, Triage) else ()

    @property
    def _home(self) -> tuple[str, ...] | None:
        if self.detector is None:
            return None
        policy = None if self.policy is None else Policy.of(self.policy)
        return at_home(self.detector, policy).home_

    def _cases(self, subject: _header.Subject) -> list[dict[str, Any]]:
        """Return the rows, each with what opens under it, drawn."""
        shown = subject.rows
        template = environment().get_template("case.html")
        known = None if self.detector is None else self.detector.known_
        sources = self._answered[: len(shown)] or self._explained(len(shown))
        behind = _case.behind(shown, sources)
        most = max((real(row.get("suspicion")) or 0.0 for row in shown), default=1.0)
        left = MOST_DETAIL_BYTES
        found = []
        for at, row in enumerate(shown):
            case = self._answered[at] if subject.answered else None
            line = _case.line(row, at, case)
            detail = _case.detail(row, case, behind[at], known)
            facts = {"line": line, "d": detail, "noun": subject.kind}
            drawn = template.render(facts, brief=left <= 0)
            left -= len(drawn.encode())
            line["position"] = at
            share = line["suspicion"] / most if most > 0 else 0.0
            line["bar"] = f"{100 * min(max(share, 0.0), 1.0):.0f}"
            line["printed"] = at < PRINTED
            line["detail"] = Markup(drawn)  # noqa: S704 (drawn by a template of ours)
            found.append(line)
        return found

    def _explained(self, shown: int) -> list[Explained | None]:
        given = self.ranking
        if (
            isinstance(given, Triage)
            or self.detector is None
            or self.flows is None
            or shown == 0
        ):
            return [None] * shown
        rows = given.head(shown)
        return explain_rows(self.detector, self.flows, rows, self.policy)


def _check(ranking: object) -> None:
    if isinstance(ranking, Triage):
        return
    if not isinstance(ranking, pd.DataFrame):
        raise ReportError(
            "Expected a ranking (rank_cases, rank_flows) or a triage, got "
            f"{type(ranking).__name__}."
        )
    missing = [column for column in _NEEDED if column not in ranking.columns]
    if missing:
        given = cut(", ".join(map(str, ranking.columns[:12])) or "none", 200)
        raise ReportError(
            "Not a ranking of rank_cases or rank_flows: columns missing: "
            f"{', '.join(missing)} (given: {given})."
        )


def _empty(subject: _header.Subject) -> dict[str, Any]:
    """Say on a page without cases what was checked."""
    flows = subject.about.get("flows", 0) or 0
    if flows:
        return {
            "head": f"No {subject.kind} to show.",
            "text": f"{plural(int(flows), 'flow')} were read and none is ranked here.",
            "checks": [
                "Look at the filters or at --top of the command that ranked.",
                "Look at the home networks: with wrong ones nothing seems to leave.",
            ],
        }
    return {
        "head": "Nothing was ranked: no flows were read.",
        "text": "That is no all-clear. These are the usual reasons:",
        "checks": [
            "The capture or log is empty, or of another time than was meant.",
            "A filter on the sensor or in the query keeps out what was to be seen.",
            "The file is of another kind than it was read as: see exfilml doctor FILE.",
        ],
    }
