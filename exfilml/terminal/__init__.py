"""Rankings and model cards as text for a terminal.

Each row of a ranking is a line of facts and, under it, the reasons in full: an
analyst reads the reasons, so they get the width. Nothing that came from a packet
reaches the terminal unescaped.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import pandas as pd

from exfilml.export import printable
from exfilml.features import human_bytes
from exfilml.terminal._feedback import judgements_text, precision_text
from exfilml.terminal._history import history_text
from exfilml.terminal._layout import WIDTH, laid_out, line_of, width_of_terminal
from exfilml.terminal._triage import triage_text

if TYPE_CHECKING:
    from exfilml.blindspots import Blindspots
    from exfilml.drift import Drift
    from exfilml.evaluation import Evaluation

__all__ = [
    "blindspots_text",
    "card_text",
    "drift_text",
    "evaluation_text",
    "history_text",
    "judgements_text",
    "precision_text",
    "ranking_text",
    "survey_text",
    "triage_text",
    "width_of_terminal",
]

LONGEST_PLACE: Final = 40
HEADER: Final = (
    *("#", "bits", "", "first seen (UTC)", "local", "place", "port", "app"),
    *("up", "down"),
)
RIGHT: Final = frozenset(
    {"#", "bits", "port", "up", "down", "flows", "rows", "seconds"}
)
INDENT: Final = "       "


def ranking_text(ranking: pd.DataFrame) -> str:
    """Lay out a ranking of flows or cases, a line of facts and the reasons under it."""
    if len(ranking) == 0:
        return "no flows\n"
    rows = [_facts(row) for row in ranking.to_dict("records")]
    # A row is a case or a flow; a flow shows which case it belongs to.
    header = (*HEADER, "flows" if "flows" in ranking else "case")
    head, *told = laid_out(header, rows, right=RIGHT)
    width = width_of_terminal()
    lines = [head]
    contexts = ranking["context"] if "context" in ranking else [None] * len(rows)
    for row, reasons, context, judged, alert in zip(
        told,
        ranking["reasons"],
        contexts,
        _judged(ranking),
        ranking["alert"],
        strict=True,
    ):
        lines.append(click.style(row, bold=bool(alert)))
        below = [reasons]
        if isinstance(context, str):
            below.append(f"on the host: {context}")
        if judged:
            below.append(judged)
        for text in below:
            lines += textwrap.wrap(
                printable(text),
                width,
                initial_indent=INDENT,
                subsequent_indent=INDENT,
            )
    return "\n".join(lines) + "\n"


def _judged(ranking: pd.DataFrame) -> list[str]:
    """Say how `exfilml.rerank` moved each row, and why; "" where it did not."""
    if "feedback_bits" not in ranking:
        return [""] * len(ranking)
    moved = zip(ranking["feedback_bits"], ranking["feedback_reason"], strict=True)
    return [f"feedback {bits:+.1f} bits: {why}" if why else "" for bits, why in moved]


def _facts(row: dict[Any, Any]) -> tuple[str, ...]:
    seen = row["first_seen"] if "first_seen" in row else row["start"]
    place = printable(str(row["place"]))
    if len(place) > LONGEST_PLACE:
        place = place[: LONGEST_PLACE - 1] + "…"
    return (
        str(row["rank"]),
        f"{row['suspicion']:.1f}",
        "ALERT" if row["alert"] else "",
        f"{seen:%Y-%m-%d %H:%M}",
        printable(str(row["local_ip"])),
        place,
        "many" if pd.isna(row["dst_port"]) else str(row["dst_port"]),
        printable(row["app"]) if isinstance(row["app"], str) else "?",
        human_bytes(row["up_bytes"]),
        human_bytes(row["down_bytes"]),
        str(row["flows"] if "flows" in row else row["case"]),
    )


def evaluation_text(found: Evaluation) -> str:
    """Lay out an evaluation: its figures, then a line for each scenario."""
    header = ("label", "scenario", "rank", "bits", "", "up", "gone before", "cases")
    rows = [
        (
            printable(row["label"]),
            printable(row["scenario"]),
            str(row["rank"]),
            f"{row['suspicion']:.1f}",
            _outcome(row),
            human_bytes(row["up_bytes"]),
            "" if pd.isna(row["bytes_before"]) else human_bytes(row["bytes_before"]),
            str(row["cases"]),
        )
        for row in found.table.to_dict("records")
    ]
    right = {"rank", "bits", "up", "gone before", "cases"}
    lines = laid_out(header, rows, right=right)
    text = [printable(line) for line in found.lines()]
    return "\n".join([*text, "", *lines]) + "\n"


def _outcome(row: dict[Any, Any]) -> str:
    if row["alert"]:
        return "ALERT"
    if row["approved"]:
        return "APPROVED"
    return "missed" if row["label"] == "exfil" else ""


def blindspots_text(found: Blindspots) -> str:
    """Lay out the smallest uploads that are seen, and what to know about them."""
    by = ["payload", "volume"]
    columns = [
        (name, n)
        for name in by
        for n in sorted(found.smallest["flows"].unique())
        if (found.smallest["capability"] == name).any()
    ]
    cells: dict[tuple[str, str], dict[tuple[str, int], str]] = {}
    for row in found.smallest.to_dict("records"):
        key = (row["carrier"], row["place"])
        cells.setdefault(key, {})[row["capability"], row["flows"]] = _smallest(row)
    header = ("carrier", "place", *(f"{name} in {n}" for name, n in columns))
    rows = [
        (*key, *(of.get(column, "") for column in columns)) for key, of in cells.items()
    ]
    lines = laid_out(header, rows, right=set(header[2:]))
    title = (
        "Smallest upload in a day that alerts 9 times of 10, cut into so many flows "
        f"({found.budget:g} alerts a day, {found.trials} trials of each)"
    )
    shown = "".join(cell for row in rows for cell in row[2:])
    marks = {
        "≤": "the smallest size tried alerts already",
        ">": "the largest size tried alerts too seldom",
        "*": "an approval keeps uploads quiet that would alert",
    }
    legend = "   ".join(f"{m} {what}" for m, what in marks.items() if m in shown)
    about = [*([legend] if legend else []), *_wrapped(found.lines())]
    return "\n".join([title, "", *lines, "", *about]) + "\n"


def _smallest(row: dict[Any, Any]) -> str:
    bound = {"none": "> ", "at most": "≤ "}.get(row["bound"], "")
    size = row["largest"] if row["bound"] == "none" else row["up_bytes"]
    return bound + human_bytes(size) + ("*" if row["suppressed"] else "")


def drift_text(found: Drift) -> str:
    """Lay out a comparison: the verdict in bold, then what it rests on."""
    verdict, *lines = _wrapped(found.lines())
    return "\n".join([click.style(verdict, bold=True), *lines]) + "\n"


def _wrapped(lines: list[str]) -> list[str]:
    return [
        wrapped
        for line in lines
        for wrapped in textwrap.wrap(printable(line), WIDTH, subsequent_indent="  ")
    ]


SURVEY: Final = ("file", "format", "rows", "seconds", "capability")


def survey_text(survey: pd.DataFrame) -> str:
    """Lay out what `exfilml.sources.survey` gave, each file's warnings under it."""
    # What all names begin with is said once; those from here and from the root share
    # nothing.
    parents = [Path(f).parent for f in survey["file"]]
    mixed = len({p.is_absolute() for p in parents}) > 1
    folder = "" if mixed else os.path.commonpath(parents)
    rows = [
        (
            printable(os.path.relpath(row["file"], folder) if folder else row["file"]),
            row["format"] or "-",
            f"{row['rows']:,}",
            f"{row['seconds']:.2f}",
            row["capability"] or "-",
        )
        for row in survey.to_dict("records")
    ]
    widths = [max(len(r[i]) for r in (SURVEY, *rows)) for i in range(len(SURVEY))]
    width = width_of_terminal()
    # A longer name has a line of its own, so that the others need not be as long.
    widths[0] = min(widths[0], max(width - sum(widths[1:]) - 2 * len(widths), 20))
    lines = [f"in {printable(folder)}"] if folder else []
    lines.append(click.style(line_of(SURVEY, widths, SURVEY, RIGHT), underline=True))
    for row, said in zip(rows, survey["warnings"], strict=True):
        if len(row[0]) > widths[0]:
            lines += [row[0], line_of(("", *row[1:]), widths, SURVEY, RIGHT)]
        else:
            lines.append(line_of(row, widths, SURVEY, RIGHT))
        lines += textwrap.wrap(
            printable(said), width, initial_indent=INDENT, subsequent_indent=INDENT
        )
    return "\n".join(lines) + "\n"


