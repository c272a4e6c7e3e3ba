"""Geometry of the page's pictures: numbers in, what a template draws out.

Everything is SVG attributes and table cells, because the page's policy allows no
styles inside its elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import pandas as pd

from exfilml.features import human_bytes
from exfilml.report.page._explained import HIGH, LOW, PAYLOAD, SHOWN_COLUMNS, Usual
from exfilml.report.page._wording import (
    bytes_text,
    is_missing,
    moment,
    name,
    plural,
    real,
    span_text,
    time_text,
    value_of,
)

# What a family of evidence says, for readers who do not know the library.
FAMILY_TEXT: Final = {
    "volume": "more upload than is usual",
    "hidden": "concealed bytes and uploads that add up",
    "timing": "regular sizes or intervals",
    "payload": "payload that looks encrypted where none is",
    "mismatch": "port and protocol do not fit",
    "conformance": "does not behave as its protocol does",
    "novelty": "never or seldom seen here",
    "process": "the program on the host is unusual",
}
LEAST_BITS: Final = 0.05

# Sizes of the picture of uploads, in units of its own.
WIDTH, HEIGHT = 460, 176
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 24
RULER_HEIGHT: Final = 62
MOST_DOTS: Final = 90
MOST_STREAMS: Final = 4
# From which p-value on bytes pass for random.
RANDOM_P, DOUBTFUL_P = 0.01, 0.001


def families(contributions: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return a bar for each family of evidence that says something, longest first."""
    bits = {k: real(v) or 0.0 for k, v in contributions.items()}
    most = max([*bits.values(), LEAST_BITS])
    return [
        {
            "name": name(family),
            "text": FAMILY_TEXT.get(family, ""),
            "bits": f"{value:.1f}",
            "width": f"{100 * value / most:.0f}",
        }
        for family, value in sorted(bits.items(), key=lambda pair: -pair[1])
        if value >= LEAST_BITS
    ]


def uploads(flows: pd.DataFrame, usual: Usual | None) -> dict[str, Any] | None:
    """Draw upload bytes of each flow over time, against what is usual.

    Bytes are drawn in powers of ten. Of many flows the largest of each interval is
    drawn, so that none that matters is missing. A single flow needs no time: bytes
    run from left to right.
    """
    start = flows["start"].to_numpy(dtype="datetime64[us]")
    order = np.flatnonzero(~np.isnat(start))
    if len(order) == 0:
        return None
    order = order[np.argsort(start[order], kind="stable")]
    start = start[order].astype("int64")
    up = flows["up_bytes"].to_numpy(dtype="float64", na_value=0.0)[order]
    up = np.maximum(up, 1.0)
    hidden = np.zeros(len(up), dtype=bool)
    if "concealed" in flows:
        hidden = flows["concealed"].to_numpy(dtype=bool, na_value=False)[order]
    total = np.cumsum(up)
    ends = [up.min(), total[-1]]
    if usual is not None:
        ends += [max(usual.low, 1.0), max(usual.high, 1.0)]
    low = math.floor(math.log10(min(ends)))
    scale = _Scale(low, max(math.ceil(math.log10(max(ends)) + 0.05), low + 1))
    picture = {
        "caption": _caption(up, total, start),
        "usual": "" if usual is None else _usual_text(usual),
        "any_hidden": bool(hidden.any()),
        "width": WIDTH,
        "left": LEFT,
        "right": WIDTH - RIGHT,
    }
    if len(up) == 1:
        return picture | _ruler(scale, float(up[0]), usual, hidden=bool(hidden[0]))
    return picture | _over_time(scale, start, up, total, hidden, usual)


@dataclass(frozen=True)
class _Scale:
    """Powers of ten of bytes, from `low` to `high`."""

    low: int
    high: int

    def share(self, value: Any) -> Any:
        """Return where values lie, 0 … 1."""
        bits = np.log10(np.maximum(value, 1.0))
        return np.clip((bits - self.low) / (self.high - self.low), 0.0, 1.0)

    def ticks(self, most: int) -> list[float]:
        step = max(1, math.ceil((self.high - self.low) / most))
        return [10.0**p for p in range(self.low, self.high + 1, step)]


def _ruler(
    scale: _Scale, up: float, usual: Usual | None, *, hidden: bool
) -> dict[str, Any]:
    across = WIDTH - LEFT - RIGHT - 12

    def x(value: float) -> float:
        return float(LEFT + across * scale.share(value))

    band = None
    if usual is not None:
        width = max(x(usual.high) - x(usual.low), 2.0)
        band = {"x": f"{x(usual.low):.1f}", "width": f"{width:.1f}"}
    return {
        "ruler": True,
        "height": RULER_HEIGHT,
        "bottom": RULER_HEIGHT - BOTTOM,
        "base": RULER_HEIGHT - 8,
        "ticks": [{"x": f"{x(t):.1f}", "text": human_bytes(t)} for t in scale.ticks(5)],
        "band": band,
        "dot": {"x": f"{x(up):.1f}", "hidden": hidden},
        "total": "",
        "thinned": 0,
    }


