"""The command `triage`."""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from exfilml.cli._hosts import HOST_EVENTS, event_logs, with_processes
from exfilml.cli._options import (
    FILE,
    OTHER_HOME,
    POLICY,
    QUIET,
    SOURCES,
    declared_policy,
    load,
    read,
)
from exfilml.cli._output import check_folder, check_writable, say, working
from exfilml.exceptions import OptionError

if TYPE_CHECKING:
    from exfilml.containment import Drafts
    from exfilml.triage.case import Triage

PAGE: Final = ".html"


@click.command()
@SOURCES
@click.option("--model", type=FILE, help="Model file.  [default: the shipped model]")
@click.option(
    "--top",
    type=int,
    default=20,
    show_default=True,
    metavar="N",
    help="Cases to answer for at least; all that alert or meet an indicator are.",
)
@click.option("--case", metavar="NAME", help="Show all answers about this case only.")
@click.option(
    "--intel",
    type=FILE,
    multiple=True,
    help="Threat intelligence: lists, CSV, STIX, MISP, or a folder of them.",
)
@click.option(
    "--assets", type=FILE, multiple=True, help="Whose hosts are whose: CSV or JSON."
)
@click.option(
    "--history",
    type=FILE,
    metavar="DIR",
    help="What was seen before, see `exfilml history add`.",
)
@click.option(
    "--alerts-per-day", type=float, metavar="N", help="Alert budget, in cases a day."
)
@click.option(
    "--fdr", type=float, metavar="Q", help="False discovery rate, instead of a budget."
)
@OTHER_HOME
@POLICY
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print the triage.",
)
@click.option("--out", type=FILE, help="Write to .json, or to .html, a page to read.")
@click.option(
    "--drafts",
    type=FILE,
    metavar="FOLDER",
    help="Write drafts for containment into a folder, for review: Suricata, nftables, "
    "Zeek, Sigma and a watch list. Nothing is applied.",
)
@HOST_EVENTS
@QUIET
def triage(
    source: tuple[str, ...],
    model: Path | None,
    top: int,
    case: str | None,
    intel: tuple[Path, ...],
    assets: tuple[Path, ...],
    history: Path | None,
    alerts_per_day: float | None,
    fdr: float | None,
    home: tuple[str, ...],
    policy: Path | None,
    form: str,
    out: Path | None,
    drafts: Path | None,
    *,
    quiet: bool,
) -> None:
    """Answer the playbook for the most suspicious cases.

    SOURCE is what exfilml rank takes. For each case: the key indicators, the three
    questions, whom it goes to and by which rule, what argues against, and what to do
    next.
    """
    from exfilml.ranking import check_options

    if out is not None:
        _check_suffix(out)
        check_writable(out, source, model, policy, *intel, *assets, *event_logs())
    if drafts is not None:
        check_folder(drafts)
    check_options(top=top, alerts_per_day=alerts_per_day, fdr=fdr)
    declared = declared_policy(policy, home)
    detector = load(model, home)
    from exfilml.export import complete_file
    from exfilml.terminal import triage_text
    from exfilml.triage.assets import read_assets
    from exfilml.triage.intel import read_intel
    from exfilml.triage.playbook import triage_cases

    past = None
    if history is not None:
        from exfilml.history import History

        past = History.open(history)
    known = read_intel(intel, home=detector.home_) if intel else None
    owners = read_assets(assets) if assets else None
    (table,) = with_processes([read(source, quiet=quiet)])
    with working(f"triage of {len(table):,} flows", quiet=quiet):
        found = triage_cases(
            detector,
            table,
            top=top,
            alerts_per_day=alerts_per_day,
            fdr=fdr,
            policy=declared,
            intel=known,
            assets=owners,
            history=past,
        )
    if case is not None:
        _check_case(case, [one.name for one in found])
    text = triage_text(found, case) if form == "table" else _json(found)
    if out is not None:
        if out.suffix.lower() == PAGE:
            from exfilml.report.page.report import RankingReport

            RankingReport(found, detector=detector, policy=declared).write(out)
        else:
            with complete_file(out) as part:
                part.write_text(_json(found), encoding="utf-8")
        say(f"{len(found):,} cases written to {out}")
    else:
        click.echo(text, nl=False)
    _say_counts(found)
    if drafts is not None:
        from exfilml.containment import draft_containment
        from exfilml.ranking import at_home

        own = at_home(detector, declared).home_
        drafted = draft_containment(
            found, flows=table, case=case, home=own, policy=declared
        )
        _write_drafts(drafted, drafts)


def _write_drafts(drafted: Drafts, folder: Path) -> None:
    """Write drafts for containment, and say where their reasons stand."""
    from exfilml.containment import REVIEW

    drafted.write(folder)
    say(
        f"{len(drafted.files):,} files for review in {folder}; nothing was applied. "
        f"{folder / REVIEW} says what is in them, and what is not and why "
        f"({len(drafted.left_out):,} entries)"
    )


def _check_suffix(out: Path) -> None:
    if out.suffix.lower() not in {".json", PAGE}:
        raise OptionError(
            f"--out {out}: expected .json for programs or .html, a page to read."
        )


def _check_case(case: str, names: list[str]) -> None:
    """Refuse a name that no case has, with those that are like it."""
    if case in names:
        return
    like = get_close_matches(case, names, n=3)
    near = f"; like it: {', '.join(like)}" if like else ""
    raise OptionError(
        f"--case {case}: none of the {len(names):,} cases has this name{near}. Names "
        "depend on the model and the home networks: give those of the ranking, or a "
        "larger --top."
    )


def _json(found: Triage) -> str:
    from exfilml.export import json_text

    return json_text(found.to_dict()) + "\n"


def _say_counts(found: Triage) -> None:
    from exfilml.triage.case import LEVELS

    counts = Counter(case.decision.level for case in found)
    parts = [
        f"{counts[level]:,} {level}" for level in reversed(LEVELS) if counts[level]
    ]
    about = found.about
    say(
        f"{about['flows']:,} flows read, {about['cases']:,} cases; "
        f"{about['alerted']:,} alerted; {len(found):,} answered: "
        f"{', '.join(parts) or 'none'}"
    )
