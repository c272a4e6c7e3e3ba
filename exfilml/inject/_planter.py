"""Draws hosts, places, times and ciphertext, and makes rows of them.

One file because a row is made of all four draws.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml import payload
from exfilml.columns import DTYPES, PAYLOAD_COLUMNS
from exfilml.exceptions import FlowsError, OptionError
from exfilml.inject._carriers import (
    CARRIERS,
    FTP_CONTROL,
    FTP_DATA,
    ICMP,
    ICMP6,
    TCP,
    USER_AGENT,
    Carrier,
)
from exfilml.inject._site import DAY_US, LABEL, Site, reserved_networks
from exfilml.inject._transfer import PLACES, Transfer
from exfilml.inject._wire import encrypted
from exfilml.places import EPHEMERAL_FROM
from exfilml.schema import validate_flows
from exfilml.services import iana_services

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS: Final = 32
# An uplink of 50 Mbit/s, and a round trip.
BYTES_PER_S: Final = 6.25e6
ROUND_TRIP_S: Final = 0.03
HOST_DRAWS: Final = 50
_FIN_SYN_PSH_ACK: Final = 27
_EVIDENCE_COLUMNS: Final = tuple(
    f"{side}_{name}" for side in ("src", "dst") for name in PAYLOAD_COLUMNS
)


class Planter:
    """Draws hosts, places, times and ciphertext, and makes rows of them.

    Parameters
    ----------
    site
        Where to plant.
    seed
        Of all draws.
    avoid
        /24 and /48 networks that are not new although the table has none of them.
    """

    def __init__(
        self, site: Site, *, seed: int = 0, avoid: Collection[str] = ()
    ) -> None:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise OptionError(f"seed: got {seed!r}, expected a whole number from 0 on.")
        self.site = site
        self.seed = seed
        self._drawn: dict[tuple[str, int, int], int] = {}
        self._evidence: list[tuple[Any, ...]] = []
        self._known: dict[tuple[str, str, bool], pd.DataFrame | None] = {}
        rng = np.random.default_rng([seed, 1])
        taken = {*site.networks, *avoid}
        home = [ipaddress.ip_network(n) for n in site.home]
        self._free: dict[bool, list[str]] = {}
        for six in (False, True):
            networks = [n for n in reserved_networks(six=six) if str(n) not in taken]
            free = [
                n
                for n in networks
                if not any(n.version == h.version and n.overlaps(h) for h in home)
            ]
            if not free:
                raise FlowsError(
                    "The flows use every network reserved for documentation and "
                    "benchmarks, so that none is left to stand for a new place. Give "
                    "fewer flows."
                )
            self._free[six] = [
                str(free[i].network_address) for i in rng.permutation(len(free))
            ]

    def plan(
        self, transfers: Sequence[Transfer], trials: Sequence[int] | None = None
    ) -> pd.DataFrame:
        """Draw host, place and time of each transfer.

        Parameters
        ----------
        transfers
            What to plant.
        trials
            Number of the trial of each: transfers that share carrier, place and
            trial share host and place asked for, so that sizes are compared on equal
            terms. `None` for no two alike.

        Returns
        -------
        pandas.DataFrame
            As `Planted.transfers`.
        """
        numbers = range(len(transfers)) if trials is None else trials
        rows = []
        picked: dict[tuple[str, str, int], tuple[Any, ...]] = {}
        for count, (transfer, trial) in enumerate(zip(transfers, numbers, strict=True)):
            key = (transfer.carrier, transfer.place, int(trial))
            if key not in picked:
                picked[key] = self._pick(*key)
            host, window, port, place, found = picked[key]
            carrier = CARRIERS[transfer.carrier]
            address, name, print_ = found or (
                self._new(count, six=":" in host),
                None,
                None,
            )
            if carrier.named and (place != "known" or carrier.name == "dns"):
                name = self._new_name(count)
            # A source that shows no names would show none of an upload either.
            if not (carrier.named and self.site.named):
                name = print_ = None
            rows.append(
                (
                    *(transfer.carrier, transfer.up_bytes, transfer.flows),
                    *(transfer.place, place),
                    *(host, address, name, print_, port, *window),
                )
            )
        plan = pd.DataFrame(
            rows,
            columns=[
                *("carrier", "up_bytes", "flows", "asked", "place", "local_ip"),
                *(
                    "remote_ip",
                    "server_name",
                    "fingerprint",
                    "dst_port",
                    "start",
                    "end",
                ),
            ],
        )
        for column in ("start", "end"):
            plan[column] = pd.to_datetime(plan[column], unit="us", utc=True)
        return plan

    def _pick(self, name: str, place: str, trial: int) -> tuple[Any, ...]:
        """Draw host, hours, port and, if the site has one, a known or near place."""
        number = list(CARRIERS).index(name)
        rng = np.random.default_rng([self.seed, 2, number, PLACES.index(place), trial])
        carrier, site = CARRIERS[name], self.site
        for _ in range(HOST_DRAWS):
            at = int(rng.integers(len(site.hosts)))
            host = site.hosts[at]
            found = self._leads_to(carrier, host, place) if place != "new" else None
            # Where a site speaks both versions of IP, not each host has known places.
            if place == "new" or found is not None:
                break
        first, last = site.windows[at][rng.integers(len(site.windows[at]))]
        # A host that was seen once was there for the hour.
        day = first // DAY_US * DAY_US
        hour = DAY_US // 24
        if last - first < hour:
            first = first // hour * hour
            last = min(first + hour, day + DAY_US) - 1
        port = self._port(carrier, rng)
        if found is not None:
            chance = found["n"].to_numpy(dtype=np.float64)
            row = found.iloc[int(rng.choice(len(found), p=chance / chance.sum()))]
            named, print_ = (
                None if pd.isna(row[c]) else str(row[c])
                for c in ("server_name", "fingerprint")
            )
            address: str | None = str(row["remote_ip"])
            if place == "near":
                named, address = None, self._neighbour(str(address), rng)
            if address is not None:
                return host, (first, last), port, place, (address, named, print_)
        return host, (first, last), port, "new", None

    def _leads_to(self, carrier: Carrier, host: str, place: str) -> pd.DataFrame | None:
        """Return which known places there are, or which ones a near place lies by."""
        key = (carrier.name, place, ":" in host)
        if key not in self._known:
            six = ":" in host
            found = self.site.leads_to(carrier, six=six)
            if place == "near":
                outside = None if found is None else found[~found["inside"]]
                empty = outside is None or outside.empty
                found = self.site.leads_out(six=six) if empty else outside
            self._known[key] = found
        found = self._known[key]
        if found is None:
            return None
        found = found[found["remote_ip"] != host]
        return None if found.empty else found

    def _neighbour(self, address: str, rng: np.random.Generator) -> str | None:
        """Return an address of the same network that the site does not know."""
        for _ in range(HOST_DRAWS):
            number = int(rng.integers(2, 250))
            if ":" in address:
                network = ipaddress.ip_network((address, 48), strict=False)
                text = str(network[(number << 64) + int(rng.integers(1, 1 << 32))])
            else:
                text = f"{address.rpartition('.')[0]}.{number}"
            if text not in self.site.addresses:
                return text
        return None

    def _port(self, carrier: Carrier, rng: np.random.Generator) -> int:
        while True:
            port = int(rng.integers(carrier.ports.start, carrier.ports.stop))
            key = (carrier.protocol, port)
            if not carrier.unused or not (
                key in iana_services() or key in self.site.used
            ):
                return port

    def _new(self, count: int, *, six: bool) -> str:
        """Return an address of a network that the site does not know."""
        free = self._free[six]
        network, host = free[count % len(free)], count // len(free) % 250 + 2
        return f"{network}{host:x}" if six else f"{network.rpartition('.')[0]}.{host}"

    def _new_name(self, count: int) -> str:
        """Return a host name under a domain that the site does not know."""
        salt = 0
        while True:
            text = f"{self.seed} {count} {salt}".encode()
            domain = _letters(hashlib.shake_256(text).digest(9)) + ".example"
            if domain not in self.site.places:
                return f"up.{domain}"
            salt += 1

    def rows(self, plan: pd.DataFrame) -> pd.DataFrame:
        """Make rows of a flows table, with ``transfer``: row number in `plan`.

        Rows of one transfer follow each other, in order of time.
        """
        flows = plan["flows"].to_numpy(dtype=np.int64)
        of = np.repeat(np.arange(len(plan)), flows)
        within = np.arange(len(of)) - np.repeat(np.cumsum(flows) - flows, flows)
        whole, rest = np.divmod(plan["up_bytes"].to_numpy(dtype=np.int64), flows)
        size = whole[of] + (within < rest[of])
        carriers = plan["carrier"].to_numpy(dtype=object)[of]
        # Which of the draws of its carrier and size a flow gets: different ones within
        # a transfer.
        draw = (within + plan.index.to_numpy()[of] * 7) % DRAWS
        content = self._contents(carriers, size, draw)
        start = self._starts(plan, of)
        parts = [
            self._table(plan, of, start, content, size, {}),
        ]
        control = np.flatnonzero(carriers == "ftp")
        if len(control):
            # The dialogue opens before the data.
            names = np.full(len(control), FTP_CONTROL.name, dtype=object)
            nothing = np.zeros(len(control), dtype=np.int64)
            parts.append(
                self._table(
                    plan,
                    of[control],
                    start[control] - 50_000,
                    self._contents(names, nothing, draw[control] * 0),
                    nothing,
                    {"dst_port": 21, "app": FTP_CONTROL.app, "first_speaker": "dst"},
                )
            )
        table = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
        return table.sort_values(
            ["transfer", "start"], kind="stable", ignore_index=True
        )

    def _starts(self, plan: pd.DataFrame, of: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw when each flow starts, in µs, in order within each transfer."""
        first, last = (
            plan[c].to_numpy(dtype="datetime64[us]").astype(np.int64)
            for c in ("start", "end")
        )
        number = int(plan.index[0]) if len(plan) else 0
        rng = np.random.default_rng([self.seed, 3, number])
        start = first[of] + (rng.random(len(of)) * (last - first)[of]).astype(np.int64)
        ordered: NDArray[np.int64] = start[np.lexsort((start, of))]
        return ordered

    def _contents(
        self,
        carriers: NDArray[np.object_],
        size: NDArray[np.int64],
        draw: NDArray[np.int64],
    ) -> pd.DataFrame:
        """Return payload sizes, packets and evidence of each flow."""
        keys = pd.DataFrame({"carrier": carriers, "size": size, "draw": draw})
        code = keys.groupby(["carrier", "size", "draw"], sort=False).ngroup().to_numpy()
        distinct = keys.drop_duplicates().itertuples(index=False, name=None)
        at = [self._draw(*key) for key in distinct]
        table = pd.DataFrame(
            [self._evidence[i] for i in at],
            columns=["app_verified", "up_data", "down_data", *_EVIDENCE_COLUMNS],
        )
        dtypes = {c: DTYPES[c] for c in table.columns if c in DTYPES}
        return table.astype(dtypes).take(code).reset_index(drop=True)

    def _draw(self, name: str, size: int, number: int) -> int:
        """Judge ciphertext of a carrier and size, once; return where it is kept."""
        key = (name, size, number)
        if key not in self._drawn:
            carrier = CARRIERS.get(name, FTP_CONTROL)
            text = f"{self.seed}/{name}/{size}/{number}"
            secret = hashlib.shake_256(text.encode()).digest(40)
            # As long as the names of new places; a known one may differ by some bytes.
            host = "up." + _letters(secret[32:] + b"\x00") + ".example"
            wire = carrier.wire(encrypted(secret[:32], size), size, host)
            sides = tuple(side.judge(carrier.protocol) for side in (wire.up, wire.down))
            verified = None
            if carrier.app is not None:
                seen = payload.INSPECTED if carrier.inspected else 1
                # The control connection vouches for the data connection.
                verified = carrier is FTP_DATA or payload.is_verified(
                    carrier.app, carrier.protocol, seen, (sides[0], sides[1])
                )
            self._drawn[key] = len(self._evidence)
            self._evidence.append(
                (
                    *(verified, wire.up.packets, wire.down.packets),
                    *sides[0],
                    *sides[1],
                )
            )
        return self._drawn[key]

    def _table(
        self,
        plan: pd.DataFrame,
        of: NDArray[np.int64],
        start: NDArray[np.int64],
        content: pd.DataFrame,
        size: NDArray[np.int64],
        instead: Mapping[str, Any],
    ) -> pd.DataFrame:
        """Put planned ends and judged contents together."""
        ends = plan.take(of)
        n = len(of)
        names = ends["carrier"].to_numpy(dtype=object)
        kinds = {c.name: c for c in CARRIERS.values()}

        def of_carrier(attribute: str) -> NDArray[Any]:
            values = {k: getattr(c, attribute) for k, c in kinds.items()}
            return np.array([values[k] for k in names], dtype=object)

        six = ends["local_ip"].str.contains(":").to_numpy(dtype=bool)
        protocol = of_carrier("protocol").astype(np.int64)
        app = of_carrier("app")
        app[(protocol == ICMP) & six] = "ICMPV6"
        protocol[(protocol == ICMP) & six] = ICMP6
        tcp = protocol == TCP
        up, down = (
            content[c].to_numpy(dtype=np.int64)
            for c in ("src_payload_bytes", "dst_payload_bytes")
        )
        up_data, down_data = (
            content[c].to_numpy(dtype=np.int64) for c in ("up_data", "down_data")
        )
        # TCP: SYN, ACK, FIN, ACK and SYN+ACK, FIN, and an acknowledgement for two.
        src_packets = up_data + tcp * (4 + down_data // 2)
        dst_packets = down_data + tcp * (2 + (up_data + 1) // 2)
        header = np.where(tcp, 52, 28) + 20 * six
        number = ends.index.to_numpy()
        rng = np.random.default_rng([self.seed, 4, int(number[0]) if n else 0, n])
        src_port = rng.integers(EPHEMERAL_FROM, 61000, n)
        portless = np.isin(protocol, (ICMP, ICMP6))
        http = np.isin(names, ("http", "http-base64"))
        columns: dict[str, Any] = {
            "start": pd.to_datetime(start, unit="us", utc=True),
            "duration_s": ROUND_TRIP_S * (1 + tcp) + (up + down) / BYTES_PER_S,
            "src_ip": ends["local_ip"].to_numpy(dtype=object),
            "src_port": np.where(portless, 0, src_port),
            "dst_ip": ends["remote_ip"].to_numpy(dtype=object),
            "dst_port": np.where(portless, 0, ends["dst_port"].to_numpy()),
            "protocol": protocol,
            # A SYN carries eight more bytes of options.
            "src_bytes": up + header * src_packets + 8 * tcp,
            "dst_bytes": down + header * dst_packets + 8 * tcp,
            "src_packets": src_packets,
            "dst_packets": dst_packets,
            "tcp_flags": pd.array(np.where(tcp, _FIN_SYN_PSH_ACK, 0), dtype="Int64"),
            "conn_state": np.where(dst_packets > 0, "established", "one_sided"),
            "app": app,
            "app_verified": content["app_verified"].array,
            "first_speaker": "src",
            "server_name": ends["server_name"].to_numpy(dtype=object),
            "fingerprint": ends["fingerprint"].to_numpy(dtype=object),
            "user_agent": [USER_AGENT if h else None for h in http.tolist()],
            "label": LABEL,
            **{c: content[c].array for c in _EVIDENCE_COLUMNS},
            **instead,
        }
        columns["tcp_flags"][~tcp] = pd.NA
        columns["scenario"] = [
            f"{t.carrier}-{t.up_bytes}-{t.flows}-{t.place}-{t.Index}"
            for t in plan.itertuples()
        ]
        columns["scenario"] = np.array(columns["scenario"], dtype=object)[of]
        columns["planted_bytes"] = pd.array(size, dtype="Int64")
        columns["transfer"] = number
        table = validate_flows(pd.DataFrame(columns))
        return table.astype({"scenario": "str"})


def _letters(data: bytes) -> str:
    return "".join(chr(97 + byte % 26) for byte in data)


def notes_of(plan: pd.DataFrame) -> Iterator[str]:
    """Say which carriers have no known place."""
    moved = plan[plan["place"] != plan["asked"]]
    for (name, asked), rows in moved.groupby(["carrier", "asked"], sort=False):
        wanted = ((plan["carrier"] == name) & (plan["asked"] == asked)).sum()
        yield (
            f"{CARRIERS[str(name)].title}: the site's flows lead to no {asked} place for "
            f"{len(rows):,} of {wanted:,} transfers"
        )
