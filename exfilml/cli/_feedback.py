"""The command `feedback`: what analysts say of cases, and what follows from it."""

from __future__ import annotations

import getpass
import hashlib
from pathlib import Path
from typing import Any, Final

import click

from exfilml.cli._options import FILE, MAYBE_SOURCES, OTHER_HOME, QUIET, load, read
from exfilml.cli._output import check_plottable, check_writable, draw, say

_JUDGE: Final = "judge"


class _Judging(click.Group):
    """A group whose first command needs no name: `exfilml feedback CASE false …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [_JUDGE, *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Judging,
    options_metavar="",
    subcommand_metavar="[CASE... true|false | COMMAND]",
)
def feedback() -> None:
    """Judge cases, and see what follows from it.

    `exfilml feedback CASE true|false --reason TEXT --store FILE --cases FILE` keeps a
    judgement: true is theft, false is none. Nothing else is changed by it: the store
    gives an order of cases (`exfilml rank --feedback`), drafts of approvals, and
    precision over time.
    """


STORE = click.option(
    "--store", type=FILE, required=True, metavar="FILE", help="Store of judgements."
)
ANALYST = click.option(
    "--analyst", metavar="NAME", help="Who judges.  [default: the user logged in]"
)


@feedback.command(_JUDGE)
@click.argument("case", nargs=-1, metavar="CASE...")
@click.argument("verdict", required=False, metavar="true|false")
@click.option("--reason", metavar="TEXT", help="Why; needed, unless --list gives it.")
@STORE
@click.option(
    "--cases",
    type=FILE,
    required=True,
    metavar="FILE",
    help="Where the cases stand: what rank --by case --out or triage --out wrote.",
)
@ANALYST
@click.option(
    "--list",
    "judgements",
    type=FILE,
    metavar="FILE",
    help="CSV of judgements: case,verdict,reason, and analyst if it differs.",
)
@click.option(
    "--model", type=FILE, help="The model that ranked them: its hash is kept."
)
def judge(
    case: tuple[str, ...],
    verdict: str | None,
    reason: str | None,
    store: Path,
    cases: Path,
    analyst: str | None,
    judgements: Path | None,
    model: Path | None,
) -> None:
    """Judge cases true (theft; also tp) or false (no theft; also fp).

    CASE is an id of the column case. The word judge may be left out. A case can be
    judged again: the latest judgement counts, all of them are kept.
    """
    from exfilml.exceptions import OptionError
    from exfilml.feedback import Feedback, read_cases, read_judgements

    if judgements is not None and (case or verdict is not None or reason is not None):
        raise OptionError("--list gives cases, verdicts and reasons; give it alone.")
    if judgements is None and (not case or verdict is None):
        raise OptionError(_incomplete(verdict))
    if judgements is None and reason is None:
        raise OptionError(
            '--reason is missing, expected why, such as "nightly backup".'
        )
    check_writable(store, (), cases, judgements, model)
    table = read_cases(cases)
    about: dict[str, Any] = {
        "analyst": _who(analyst),
        "model": None if model is None else _identity(model),
    }
    kept = Feedback(store)
    if judgements is not None:
        count = kept.judge_each(table, read_judgements(judgements), **about)
    else:
        assert verdict is not None
        assert reason is not None
        count = kept.judge(table, case, verdict, reason=reason, **about)
    say(f"judgements added to {store}: {count:,}")


@feedback.command()
@click.argument("case")
@click.option("--reason", required=True, metavar="TEXT", help="Why.")
@STORE
@ANALYST
def withdraw(case: str, reason: str, store: Path, analyst: str | None) -> None:
    """Take a case out, as if it had never been judged; the history keeps it."""
    from exfilml.feedback import Feedback

    Feedback(store).withdraw(case, reason=reason, analyst=_who(analyst))
    say(f"withdrawn: {case}")


@feedback.command("list")
@STORE
@click.option("--history", is_flag=True, help="All that was ever said, not the latest.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="How to print them.",
)
def show(store: Path, form: str, *, history: bool) -> None:
    """Show the judgements that count."""
    from exfilml.export import to_text
    from exfilml.feedback import Feedback
    from exfilml.terminal import judgements_text

    kept = Feedback(store)
    table = kept.history() if history else kept.latest()
    text = judgements_text(table) if form == "table" else to_text(table, form)
    click.echo(text, nl=False)
    say(f"{len(table):,} judgements in {store}" + " of all time" * history)


@feedback.command()
@STORE
@click.option(
    "--cases",
    type=FILE,
    multiple=True,
    help="All cases of the time, to say what share of alerts was judged; repeat.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", type=FILE, help="Draw it over weeks: .png, .svg or .pdf.")
def precision(
    store: Path, cases: tuple[Path, ...], plot: Path | None, *, as_json: bool
) -> None:
    """Say how many judged alerts were true, week by week.

    It is the precision of what was judged, not of all alerts.
    """
    import json

    import pandas as pd

    from exfilml.feedback import Feedback, read_cases
    from exfilml.terminal import precision_text

    if plot is not None:
        check_plottable(plot, (), store, *cases)
    tables = [read_cases(path).astype("object") for path in cases]
    every = pd.concat(tables, ignore_index=True) if tables else None
    found = Feedback(store).precision(every)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(precision_text(found), nl=False)
    if plot is not None:
        draw(found, plot, (8, 4.8))
        say(f"precision drawn in {plot}")


@feedback.command()
@MAYBE_SOURCES
@STORE
@click.option(
    "--out", type=FILE, required=True, help="The draft: a policy file (.toml)."
)
@click.option(
    "--days",
    type=int,
    metavar="N",
    default=30,
    show_default=True,
    help="Until an approval expires, from the judgement on; at most 90.",
)
@click.option(
    "--model",
    type=FILE,
    help="The model that ranked SOURCE.  [default: the shipped model]",
)
@OTHER_HOME
@QUIET
def suppress(
    source: tuple[str, ...],
    store: Path,
    out: Path,
    days: int,
    model: Path | None,
    home: tuple[str, ...],
    *,
    quiet: bool,
) -> None:
    """Draft approvals for a policy from what was judged false.

    SOURCE is what the cases were ranked from: it tells payload and volume of each day.
    Without it, only cases of sources that show no payload can be approved. Nothing is
    in force until a person gives the draft to --policy.
    """
    from exfilml.export import printable
    from exfilml.feedback import Feedback, check_draft

    check_writable(out, source, store, model)
    check_draft(out)
    kept = Feedback(store)
    kept.latest()
    about: dict[str, Any] = {}
    if source:
        detector = load(model, home)
        about = {"flows": read(source, quiet=quiet), "detector": detector}
    found = kept.suppressions(days=days, **about)
    for line in found.lines():
        say(printable(line))
    for case, reason in found.left_out.head(_MOST_NAMED).itertuples(index=False):
        say(printable(f"  {case}: {reason}"))
    if len(found):
        found.write(out)
        say(f"draft written to {out}: read it before you give it to --policy")
    else:
        say(f"nothing to approve: {out} is not written")


_MOST_NAMED: Final = 20


def _incomplete(word: str | None) -> str:
    from exfilml.declarations import meant, quoted

    near = "" if word is None else f": {quoted(word)}{meant(word, feedback.commands)}"
    return (
        f"a case is missing{near}; expected CASE true|false, such as 0a1b2c3d4e false."
    )


def _who(analyst: str | None) -> str:
    from exfilml.exceptions import OptionError

    if analyst is not None:
        return analyst
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:
        raise OptionError(
            "--analyst is missing, and the system does not say who is logged in."
        ) from error


def _identity(model: Path) -> str:
    """Return what tells a model from others: the hash of its file."""
    from exfilml.exceptions import OptionError

    try:
        with model.open("rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{model}: the model cannot be read: {reason}.") from error
