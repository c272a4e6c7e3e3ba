r"""What happened on a case's host around its start: programs started, files made.

Data are collected, packed and encrypted before they leave (MITRE ATT&CK T1560, Archive
Collected Data; T1074, Data Staged; data sources DS0017 Command, DS0022 File), so that archivers, encryption and copy tools come
first, and files that look like their results; then what lies nearest to the start.
Before them stands who opened the connection: program, process number and user.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.exceptions import FlowsError, OptionError
from exfilml.export import printable
from exfilml.hosts._events import COLUMNS, canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

MINUTES: Final = 15.0
MOST: Final = 5
LONGEST: Final = 160
NEEDED: Final = ("local_ip", "first_seen")
# By how much a connection's event may lie outside a case's time.
AROUND: Final = pd.Timedelta(seconds=10)
MOST_OPENERS: Final = 3
# Archivers, encryption, and what copies files off a host or is made for uploads.
_TOOLS: Final = (
    *("7z", "7za", "7zg", "7zr", "rar", "winrar", "unrar", "zip", "winzip32", "tar"),
    *("gzip", "bzip2", "xz", "zstd", "makecab", "compact", "expand", "esentutl"),
    *("openssl", "gpg", "gpg2", "age", "ccrypt", "aescrypt", "certutil", "base64"),
    *("rclone", "restic", "megasync", "megacmd", "mega-put", "winscp", "pscp", "psftp"),
    *("scp", "sftp", "ftp", "lftp", "tftp", "rsync", "curl", "wget", "bitsadmin"),
    *("nc", "ncat", "netcat", "socat", "robocopy", "xcopy", "filezilla", "dnscat2"),
    *("iodine", "ptunnel", "chisel", "azcopy", "s3cmd", "aws", "gsutil"),
)
_TOOL: Final = (
    rf"(?i)(?:^|[\\/\s\"'&|;(])(?:{'|'.join(map(re.escape, _TOOLS))})"
    r"(?:\.exe)?(?:[\s\"'&|;)]|$)"
)
_SCRIPT: Final = (
    r"(?i)compress-archive|cryptostream|aescryptoserviceprovider|aesmanaged|"
    r"createencryptor|invoke-webrequest|invoke-restmethod|uploadfile|uploaddata|"
    r"-encodedcommand|frombase64string|tobase64string|start-bitstransfer"
)
_RESULT: Final = (
    r"(?i)\.(?:7z|rar|zip|tar|t?gz|tbz2?|bz2|xz|zst|cab|enc|aes|gpg|pgp|age|crypt|"
    r"[0-9]{3}|part[0-9]+)$"
)


def case_context(
    cases: pd.DataFrame,
    events: pd.DataFrame,
    *,
    minutes: float = MINUTES,
    most: int = MOST,
) -> pd.DataFrame:
    """Attach what happened on each case's host near its start.

    Parameters
    ----------
    cases
        From `exfilml.rank_cases`: ``local_ip`` and ``first_seen`` are needed; with
        ``src_ip``, ``dst_ip`` and ``last_seen`` it is said who opened the connection.
    events
        From `exfilml.read_host_events`.
    minutes
        How long before and after the first flow of a case events are of interest.
    most
        Events to show of each case; how many more there are is said.

    Returns
    -------
    pandas.DataFrame
        The cases with one column more, ``context``: which process of whom connected to
        the case's address; then time (UTC), and command line or file of each event, in
        order of time; missing where there is none. Control characters are escaped and
        texts cut: they come from whoever ran the programs.

    Raises
    ------
    FlowsError
        If one of the tables is none.
    OptionError
        If `minutes` is not above 0, or `most` not 1 or more.
    """
    if not isinstance(cases, pd.DataFrame) or not set(NEEDED) <= set(cases.columns):
        raise FlowsError(
            f"Expected cases (rank_cases gives them); columns needed: "
            f"{', '.join(NEEDED)}."
        )
    if not isinstance(events, pd.DataFrame) or not set(COLUMNS) <= set(events.columns):
        raise FlowsError(
            "Expected host events (read_host_events gives them); columns needed: "
            f"{', '.join(COLUMNS)}."
        )
    if not minutes > 0.0:
        raise OptionError(f"minutes={minutes!r}: expected more than 0.")
    if isinstance(most, bool) or not isinstance(most, (int, np.integer)) or most < 1:
        raise OptionError(f"most={most!r}: expected a number of events from 1 on.")
    hosts = [None if pd.isna(h) else canonical(h) for h in cases["local_ip"]]
    begins = cases["first_seen"].tolist()
    logged = _Logged(events)
    span = pd.Timedelta(minutes=float(minutes))
    said = []
    for host, begin, remote, end in zip(
        hosts, begins, _remotes(cases, hosts), _ends(cases, begins), strict=True
    ):
        telling, network = logged.of(host, begin)
        parts = (
            _opened(network, remote, begin, end),
            _around(telling, begin, span, int(most)),
        )
        said.append("; ".join(part for part in parts if part) or None)
    return cases.assign(context=pd.array(said, dtype="str"))


class _Logged:
    """Events by host: those of an address, and of the host that had it then.

    A host may have several addresses, and what says none stands under one of them.
    """

    def __init__(self, events: pd.DataFrame) -> None:
        if not events["time"].is_monotonic_increasing:
            events = events.sort_values("time", kind="stable")
        self._events = events.reset_index(drop=True)
        self._of_address = self._events.groupby("local_ip").indices
        self._of_name = self._events.groupby("host").indices
        self._known: dict[tuple[str, Any], tuple[pd.DataFrame, pd.DataFrame]] = {}

    def of(
        self, address: str | None, when: Any
    ) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
        """Return what was started or made there, and who connected, in order of time."""
        rows = self._of_address.get(address)
        if address is None or rows is None or pd.isna(when):
            return None, None
        gap = (self._events["time"].iloc[rows] - when).abs().to_numpy()
        name = self._events["host"].iloc[rows[int(gap.argmin())]]
        if (address, name) not in self._known:
            own = self._of_name.get(name, rows[:0])
            mine = self._events.iloc[np.union1d(rows, own)]
            started = mine["kind"].isin(["process", "file"]) & mine["detail"].notna()
            connected = (mine["kind"] == "network") & mine["process"].notna()
            self._known[address, name] = mine[started], mine[connected]
        return self._known[address, name]


def _remotes(cases: pd.DataFrame, hosts: list[str | None]) -> list[str | None]:
    """Return the address at the other end of each case's largest upload."""
    if not {"src_ip", "dst_ip"} <= set(cases.columns):
        return [None] * len(cases)
    ends = zip(cases["src_ip"], cases["dst_ip"], hosts, strict=True)
    return [
        canonical(dst if canonical(src) == host else src) for src, dst, host in ends
    ]


