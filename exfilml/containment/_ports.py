"""The ports that the data of a case went over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pandas as pd

MOST_PORTS: Final = 8


@dataclass(frozen=True)
class Stream:
    """A port that data went over.

    Attributes
    ----------
    protocol
        IANA number.
    port
        The responder's; `None` where there is none, or too many.
    from_remote
        Whether the remote side opened the connection.
    concealed
        Whether the upload of a flow was opaque outside any handshake.
    to_own
        Whether all flows ended at the site's own relay or proxy.
    """

    protocol: int
    port: int | None
    from_remote: bool
    concealed: bool
    to_own: bool


def streams_of(flows: pd.DataFrame, is_own: pd.Series) -> Iterator[Stream]:
    """Give the ports of a case, one for each protocol where there are too many."""
    table = pd.DataFrame(
        {
            "protocol": flows["protocol"].to_numpy(),
            "port": flows["dst_port"].to_numpy(),
            "from_remote": (flows["direction"] == "inbound").to_numpy(),
            "concealed": flows["concealed"].fillna(value=False).to_numpy(dtype=bool),
            "own": is_own.to_numpy(dtype=bool),
            "up": flows["up_bytes"].to_numpy(),
        }
    )
    many = table.groupby(["protocol", "from_remote"])["port"].transform("nunique")
    none = (many > MOST_PORTS) | ~table["protocol"].isin((6, 17))
    table["port"] = table["port"].mask(none, -1)
    table["other"] = ~table["own"]
    grouped = table.groupby(["protocol", "port", "from_remote"], as_index=False).sum()
    grouped = grouped.sort_values("up", ascending=False, kind="stable")
    names = ("protocol", "port", "from_remote", "concealed", "other")
    columns = (grouped[name].tolist() for name in names)
    for protocol, port, from_remote, concealed, other in zip(*columns, strict=True):
        yield Stream(
            protocol=protocol,
            port=None if port < 0 else port,
            from_remote=from_remote,
            concealed=concealed > 0,
            to_own=other == 0,
        )
