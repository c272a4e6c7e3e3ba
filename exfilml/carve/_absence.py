"""Why captures do not hold a case, as far as that can be seen."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from exfilml.carve import _packets
from exfilml.carve._blocks import Capture
from exfilml.carve._scan import describe_times, total
from exfilml.carve._wanted import times_of

if TYPE_CHECKING:
    import pandas as pd


def why_none(paths: list[Path], read: list[Capture], flows: pd.DataFrame) -> str:
    """Say why a capture does not hold a case, as far as can be seen."""
    name = str(paths[0]) if len(paths) == 1 else f"{len(paths):,} captures"
    packets = total(read, _packets.T_PACKETS)
    begins, finishes = times_of(flows[flows["start"].notna()])
    case = _span(begins.min(), finishes.max()) if len(begins) else "no time"
    times = describe_times(read)
    if times is None:
        held = "no packets" if not packets else f"{packets:,} packets without a time"
        return f"{name}: holds {held}; the case is of {case}."
    text = (
        f"{name}: none of its {packets:,} packets is of the case. It reaches from "
        f"{_span(*times)}, the case from {case}."
    )
    blind = total(read, _packets.T_NOT_IP)
    if blind == packets:
        links = sorted(
            {
                int(link)
                for capture in read
                for link in capture.faces[: capture.known, 0]
            }
        )
        return (
            f"{text} No packet is IP of a link type that is understood (link type "
            f"{', '.join(map(str, links))})."
        )
    short = total(read, _packets.T_SHORT)
    if short == packets:
        return f"{text} Every packet is cut off before its ports."
    apart = not len(begins) or times[1] < begins.min() or times[0] > finishes.max()
    if apart:
        return f"{text} Give a capture of the case's time, or look at clocks and zones."
    return (
        f"{text} The times overlap, so it was made where these addresses do not pass, or "
        "a tunnel or address translation hides them."
    )


def _span(first: int, last: int) -> str:
    return f"{_text(first)} to {_text(last)} UTC"


def _text(nanos: int) -> str:
    try:
        moment = datetime.fromtimestamp(nanos // 1_000_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{nanos / 1e9:.0f} s since 1970"
    return f"{moment:%Y-%m-%d %H:%M:%S}"
