"""The command line: arguments in, one call, result out.

Tables go to standard output, everything else to standard error. Exit status 0 means
done, 2 that the user can mend it, with one line that says how, and 130 Ctrl-C.

One file because a command is its options and one call.
"""

from __future__ import annotations

import glob
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from exfilml import __version__
from exfilml.exceptions import ExfilmlError, ExfilmlWarning, SourceError

if TYPE_CHECKING:
    import pandas as pd

    from exfilml.blindspots import Blindspots
    from exfilml.detector import Detector
    from exfilml.evaluation import Evaluation
    from exfilml.policy import Policy
    from exfilml.spool import Span
    from exfilml.state import State

EXIT_USER: Final = 2
EXIT_INTERRUPTED: Final = 130
TABLE_ROWS: Final = 20
SAY_EVERY_S: Final = 30.0
SAY_AFTER_S: Final = 1.0
FEWEST_TRIALS: Final = 5

_Command = TypeVar("_Command", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)


def _expand(
    context: click.Context, _: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    """Give the files that patterns match, and a file of standard input for ``-``."""
    sources: list[str] = []
    for source in given:
        if source == "-":
            sources.append(_standard_input(context))
        elif glob.has_magic(source) and not os.path.lexists(source):
            # Path.glob takes no absolute patterns.
            found = sorted(glob.glob(source, recursive=True))  # noqa: PTH207
            if not found:
                raise SourceError(f"{source}: no file matches.")
            sources += found
        else:
            sources.append(source)
    return tuple(sources)


def _standard_input(context: click.Context) -> str:
    """Keep standard input in a file for as long as the command runs."""
    folder = context.with_resource(tempfile.TemporaryDirectory(prefix="exfilml-"))
    path = Path(folder) / "stdin"
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
    except OSError as error:
        raise SourceError(
            f"Standard input cannot be kept in {folder}: {error.strerror}. Set TMPDIR "
            "to a place with room."
        ) from error
    return str(path)


def _keep_option(
    context: click.Context, option: click.Parameter, value: object
) -> None:
    context.meta[str(option.name)] = value


def _SOURCES(command: _Command) -> _Command:  # noqa: N802 - as the options below
    """Take sources, and what is said of all of them."""
    argument = click.argument(
        "source", nargs=-1, required=True, metavar="SOURCE...", callback=_expand
    )
    option = click.option(
        "--timezone",
        metavar="ZONE",
        callback=_keep_option,
        expose_value=False,
        help="Of logs in local time that do not say where, such as Europe/Prague.",
    )
    return argument(option(command))


_HOME = click.option(
    "--home",
    multiple=True,
    metavar="CIDR",
    help="Home network; repeat for several.  [default: private networks, or inferred]",
)
_OTHER_HOME = click.option(
    "--home",
    multiple=True,
    metavar="CIDR",
    help="Home network; repeat for several.  [default: the model's]",
)
_POLICY = click.option(
    "--policy",
    type=_FILE,
    metavar="FILE",
    help="What the site declares: home networks, approvals, rules (TOML).",
)
_QUIET = click.option("--quiet", "-q", is_flag=True, help="No progress bar.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="exfilml")
def app() -> None:
    """Find data theft over an alternative protocol (MITRE ATT&CK T1048.001)."""


@app.command()
@_SOURCES
@click.option(
    "--out", type=_FILE, required=True, help="File to write: .parquet or .csv."
)
@_QUIET
def flows(source: tuple[str, ...], out: Path, *, quiet: bool) -> None:
    """Extract flows with payload evidence from captures, and flows from logs.

    SOURCE is a capture, a log (Zeek, Suricata, nfdump, Argus), a flows file, a
    folder of them, a pattern, or - for standard input.
    """
    from exfilml.exceptions import OutputError
    from exfilml.sources import write_flows

    if out.suffix.lower() not in {".parquet", ".csv"}:
        raise OutputError(f"{out}: the suffix must be .parquet or .csv.")
    _writable(out, source)
    table = _read(source, quiet=quiet)
    write_flows(table, out)
    _say(f"{len(table):,} flows written to {out}")


@app.command()
@_SOURCES
@click.option(
    "--model",
    type=_FILE,
    metavar="FILE",
    help="Model file to write; with --update it may be left out.",
)
@click.option(
    "--update",
    type=_FILE,
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
    type=_FILE,
    metavar="DIR",
    help="Keep the flows read here, to go on after an interruption.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Files read at the same time.  [default: one for each core]",
)
@_HOME
@_POLICY
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
@_QUIET
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

    SOURCE is a capture, a log (Zeek, Suricata, nfdump, Argus), a flows file, a
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
    _writable(target, source, policy)
    span = Span.parse(since, until)
    if update is None:
        detector, networks = _untrained(policy, home, seed, alerts_per_day)
    else:
        own = (policy, home or None, seed, alerts_per_day, quarantine or None)
        if any(option is not None for option in own):
            raise OptionError(
                "--update keeps the model's home networks, seed and alert budget, and "
                "knows no quarantine; train another model to change them."
            )
        detector, networks = load_model(update), ()
    if not quarantine:
        _learn(detector, source, span, spool, jobs, update=update, quiet=quiet)
    elif spool is not None:
        raise OptionError("--quarantine judges all flows at once: it has no spool.")
    else:
        detector = _quarantined(detector, span.of(_read(source, quiet=quiet)))
    save_model(detector, target)
    first, last = detector.window_
    _say(
        f"{target}: trained on {detector.n_flows_:,} flows of "
        f"{detector.known_.n_hosts:,} local hosts, {first:%Y-%m-%d %H:%M} to "
        f"{last:%Y-%m-%d %H:%M} UTC, seeing {' and '.join(sorted(detector.learned_))}"
    )
    inferred = [n for n in detector.home_ if n not in PRIVATE_NETWORKS]
    if inferred and networks is None:
        _say(f"taken for home networks: {', '.join(inferred)}; --home says otherwise")


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
    declared = _declared(policy, home)
    networks = home or (declared.home if declared else None)
    parse_networks(networks)
    detector = Detector(home=networks, alerts_per_day=budget, random_state=seed or 0)
    return detector, networks


def _learn(
    detector: Detector,
    source: tuple[str, ...],
    span: Span,
    folder: Path | None,
    jobs: int | None,
    *,
    update: Path | None,
    quiet: bool,
) -> None:
    """Teach a detector flows that are sorted on disk."""
    import tempfile

    import joblib

    from exfilml.spool import Spool

    with tempfile.TemporaryDirectory(prefix="exfilml-") as temporary:
        zone = click.get_current_context().meta.get("timezone")
        kept = Spool(folder or Path(temporary), span, zone)
        try:
            kept.fill(
                source,
                n_jobs=jobs or joblib.cpu_count(),
                progress=False if quiet else None,
                report=None if quiet else _Pace("reading"),
            )
            tables = kept.tables(None if quiet else _Pace("learning"))
            if update is None:
                detector.fit_stream(tables, kept.n_flows, home=kept.home)
            else:
                detector.update(tables, kept.n_flows)
        except KeyboardInterrupt:
            _say(
                "what was read is lost; with --spool DIR it is kept"
                if folder is None
                else f"what was read is kept in {folder}; the same command goes on"
            )
            raise


def _quarantined(detector: Detector, table: pd.DataFrame) -> Detector:
    """Train without suspicious cases, and show them."""
    from exfilml.quarantine import clean_baseline
    from exfilml.terminal import ranking_text

    cleaned = clean_baseline(detector, table)
    for title, cases in (
        ("Quarantined: the model has not learned from these", cleaned.cases),
        ("Left in, because calibration is not touched", cleaned.left_in),
    ):
        click.echo(f"{title}\n")
        click.echo(ranking_text(cases) if len(cases) else "no cases\n")
    _say(
        f"{len(cleaned.cases):,} cases with {len(cleaned.quarantined):,} of "
        f"{len(table):,} flows are quarantined, {len(cleaned.left_in):,} suspicious "
        "cases of the calibration block are left in. Look at both: what is normal "
        "of the first belongs back (train without --quarantine); if a theft is among "
        "the second, end the baseline before it"
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
        _say(
            f"{self.step}: {n_flows:,} flows ({share:.0%}), {new / took:,.0f} flows/s, "
            f"{_duration(left)} left"
        )


def _duration(seconds: float) -> str:
    minutes = seconds / 60.0
    if minutes < 1.0:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120.0 else f"{minutes / 60.0:.0f} h"


@app.command()
@_SOURCES
@click.option("--model", type=_FILE, help="Model file.  [default: the shipped model]")
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
@_OTHER_HOME
@_POLICY
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="How to print the ranking.",
)
@click.option("--out", type=_FILE, help="Write to .csv, .json, .jsonl or .parquet.")
@click.option(
    "--state",
    type=_FILE,
    help="Memory of earlier runs with this model, for sums over days: read if there, "
    "then written.",
)
@click.option(
    "--adopt-state",
    is_flag=True,
    help="Take over a --state of an earlier model of this site.",
)
@_QUIET
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
    *,
    adopt_state: bool,
    quiet: bool,
) -> None:
    """Rank flows or cases by suspicion, with reasons.

    SOURCE is a capture, a log (Zeek, Suricata, nfdump, Argus), a flows file, a
    folder of them, a pattern, or - for standard input.
    """
    from exfilml.export import output_format, to_text, write_table
    from exfilml.terminal import ranking_text

    if out is not None:
        output_format(out)
        _writable(out, source, model, policy, state)
    from exfilml.exceptions import OptionError
    from exfilml.ranking import check_options, rank_cases, rank_flows

    check_options(top=top, alerts_per_day=alerts_per_day, fdr=fdr)
    if adopt_state and state is None:
        raise OptionError("--adopt-state needs --state FILE, the state to take over.")
    declared = _declared(policy, home)
    detector = _load(model, home)
    memory = stamp = None
    if state is not None:
        _writable(state, source, model, policy)
        stamp = _stamp(state)
        memory = _remembered(state, detector, adopt=adopt_state)
    table = _read(source, quiet=quiet)
    if top is None and form == "table" and out is None:
        top = TABLE_ROWS
    ranker = rank_flows if by == "flow" else rank_cases
    ranking = ranker(
        detector,
        table,
        top=top,
        state=memory,
        alerts_per_day=alerts_per_day,
        fdr=fdr,
        policy=declared,
    )
    try:
        if out is not None:
            write_table(ranking, out)
            _say(f"{len(ranking):,} rows written to {out}")
        else:
            as_table = form == "table"
            text = ranking_text(ranking) if as_table else to_text(ranking, form)
            click.echo(text, nl=False)
        _say_counts(ranking, len(table), by, memory)
    except BrokenPipeError:
        # Who reads only the first rows has seen the flows all the same.
        _drop_stdout()
    _remember(memory, state, stamp, ranking)


@app.command()
@_SOURCES
@click.option("--labels", type=_FILE, required=True, help="Labels: .csv or .parquet.")
@click.option("--model", type=_FILE, help="Model file.  [default: the shipped model]")
@click.option(
    "--alerts-per-day", type=float, metavar="N", help="Alert budget, in cases a day."
)
@_OTHER_HOME
@_POLICY
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--plot", type=_FILE, help="Draw precision over recall: .png, .svg or .pdf."
)
@_QUIET
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

    SOURCE is a capture, a log (Zeek, Suricata, nfdump, Argus), a flows file, a
    folder of them, a pattern, or - for standard input, of
    another time than the model's baseline.
    """
    import json

    from exfilml.sources import read_labels
    from exfilml.terminal import evaluation_text

    if plot is not None:
        _plottable(plot, source, model, labels, policy)
    from exfilml.evaluation import evaluate as judge
    from exfilml.ranking import check_options

    check_options(alerts_per_day=alerts_per_day)
    declared = _declared(policy, home)
    truth = read_labels(labels)
    detector = _load(model, home)
    found = judge(
        detector,
        _read(source, quiet=quiet),
        truth,
        alerts_per_day=alerts_per_day,
        policy=declared,
        progress=None if quiet else lambda step: _say(f"{step} …"),
    )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(evaluation_text(found), nl=False)
    if plot is not None:
        _draw(found, plot, (6.4, 4.8))
        _say(f"precision and recall drawn in {plot}")


@app.command()
@_SOURCES
@click.option("--model", type=_FILE, help="Model file.  [default: the shipped model]")
@click.option(
    "--alerts-per-day", type=float, metavar="N", help="Alert budget, in cases a day."
)
@click.option(
    "--trials", type=int, metavar="N", help="Uploads of each kind.  [default: 20]"
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of all draws.",
)
@_OTHER_HOME
@_POLICY
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", type=_FILE, help="Draw recall: .png, .svg or .pdf.")
@_QUIET
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

    SOURCE is a capture, a log (Zeek, Suricata, nfdump, Argus), a flows file, a
    folder of them, a pattern, or - for standard input: traffic
    of the site, into which synthetic uploads are planted. Nothing is sent.
    """
    import json

    from exfilml.terminal import blindspots_text

    if plot is not None:
        _plottable(plot, source, model, policy)
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
    declared = _declared(policy, home)
    detector = _load(model, home)
    found = look(
        detector,
        _read(source, quiet=quiet),
        trials=count,
        alerts_per_day=alerts_per_day,
        policy=declared,
        seed=seed,
        progress=None if quiet else lambda step: _say(f"{step} …"),
    )
    if plot is not None:
        _draw(found, plot, (9, 8))
        _say(f"recall drawn in {plot}")
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(blindspots_text(found), nl=False)


