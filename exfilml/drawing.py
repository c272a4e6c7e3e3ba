"""What every plot starts from: Axes, colours that all eyes tell apart, safe text.

Every plot of the library takes ``ax=None``, draws into it or into a figure of its own,
and returns the Axes. matplotlib is imported when something is drawn.

Colours are those of M. Okabe and K. Ito, "Color Universal Design" (2008), which
people with any kind of colour blindness can tell apart.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from exfilml.exceptions import DependencyError, OptionError
from exfilml.export import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
RED: Final = "#D55E00"
SKY: Final = "#56B4E9"
GREY: Final = "#767676"
# Longer names would push the picture off the page.
LONGEST: Final = 48


def axes_for(ax: Axes | None, inches: tuple[float, float] = (7.0, 4.2)) -> Axes:
    """Return the Axes to draw into: those given, or those of a new figure.

    Raises
    ------
    DependencyError
        If matplotlib is missing.
    OptionError
        If `ax` is something else.
    """
    try:
        from matplotlib import pyplot as plt
        from matplotlib.axes import Axes
    except ImportError as error:
        raise DependencyError(
            "Drawing needs matplotlib; install exfilml[notebook]."
        ) from error
    if ax is None:
        return plt.subplots(figsize=inches, layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise OptionError(
            f"ax: got {type(ax).__name__}, expected matplotlib Axes, as "
            "matplotlib.pyplot.subplots() gives them, or None for a new figure."
        )
    return ax


def drawable(text: object, longest: int = LONGEST) -> str:
    r"""Return text that is drawn as it stands, whoever wrote it.

    Control characters and what the font lacks are shown as escapes, a dollar sign
    begins no formula, and a long text is cut.

    >>> drawable("a$b")
    'a\\$b'
    """
    shown = printable(str(text)[: 4 * longest])
    known = _characters()
    shown = "".join(
        c if ord(c) in known else c.encode("unicode_escape").decode() for c in shown
    )
    cut = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return cut.replace("$", r"\$")


@lru_cache(maxsize=1)
def _characters() -> frozenset[int]:
    from matplotlib import font_manager

    file = font_manager.findfont(font_manager.FontProperties())
    return frozenset(font_manager.get_font(file).get_charmap())


def in_utc(axis: Axis) -> None:
    """Write the times of an axis in UTC, as short as they can be told apart."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(tz=dt.UTC, minticks=3, maxticks=8)
    axis.set_major_locator(locator)
    axis.set_major_formatter(ConciseDateFormatter(locator, tz=dt.UTC))
    axis.set_label_text("time (UTC)")


def in_bytes(axis: Axis) -> None:
    """Write the numbers of an axis as bytes: 1 kB, 10 MB."""

    def written(value: float, _: Any = None) -> str:
        for unit in ("B", "kB", "MB", "GB", "TB"):
            if abs(value) < 999.5 or unit == "TB":
                return f"{value:g} {unit}"
            value /= 1000.0
        raise AssertionError

    axis.set_major_formatter(written)
