"""Triages handed over: the command `handover`, and what `triage` shares with it."""

from __future__ import annotations

import hashlib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from exfilml.cli._options import FILE
from exfilml.cli._output import check_writable, say
from exfilml.exceptions import OptionError, SourceError

if TYPE_CHECKING:
    from exfilml.triage.case import Triage

PAGE: Final = ".html"
"""What the name of a page for people ends with; it has no other format."""
# As `exfilml.handover.FORMATS` lists them; the command line imports it late.
FORMS: Final = ("json", "jsonl", "csv", "markdown", "ocsf", "ecs", "stix")

TLP = click.option(
    "--tlp",
    metavar="LABEL",
    help="Mark what is handed over: clear, green, amber, amber+strict or red; an "
    "indicator that was met and asks for a stricter label prevails.",
)


@click.command()
@click.argument("file", type=FILE, metavar="TRIAGE")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMS),
    help="How to hand over.  [default: what --out ends with, else markdown]",
)
@click.option(
    "--case", "names", multiple=True, metavar="NAME", help="Only this case; repeat."
)
@click.option("--out", type=FILE, help="Write it to a file; .html for a page to read.")
@click.option(
    "--digest",
    "captures",
    type=FILE,
    multiple=True,
    help="Name a capture or log with its SHA-256 in the ticket; repeat for several.",
)
@TLP
def handover(
    file: Path,
    form: str | None,
    names: tuple[str, ...],
    out: Path | None,
    captures: tuple[Path, ...],
    tlp: str | None,
) -> None:
    """Hand over a triage that was written as JSON.

    TRIAGE is what exfilml triage --out FILE.json wrote. Formats: a ticket in Markdown,
    OCSF Detection Finding, Elastic ECS, a STIX 2.1 bundle, CSV, JSON.
    """
    from exfilml.handover import read_triage

    if out is not None:
        check_writable(out, (str(file),), *captures)
    form = chosen_form(form, out, tlp) or "markdown"
    found = read_triage(file)
    digests = {path.name: _sha256(path) for path in captures}
    hand_over(of_cases(found, names), form, out, tlp, digests)


def chosen_form(form: str | None, out: Path | None, tlp: str | None) -> str | None:
    """Return the format to make, if any was asked for; mistakes are told early."""
    from exfilml.handover import check_form, check_tlp, form_of

    check_tlp(tlp)
    if out is not None and out.suffix.lower() == PAGE:
        if form is not None:
            raise OptionError(f"--format {form} --out {out}: {PAGE} is for a page.")
        return PAGE
    if form is None and out is not None:
        form = form_of(out, PAGE)
    if form is not None:
        check_form(form)
    return form


def of_cases(found: Triage, names: tuple[str, ...]) -> Triage:
    """Return the cases that were asked for, all if none was."""
    from exfilml.handover import only

    known = [case.name for case in found]
    for name in names:
        if name not in known:
            like = get_close_matches(name, known, n=3)
            near = f"; like it: {', '.join(like)}" if like else ""
            raise OptionError(
                f"--case {name}: none of the {len(known):,} cases has this name{near}. "
                "Names depend on the home networks: give those of the ranking, with the "
                "same --model, --home and --policy."
            )
    return only(found, names) if names else found


def hand_over(
    found: Triage,
    form: str,
    out: Path | None,
    tlp: str | None,
    digests: dict[str, str] | None = None,
    known: dict[str, Any] | None = None,
) -> None:
    """Write or print a triage in a format; a page says also what is `known` of it."""
    from exfilml.handover import to_text, write

    if out is None:
        click.echo(to_text(found, form, tlp=tlp, digests=digests), nl=False)
        return
    if form == PAGE:
        from exfilml.report.page.report import RankingReport

        RankingReport(found, **(known or {})).write(out)
    else:
        write(found, out, form, tlp=tlp, digests=digests)
    say(f"{len(found):,} cases written to {out}")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"--digest {path}: cannot be read: {reason}.") from error
