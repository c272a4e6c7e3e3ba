"""Names the data connections of FTP after what their control connections said.

Nothing in a data connection says that it is one: not its port, which is any in passive
mode, and not its first bytes, which are those of the file. The control connection
agrees on the port, and names the file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

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
    connection lasts; servers reuse a port for one transfer after the other, and so the
    n-th flow is the n-th announcement. Flows whose payload showed another protocol are
    left as they are. The control connection vouches for the application.
    """
    meant = _match(flows, announced) if announced else {}
    if not meant:
        return flows
    # Late: most captures hold no FTP, and what meters them needs no pandas.
    import pandas as pd

    from exfilml import payload

    names = ["app", "app_verified"]
    names += [f"{s}_{n}" for s in ("src", "dst") for n in ("declared", "misdeclared")]
    columns: dict[str, list[Any]] = {name: flows[name].tolist() for name in names}
    for row, one in meant.items():
        columns["app"][row], columns["app_verified"][row] = APP, True
        sender = "src" if one.upload == one.passive else "dst"
        verdict, concealed, magic = (
            flows[f"{sender}_{name}"].iloc[row]
            for name in ("verdict", "concealed", "magic")
        )
        if not one.name or not isinstance(verdict, str):
            continue
        declared = one.name.lower()
        columns[f"{sender}_declared"][row] = declared
        columns[f"{sender}_misdeclared"][row] = payload.contradicts(
            declared,
            verdict,
            bool(concealed),
            magic if isinstance(magic, str) else None,
        )
    named = {
        name: pd.Series(values, index=flows.index, dtype=flows[name].dtype)
        for name, values in columns.items()
    }
    return flows.assign(**named)


def _match(flows: pd.DataFrame, announced: list[Announced]) -> dict[int, Announced]:
    """Say what was announced for which row, counted from 0."""
    import numpy as np

    awaited: dict[tuple[str, str, int], list[Announced]] = {}
    for one in announced:
        opener, waiter = one.client, one.server
        if not one.passive:
            opener, waiter = waiter, opener
        awaited.setdefault((opener, waiter, one.port), []).append(one)
    ports = [port for _, _, port in awaited]
    verified = flows["app_verified"].fillna(value=False).to_numpy(dtype=bool)
    rows = np.flatnonzero(
        (flows["protocol"].to_numpy() == TCP)
        & np.isin(flows["dst_port"].to_numpy(), ports)
        & ~verified
    )
    start = flows["start"].to_numpy(dtype="datetime64[us]").astype("int64")
    rows = rows[np.argsort(start[rows], kind="stable")]
    source, target, port = (
        flows[name].to_numpy()[rows].tolist()
        for name in ("src_ip", "dst_ip", "dst_port")
    )
    meant: dict[int, Announced] = {}
    turns: Counter[tuple[str, str, int]] = Counter()
    for row, *key in zip(rows.tolist(), source, target, port, strict=True):
        ends = (str(key[0]), str(key[1]), int(key[2]))
        fitting = [
            one
            for one in awaited.get(ends, [])
            if one.first_us <= start[row] <= one.last_us
        ]
        if fitting:
            meant[row] = fitting[min(turns[ends], len(fitting) - 1)]
            turns[ends] += 1
    return meant
