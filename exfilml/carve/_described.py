"""Streams as a table: what an analyst asks of each direction, in columns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exfilml.carve._carved import Source
from exfilml.carve._opacity import find_opaque
from exfilml.carve._stream import Stream
from exfilml.exceptions import OutputError
from exfilml.export import write_table

if TYPE_CHECKING:
    import pandas as pd

HEAD_BYTES: Final = 64
MOST_GAPS: Final = 20
_NAMES: Final = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp6", 132: "sctp"}
_PLAIN: Final = {**{n: chr(n) for n in range(0x20, 0x7F)}, 0x5C: r"\\"}


def describe_streams(
    streams: Iterable[Stream], flows: pd.DataFrame, *, head: int = HEAD_BYTES
) -> pd.DataFrame:
    r"""Say of each stream what it is, in a row.

    Parameters
    ----------
    streams
        As `follow_streams` gives them.
    flows
        The same flows.
    head
        First bytes to show.

    Returns
    -------
    pandas.DataFrame
        ``flow way source destination protocol bytes held messages gaps missing cut
        gap_list repeated differing outside connections begin_seen end_seen verdict
        concealed handshake magic encoding opaque_from opaque_within p_uniform head_hex
        head_text``. Bytes count missing ones, too; ``cut`` are missing because the
        capture cut packets off; ``gap_list`` names the first gaps as ``begin-end``, end
        excluded; ``opaque_from`` may be wrong by ``opaque_within`` bytes
        (`find_opaque`); in ``head_text`` all but printable ASCII is escaped (``\x1b``).
    """
    import pandas as pd

    known = flows[["src_ip", "src_port", "dst_ip", "dst_port"]]
    rows = dict(zip(flows.index, known.itertuples(index=False), strict=True))
    told = [_row(stream, rows[stream.flow], head) for stream in streams]
    table = pd.DataFrame(told, columns=list(_COLUMNS))
    return table.astype(_COLUMNS)


_COLUMNS: Final[dict[str, Any]] = {
    "flow": object,
    "way": str,
    "source": str,
    "destination": str,
    "protocol": str,
    "bytes": "int64",
    "held": "int64",
    "messages": "Int64",
    "gaps": "int64",
    "missing": "int64",
    "cut": "int64",
    "gap_list": str,
    "repeated": "int64",
    "differing": "int64",
    "outside": "int64",
    "connections": "int64",
    "begin_seen": bool,
    "end_seen": bool,
    "verdict": str,
    "concealed": bool,
    "handshake": object,
    "magic": object,
    "encoding": object,
    "opaque_from": "Int64",
    "opaque_within": "Int64",
    "p_uniform": float,
    "head_hex": str,
    "head_text": str,
}


def _row(stream: Stream, flow: Any, head: int) -> dict[str, Any]:
    found = find_opaque(stream)
    first = int(stream.runs()[0][0]) if stream.held else 0
    shown = stream.read(first, head) if stream.held else b""
    sizes = stream.gaps[:, 1] - stream.gaps[:, 0]
    listed = ", ".join(f"{a}-{b}" for a, b in stream.gaps[:MOST_GAPS].tolist())
    ends = [endpoint(flow[0], flow[1]), endpoint(flow[2], flow[3])]
    source, destination = ends if stream.way == "src" else ends[::-1]
    return {
        "flow": stream.flow,
        "way": stream.way,
        "source": source,
        "destination": destination,
        "protocol": _NAMES.get(stream.protocol, str(stream.protocol)),
        "bytes": stream.length,
        "held": stream.held,
        "messages": None if stream.messages is None else len(stream.messages),
        "gaps": len(stream.gaps),
        "missing": int(sizes.sum()),
        "cut": int(sizes[stream.gap_cut].sum()),
        "gap_list": listed + (" …" if len(stream.gaps) > MOST_GAPS else ""),
        "repeated": stream.repeated,
        "differing": stream.differing,
        "outside": stream.outside,
        "connections": stream.connections,
        "begin_seen": stream.begin_seen,
        "end_seen": stream.end_seen,
        "verdict": found.evidence.verdict,
        "concealed": found.evidence.concealed,
        "handshake": found.evidence.handshake,
        "magic": found.magic,
        "encoding": found.evidence.encoding,
        "opaque_from": found.begin,
        "opaque_within": None if found.begin is None else found.within,
        "p_uniform": found.p_uniform,
        "head_hex": shown.hex(),
        "head_text": escaped(shown),
    }


def endpoint(address: object, port: Any) -> str:
    """Write an end of a flow; without a port where there is none."""
    import pandas as pd

    if pd.isna(port):
        return str(address)
    host = f"[{address}]" if ":" in str(address) else str(address)
    return f"{host}:{int(port)}"


def escaped(data: bytes) -> str:
    r"""Write bytes as text: printable ASCII as it is, all else as ``\x1b``."""
    return "".join(_PLAIN.get(byte, f"\\x{byte:02x}") for byte in data)


def write_streams(
    streams: list[Stream], flows: pd.DataFrame, folder: Source
) -> pd.DataFrame:
    """Write each stream to a file of its own, and what is missing in them.

    Missing bytes are zeros, so that offsets hold; ``gaps.csv`` names all of them, and
    ``streams.csv`` describes the files.

    Parameters
    ----------
    streams, flows
        As for `describe_streams`.
    folder
        Where to write; made if it is not there.

    Returns
    -------
    pandas.DataFrame
        As `describe_streams`, with the column ``file`` first.

    Raises
    ------
    OutputError
        If the folder or a file cannot be written.
    """
    import pandas as pd

    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{place}: cannot be made: {error.strerror or error}. Give the name of a "
            "folder."
        ) from error
    table = describe_streams(streams, flows)
    names = [
        _file_name(number, row)
        for number, row in enumerate(table.itertuples(index=False), 1)
    ]
    gaps = []
    for stream, name in zip(streams, names, strict=True):
        stream.write(place / name)
        gaps += [
            (name, begin, end, "cut off" if cut else "not captured")
            for (begin, end), cut in zip(
                stream.gaps.tolist(), stream.gap_cut.tolist(), strict=True
            )
        ]
    table.insert(0, "file", names)
    write_table(table, place / "streams.csv")
    missing = pd.DataFrame(gaps, columns=["file", "begin", "end", "reason"])
    write_table(missing, place / "gaps.csv")
    return table


def _file_name(number: int, row: Any) -> str:
    ends = [_plain(end) for end in (row.source, row.destination)]
    return f"{number:05d}_{ends[0]}_to_{ends[1]}_{row.protocol}.bin"


def _plain(end: str) -> str:
    """Write an end so that it can be part of a file's name on any system."""
    return end.replace("[", "").replace("]", "").replace(":", "-").replace("%", "-")
