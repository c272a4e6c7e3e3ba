"""Next steps that can be copied: with the sources and the model that were given.

A step names what only the caller knows in capitals. Left as they are: sources that are
gone when the command ends, too many of them, and names that a terminal would not show as
they are.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from exfilml.cli._options import asked

if TYPE_CHECKING:
    from exfilml.triage.case import Step, Triage

MOST_SOURCES: Final = 4
_CAPTURES: Final = (".pcap", ".pcapng", ".cap")
_PACKED: Final = frozenset({".gz", ".bz2", ".xz", ".zst"})


def with_sources(
    found: Triage,
    source: tuple[str, ...],
    model: Path | None,
    home: tuple[str, ...],
    policy: Path | None,
) -> Triage:
    """Return a triage whose next steps name sources, model, home and policy."""
    given = "-" not in _arguments() and len(source) <= MOST_SOURCES
    sources = source if given and all(map(_plain, source)) else ("SOURCE",)
    captures = sources if all(map(_is_capture, sources)) else ("CAPTURE",)
    ranked: list[str] = []
    if model is not None and _plain(str(model)):
        ranked += ["--model", str(model)]
    for network in home:
        ranked += ["--home", network]
    same = [*ranked]
    if policy is not None and _plain(str(policy)):
        same += ["--policy", str(policy)]
    read = [
        word
        for name, value in asked().items()
        if value and _plain(str(value))
        for word in _option(name, value)
    ]
    kinds = {
        "triage": (sources, [*same, *read]),
        "carve": (captures, same),
        "suppress": (sources, [*ranked, *read]),
    }

    def told(step: Step) -> Step:
        words = shlex.split(step.command)
        kind = next((word for word in words[1:3] if word in kinds), None)
        if kind is None:
            return step
        files, options = kinds[kind]
        at = words.index("CAPTURE" if kind == "carve" else "SOURCE")
        return replace(
            step,
            command=shlex.join([*words[:at], *files, *options, *words[at + 1 :]]),
        )

    cases = tuple(
        replace(case, next_steps=tuple(map(told, case.next_steps))) for case in found
    )
    return replace(found, cases=cases)


def _arguments() -> tuple[str, ...]:
    """Return the sources as they were typed, before standard input became a file."""
    typed = click.get_current_context().meta.get("typed_sources", ())
    return tuple(typed)


def _option(name: str, value: object) -> tuple[str, ...]:
    option = {"columns": "--map"}.get(name, f"--{name}")
    return (option,) if value is True else (option, str(value))


def _plain(name: str) -> bool:
    from exfilml.export import printable

    return name == printable(name) and not name.startswith("-")


def _is_capture(name: str) -> bool:
    path = Path(name)
    if path.suffix.lower() in _PACKED:
        path = path.with_suffix("")
    return path.suffix.lower() in _CAPTURES
