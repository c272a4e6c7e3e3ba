"""Requests that proxies and web servers log, joined to flows.

A proxy's log holds a line for each request, and seldom says which requests shared a
connection. What a client sent to one port of one host belongs to one flow as long as no
gap is longer than the idle timeout, as in captures; at each full hour a new one begins,
because browsers ask some hosts again and again all day. Where the log names connections
(``uid``), those count instead. Requests to two hosts are never one flow, whatever
connection to the proxy they shared: the requested host is the place that data goes to.

What is said of a flow apart from sums and times is said of its largest upload, or of
the first that says it.

**Addresses.** The client is the initiator. The responder is the requested host where it
was requested by address, else the server that the proxy connected to, else the proxy,
else `UNKNOWN`, because the flows table has no flow without an address: the place is
the requested host all the same. A column of its own, ``via``, says that a flow went
through a proxy, and through which.

Only conversations that may go on are held in memory, at most `MOST_HELD`. Requests that
are logged later than the idle timeout after others that they belong to become flows of
their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._logs import NO_FLOWS
from exfilml.sources._reading import Reading

MOST_HELD: Final = 2_000_000
UNKNOWN: Final = "0.0.0.0"  # noqa: S104 - the unspecified address, nothing listens.
HTTP_BYTES: Final = "that count what HTTP carried, not IP bytes"
DENIED: Final = "with requests that the proxy denied"
NO_REQUESTS: Final = "with entries that are no requests to a host"
_HOUR_US: Final = 3_600_000_000
_SUMS: Final = ("src_bytes", "dst_bytes", "src_payload_bytes", "dst_payload_bytes")
# Where the largest upload does not say more than this, what another says counts.
_VAGUE: Final = {
    "dst_ip": UNKNOWN,
    "via": "proxy",
    "user_agent": "",
    "content_type": "",
}
_URL: Final = (
    r"^(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://)?(?:[^/?#@]*@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^/?#\[\]:@]+)(?::(?P<port>[0-9]{1,5}))?(?:[/?#]|$)"
)
_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443, "ftp": 21}
_LITERAL: Final = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)$"
_WHOLE: Final = r"^[0-9]{1,18}$"


def whole_numbers(texts: Any) -> Any:
    """Read whole numbers; None where a text is none."""
    return _matching(texts, _WHOLE).cast(pa.int64())


def _matching(texts: Any, pattern: str) -> Any:
    fits = pc.match_substring_regex(texts, pattern)
    return pc.if_else(fits, texts, pa.scalar(None, pa.string()))


def known(texts: Any) -> Any:
    """Return texts, None for those that mean "no value"."""
    empty = pc.is_in(texts, pa.array(["-", ""]))
    return pc.if_else(empty, pa.scalar(None, pa.string()), texts)


def addresses(texts: Any) -> Any:
    """Return addresses, None for names."""
    return _matching(texts, _LITERAL)


def as_columns(columns: dict[str, Any], rows: Any) -> dict[str, Any]:
    """Return some rows of columns."""
    table = pa.table(columns).filter(rows)
    return dict(zip(table.column_names, table.columns, strict=True))


def parts_of(urls: Any) -> tuple[Any, Any, Any]:
    """Return scheme, host and port of URLs, or of hosts with or without a port."""
    found = pc.extract_regex(urls, _URL)
    scheme, host, port = (
        known(pc.struct_field(found, name)) for name in ("scheme", "host", "port")
    )
    return pc.utf8_lower(scheme), _bare(host), port.cast(pa.int64())


def _bare(host: Any) -> Any:
    return pc.utf8_trim(host, "[]")


def requests_of(fields: dict[str, Any], *, proxied: bool) -> tuple[dict[str, Any], Any]:
    """Give the flows table's columns of requests, and which rows have a host.

    Parameters
    ----------
    fields
        Arrow arrays: ``start`` and ``end`` in microseconds, ``client``, ``up`` and
        ``down`` in bytes, and, null where unknown, ``client_port``, ``method``,
        ``scheme``, ``host``, ``port``, ``server``, ``proxy``, ``agent``, ``type``.
    proxied
        Whether a proxy wrote them, for others' hosts; else the server itself.
    """
    count = len(fields["client"])
    host = fields["host"]
    literal = addresses(host)
    ports = pa.array(list(_PORTS.values()), pa.int64())
    by_scheme = ports.take(pc.index_in(fields["scheme"], pa.array(list(_PORTS))))
    tunnel = pc.equal(fields["method"], "CONNECT")
    unsaid = pa.scalar(None, pa.string())
    address = pc.coalesce(fields["server"], fields["proxy"], UNKNOWN)
    columns = {
        "start": fields["start"],
        "duration_s": pc.divide(
            pc.subtract(fields["end"], fields["start"]).cast(pa.float64(), safe=False),
            1e6,
        ),
        "src_ip": fields["client"],
        "src_port": pc.fill_null(fields["client_port"], 0),
        "dst_ip": pc.coalesce(literal, address) if proxied else address,
        "dst_port": pc.coalesce(fields["port"], by_scheme),
        "protocol": pa.repeat(pa.scalar(6, pa.int64()), count),
        "src_bytes": fields["up"],
        "dst_bytes": fields["down"],
        "src_payload_bytes": fields["up"],
        "dst_payload_bytes": fields["down"],
        "app": pc.if_else(pc.fill_null(tunnel, False), "HTTP_Connect", "HTTP"),
        "user_agent": fields["agent"],
        "content_type": fields["type"],
    }
    answered = pc.and_(pc.greater(fields["up"], 0), pc.greater(fields["down"], 0))
    columns["conn_state"] = pc.if_else(answered, "established", unsaid)
    if not proxied:
        # A web server's own name is no place that its data go to.
        return columns, pc.is_valid(fields["client"])
    columns["server_name"] = pc.if_else(pc.is_valid(literal), unsaid, host)
    named = pc.binary_join_element_wise("proxy", fields["proxy"], " ")
    columns["via"] = pc.fill_null(named, "proxy")
    return columns, pc.and_(pc.is_valid(host), pc.is_valid(columns["dst_port"]))


def told(
    reading: Reading, path: Path, lines: int, denied: int, hostless: int
) -> Reading:
    """Say also what requests do not say."""
    more = []
    if denied:
        text = f"{path}: {denied:,} of {lines:,} requests were denied by the proxy and"
        more.append((DENIED, f"{text} sent nothing to anybody; passed over"))
    if hostless:
        text = f"{path}: {hostless:,} of {lines:,} entries name no host (errors, cache"
        more.append((NO_REQUESTS, f"{text} queries); passed over"))
    if not any(kind == NO_FLOWS for kind, _ in reading.losses):
        text = f"{path}: its bytes are those that HTTP carried, headers and bodies;"
        more.append((HTTP_BYTES, f"{text} they stand for IP bytes"))
    return Reading(reading.flows, (*reading.losses, *more))


class Requests:
    """Conversations that may go on.

    Parameters
    ----------
    idle_timeout
        Seconds of silence that end a flow.
    """

    def __init__(self, idle_timeout: int) -> None:
        self._idle_us = idle_timeout * 1_000_000
        self._held: pd.DataFrame | None = None

    def add(self, requests: pd.DataFrame) -> pd.DataFrame:
        """Take requests, in columns of the flows table; return flows that are over."""
        if not len(requests):
            return requests
        requests = requests.assign(largest=requests["src_bytes"])
        parts = [requests] if self._held is None else [self._held, requests]
        flows = self._joined(pd.concat(parts, ignore_index=True))
        start, end = _times(flows)
        over = end < start.max() - self._idle_us
        if (~over).sum() > MOST_HELD:
            over[:] = True
        self._held = flows[~over]
        done: pd.DataFrame = flows[over].drop(columns="largest")
        return done.reset_index(drop=True)

    def finish(self) -> pd.DataFrame:
        """Return the flows that are still held."""
        held, self._held = self._held, None
        if held is None:
            return pd.DataFrame()
        return held.drop(columns="largest").reset_index(drop=True)

    def _joined(self, table: pd.DataFrame) -> pd.DataFrame:
        start, end = _times(table)
        key = _conversation(table, start)
        order = np.lexsort((start, key))
        key, start, end = key[order], start[order], end[order]
        reach = pd.Series(end).groupby(key).cummax().to_numpy()
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = key[1:] != key[:-1]
        begins[1:] |= start[1:] - reach[:-1] > self._idle_us
        first = np.flatnonzero(begins)
        group = np.cumsum(begins) - 1
        largest = table["largest"].to_numpy()[order]
        # Of those as large, the first.
        by_size = np.lexsort((-largest, group))
        speaks = order[by_size[first]]
        flows: pd.DataFrame = table.iloc[speaks].reset_index(drop=True)
        for name in _SUMS:
            sent = table[name].to_numpy(dtype=np.int64)[order]
            flows[name] = pd.Series(np.add.reduceat(sent, first)).astype(
                table[name].dtype
            )
        for name, vague in _VAGUE.items():
            if name in table:
                texts = table[name].mask(table[name] == vague)
                told_first = texts.groupby(_ungrouped(order, group), sort=True).first()
                mine = texts.iloc[speaks].reset_index(drop=True)
                flows[name] = mine.fillna(told_first).fillna(vague or np.nan)
        flows["start"] = table["start"].iloc[order[first]].reset_index(drop=True)
        latest = np.maximum.reduceat(end, first)
        flows["duration_s"] = (latest - start[first]) / 1e6
        return flows


def _ungrouped(order: Any, group: Any) -> Any:
    """Return the group of each row, in the order of the table."""
    groups = np.empty(len(order), dtype=np.int64)
    groups[order] = group
    return groups


def _times(table: pd.DataFrame) -> tuple[Any, Any]:
    start = table["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    lasts = np.rint(table["duration_s"].fillna(0.0).to_numpy() * 1e6)
    return start, start + lasts.astype(np.int64)


def _conversation(table: pd.DataFrame, start: Any) -> Any:
    """Return a number for each row, the same for requests of one conversation."""
    hour = start // _HOUR_US
    if "uid" in table:
        hour = np.where(table["uid"].notna(), -1, hour)
        uid = pd.factorize(table["uid"])[0]
    else:
        uid = np.zeros(len(table), dtype=np.int64)
    host = table["dst_ip"]
    if "server_name" in table:
        host = table["server_name"].fillna(host)
    parts = pd.DataFrame(
        {
            "uid": uid,
            "client": pd.factorize(table["src_ip"])[0],
            "host": pd.factorize(host)[0],
            "port": table["src_port"].to_numpy() << 16 | table["dst_port"].to_numpy(),
            "hour": hour,
        }
    )
    return parts.groupby(list(parts.columns), sort=False).ngroup().to_numpy()
