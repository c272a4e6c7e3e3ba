"""The command `rank`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from exfilml.cli._hosts import HOST_EVENTS, event_logs, with_context, with_processes
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
from exfilml.cli._output import check_writable, drop_stdout, say, working
from exfilml.cli._reranked import FEEDBACK, check_feedback, with_feedback

if TYPE_CHECKING:
    import pandas as pd

    from exfilml.detector import Detector
    from exfilml.state import State

TABLE_ROWS: Final = 20
PAGE: Final = "html"


@click.command()
@SOURCES
@click.option("--model", type=FILE, help="Model file.  [default: the shipped model]")
@click.option(
    "--by",
    type=click.Choice(["case", "flow"]),
    default="case",
    show_default=True,
    help="What a row of the ranking is.",
)
@click.option(
    "--top",
    type=int,
    metavar="N",
    help=f"Rows to show.  [default: {TABLE_ROWS} in a table, else all]",
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
    type=click.Choice(["table", "csv", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="How to print the ranking.",
)
@click.option(
    "--out",
    type=FILE,
    help="Write to .csv, .json, .jsonl, .parquet or .html, a page to read.",
)
@click.option(
    "--state",
    type=FILE,
    help="Memory of earlier runs with this model, for sums over days: read if there, "
    "then written.",
)
@click.option(
    "--adopt-state",
    is_flag=True,
    help="Take over a --state of an earlier model of this site.",
)
@HOST_EVENTS
@FEEDBACK
@QUIET
def rank(
    source: tuple[str, ...],
    model: Path | None,
    by: str,
    top: int | None,
    alerts_per_day: float | None,
    fdr: float | None,
    home: tuple[str, ...],
    policy: Path | None,
    form: str,
    out: Path | None,
    state: Path | None,
    feedback: Path | None,
    *,
    adopt_state: bool,
    quiet: bool,
) -> None:
    """Rank flows or cases by suspicion, with reasons.

    SOURCE is a capture, a log (docs/logs.md lists them), a flows file, a
    folder of them, a pattern, or - for standard input.
    """
    from exfilml.export import output_format, to_text, write_table
    from exfilml.terminal import ranking_text

    if out is not None:
        output_format(out, PAGE)
        check_writable(out, source, model, policy, state, feedback, *event_logs())
    from exfilml.exceptions import OptionError
    from exfilml.ranking import check_options, rank_cases, rank_flows

    check_options(top=top, alerts_per_day=alerts_per_day, fdr=fdr)
    if adopt_state and state is None:
        raise OptionError("--adopt-state needs --state FILE, the state to take over.")
    check_feedback(feedback, by)
    declared = declared_policy(policy, home)
    detector = load(model, home)
    memory = stamp = None
    if state is not None:
        check_writable(state, source, model, policy, feedback, *event_logs())
        stamp = _stamp(state)
        memory = _remembered(state, detector, adopt=adopt_state)
    (table,) = with_processes([read(source, quiet=quiet)])
    if top is None and form == "table" and out is None:
        top = TABLE_ROWS
    ranker = rank_flows if by == "flow" else rank_cases
    with working(f"ranking {len(table):,} flows", quiet=quiet):
        ranking = ranker(
            detector,
            table,
            top=top if feedback is None else None,
            state=memory,
            alerts_per_day=alerts_per_day,
            fdr=fdr,
            policy=declared,
        )
    if feedback is not None:
        ranking = with_feedback(ranking, feedback, top)
    ranking = with_context(ranking)
    try:
        if out is not None:
            if output_format(out, PAGE) == PAGE:
                from exfilml.report.page.report import RankingReport

                RankingReport(
                    ranking, detector=detector, flows=table, policy=declared
                ).write(out)
            else:
                write_table(ranking, out)
            say(f"{len(ranking):,} rows written to {out}")
        else:
            as_table = form == "table"
            text = ranking_text(ranking) if as_table else to_text(ranking, form)
            click.echo(text, nl=False)
        _say_counts(ranking, len(table), by, memory)
        say(known_of(ranking.attrs["fit"], model, detector))
    except BrokenPipeError:
        # Who reads only the first rows has seen the flows all the same.
        drop_stdout()
    _remember(memory, state, stamp, ranking)


def _say_counts(
    ranking: pd.DataFrame, n_read: int, by: str, memory: State | None
) -> None:
    """Say what the rows of a ranking do not."""
    from exfilml.export import printable
    from exfilml.ruling import sentence_of

    total, alerted = ranking.attrs["total"], ranking.attrs["alerted"]
    counted = f"{n_read:,} flows read" + (f", {total:,} cases" * (by == "case"))
    say(f"{counted}; {alerted:,} alerted; {len(ranking):,} shown")
    if "policy" in ranking.attrs:
        counts, suppressed = ranking.attrs["policy"], ranking.attrs["suppressed"]
        say(printable(sentence_of(counts, suppressed)))
    for seeing, about in ranking.attrs["thresholds"].items():
        bits, (low, high) = about["suspicion"], about["normal_alerts_per_day"]
        say(
            f"cases judged by {seeing}: "
            + (
                "none reaches this false discovery rate"
                if bits is None
                else f"alert from {bits:.1f} bits on, which normal operation reaches "
                f"{low:.1f} to {high:.1f} times a day (90 % interval)"
            )
        )
    if ranking.attrs["inside"]:
        say(
            f"{ranking.attrs['inside']:,} {by}s stay inside the site: they come last and "
            "raise no alert"
        )
    if ranking.attrs["windows_not_covered"]:
        windows = ", ".join(ranking.attrs["windows_not_covered"])
        far = "no further than these flows (--state)"
        if memory is not None and memory.earliest is not None:
            since = datetime.fromtimestamp(memory.earliest, UTC)
            far = f"to {since:%Y-%m-%d %H:%M} UTC only"
        say(f"sums over {windows} reach back {far}")


def _remembered(path: Path, detector: Detector, *, adopt: bool) -> State:
    """Read the state of earlier runs, or begin one."""
    from exfilml.exceptions import StateError
    from exfilml.persistence import load_state

    if not path.exists():
        if adopt:
            raise StateError(
                f"{path}: does not exist, expected the state to take over; look at the "
                "name, or leave --adopt-state out to begin a new one."
            )
        say(f"{path}: a new state, no earlier run is known")
        return detector.new_state()
    memory = load_state(path)
    if adopt:
        return detector.new_state(after=memory)
    if not detector.has_begun(memory):
        raise StateError(
            f"{path}: this state ({memory.span}) was begun with another model, expected "
            "one of the model given; it is left as it was. If that model was of this "
            "site too, as before training anew, add --adopt-state; else give --state a "
            "new file."
        )
    return memory


def _remember(
    memory: State | None,
    path: Path | None,
    stamp: tuple[int, ...] | None,
    ranking: pd.DataFrame,
) -> None:
    """Store a state, unless that would lose what the file knows."""
    from exfilml.exceptions import OutputError
    from exfilml.persistence import save_state

    if memory is None or path is None:
        return
    if not ranking.attrs["follows"]:
        say(f"{path}: left as it was; give --state another file for these flows")
        return
    if _stamp(path) != stamp:
        raise OutputError(
            f"{path}: another run has written it meanwhile, and does not know these "
            "flows; it is left as it is. Let runs that share a state wait for each "
            "other, and rank these flows again."
        )
    save_state(memory, path)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is written, `None` if there is none."""
    try:
        known = path.stat()
    except OSError:
        return None
    return known.st_ino, known.st_size, known.st_mtime_ns
