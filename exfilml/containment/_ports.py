"""The ports that the data of a case went over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
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
    protocol = flows["protocol"].to_numpy(dtype=np.int64)
    port = flows["dst_port"].to_numpy(dtype=np.int64)
    inbound = (flows["direction"] == "inbound").to_numpy(dtype=bool)
    kind = protocol * 2 + inbound
    found, at = np.unique(kind * 65536 + port, return_inverse=True)
    kinds, counts = np.unique(found // 65536, return_counts=True)
    many = [k for k, n in zip(kinds, counts, strict=True) if n > MOST_PORTS]
    no_port = np.isin(kind, many) | ~np.isin(protocol, (6, 17))
    found, at = np.unique(
        kind * 65537 + np.where(no_port, 65536, port), return_inverse=True
    )
    up = np.bincount(at, flows["up_bytes"].to_numpy(dtype=np.float64))
    hidden = flows["concealed"].fillna(value=False).to_numpy(dtype=bool)
    concealed = np.bincount(at, hidden) > 0
    beyond = np.bincount(at, ~is_own.to_numpy(dtype=bool)) > 0
    for row in np.lexsort((found, -up)).tolist():
        kind_of, port_of = divmod(int(found[row]), 65537)
        yield Stream(
            protocol=kind_of // 2,
            port=None if port_of == 65536 else port_of,
            from_remote=bool(kind_of % 2),
            concealed=bool(concealed[row]),
            to_own=not beyond[row],
        )
