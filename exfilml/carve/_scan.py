"""Captures, read piece by piece: the packets of a case in them, and what went wrong."""

from __future__ import annotations

import mmap
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from exfilml.carve import _packets
from exfilml.carve._blocks import PCAPNG, Capture, Sink, read_section
from exfilml.exceptions import SourceError, SourceWarning
from exfilml.sources import _pcap
from exfilml.sources._packed import damaged_head, plain_file, plain_head

# So much of a file is looked at, and so many rows are kept, before they are used.
WINDOW: Final = 1 << 26
_ROWS: Final = 1 << 15
_NANO: Final = (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d")
_LONG_HEADER: Final = (b"\x34\xcd\xb2\xa1", b"\xa1\xb2\xcd\x34")
_MAGIC_BYTES: Final = 8


def scan(paths: list[Path], flows: _packets.Wanted, sink: Sink) -> list[Capture]:
    """Hand a sink the packets of flows in captures, one capture after the other.

    Returns
    -------
    list of Capture
        As they were given, with what was counted.

    Raises
    ------
    SourceError
        If a file is missing, no capture, or cannot be read.

    Warns
    -----
    SourceWarning
        If a capture is damaged; what stands before the damage is read.
    """
    for path in paths:
        if not is_capture(path):
            raise SourceError(f"{path}: is no capture. Expected pcap or pcapng.")
    rows = 0
    found = []
    for path in paths:
        capture = Capture(path)
        capture.told[[_packets.T_FIRST, _packets.T_LITTLE]] = np.iinfo(np.int64).max, 1
        capture.told[_packets.T_LAST] = np.iinfo(np.int64).min
        capture.told[_packets.T_ROWS] = rows
        try:
            with plain_file(path, "capture") as (plain, damage):
                if damage is not None:
                    _warn(f"{path}: {damage}")
                _scan_plain(plain, capture, flows, sink)
        except OSError as error:
            raise SourceError(
                f"{path}: cannot be read: {error.strerror or error}."
            ) from error
        rows = int(capture.told[_packets.T_ROWS])
        found.append(capture)
    return found


def is_capture(path: Path) -> bool:
    """Say from its first bytes whether a file is a capture, plain or packed.

    Raises
    ------
    SourceError
        If it cannot be read, or is empty.
    """
    if not path.is_file():
        what = "is no regular file" if path.exists() else "no such file"
        raise SourceError(f"{path}: {what}. Expected pcap or pcapng.")
    try:
        head = plain_head(path, _MAGIC_BYTES)
        damage = None if head else damaged_head(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error.strerror}.") from error
    if not head:
        raise SourceError(f"{path}: {damage or 'the file is empty'}.")
    return _pcap.detect(head)


def _warn(text: str) -> None:
    warnings.warn(f"{text}.", SourceWarning, stacklevel=2)


def _scan_plain(
    plain: Path, capture: Capture, flows: _packets.Wanted, sink: Sink
) -> None:
    capture.size = plain.stat().st_size
    if capture.size < 24:
        _warn(f"{capture.path}: damaged capture: it ends within its header")
        return
    with plain.open("rb") as file:
        # Closed with the last array that looks into it.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for view, rows, offset in _found(mapped, capture, flows, sink):
        if len(rows):
            sink.take(view, rows, capture)
        # Else the whole file would be in memory, and seem to be used.
        behind = min(offset, capture.size) // mmap.PAGESIZE * mmap.PAGESIZE
        if behind:
            mapped.madvise(mmap.MADV_DONTNEED, 0, behind)


def _found(
    mapped: mmap.mmap, capture: Capture, flows: _packets.Wanted, sink: Sink
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], int]]:
    """Walk the capture window by window."""
    magic = mapped[:4]
    capture.kind = "pcapng" if magic == PCAPNG else "pcap"
    memory = _packets.new_memory()
    rows = np.empty((_ROWS, _packets.COLUMNS), np.int64)
    header, little = (24 if magic in _LONG_HEADER else 16), magic[0] != 0xA1
    if capture.kind == "pcap":
        order = "<" if little else ">"
        snap, capture.network = struct.unpack_from(f"{order}II", mapped, 16)
        capture.nano = magic in _NANO
        capture.add_face(capture.network & 0xFFFF, (0, 1, 0), snap)
    sink.begin(capture)
    offset = 24 if capture.kind == "pcap" else 0
    state = _packets.SOUND
    while offset < capture.size:
        stop = min(capture.size, offset + WINDOW)
        data: NDArray[np.uint8] = np.frombuffer(mapped, dtype=np.uint8)
        if capture.kind == "pcap":
            count, offset, state = _packets.walk_records(
                *(data, offset, stop, header, little, 1 if capture.nano else 1000),
                *(flows, memory, capture.told, rows),
            )
        else:
            count, offset, state = _packets.walk_blocks(
                *(data, offset, stop, capture.faces, capture.known),
                *(flows, memory, capture.told, rows),
            )
        yield data, rows[:count], offset
        if state == _packets.SECTION:
            offset, state = read_section(mapped, offset, capture, sink)
        if state in (_packets.CUT, _packets.GARBAGE):
            _tell_damage(capture, offset, cut=state == _packets.CUT)
            return


def _tell_damage(capture: Capture, offset: int, *, cut: bool) -> None:
    lost = capture.size - offset
    how = (
        f"ends within a record; its last {lost:,} bytes are lost"
        if cut
        else f"has no packet record at byte {offset:,}; the {lost:,} bytes from there on "
        "are not read"
    )
    packets = int(capture.told[_packets.T_PACKETS])
    _warn(
        f"{capture.path}: damaged capture: it {how} ({packets:,} packets before are "
        "sound)"
    )


def describe_times(captures: list[Capture]) -> tuple[int, int] | None:
    """Return first and last time of all captures together."""
    known = [times for capture in captures if (times := capture.times) is not None]
    if not known:
        return None
    return min(first for first, _ in known), max(last for _, last in known)


def total(captures: list[Capture], count: int) -> int:
    """Add up one count over captures."""
    return sum(int(capture.told[count]) for capture in captures)


def seen_in(captures: list[Capture]) -> int:
    """Return what the packets found were wrapped in, as bits."""
    bits: Any = 0
    for capture in captures:
        bits |= int(capture.told[_packets.T_SEEN])
    return int(bits)
