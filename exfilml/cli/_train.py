"""The command `train`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from exfilml.cli._hosts import HOST_EVENTS, event_logs, host_events, with_processes
from exfilml.cli._options import (
    FILE,
    HOME,
    POLICY,
    QUIET,
    SOURCES,
    asked,
    declared_policy,
)
from exfilml.cli._output import check_writable, say

if TYPE_CHECKING:
    from exfilml.detector import Detector
    from exfilml.spool import Span, Spool

SAY_EVERY_S: Final = 30.0

SAY_AFTER_S: Final = 1.0


@click.command()
@SOURCES
@click.option(
    "--model",
    type=FILE,
    metavar="FILE",
    help="Model file to write; with --update it may be left out.",
)
@click.option(
    "--update",
    type=FILE,
    metavar="MODEL",
    help="Teach this model later traffic; it is replaced, or --model is written.",
)
@click.option(
    "--since", metavar="WHEN", help="Leave out what starts before (UTC date or time)."
)
@click.option(
    "--until", metavar="WHEN", help="Leave out what starts then or later (UTC)."
)
@click.option(
    "--spool",
    type=FILE,
    metavar="DIR",
    help="Keep the flows read here, to go on after an interruption.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Files read at the same time.  [default: one for each core]",
)
@HOME
@POLICY
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="Of the forest.  [default: 0]",
)
@click.option(
    "--alerts-per-day",
    type=float,
    metavar="N",
    help="Alert budget to store, in cases a day.  [default: 5]",
)
@click.option(
    "--quarantine",
    is_flag=True,
    help="Keep suspicious cases out, at most 1 % of the flows; show them.",
)
@HOST_EVENTS
@QUIET
def train(
    source: tuple[str, ...],
    model: Path | None,
    update: Path | None,
    since: str | None,
    until: str | None,
    spool: Path | None,
    jobs: int | None,
    home: tuple[str, ...],
    policy: Path | None,
    seed: int | None,
    alerts_per_day: float | None,
    *,
    quarantine: bool,
    quiet: bool,
) -> None:
    """Train a model on traffic of normal operation.

    SOURCE is a capture, a log (docs/logs.md lists them), a flows file, a
    folder of them, a pattern, or - for standard input; several in any order. Flows are
    sorted on disk: months of them need not fit into memory.
    """
    from exfilml.exceptions import OptionError
    from exfilml.persistence import load_model, save_model
    from exfilml.places import PRIVATE_NETWORKS
    from exfilml.spool import Span

    target = model or update
    if target is None:
        raise click.MissingParameter(param_hint="--model", param_type="option")
    check_writable(target, source, policy, *event_logs())
    span = Span.parse(since, until)
    if update is None:
        detector, networks = _untrained(policy, home, seed, alerts_per_day)
    else:
        own = (policy, home or None, seed, alerts_per_day)
        if any(option is not None for option in own):
            raise OptionError(
                "--update keeps the model's home networks, seed and alert budget; train "
                "another model to change them."
            )
        detector, networks = load_model(update), ()
    # Before the long work: these may be refused.
    host_events()
    with _sorted(source, span, spool, jobs, quiet=quiet) as kept:
        if quarantine:
            detector = _quarantined(detector, kept, update=bool(update), quiet=quiet)
        else:
            tables = with_processes(kept.tables(None if quiet else _Pace("learning")))
            if update is None:
                detector.fit_stream(tables, kept.n_flows, home=kept.home)
            else:
                detector.update(tables, kept.n_flows)
    save_model(detector, target)
    first, last = detector.window_
    say(
        f"{target}: trained on {detector.n_flows_:,} flows of "
        f"{detector.known_.n_hosts:,} local hosts, {first:%Y-%m-%d %H:%M} to "
        f"{last:%Y-%m-%d %H:%M} UTC, seeing {' and '.join(sorted(detector.learned_))}"
    )
    inferred = [n for n in detector.home_ if n not in PRIVATE_NETWORKS]
    if inferred and networks is None:
        say(f"taken for home networks: {', '.join(inferred)}; --home says otherwise")


def _untrained(
    policy: Path | None,
    home: tuple[str, ...],
    seed: int | None,
    alerts_per_day: float | None,
) -> tuple[Detector, Iterable[str] | None]:
    """Return a detector with the parameters given, and its home networks."""
    from exfilml.calibration import check_budget
    from exfilml.detector import DEFAULT_ALERTS_PER_DAY, Detector
    from exfilml.places import parse_networks

    budget = DEFAULT_ALERTS_PER_DAY if alerts_per_day is None else alerts_per_day
    check_budget(budget)
    declared = declared_policy(policy, home)
    networks = home or (declared.home if declared else None)
    parse_networks(networks)
    detector = Detector(home=networks, alerts_per_day=budget, random_state=seed or 0)
    return detector, networks


@contextmanager
def _sorted(
    source: tuple[str, ...],
    span: Span,
    folder: Path | None,
    jobs: int | None,
    *,
    quiet: bool,
) -> Iterator[Spool]:
    """Sort flows on disk, and say what becomes of them if that is interrupted."""
    import joblib

    from exfilml.spool import Spool

    with tempfile.TemporaryDirectory(prefix="exfilml-") as temporary:
        kept = Spool(folder or Path(temporary), span, **asked())
        try:
            kept.fill(
                source,
                n_jobs=jobs or joblib.cpu_count(),
                progress=False if quiet else None,
                report=None if quiet else _Pace("reading"),
            )
            yield kept
        except KeyboardInterrupt:
            say(
                "what was read is lost; with --spool DIR it is kept"
                if folder is None
                else f"what was read is kept in {folder}; the same command goes on"
            )
            raise


def _quarantined(
    detector: Detector, kept: Spool, *, update: bool, quiet: bool
) -> Detector:
    """Train without suspicious cases, and show them."""
    from exfilml.quarantine import clean_stream
    from exfilml.terminal import ranking_text

    cleaned = clean_stream(
        detector,
        lambda: with_processes(
            kept.tables(None if quiet else _Pace("judging or learning"))
        ),
        kept.n_flows,
        home=kept.home,
        update=update,
    )
    for title, cases in (
        ("Quarantined: the model has not learned from these", cleaned.cases),
        ("Left in, because calibration is not touched", cleaned.left_in),
    ):
        click.echo(f"{title}\n")
        click.echo(ranking_text(cases) if len(cases) else "no cases\n")
    say(
        f"{len(cleaned.cases):,} cases with {len(cleaned.quarantined):,} of "
        f"{cleaned.n_flows:,} flows are quarantined, {len(cleaned.left_in):,} suspicious "
        "cases of the calibration block are left in. Look at both: what is normal "
        "of the first belongs back (train without --quarantine); if a theft is among "
        "the second, end the flows before it (--until)"
    )
    return cleaned.detector


class _Pace:
    """Says now and then how many flows are done, how fast, and how long it takes."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.begun = self.said = time.monotonic()
        self.done = (0, 0.0)

    def __call__(self, n_flows: int, share: float) -> None:
        now = time.monotonic()
        if now - self.begun < SAY_AFTER_S:
            # What an earlier run had read takes no time.
            self.done = (n_flows, share)
        if now - self.said < SAY_EVERY_S:
            return
        self.said = now
        took, new = now - self.begun, n_flows - self.done[0]
        left = took * (1.0 - share) / max(share - self.done[1], 1e-9)
        say(
            f"{self.step}: {n_flows:,} flows ({share:.0%}), {new / took:,.0f} flows/s, "
            f"{_duration(left)} left"
        )


def _duration(seconds: float) -> str:
    minutes = seconds / 60.0
    if minutes < 1.0:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120.0 else f"{minutes / 60.0:.0f} h"
