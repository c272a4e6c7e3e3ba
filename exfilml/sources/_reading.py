"""What a reader is given and what it hands back; shared by all formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from exfilml.sources._pool import WorkerPool

DAMAGED = "damaged"
NO_PACKETS = "without IP packets"
BAD_TIMES = "with impossible times"
FRAGMENTED = "with IP fragments that are not counted"


@dataclass(frozen=True, slots=True)
class Options:
    """How captures are read, and what logs do not say themselves.

    Attributes
    ----------
    pool
        Worker processes that run the packet engine.
    bpf_filter
        Filter in libpcap's language, or None.
    idle_timeout, active_timeout
        Seconds.
    decode_tunnels
        Whether flows inside GTP, TZSP and the like are shown as flows.
    advance
        Called with bytes read since the last call, for progress.
    timezone
        Where the times of a log are local that does not say so itself.
    sampling
        One packet in how many an exporter looked at that does not say so itself.
    exports
        Whether captures are read for the flows that exporters sent in them.
    together
        Files read in the same call that hold exports, whose templates serve all.
    """

    pool: WorkerPool
    bpf_filter: str | None = None
    idle_timeout: int = 120
    active_timeout: int = 1800
    decode_tunnels: bool = True
    advance: Callable[[int], None] = field(default=lambda _: None)
    timezone: str | None = None
    sampling: int | None = None
    exports: bool = False
    together: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Flows of one file, and what was lost: pairs of a kind and a sentence."""

    flows: pa.Table | pd.DataFrame
    losses: tuple[tuple[str, str], ...] = ()


class Reader(Protocol):
    """A module that knows one format."""

    def detect(self, head: bytes) -> bool:
        """Say from the first bytes whether this is the format."""

    def read(self, path: Path, options: Options) -> Reading:
        """Read one file."""
