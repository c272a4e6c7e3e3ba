"""Commands that say what a model is worth: `evaluate`, `blindspots` and others."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

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
from exfilml.cli._output import check_plottable, draw, say

FEWEST_TRIALS: Final = 5


@click.command()
@SOURCES
@click.option("--labels", type=FILE, required=True, help="Labels: .csv or .parquet.")
@click.option("--model", type=FILE, help="Model file.  [default: the shipped model]")
@click.option(
    "--alerts-per-day", type=float, metavar="N", help="Alert budget, in cases a day."
)
@OTHER_HOME
@POLICY
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--plot", type=FILE, help="Draw precision over recall: .png, .svg or .pdf."
)
@QUIET
def evaluate(
    source: tuple[str, ...],
    labels: Path,
    model: Path | None,
    alerts_per_day: float | None,
    home: tuple[str, ...],
    policy: Path | None,
    plot: Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say what a model finds in labelled flows, and what it costs.

    SOURCE is a capture, a log (docs/logs.md lists them), a flows file, a
    folder of them, a pattern, or - for standard input, of
    another time than the model's baseline.
    """
    import json

    from exfilml.sources import read_labels
    from exfilml.terminal import evaluation_text

    if plot is not None:
        check_plottable(plot, source, model, labels, policy)
    from exfilml.evaluation import evaluate as judge
    from exfilml.ranking import check_options

    check_options(alerts_per_day=alerts_per_day)
    declared = declared_policy(policy, home)
    truth = read_labels(labels)
    detector = load(model, home)
    found = judge(
        detector,
        read(source, quiet=quiet),
        truth,
        alerts_per_day=alerts_per_day,
        policy=declared,
        progress=None if quiet else lambda step: say(f"{step} …"),
    )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(evaluation_text(found), nl=False)
    if plot is not None:
        draw(found, plot, (6.4, 4.8))
        say(f"precision and recall drawn in {plot}")


@click.command()
@SOURCES
@click.option("--model", type=FILE, help="Model file.  [default: the shipped model]")
@click.option(
    "--alerts-per-day", type=float, metavar="N", help="Alert budget, in cases a day."
)
@click.option(
    "--trials", type=int, metavar="N", help="Uploads of each kind.  [default: 20]"
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Of all draws.",
)
@OTHER_HOME
@POLICY
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", type=FILE, help="Draw recall: .png, .svg or .pdf.")
@QUIET
def blindspots(
    source: tuple[str, ...],
    model: Path | None,
    alerts_per_day: float | None,
    trials: int | None,
    seed: int,
    home: tuple[str, ...],
    policy: Path | None,
    plot: Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say which uploads a model would miss at a site.

    SOURCE is a capture, a log (docs/logs.md lists them), a flows file, a
    folder of them, a pattern, or - for standard input: traffic
    of the site, into which synthetic uploads are planted. Nothing is sent.
    """
    import json

    from exfilml.terminal import blindspots_text

    if plot is not None:
        check_plottable(plot, source, model, policy)
    from exfilml.blindspots import MOST_TRIALS, TRIALS
    from exfilml.blindspots import blindspots as look
    from exfilml.exceptions import OptionError
    from exfilml.inject import check_count
    from exfilml.ranking import check_options

    check_options(alerts_per_day=alerts_per_day)
    count = TRIALS if trials is None else trials
    check_count("trials", count, MOST_TRIALS)
    if count < FEWEST_TRIALS:
        raise OptionError(
            f"trials: got {count}, but so few cannot tell 9 times of 10 from less; "
            f"expected {FEWEST_TRIALS} or more."
        )
    declared = declared_policy(policy, home)
    detector = load(model, home)
    found = look(
        detector,
        read(source, quiet=quiet),
        trials=count,
        alerts_per_day=alerts_per_day,
        policy=declared,
        seed=seed,
        progress=None if quiet else lambda step: say(f"{step} …"),
    )
    if plot is not None:
        draw(found, plot, (9, 8))
        say(f"recall drawn in {plot}")
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(blindspots_text(found), nl=False)


@click.command()
@click.argument("model", type=FILE)
@SOURCES
@click.option(
    "--alerts-per-day", type=float, metavar="N", help="Alert budget, in cases a day."
)
@OTHER_HOME
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all tables.")
@QUIET
def drift(
    model: Path,
    source: tuple[str, ...],
    alerts_per_day: float | None,
    home: tuple[str, ...],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say whether a model still fits later traffic.

    SOURCE is a capture, a log (docs/logs.md lists them), a flows file, a
    folder of them, a pattern, or - for standard input, of
    normal operation.
    """
    import json

    from exfilml.drift import drift as compare
    from exfilml.ranking import check_options
    from exfilml.terminal import drift_text

    check_options(alerts_per_day=alerts_per_day)
    detector = load(model, home)
    table = read(source, quiet=quiet)
    found = compare(detector, table, alerts_per_day=alerts_per_day)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(drift_text(found), nl=False)


@click.command()
@click.argument("model", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(model: Path, *, as_json: bool) -> None:
    """Show what a model was trained on and what it can judge."""
    import json

    from exfilml.persistence import load_model, model_card
    from exfilml.terminal import card_text

    card = model_card(load_model(model))
    if as_json:
        click.echo(json.dumps(card, indent=2))
    else:
        click.echo(card_text(card), nl=False)
