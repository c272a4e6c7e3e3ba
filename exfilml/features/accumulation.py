"""Accumulation: what many flows add up to, over 5 minutes, an hour, a day, 14 days.

A drip of small uploads, or one upload split over many connections or addresses, shows
only in the sum. `exfilml.state` sums what was uploaded, up to and including each
flow; what comes later never counts. Evidence is how many doublings the sum lies
above the usual high mark of such sums, in the window where that is most.

Two amounts are summed: all uploaded bytes, and *hidden* ones: concealed without the
handshake of any protocol that encrypts, or carried in DNS names and echo data.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from exfilml.baseline import SUMMED, windows_of
from exfilml.features._feature import (
    PEERS,
    Asked,
    Feature,
    human_bytes,
    mark,
    speaking_level,
)
from exfilml.features.cases import scattered
from exfilml.state import WINDOWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Before any hidden bytes were seen, 64 of them are nothing to speak of.
FIRST_HIDDEN_BITS: Final = 6.0


# Before any concealed upload was seen, three of them.
FIRST_FLOWS_BITS: Final = 2.0


def _by_window(
    asked: Asked, what: str, tables: tuple[str, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sums and their usual marks in bits, both (n_windows, n_flows)."""
    first = None
    if what.endswith(("hidden", "flows")):
        first = FIRST_HIDDEN_BITS if what.endswith("hidden") else FIRST_FLOWS_BITS
    sums, marks = [], []
    for name in windows_of(what):
        usual = mark(asked, tables, name, count=SUMMED[what], first=first)
        sums.append(_sum(asked, what, name))
        marks.append(usual)
    return np.array(sums, dtype=np.float64), np.array(marks)


def _sum(asked: Asked, what: str, name: str) -> NDArray[np.float64]:
    own = asked.observed.values[name]
    if not what.startswith("case_"):
        return own
    whole = asked.observed.values[name.replace("case_", "host_service_")]
    # What goes to many addresses is one case with that alone which is hidden.
    together = asked.is_new("service")
    if what != "case_up":
        together = together | scattered(asked)
    return np.where(together, whole, own)


def _excess(asked: Asked, what: str, tables: tuple[str, ...]) -> NDArray[np.float64]:
    sums, marks = _by_window(asked, what, tables)
    excess: NDArray[np.float64] = np.maximum(sums - marks, 0.0).max(axis=0)
    return excess


_CASE = ("site", "service", PEERS, "host_service")
_SERVICE = ("site", "service")
_HOST = ("site", "host")


def case_sum(asked: Asked) -> NDArray[np.float64]:
    """log2 upload of the case over a window above its mark, in doublings.

    The mark is mean + 2 standard deviations of such sums for this host and service,
    blended with its peers', the service's and the site's; the window is the one of 5 minutes, an
    hour, a day and 14 days where the sum exceeds it most.
    """
    return _excess(asked, "case_up", _CASE)


def place_sum(asked: Asked) -> NDArray[np.float64]:
    """log2 upload of all hosts to a new place over a window above its mark.

    In doublings, as `case_sum`; mark of the service, blended with the site's. 0 where
    the place is known for the service: that many hosts use it is normal.
    """
    new = asked.is_new("service_place")
    return np.where(new, _excess(asked, "place_up", _SERVICE), 0.0)


def _hidden(asked: Asked, what: str, tables: tuple[str, ...]) -> NDArray[np.float64]:
    counts = asked.is_true(SUMMED[what])
    excess = np.where(counts, _excess(asked, what, tables), 0.0)
    return np.where(asked.is_true("visible"), excess, np.nan)


def hidden_case(asked: Asked) -> NDArray[np.float64]:
    """log2 hidden bytes of the case over a window above the mark, in doublings.

    The mark is mean + 2 standard deviations of such sums of the service where there
    were any, blended with the site's, itself with 6 bits (64 bytes).
    """
    return _hidden(asked, "case_hidden", _SERVICE)


def hidden_host(asked: Asked) -> NDArray[np.float64]:
    """log2 concealed bytes of the host, whatever place, over a window above the mark.

    As `hidden_case`, with the marks of the host and of the site, and without names
    and echo data. 0 where the place takes in such uploads in the baseline: it does not
    become stranger by what the host does elsewhere.
    """
    (known,) = asked.take("service_place", "bare")
    excess = _hidden(asked, "host_hidden", _HOST)
    return np.where(known > 0, np.minimum(excess, 0.0), excess)


def hidden_place(asked: Asked) -> NDArray[np.float64]:
    """log2 hidden bytes of all hosts to the place over a window above the mark.

    As `hidden_case`.
    """
    return _hidden(asked, "place_hidden", _SERVICE)


def chunks(asked: Asked) -> NDArray[np.float64]:
    """log2 number of hidden uploads from 64 bytes on of the case above the mark.

    In doublings, over windows as `hidden_case`; 2 bits (three uploads) before there were any. It is
    what cutting a transfer into pieces leaves behind, whatever their size.
    """
    return _hidden(asked, "case_flows", _SERVICE)


def _say_chunks(asked: Asked) -> list[str]:
    sums, marks = _by_window(asked, "case_flows", _SERVICE)
    most = np.argmax(sums - marks, axis=0)
    rows = np.arange(asked.n_flows)
    names = list(WINDOWS)
    return [
        f"{2.0**total - 1.0:.0f} concealed uploads in {names[window]} (usual at most "
        f"{max(2.0**usual - 1.0, 1.0):.0f})"
        for window, total, usual in zip(
            most, sums[most, rows], marks[most, rows], strict=True
        )
    ]


def _say(asked: Asked, what: str, tables: tuple[str, ...], who: str) -> list[str]:
    sums, marks = _by_window(asked, what, tables)
    most = np.argmax(sums - marks, axis=0)
    rows = np.arange(asked.n_flows)
    names = list(WINDOWS)
    hidden = " concealed" if what.endswith("hidden") else ""
    level = speaking_level(
        asked, tables, SUMMED[what], site_first=not what.endswith("hidden")
    )
    return [
        f"{human_bytes(2.0**total - 1.0)}{hidden}{who} in {names[window]} (usual at most "
        f"{human_bytes(2.0**usual - 1.0)} {whose_usual})"
        for window, total, usual, whose_usual in zip(
            most, sums[most, rows], marks[most, rows], level, strict=True
        )
    ]


FEATURES: Final = (
    *tuple(
        Feature(
            name,
            family,
            "bits",
            needs_payload=family == "hidden",
            compute=compute,
            reason=partial(_say, what=what, tables=tables, who=who),
        )
        for name, family, compute, what, tables, who in (
            (
                "sum_case",
                "volume",
                case_sum,
                "case_up",
                _CASE,
                "",
            ),
            (
                "sum_place",
                "volume",
                place_sum,
                "place_up",
                _SERVICE,
                " from all hosts",
            ),
            (
                "hidden_case",
                "hidden",
                hidden_case,
                "case_hidden",
                _SERVICE,
                "",
            ),
            (
                "hidden_host",
                "hidden",
                hidden_host,
                "host_hidden",
                _HOST,
                " from this host, wherever to,",
            ),
            (
                "hidden_place",
                "hidden",
                hidden_place,
                "place_hidden",
                _SERVICE,
                " from all hosts",
            ),
        )
    ),
    Feature("chunks", "timing", "bits", True, chunks, _say_chunks),
)