def _shown_lines(card: dict[str, Any]) -> list[str]:
    """Say what the flows of a baseline showed, and what the model cannot judge."""
    shown = card["shown"]
    lines = []
    if shown:
        counts = ", ".join(f"{name} {n:,}" for name, n in reversed(shown.items()))
        lines.append(f"which showed   {counts}")
    if "payload" not in card["capabilities"]:
        lines.append("not judged     payload: too few flows showed any")
    if shown and not {"payload", "application"} & set(shown):
        lines.append("               applications: no flow named one")
    return lines


def card_text(card: dict[str, Any]) -> str:
    """Lay out what `exfilml.persistence.model_card` gave."""
    first, last = (str(t)[:16].replace("T", " ") for t in card["window"])
    libraries = ", ".join(f"{k} {v}" for k, v in card["libraries"].items())
    lines = [
        f"exfilml model, protocol {card['protocol']}",
        f"made by        exfilml {card['exfilml']} with {libraries}",
        f"trained on     {card['flows']:,} flows of {card['hosts']:,} local hosts",
        *_shown_lines(card),
        f"window         {first} to {last} UTC",
        f"home networks  {', '.join(card['home'])}",
        f"alert budget   {card['parameters']['alerts_per_day']:g} cases a day",
        *(
            f"forgotten      {lost['keys']:,.0f} of the rarest keys of {name}, "
            f"{lost['rows']:,.0f} flows"
            for name, lost in card["forgotten"].items()
        ),
    ]
    for name, about in card["capabilities"].items():
        cal = about["calibration"]
        lines += [
            "",
            f"seeing {name}",
            f"  {about['trees']} trees of {about['max_samples']} flows each",
            f"  calibrated on {cal['flows']:,} flows in {cal['cases']:,} cases",
            f"  of {cal['days']:g} days ({cal['cases_per_day']:,} cases a day)",
            *(f"  {f:20} {what}" for f, what in about["features"].items()),
        ]
    return "\n".join(lines) + "\n"
