"""Names the data connections of FTP after what their control connections said.

Nothing in a data connection says that it is one: not its port, which is any in passive
mode, and not its first bytes, which are those of the file. The control connection
agrees on the port, and names the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from exfilml import payload

APP: Final = "FTP_DATA"
TCP: Final = 6


@dataclass(frozen=True, slots=True)
class Announced:
    """A data connection that a control connection agreed upon.

    Attributes
    ----------
    client, server
        Ends of the control connection, as the network saw them: behind a translation
        of addresses those in the dialogue are others.
    port
        Port on which the data connection was awaited.
    passive
        Whether the server awaited it.
    upload
        Whether the client sent.
    name
        File name; "" for a listing.
    first_us, last_us
        Duration of the control connection, microseconds since 1970.
    """

    client: str
    server: str
    port: int
    passive: bool
    upload: bool
    name: str
    first_us: int
    last_us: int


def name_transfers(flows: pd.DataFrame, announced: list[Announced]) -> pd.DataFrame:
    """Return the flows with `APP`, file name and contradiction where one was announced.

    A flow is meant if it goes to the awaiting end and port while the control
    connection lasts; of several announcements the last before it counts. Flows whose
    payload showed another protocol or a handshake are left as they are.
    """
    if not announced or not len(flows):
        return flows
    flows = flows.reset_index(drop=True)
    awaited: dict[tuple[str, str, int], list[Announced]] = {}
    for one in announced:
        ends = (one.client, one.server) if one.passive else (one.server, one.client)
        awaited.setdefault((*ends, one.port), []).append(one)
    tcp = flows["protocol"].to_numpy() == TCP
    plain = ~flows["app_verified"].fillna(value=False).to_numpy(dtype=bool)
    ports = np.array(sorted({one.port for one in announced}))
    candidates = tcp & plain & np.isin(flows["dst_port"].to_numpy(), ports)
    rows = np.flatnonzero(candidates)
    start = flows["start"].astype("int64").to_numpy()
    named = flows.copy()
    used: dict[tuple[str, str, int], int] = {}
    ends = ("src_ip", "dst_ip", "dst_port")
    for row in rows[np.argsort(start[rows], kind="stable")].tolist():
        key = tuple(flows.at[row, name] for name in ends)
        fitting = [
            one
            for one in awaited.get(key, [])
            if one.first_us <= start[row] <= one.last_us
        ]
        if not fitting:
            continue
        # Servers reuse a port for one transfer after the other, in this order.
        turn = used.get(key, 0)
        used[key] = turn + 1
        one = fitting[min(turn, len(fitting) - 1)]
        _name(named, row, one)
    return named


def _name(flows: pd.DataFrame, row: int, one: Announced) -> None:
    """Write what was announced into a row."""
    sender = "src" if one.upload == one.passive else "dst"
    flows.loc[row, ["app", "app_verified"]] = [APP, True]
    if not one.name:
        return
    verdict, concealed, magic = (
        flows.at[row, f"{sender}_{name}"] for name in ("verdict", "concealed", "magic")
    )
    if pd.isna(verdict):
        return
    flows.at[row, f"{sender}_declared"] = one.name.lower()
    flows.at[row, f"{sender}_misdeclared"] = payload.contradicts(
        one.name.lower(), verdict, bool(concealed), None if pd.isna(magic) else magic
    )
