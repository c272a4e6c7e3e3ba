"""Options that several commands take, and what they stand for."""

from __future__ import annotations

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from exfilml.cli._output import say
from exfilml.exceptions import SourceError

if TYPE_CHECKING:
    import pandas as pd

    from exfilml.detector import Detector
    from exfilml.policy import Policy


_Command = TypeVar("_Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)


def _expand(
    context: click.Context, _: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    """Give the files that patterns match, and a file of standard input for ``-``."""
    sources: list[str] = []
    context.meta["typed_sources"] = given
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


def SOURCES(command: _Command) -> _Command:  # noqa: N802 - as the options below
    """Take sources, and what is said of all of them."""
    return _sources(command, required=True)


def MAYBE_SOURCES(command: _Command) -> _Command:  # noqa: N802 - as SOURCES
    """Take sources, or none."""
    return _sources(command, required=False)


def _sources(command: _Command, *, required: bool) -> _Command:
    argument = click.argument(
        "source",
        nargs=-1,
        required=required,
        metavar="SOURCE..." if required else "[SOURCE]...",
        callback=_expand,
    )
    options = (
        click.option(
            "--timezone",
            metavar="ZONE",
            callback=_keep_option,
            expose_value=False,
            help="Of logs in local time that do not say where, such as Europe/Prague.",
        ),
        click.option(
            "--sampling",
            metavar="N",
            type=int,
            callback=_keep_option,
            expose_value=False,
            help="NetFlow of 1 packet in N, where the exporter does not tell.",
        ),
        click.option(
            "--exports",
            is_flag=True,
            callback=_keep_option,
            expose_value=False,
            help="Of captures, read the NetFlow and IPFIX in them, not the packets.",
        ),
        click.option(
            "--map",
            "columns",
            type=FILE,
            metavar="FILE",
            callback=_keep_option,
            expose_value=False,
            help="What the columns of other tools' tables mean (TOML).",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return argument(command)


CAPTURES = click.argument(
    "capture", nargs=-1, required=True, metavar="CAPTURE...", callback=_expand
)


def asked() -> dict[str, Any]:
    """Return what was said of all sources."""
    meta = click.get_current_context().meta
    return {
        name: meta[name]
        for name in ("timezone", "sampling", "exports", "columns")
        if name in meta
    }


HOME = click.option(
    "--home",
    multiple=True,
    metavar="CIDR",
    help="Home network; repeat for several.  [default: private networks, or inferred]",
)

OTHER_HOME = click.option(
    "--home",
    multiple=True,
    metavar="CIDR",
    help="Home network; repeat for several.  [default: the model's]",
)

POLICY = click.option(
    "--policy",
    type=FILE,
    metavar="FILE",
    help="What the site declares: home networks, approvals, rules (TOML).",
)

QUIET = click.option("--quiet", "-q", is_flag=True, help="No progress bar.")


def read(source: tuple[str, ...], *, quiet: bool) -> pd.DataFrame:
    from exfilml._jit import is_first_use
    from exfilml.sources import read_flows

    if not quiet and is_first_use():
        say("first use after installation: code is compiled, for a minute or two")

    return read_flows(
        source[0] if len(source) == 1 else list(source),
        progress=False if quiet else None,
        **asked(),
    )


def declared_policy(path: Path | None, home: tuple[str, ...]) -> Policy | None:
    """Read a policy; home networks that were given as an option come before its own."""
    if path is None:
        return None
    from dataclasses import replace

    from exfilml.policy import Policy

    policy = Policy.read(path)
    return replace(policy, home=None) if home else policy


def load(model: Path | None, home: tuple[str, ...]) -> Detector:
    from exfilml.persistence import default_model, load_model

    if model is None:
        model = default_model()
        say(
            "no --model given: using the shipped model, which knows a made-up office "
            "only: a first look; train one on your own traffic"
        )
    detector = load_model(model)
    if home:
        from exfilml.places import parse_networks

        detector.home_ = parse_networks(home)
    return detector


def known_of(fit: Mapping[str, int], model: Path | None, detector: Detector) -> str:
    """Say which model was asked, and how much of the flows it knows."""
    first, last = detector.window_
    name = "the shipped model" if model is None else str(model)
    return (
        f"{name} (learned {first:%Y-%m-%d} to {last:%Y-%m-%d}) knows "
        f"{fit['hosts'] - fit['new_hosts']:,} of {fit['hosts']:,} hosts and "
        f"{fit['services'] - fit['new_services']:,} of {fit['services']:,} services "
        "of these flows"
    )
