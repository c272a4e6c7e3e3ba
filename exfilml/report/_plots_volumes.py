"""Uploads of a case or a host over time, against what is usual."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.drawing import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    SKY,
    axes_for,
    drawable,
    in_bytes,
    in_utc,
)
from exfilml.exceptions import FlowsError, OptionError
from exfilml.features import human_bytes
from exfilml.features.cases import largest_of_case
from exfilml.policy import Policy
from exfilml.ranking import at_home, case_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from exfilml.detector import Detector, Scored
    from exfilml.features import Asked

BAND: Final = (0.05, 0.5, 0.95, 1.0)
# A quantile of fewer flows would be one accident.
FEWEST_FOR_BAND: Final = 20
CASE_LEVELS: Final = ("host_service", "service", "host", "site")
HOST_LEVELS: Final = ("host", "site")
# In days: a picture of one moment shows so much before and after.
LEAST_MARGIN: Final = 10 / 1440


@dataclass(frozen=True)
class _Usual:
    """Quantiles of one flow's upload in the baseline, bytes, and whose they are."""

    low: float
    median: float
    high: float
    most: float
    flows: int
    whose: str


def plot_volumes(
    detector: Detector,
    flows: pd.DataFrame,
    *,
    case: str | None = None,
    local_ip: str | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what a case or a host uploads over time, against what is usual.

    Each point is a flow. The band holds 5 to 95 % of single flows of the baseline: for
    a case, of its host and service if there are 20, else of the service, the host or
    the site; for a host, of the host or the site. The line adds the flows up. Bytes are
    of payload; where none was seen, IP bytes less the headers of the packets, as
    volumes are judged.

    Parameters
    ----------
    detector
        A fitted detector.
    flows
        A flows table, whole: which flows are a case's depends on no others, but the
        most suspicious case does.
    case
        Name of a case, as in the column ``case`` of `exfilml.rank_cases`.
    local_ip
        Address of a local host, instead of a case. If both are `None`: the most
        suspicious case.
    ax
        Where to draw; `None` for a new figure.

    Raises
    ------
    FlowsError
        If `flows` is no flows table, or has no rows.
    OptionError
        If both are given, or there is no such case or host.
    """
    if case is not None and local_ip is not None:
        raise OptionError("Both a case and a host were given; give one.")
    ax = axes_for(ax)
    declared = None if policy is None else Policy.of(policy)
    scored = at_home(detector, declared).score(flows)
    if scored.asked.n_flows == 0:
        raise FlowsError("There are no flows to draw.")
    rows = _chosen(scored, case, local_ip)
    asked = scored.asked.only(rows)
    leading = int(
        largest_of_case(asked.up, np.zeros(len(rows), np.int64), asked.tie)[0]
    )
    levels = CASE_LEVELS if local_ip is None else HOST_LEVELS
    usual = _usual(asked.told.only(np.array([leading])), levels)
    order = np.argsort(asked.oriented["start"].to_numpy(), kind="stable")
    times = asked.oriented["start"].dt.tz_localize(None).to_numpy()[order]
    # A logarithm has no place for nothing: an empty upload is drawn as one byte.
    up = np.maximum(asked.up[order], 1.0)
    above = up > usual.most
    ax.axhspan(
        max(usual.low, 1.0),
        max(usual.high, 1.0),
        color=SKY,
        alpha=0.3,
        linewidth=0,
        label=f"usual: 5–95 % of {usual.flows:,} flows\nof {drawable(usual.whose)}",
    )
    ax.axhline(max(usual.median, 1.0), color=BLUE, linewidth=1, label="their median")
    ax.axhline(
        max(usual.most, 1.0),
        color=BLUE,
        linewidth=1,
        linestyle=":",
        label=f"their largest, {human_bytes(usual.most)}",
    )
    if len(rows) > 1:
        total = np.cumsum(up)
        label = f"added up, {human_bytes(float(asked.up.sum()))}"
        ax.step(times, total, where="post", color=GREY, linewidth=1.2, label=label)
    for some, colour, mark, label in (
        (~above, ORANGE, "o", "a flow"),
        (above, RED, "^", "a flow above all of them"),
    ):
        if some.any():
            ax.scatter(
                times[some], up[some], s=26, color=colour, marker=mark, label=label,
                edgecolors="black", linewidths=0.4, zorder=3,
            )  # fmt: skip
    ax.set_yscale("log")
    ax.set_xlim(*_span(times))
    in_utc(ax.xaxis)
    in_bytes(ax.yaxis)
    ax.set(ylabel=_unit(asked), title=_title(asked, leading, local_ip))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    return ax


def _chosen(
    scored: Scored, case: str | None, local_ip: str | None
) -> NDArray[np.int64]:
    """Return the rows of a case or of a host."""
    if local_ip is not None:
        rows = np.flatnonzero(scored.asked.oriented["local_ip"] == local_ip)
        if len(rows) == 0:
            raise OptionError(
                f"local_ip={drawable(repr(local_ip))}: no flow is of such a local host."
            )
        return rows
    if case is None:
        worst = int(np.argmax(scored.ranked_cases))
        return np.flatnonzero(scored.case == worst)
    names = case_names(scored, scored.worst)
    if case not in names:
        raise OptionError(
            f"case={drawable(repr(case))}: no flow is of such a case; expected a name "
            "from the column `case` of exfilml.rank_cases on the same flows."
        )
    return np.flatnonzero(scored.case == names.index(case))


def _usual(asked: Asked, levels: tuple[str, ...]) -> _Usual:
    """Look up what is usual for a flow, at the first level that has seen enough."""
    level, n = levels[-1], 0.0
    for level in levels:
        (count,) = asked.take(level, "n")
        n = float(count[0])
        if n >= FEWEST_FOR_BAND:
            break
    keys = asked.keys(level)
    low, median, high, most = (
        float(2.0 ** asked.baseline.quantile(level, keys, q)[0] - 1.0) for q in BAND
    )
    host = str(asked.oriented["local_ip"].iloc[0])
    service = str(asked.oriented["service"].iloc[0])
    whose = {
        "host_service": f"{host}, {service}",
        "service": f"{service}, all hosts",
        "host": f"{host}, all services",
        "site": "the site, all services",
    }[level]
    return _Usual(low, median, high, most, int(n), whose)


def _span(times: NDArray[Any]) -> tuple[float, float]:
    """Return where an axis of time begins and ends, in matplotlib's days."""
    from matplotlib.dates import date2num

    begin, end = (float(day) for day in date2num(times[[0, -1]]))
    margin = max((end - begin) * 0.05, LEAST_MARGIN)
    return begin - margin, end + margin


def _unit(asked: Asked) -> str:
    seen = ~np.isnan(asked.oriented.numbers("up_payload_bytes"))
    return f"upload (payload bytes{'' if seen.all() else ', estimated'})"


def _title(asked: Asked, leading: int, local_ip: str | None) -> str:
    host = drawable(asked.oriented["local_ip"].iloc[leading])
    if local_ip is not None:
        return f"Uploads of {host}"
    place = drawable(asked.oriented["place"].iloc[leading])
    service = drawable(asked.oriented["service"].iloc[leading])
    return f"{host} → {place}, {service}"