def _over_time(
    scale: _Scale, start: Any, up: Any, total: Any, hidden: Any, usual: Usual | None
) -> dict[str, Any]:
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    span = max(int(start[-1] - start[0]), 1)
    x = LEFT + 6 + (across - 12) * (start - start[0]) / span

    def y(value: Any) -> Any:
        return TOP + down * (1.0 - scale.share(value))

    band = None
    if usual is not None:
        top, bottom = float(y(usual.high)), float(y(usual.low))
        # A band of one value is still seen.
        band = {"y": f"{top:.1f}", "height": f"{max(bottom - top, 2.0):.1f}"}
    kept = _largest_of_intervals(x, up)
    return {
        "ruler": False,
        "height": HEIGHT,
        "base": HEIGHT - 8,
        "grid": [
            {"y": f"{y(tick):.1f}", "text": human_bytes(tick)}
            for tick in scale.ticks(5)
        ],
        "band": band,
        "dots": [
            {"x": f"{x[i]:.1f}", "y": f"{y(up[i]):.1f}", "hidden": bool(hidden[i])}
            for i in kept
        ],
        "total": " ".join(f"{x[i]:.1f},{y(total[i]):.1f}" for i in kept),
        "thinned": len(kept) if len(kept) < len(up) else 0,
        "first": _clock(start[0]),
        "last": _clock(start[-1]) if span >= 60_000_000 else "",
    }


def _clock(microseconds: Any) -> str:
    return time_text(pd.Timestamp(int(microseconds), unit="us"))


def _usual_text(usual: Usual) -> str:
    return (
        f"{HIGH - LOW:.0%} of the {plural(usual.flows, 'flow')} of {name(usual.whose)} "
        f"in the baseline upload {human_bytes(usual.low)} to "
        f"{human_bytes(usual.high)}; the largest was {human_bytes(usual.largest)}"
    )


def _caption(up: Any, total: Any, start: Any) -> str:
    text = f"{plural(len(up), 'flow')}, {human_bytes(total[-1])} up"
    if len(up) > 1:
        lasting = span_text(pd.Timedelta(int(start[-1] - start[0]), unit="us"))
        text += f" within {lasting}; the largest {human_bytes(up.max())}"
    return text


def _largest_of_intervals(x: Any, up: Any) -> list[int]:
    if len(x) <= MOST_DOTS:
        return list(range(len(x)))
    interval = np.floor((x - x[0]) / max(x[-1] - x[0], 1e-9) * (MOST_DOTS - 1))
    largest = pd.Series(up).groupby(interval).idxmax()
    return [int(i) for i in largest]


def streams(largest: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the payload that flows sent up, window by window.

    `largest` are flows as `largest_flows` gives them.
    """
    found = []
    for flow in largest:
        side = "src" if flow["local_ip"] == flow["src_ip"] else "dst"
        sent = {column: flow.get(f"{side}_{column}") for column in PAYLOAD}
        if (real(sent["sampled_bytes"]) or 0.0) > 0:
            found.append(_stream(flow, sent))
    return found[:MOST_STREAMS]


def largest_flows(
    tables: list[pd.DataFrame | None], most: list[int]
) -> list[list[dict[str, Any]]]:
    """Return the flows of each table that upload most, by column, the largest first.

    Columns are turned into values once for all tables: for each it would take longer
    than all else on the page.
    """
    parts, counts = [], []
    for table, n in zip(tables, most, strict=True):
        if table is None or len(table) == 0:
            counts.append(0)
            continue
        up = table["up_bytes"].to_numpy(dtype="float64", na_value=0.0)
        rows = np.argsort(-up, kind="stable")[:n]
        shown = [c for c in (*SHOWN_COLUMNS, "suspicion") if c in table]
        parts.append(table[shown].iloc[rows])
        counts.append(len(rows))
    if not parts:
        return [[] for _ in tables]
    whole = pd.concat(parts, ignore_index=True)
    columns = [whole[column].tolist() for column in whole.columns]
    names = whole.columns.tolist()
    flows = (
        dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)
    )
    return [list(islice(flows, n)) for n in counts]


def _stream(flow: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    said = [
        f"{what} {name(value)}"
        for what, column in (
            ("", "handshake"),
            ("looks like", "magic"),
            ("encoded as", "encoding"),
        )
        if (value := value_of(row, column)) is not None
    ]
    begin = real(row.get("opaque_from"))
    time = moment(flow["start"])
    verdict = value_of(row, "verdict")
    return {
        "start": "?" if time is None else f"{time:%H:%M:%S}",
        "up": bytes_text(flow["up_bytes"]),
        "windows": [
            _window(None, row.get("start_p_random")),
            _window(row.get("head_entropy"), row.get("head_p_random")),
            _window(row.get("body_entropy"), row.get("body_p_random")),
        ],
        "verdict": "not judged" if verdict is None else name(verdict),
        "from": "" if begin is None else f"from byte {begin:,.0f}",
        "said": ", ".join(part.strip() for part in said) or "no handshake",
    }


def _window(entropy: Any, p_random: Any) -> dict[str, Any]:
    """Return the text of a window and how much it looks like random bytes, 0 … 2."""
    p = real(p_random)
    if p is None:
        return {"look": "none", "text": "not seen"}
    look = "random" if p >= RANDOM_P else "doubtful" if p >= DOUBTFUL_P else "ordered"
    shown = f"p {p:.2f}" if p >= RANDOM_P else f"p {p:.0e}" if p > 0 else "p 0"
    bits = real(entropy)
    return {
        "look": look,
        "text": shown
        if is_missing(entropy) or bits is None
        else f"{bits:.2f} · {shown}",
    }