def _ends(cases: pd.DataFrame, begins: list[Any]) -> list[Any]:
    return cases["last_seen"].tolist() if "last_seen" in cases else begins


def _opened(
    events: pd.DataFrame | None, remote: str | None, begin: Any, end: Any
) -> str | None:
    """Tell which processes connected to an address in a case's time."""
    if events is None or remote is None or pd.isna(begin) or pd.isna(end):
        return None
    near = events[events["time"].between(begin - AROUND, end + AROUND)]
    near = near[near["remote_ip"] == remote]
    who = near[["process", "pid", "user"]].drop_duplicates()
    if len(who) == 0:
        return None
    named = []
    for process, pid, user in who.head(MOST_OPENERS).itertuples(index=False):
        known = [
            f"process {pid}" if pd.notna(pid) else "",
            "" if pd.isna(user) else user,
        ]
        about = ", ".join(part for part in known if part)
        named.append(f"{_cut(process)} ({_cut(about)})" if about else _cut(process))
    more = f" and {len(who) - MOST_OPENERS:,} more" * (len(who) > MOST_OPENERS)
    return printable("connected by " + ", ".join(named)) + more


def _around(
    events: pd.DataFrame | None, begin: pd.Timestamp, span: pd.Timedelta, most: int
) -> str | None:
    """Tell the events of a host around a moment that say most."""
    if events is None or pd.isna(begin):
        return None
    times = events["time"].to_numpy(dtype="datetime64[us]")
    low, high = (
        np.datetime64((begin + side).tz_convert(None), "us") for side in (-span, span)
    )
    first = int(np.searchsorted(times, low, "left"))
    near = events.iloc[first : int(np.searchsorted(times, high, "right"))]
    if len(near) == 0:
        return None
    gap = (near["time"] - begin).abs().to_numpy(dtype="timedelta64[us]")
    order = np.lexsort((np.arange(len(near)), gap, ~_is_telling(near)))
    shown = near.iloc[np.sort(order[:most])]
    parts = [
        f"{time:%H:%M:%S} {_detail(kind, process, detail)}"
        for time, kind, process, detail in zip(
            *(shown[name] for name in ("time", "kind", "process", "detail")),
            strict=True,
        )
    ]
    if len(near) > most:
        parts.append(f"and {len(near) - most:,} more")
    return "; ".join(parts)


def _is_telling(events: pd.DataFrame) -> NDArray[np.bool_]:
    """Say which events look like packing, encrypting or copying."""
    detail = events["detail"]
    is_file = (events["kind"] == "file").to_numpy()
    result = detail.str.contains(_RESULT, regex=True).to_numpy(dtype=bool)
    tool = detail.str.contains(_TOOL, regex=True).to_numpy(dtype=bool)
    script = detail.str.contains(_SCRIPT, regex=True).to_numpy(dtype=bool)
    telling: NDArray[np.bool_] = np.where(is_file, result, tool | script)
    return telling


def _detail(kind: str, process: Any, detail: str) -> str:
    said = detail
    if kind == "file":
        by = "" if pd.isna(process) else f" by {_base(process)}"
        said = f"file {_cut(detail)}{by}"
    return printable(_cut(said))


def _base(path: str) -> str:
    return re.split(r"[\\/]", path)[-1]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
