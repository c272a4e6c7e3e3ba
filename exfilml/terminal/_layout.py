"""Columns of text, and how wide they may be."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import click

WIDTH: Final = 110
"""Of what is not written to a terminal."""


def width_of_terminal() -> int:
    """Return how many characters a line may have."""
    if sys.stdout is None or not sys.stdout.isatty():
        return WIDTH
    return max(shutil.get_terminal_size().columns, 60)


def laid_out(
    header: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    *,
    right: AbstractSet[str] = frozenset(),
) -> list[str]:
    """Return a header and rows as lines of columns.

    Parameters
    ----------
    header, rows
        Cells, as many in each.
    right
        Headings of the columns whose cells stand at the right.
    """
    widths = [max(len(r[i]) for r in (header, *rows)) for i in range(len(header))]
    lines = [line_of(row, widths, header, right) for row in (header, *rows)]
    lines[0] = click.style(lines[0], underline=True)
    return lines


def line_of(
    cells: Sequence[str],
    widths: Sequence[int],
    header: Sequence[str],
    right: AbstractSet[str],
) -> str:
    """Return cells as a line, each as wide as its column."""
    padded = (
        cell.rjust(width) if name in right else cell.ljust(width)
        for cell, width, name in zip(cells, widths, header, strict=True)
    )
    return "  ".join(padded).rstrip()
