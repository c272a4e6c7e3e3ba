"""Says how captures are read on this machine."""

from __future__ import annotations

import platform
import tempfile
import time
from pathlib import Path

from exfilml.exceptions import SourceError
from exfilml.sources._job import Job
from exfilml.sources._pool import RESERVE, WorkerPool

# A capture without packets: magic number, version 2.4, link type Ethernet.
_EMPTY = bytes.fromhex("d4c3b2a10200040000000000000000000000040001000000")


def examine() -> dict[str, str]:
    """Read an empty capture as any other, and report what its worker says.

    Returns
    -------
    dict
        Versions; ``packet loop``, ``compiled`` or ``NFStream's own`` with the reason;
        ``first capture``, the seconds that reading nothing takes.

    Raises
    ------
    SourceError
        If the packet engine does not start.
    """
    from importlib.metadata import version

    names = ("exfilml", "nfstream", "numba")
    facts = {"python": platform.python_version()}
    facts |= {name: version(name) for name in names}
    # What is told is how long it takes a worker to start.
    RESERVE.clear()
    before = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="exfilml-") as folder, WorkerPool() as pool:
        path = Path(folder) / "empty.pcap"
        path.write_bytes(_EMPTY)
        job = Job(
            str(path), None, 120, 1800, decode_tunnels=True, shown="a test capture"
        )
        try:
            _, found = pool.run(job, lambda _: None)
        except SourceError as error:
            raise SourceError(f"captures cannot be read here: {error}") from error
    reason = found["plain"]
    facts["packet loop"] = (
        "compiled"
        if reason is None
        else f"NFStream's own, several times slower: {reason}"
    )
    facts["first capture"] = f"{time.perf_counter() - before:.1f} s"
    return facts
