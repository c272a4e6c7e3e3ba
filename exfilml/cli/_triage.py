"""The command `triage`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exfilml.cli._commands import with_sources
from exfilml.cli._handover import FORMS, PAGE, TLP, chosen_form, hand_over, of_cases
from exfilml.cli._hosts import HOST_EVENTS, event_logs, with_processes
from exfilml.cli._options import (
    FILE,
    OTHER_HOME,
    POLICY,
    QUIET,
    SOURCES,
    declared_policy,
    known_of,
    load,
    read,
)
from exfilml.cli._output import check_folder, check_writable, say, working
from exfilml.exceptions import OptionError

if TYPE_CHECKING:
    from exfilml.containment import Drafts
    from exfilml.triage.case import Triage


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
    type=click.Choice(["table", *FORMS]),
    help="How to show or hand over the triage.  [default: what --out ends with, else "
    "table]",
)
@click.option(
    "--out",
    type=FILE,
    help="Write it to a file: .html, a page to read, .json, .csv, .md, .stix.json …",
)
@TLP
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
    form: str | None,
    out: Path | None,
    tlp: str | None,
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
        check_writable(out, source, model, policy, *intel, *assets, *event_logs())
    if form == "table" and out is not None:
        raise OptionError(f"--format table --out {out}: a table is for the terminal.")
    made = form if form == "table" else chosen_form(form, out, tlp) or "table"
    if drafts is not None:
        check_folder(drafts)
    check_options(top=top, alerts_per_day=alerts_per_day, fdr=fdr)
    declared = declared_policy(policy, home)
    detector = load(model, home)
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
            cases=() if case is None else (case,),
            alerts_per_day=alerts_per_day,
            fdr=fdr,
            policy=declared,
            intel=known,
            assets=owners,
            history=past,
        )
    shown = of_cases(found, () if case is None else (case,))
    if made in {"table", "markdown", PAGE}:
        # Who reads these sits at this machine; other formats travel without its paths.
        shown = with_sources(shown, source, model, home, policy)
    if made == "table":
        click.echo(triage_text(shown, case), nl=False)
    else:
        hand_over(
            shown, made, out, tlp, known={"detector": detector, "policy": declared}
        )
    _say_counts(found)
    say(known_of(found.about["fit"], model, detector))
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


def _say_counts(found: Triage) -> None:
    from exfilml.triage.case import LEVELS

    counts = Counter(case.decision.level for case in found)
    parts = [
        f"{counts[level]:,} {level}" for level in reversed(LEVELS) if counts[level]
    ]
    about = found.about
    say(
        f"{about['flows']:,} flow{'s' * (about['flows'] != 1)} read, "
        f"{about['cases']:,} case{'s' * (about['cases'] != 1)}; "
        f"{about['alerted']:,} alerted; {len(found):,} answered: "
        f"{', '.join(parts) or 'none'}"
    )