@app.command()
@click.argument("model", type=_FILE)
@_SOURCES
@click.option(
    "--alerts-per-day", type=float, metavar="N", help="Alert budget, in cases a day."
)
@_OTHER_HOME
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all tables.")
@_QUIET
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

    SOURCE is a capture, a log (Zeek, Suricata, nfdump, Argus), a flows file, a
    folder of them, a pattern, or - for standard input, of
    normal operation.
    """
    import json

    from exfilml.drift import drift as compare
    from exfilml.ranking import check_options
    from exfilml.terminal import drift_text

    check_options(alerts_per_day=alerts_per_day)
    detector = _load(model, home)
    table = _read(source, quiet=quiet)
    found = compare(detector, table, alerts_per_day=alerts_per_day)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(drift_text(found), nl=False)


def _plottable(path: Path, source: tuple[str, ...], *others: Path | None) -> None:
    from importlib.util import find_spec

    from exfilml.exceptions import OutputError

    if path.suffix.lower() not in {".png", ".svg", ".pdf"}:
        raise OutputError(f"{path}: the suffix must be .png, .svg or .pdf.")
    _writable(path, source, *others)
    if find_spec("matplotlib") is None:
        raise OutputError(
            f"{path}: drawing needs matplotlib; install exfilml[notebook]."
        )


def _draw(
    found: Evaluation | Blindspots, path: Path, inches: tuple[float, float]
) -> None:
    from matplotlib.figure import Figure

    from exfilml.export import complete_file

    figure = Figure(figsize=inches, layout="tight")
    found.plot(figure.subplots())
    with complete_file(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower())


@app.command()
@click.argument("model", type=_FILE)
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


@app.command()
def doctor() -> None:
    """Show how captures are read on this machine: the fast way or not, and why."""
    from exfilml.export import printable
    from exfilml.sources import examine

    for name, value in examine().items():
        click.echo(f"{name + ':':<15} {printable(value)}")


def _read(source: tuple[str, ...], *, quiet: bool) -> pd.DataFrame:
    from exfilml.sources import read_flows

    return read_flows(
        source[0] if len(source) == 1 else list(source),
        progress=False if quiet else None,
        timezone=click.get_current_context().meta.get("timezone"),
    )


def _say_counts(
    ranking: pd.DataFrame, n_read: int, by: str, memory: State | None
) -> None:
    """Say what the rows of a ranking do not."""
    from exfilml.export import printable
    from exfilml.ruling import sentence_of

    total, alerted = ranking.attrs["total"], ranking.attrs["alerted"]
    counted = f"{n_read:,} flows read" + (f", {total:,} cases" * (by == "case"))
    _say(f"{counted}; {alerted:,} alerted; {len(ranking):,} shown")
    if "policy" in ranking.attrs:
        counts, suppressed = ranking.attrs["policy"], ranking.attrs["suppressed"]
        _say(printable(sentence_of(counts, suppressed)))
    for seeing, about in ranking.attrs["thresholds"].items():
        bits, (low, high) = about["suspicion"], about["normal_alerts_per_day"]
        _say(
            f"cases judged by {seeing}: "
            + (
                "none reaches this false discovery rate"
                if bits is None
                else f"alert from {bits:.1f} bits on, which normal operation reaches "
                f"{low:.1f} to {high:.1f} times a day (90 % interval)"
            )
        )
    if ranking.attrs["inside"]:
        _say(
            f"{ranking.attrs['inside']:,} {by}s stay inside the site: they come last and "
            "raise no alert"
        )
    if ranking.attrs["windows_not_covered"]:
        windows = ", ".join(ranking.attrs["windows_not_covered"])
        far = "no further than these flows (--state)"
        if memory is not None and memory.earliest is not None:
            since = datetime.fromtimestamp(memory.earliest, UTC)
            far = f"to {since:%Y-%m-%d %H:%M} UTC only"
        _say(f"sums over {windows} reach back {far}")


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
        _say(f"{path}: a new state, no earlier run is known")
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
        _say(f"{path}: left as it was; give --state another file for these flows")
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


def _declared(path: Path | None, home: tuple[str, ...]) -> Policy | None:
    """Read a policy; home networks that were given as an option come before its own."""
    if path is None:
        return None
    from dataclasses import replace

    from exfilml.policy import Policy

    policy = Policy.read(path)
    return replace(policy, home=None) if home else policy


def _load(model: Path | None, home: tuple[str, ...]) -> Detector:
    from exfilml.persistence import default_model, load_model

    if model is None:
        model = default_model()
        _say(
            "no --model given: using the shipped model, which knows its own sample "
            "site only; train one on your own traffic"
        )
    detector = load_model(model)
    if home:
        from exfilml.places import parse_networks

        detector.home_ = parse_networks(home)
    return detector


def _writable(path: Path, source: tuple[str, ...], *others: Path | None) -> None:
    """Refuse an output place before the work, not after it.

    Also one of the sources or of the other files of the command.
    """
    from exfilml.exceptions import OutputError
    from exfilml.sources import is_read

    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give a file name.")
    folder = (Path(os.path.realpath(path)) if path.is_symlink() else path).parent
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: the folder {folder} may not be written to.")
    # Two names of a file that is yet to be written have nothing else in common.
    if is_read(path, source) or any(
        os.path.realpath(path) == os.path.realpath(other)
        or (path.exists() and other.exists() and path.samefile(other))
        for other in others
        if other is not None
    ):
        raise OutputError(
            f"{path}: is another file of this command, which would be overwritten; "
            "give the output a name of its own."
        )


def _say(text: str) -> None:
    click.echo(text, err=True)


def _show_warning(
    message: Warning | str, category: type[Warning], *_: object, **__: object
) -> None:
    # Warnings of libraries are for developers; ours say what the user lost.
    if issubclass(category, ExfilmlWarning):
        from exfilml.export import printable

        _say(f"warning: {printable(str(message))}")


_interrupts: list[int] = []


def _interrupt(number: int, _frame: object) -> None:
    _interrupts.append(number)
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGINT, _interrupt)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:  # noqa: PLR0911 - one for each way to end
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments
        What follows the program's name.
    """
    warnings.simplefilter("always", ExfilmlWarning)
    warnings.showwarning = _show_warning
    try:
        status = app.main(arguments, prog_name="exfilml", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ExfilmlError as error:
        _say_error(str(error))
        return EXIT_USER
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted; nothing was written")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a closed pager) has seen enough.
        _drop_stdout()
        return 0
    except OSError as error:
        _drop_stdout()
        _say_error(f"the output cannot be written: {error.strerror or error}.")
        return EXIT_USER
    except Exception:
        # An import that Ctrl-C broke off may report that as an error of its own.
        if _interrupts:
            _say("interrupted; nothing was written")
            return EXIT_INTERRUPTED
        raise
    return status if isinstance(status, int) else 0


def _say_error(text: str) -> None:
    from exfilml.export import printable

    _say("error: " + "\n".join(printable(line) for line in text.splitlines()))


def _drop_stdout() -> None:
    """Leave nothing in the buffer that the interpreter would flush again on exit."""
    sys.stdout = open(os.devnull, "w", encoding="ascii")  # noqa: SIM115, PTH123
