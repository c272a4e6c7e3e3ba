"""The command `doctor`: what works on this machine, what is missing, how to get it."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from exfilml.cli._options import FILE

# What reads or checks, and what is lost without it.
_PROGRAMS: Final = (
    ("nfdump", "nfdump", "reads nfdump's own files"),
    ("tshark", "tshark", "checks display filters of a case"),
    ("tcpdump", "tcpdump", "checks capture filters of a case"),
    ("suricata", "suricata", "checks drafts of rules"),
    ("nft", "nftables", "checks drafts of rules"),
)
_EXTRAS: Final = (
    ("netflow", ("netflume", "dpkt"), "NetFlow and IPFIX as exporters send it"),
    ("triage", ("cryptography", "stix2patterns", "duckdb"), "keys, STIX, history"),
    ("notebook", ("matplotlib", "ipykernel"), "plots and notebooks"),
)
STALE_DAYS: Final = 60
FEW_BYTES: Final = 5_000_000_000


@click.command()
@click.option("--model", type=FILE, help="Also say how old a model is.")
def doctor(model: Path | None) -> None:
    """Show what works on this machine, what is missing, and how to get it.

    The first lines say how captures are read: the fast way or not, and why.
    """
    from exfilml.export import printable
    from exfilml.sources import examine

    facts = [*examine().items(), *_programs(), *_extras(), *_places()]
    if model is not None:
        facts.append(("model", _age(model)))
    for name, value in facts:
        click.echo(f"{name + ':':<15} {printable(value)}")


def _programs() -> list[tuple[str, str]]:
    found = []
    for program, package, what in _PROGRAMS:
        path = shutil.which(program)
        missing = f"not installed (apt install {package}): {what}"
        found.append((program, f"{path}: {what}" if path else missing))
    return found


def _extras() -> list[tuple[str, str]]:
    found = []
    for extra, modules, what in _EXTRAS:
        missing = [name for name in modules if find_spec(name) is None]
        text = f"installed: {what}"
        if missing:
            text = f"not installed (pip install 'exfilml[{extra}]'): {what}"
        found.append((f"[{extra}]", text))
    return found


def _places() -> list[tuple[str, str]]:
    """Say where files are kept while a command runs, and whether captures are ours."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    text = f"{folder}, {free / 1e9:,.1f} GB free"
    if free < FEW_BYTES:
        text += ": little for months of flows, set TMPDIR to a place with room"
    may = "yes" if os.geteuid() == 0 else "no: files of root need sudo, or their group"
    return [("temporary files", text), ("runs as root", may)]


def _age(model: Path) -> str:
    from exfilml.persistence import load_model

    first, last = load_model(model).window_
    days = (datetime.now(UTC) - last).days
    text = f"{model}: learned {first:%Y-%m-%d} to {last:%Y-%m-%d}, {days:,} days ago"
    if days > STALE_DAYS:
        text += f"; exfilml drift {model} SOURCE says whether it still fits"
    return text
