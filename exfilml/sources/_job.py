"""What the caller and a worker process say to each other; free of the engine.

The caller writes a `Job` as a line. The worker answers in frames: a kind byte, the
length of the body, the body.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import Final

HEADER: Final = struct.Struct("<cQ")
READY: Final = b"R"  # the job begins
BATCH: Final = b"B"  # an Arrow stream with rows
DONE: Final = b"D"  # JSON: what was lost
REFUSED: Final = b"E"  # JSON: why not


IDLE_SECONDS: Final = 60.0
"""So long a worker waits for another job before it ends itself."""


@dataclass(frozen=True, slots=True)
class Job:
    """One file to meter.

    Attributes
    ----------
    path
        Absolute path.
    bpf_filter
        Filter in libpcap's language, or None.
    idle_timeout, active_timeout
        Seconds.
    decode_tunnels
        As in NFStream.
    shown
        The path to name in errors: the user's own.
    """

    path: str
    bpf_filter: str | None
    idle_timeout: int
    active_timeout: int
    decode_tunnels: bool
    shown: str

    def encode(self) -> bytes:
        """Write the line that a worker reads."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Job:
        """Read what `encode` has written."""
        return cls(**json.loads(line))
