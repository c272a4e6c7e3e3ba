"""The flows of cases as plain arrays, with the data path of each.

A **data path** is a service, an application, the host of the site that it went through,
and what carried the upload. The carrier is what was seen of the flow, not what its port
promises: what DNS names or echo data carried, a handshake of either side, the plain-text
grammar of its start, an application that was verified. Where none of these shows it is
bare TCP or UDP, and where the payload was not visible, that is said.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TRANSPORTS: Final = {6: "TCP", 17: "UDP", 1: "ICMP", 58: "ICMPv6", 132: "SCTP"}
_ECHO: Final = (1, 58)
# By the grammar at the start of a stream, and by the application, in lower case.
_CARRIERS: Final = {
    **dict.fromkeys(("http", "http_proxy", "http_connect"), "HTTP"),
    **dict.fromkeys(("smtp", "smtps"), "mail"),
    **dict.fromkeys(("ftp", "ftp_control", "ftp_data"), "FTP"),
    "dns": "DNS",
    "websocket": "WebSocket",
    "mqtt": "MQTT",
}
# Ports that FTP agrees on for each transfer have this service.
_FTP_DATA: Final = "ftp-data"
_PAYLOAD: Final = (
    *("carried_bytes", "payload_bytes", "sampled_bytes", "handshake", "protocol"),
)
COLUMNS: Final = (
    *("start", "duration_s", "src_ip", "dst_ip", "protocol", "app", "app_verified"),
    *("fingerprint", "user_agent", "via"),
    *(f"{side}_{name}" for side in ("src", "dst") for name in _PAYLOAD),
    *("local_ip", "remote_ip", "place", "service", "direction"),
    *("up_bytes", "down_bytes", "concealed", "hidden_bytes"),
)
"""What is read of the flows of a case."""


class DataPath(NamedTuple):
    """On which path data went; ``application`` and ``through`` may be empty."""

    service: str
    application: str
    through: str
    carrier: str


@dataclass(frozen=True)
class Traffic:
    """Flows of cases, row by row.

    Attributes
    ----------
    labels
        Of the flows, which need not be unique.
    start, end
        int64, microseconds since 1970, UTC.
    up, down, hidden
        int64, bytes.
    is_hidden, is_seen, outside
        bool: concealed or carried in names or echo data; its upload's payload was
        seen; it ends outside the site.
    local, remote, place, fingerprint, user_agent, through
        object: text, or `None`. `through` is the host of the site, such as a proxy,
        that the flow goes through, ``""`` for none.
    logged
        bool: a proxy's log tells of it.
    path
        int64: which of `paths` it took.
    paths
        The data paths, in alphabetical order.
    """

    labels: NDArray[np.object_]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    up: NDArray[np.int64]
    down: NDArray[np.int64]
    hidden: NDArray[np.int64]
    is_hidden: NDArray[np.bool_]
    is_seen: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    local: NDArray[np.object_]
    remote: NDArray[np.object_]
    place: NDArray[np.object_]
    fingerprint: NDArray[np.object_]
    user_agent: NDArray[np.object_]
    through: NDArray[np.object_]
    logged: NDArray[np.bool_]
    path: NDArray[np.int64]
    paths: tuple[DataPath, ...]

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def join(cls, parts: Sequence[Traffic]) -> Self:
        """Put flows one after another; there is at least one part."""
        paths = tuple(sorted({path for part in parts for path in part.paths}))
        at = {path: i for i, path in enumerate(paths)}
        values = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if field.name not in {"path", "paths"}
        }
        codes = [
            np.array([at[path] for path in part.paths], dtype=np.int64)[part.path]
            for part in parts
        ]
        return cls(**values, path=np.concatenate(codes), paths=paths)

    @classmethod
    def of(cls, flows: pd.DataFrame) -> Self:
        """Read the flows of a case, see `exfilml.triage.case.Case.flows`."""
        column = {
            name: _objects(flows[name]) if name in flows.columns else _nothing(flows)
            for name in COLUMNS
        }
        start = flows["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)
        lasting = np.nan_to_num(_floats(column["duration_s"]))
        flipped = column["local_ip"] == column["dst_ip"]
        flipped &= column["src_ip"] != column["dst_ip"]
        up = {
            name: np.where(flipped, column[f"dst_{name}"], column[f"src_{name}"])
            for name in _PAYLOAD
        }
        down = {
            name: np.where(flipped, column[f"src_{name}"], column[f"dst_{name}"])
            for name in _PAYLOAD
        }
        hidden = np.nan_to_num(_floats(column["hidden_bytes"])).astype(np.int64)
        internal = column["direction"] == "internal"
        through = _through(
            column["via"], column["remote_ip"], column["place"], internal
        )
        # Logs count payload bytes that they do not show.
        seen = np.nan_to_num(_floats(up["sampled_bytes"])) > 0
        seen |= _floats(up["payload_bytes"]) == 0
        carried = np.nan_to_num(_floats(up["carried_bytes"])) > 0
        key = (
            *(column["protocol"], column["service"], column["app"]),
            *(column["app_verified"] == True, through, carried, seen),  # noqa: E712
            *(_first(up, down, "handshake"), _first(up, down, "protocol")),
        )
        path, paths = _paths(key)
        return cls(
            labels=_objects(flows.index.to_series()),
            start=start,
            end=start + np.round(lasting * 1e6).astype(np.int64),
            up=_floats(column["up_bytes"]).astype(np.int64),
            down=_floats(column["down_bytes"]).astype(np.int64),
            hidden=hidden,
            is_hidden=(hidden > 0) | (column["concealed"] == True),  # noqa: E712
            is_seen=seen | (hidden > 0),
            outside=(through == "") & ~internal,
            local=column["local_ip"],
            remote=column["remote_ip"],
            place=column["place"],
            fingerprint=column["fingerprint"],
            user_agent=column["user_agent"],
            through=through,
            logged=_there(column["via"]),
            path=path,
            paths=paths,
        )

    def rows(self, at: NDArray[Any]) -> Traffic:
        """Return some of the flows."""
        values = {
            field.name: getattr(self, field.name)[at]
            for field in fields(self)
            if field.name != "paths"
        }
        return Traffic(**values, paths=self.paths)

    def told(self, at: NDArray[Any] | slice = slice(None)) -> tuple[Hashable, ...]:
        """Return the labels of some of the flows."""
        return tuple(self.labels[at].tolist())


def _objects(column: pd.Series) -> NDArray[np.object_]:
    """Return values as they are, and `None` for what is missing."""
    values = column.to_numpy(dtype=object)
    gaps = column.isna().to_numpy()
    if gaps.any():
        values = values.copy()
        values[gaps] = None
    return values


def _nothing(flows: pd.DataFrame) -> NDArray[np.object_]:
    return np.full(len(flows), None, dtype=object)


def _floats(values: NDArray[np.object_]) -> NDArray[np.float64]:
    return values.astype(np.float64)


def _there(values: NDArray[np.object_]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = values != None  # noqa: E711 - of each value
    return found


def _first(
    up: dict[str, NDArray[np.object_]], down: dict[str, NDArray[np.object_]], name: str
) -> NDArray[np.object_]:
    """Return what the uploading side shows, else the other."""
    return np.where(_there(up[name]), up[name], down[name])


def _through(
    via: NDArray[np.object_],
    remote: NDArray[np.object_],
    place: NDArray[np.object_],
    internal: NDArray[np.bool_],
) -> NDArray[np.object_]:
    """Name the host of the site that each flow goes through, ``""`` for none.

    That of the column ``via``, or the host of the site that a flow ends at whose place
    lies elsewhere: a resolver, a proxy, a mail relay.
    """
    through = np.where(internal & (place != remote), remote, "")
    for text in {text for text in via if text is not None}:
        # A proxy whose address its log does not tell is still one.
        named = text.removeprefix("proxy").strip() or "proxy"
        through[via == text] = named
    return through


def _paths(
    key: Sequence[NDArray[Any]],
) -> tuple[NDArray[np.int64], tuple[DataPath, ...]]:
    """Name the data path of each flow: once for each combination of what was seen."""
    code = np.zeros(len(key[0]), dtype=np.int64)
    for part in key:
        codes, distinct = pd.factorize(part)
        # Missing values have the code −1.
        code, _ = pd.factorize(code * (len(distinct) + 1) + codes + 1)
    _, first = np.unique(code, return_index=True)
    named = [_path(*(part[row] for part in key)) for row in first.tolist()]
    paths = tuple(sorted(set(named)))
    at = {path: i for i, path in enumerate(paths)}
    return np.array([at[path] for path in named], dtype=np.int64)[code], paths


def _path(
    protocol: int,
    service: str,
    app: str | None,
    verified: bool,
    through: str,
    carried: bool,
    seen: bool,
    handshake: str | None,
    grammar: str | None,
) -> DataPath:
    base = _TRANSPORTS.get(int(protocol), f"IP protocol {protocol}")
    known = (app or "").lower().partition(".")[0] if verified else ""
    named = _CARRIERS.get((grammar or "").lower()) or _CARRIERS.get(known)
    if carried:
        carrier = f"{base} echo data" if protocol in _ECHO else "names in DNS"
    elif handshake:
        carrier = f"inside {handshake.upper()}"
    elif service == _FTP_DATA:
        carrier = "FTP"
    elif named:
        carrier = named
    elif not seen:
        carrier = f"{base}, payload not visible"
    else:
        carrier = base if protocol in _ECHO else f"bare {base}"
    application = f"{app}{'' if verified else ' unverified'}" if app else ""
    return DataPath(service or "", application, through, carrier)
