"""Cases handed over: to other systems, to people, and to a file that is read again.

One file for each format, and a tuple that lists them. Every format is made of the
triage alone: nothing is looked up, and the same triage gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from exfilml.exceptions import DependencyError, OptionError
from exfilml.export import complete_file
from exfilml.handover import _csv, _ecs, _json, _ocsf, _stix, _ticket
from exfilml.handover._read import read_triage
from exfilml.handover._told import Given, only
from exfilml.triage.case import Triage

__all__ = [
    "FORMATS",
    "FORMS",
    "Form",
    "form_of",
    "only",
    "read_triage",
    "to_text",
    "write",
]


@dataclass(frozen=True)
class Form:
    """A format: its name, what file names of it end with, and what it is.

    Attributes
    ----------
    name, suffixes
        As given to `to_text` and seen by `write`.
    about
        One line for people.
    text
        Makes it.
    """

    name: str
    suffixes: tuple[str, ...]
    about: str
    text: Callable[[Triage, Given], str]


FORMS: Final = (
    Form(
        "ocsf",
        (".ocsf.jsonl", ".ocsf.json", ".ocsf"),
        "OCSF Detection Finding 1.5, one JSON line for each case",
        _ocsf.text,
    ),
    Form(
        "ecs",
        (".ecs.jsonl", ".ecs.json", ".ecs", ".ndjson"),
        "Elastic Common Schema 9.4 alert, one JSON line for each case",
        _ecs.text,
    ),
    Form(
        "stix",
        (".stix.json", ".stix"),
        "STIX 2.1 bundle",
        _stix.text,
    ),
    Form("csv", (".csv",), "one row for each case", _csv.text),
    Form("markdown", (".md", ".markdown"), "a ticket for each case", _ticket.ticket),
    Form("jsonl", (".jsonl",), "each case on a line of JSON", _json.lines),
    Form("json", (".json",), "the triage, to be read again", _json.text),
)
"""Where suffixes end alike, the first stands for the longest."""
FORMATS: Final = tuple(form.name for form in FORMS)


def to_text(
    triage: Triage,
    form: str,
    *,
    tlp: str | None = None,
    digests: Mapping[str, str] | None = None,
) -> str:
    """Return a triage in a format.

    Parameters
    ----------
    triage
        The cases. ``Triage(cases, …)`` of some of them hands over these alone.
    form
        One of `FORMATS`.
    tlp
        Label of the Traffic Light Protocol (clear, green, amber, amber+strict or red);
        an indicator that a case met and that asks for a stricter one prevails.
    digests
        SHA-256 of the captures or logs, by name, for the ticket.

    Raises
    ------
    OptionError
        If the format, label or a digest is none.
    DependencyError
        If the format needs a library that is missing.
    """
    made = {one.name: one for one in FORMS}.get(form)
    if made is None:
        raise OptionError(f"format {form!r}: expected one of {', '.join(FORMATS)}.")
    return made.text(triage, Given(tlp, dict(digests or {})))


def write(
    triage: Triage,
    path: str | os.PathLike[str],
    form: str | None = None,
    *,
    tlp: str | None = None,
    digests: Mapping[str, str] | None = None,
) -> None:
    """Write a triage to a file, which appears when it is complete.

    Parameters
    ----------
    path
        The file. Its suffix names the format, such as ``.ocsf.jsonl``, ``.stix.json``,
        ``.md``, unless `form` does.
    triage, form, tlp, digests
        As in `to_text`.

    Raises
    ------
    OptionError
        As `to_text`, or if the suffix names no format.
    OutputError
        If the place cannot be written.
    """
    text = to_text(triage, form or form_of(path), tlp=tlp, digests=digests)
    with complete_file(Path(path)) as part:
        part.write_text(text, encoding="utf-8", newline="")


def check_form(form: str) -> None:
    """Refuse a format that cannot be made here, before the work.

    Raises
    ------
    DependencyError
        If it needs a library that is missing.
    """
    if form == "stix" and find_spec("stix2") is None:
        raise DependencyError(_stix.MISSING)


def check_tlp(label: str | None) -> None:
    """Refuse a label that the Traffic Light Protocol does not know.

    Raises
    ------
    OptionError
        If it is none.
    """
    Given(label)


def form_of(path: str | os.PathLike[str], *others: str) -> str:
    """Return the format that a file's suffix names.

    `others` are suffixes that the caller takes besides; a refusal names them.

    Raises
    ------
    OptionError
        If it names none.
    """
    name = Path(path).name.lower()
    for form in FORMS:
        if name.endswith(form.suffixes):
            return form.name
    known = ", ".join([*others, *(form.suffixes[0] for form in FORMS)])
    raise OptionError(f"{path}: the suffix must name a format, one of {known}.")
