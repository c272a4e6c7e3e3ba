"""Plants labelled synthetic uploads into a site's own flows, to learn what it misses.

Nothing is sent and no packet is made: what comes out are rows of a flows table, as
`exfilml.read_flows` would give them had a host of the site sent so many bytes in such
a way. They look like a wire with full-sized packets: TCP segments of 1448 bytes
(Ethernet's 1500 less IP and TCP headers with timestamps, RFC 7323), datagrams of 1200
(what QUIC takes to pass anywhere, RFC 9000, section 14), an acknowledgement for every
second segment (RFC 5681, section 4.2), and no loss. Byte counts are IP bytes.

**Payload evidence comes from ciphertext.** Text-like records are encrypted by adding
a keystream modulo 2: SHAKE-256 over key and block number (FIPS 202; a hash in counter
mode is a stream cipher, D. J. Bernstein, "The Salsa20 family of stream ciphers",
section 2). The stream is built as it would be on the wire (HTTP header, base64, DNS
messages, TLS records …), the bytes that the extractor would keep are cut out of it by
the same rule (`exfilml.payload.kept_slices`), and `exfilml.payload.judge_stream`
judges them. What the judge misses is missed here too. Of flows of one carrier and
size at most `DRAWS` differ in their ciphertext; others share it.

**Where and when.** A host of the site that sends to the outside is drawn, one of its
UTC days in the table, and times between its first and last flow of that day. A new
place is an address of the networks reserved for documentation and benchmarks
(RFC 5737, RFC 2544, RFC 3849) of which the table has no neighbour; a known one is
drawn from the flows of the site to the same port, as often as it is used; a near one is
new, but shares its network with a known one, as new customers of a cloud do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from exfilml.exceptions import OptionError
from exfilml.inject._carriers import CARRIERS, Carrier
from exfilml.inject._planter import DRAWS, Planter, notes_of
from exfilml.inject._site import Site, reserved_networks
from exfilml.inject._transfer import PLACES, Transfer, check_count
from exfilml.schema import validate_flows

__all__ = [
    "CARRIERS",
    "DRAWS",
    "PLACES",
    "Carrier",
    "Planted",
    "Planter",
    "Site",
    "Transfer",
    "check_count",
    "inject",
    "notes_of",
    "reserved_networks",
]


@dataclass(frozen=True)
class Planted:
    """A flows table with uploads planted into it.

    Attributes
    ----------
    flows
        The table given, its rows as they were, and after them the planted ones:
        ``label`` is ``exfil``, ``scenario`` names the transfer and
        ``planted_bytes`` says how much of its data the flow carries.
    index
        Index of the planted rows.
    transfers
        A row for each transfer, index as in ``scenario``: ``carrier up_bytes flows
        asked place local_ip remote_ip server_name fingerprint dst_port start end``;
        `place` is new where the site has none as `asked`.
    notes
        What could not be had as asked.
    """

    flows: pd.DataFrame
    index: pd.Index
    transfers: pd.DataFrame
    notes: tuple[str, ...]


def inject(
    flows: pd.DataFrame,
    transfers: Transfer | Iterable[Transfer],
    *,
    trials: int = 1,
    home: Iterable[str] | str | None = None,
    seed: int = 0,
) -> Planted:
    """Plant labelled synthetic uploads into a flows table.

    Parameters
    ----------
    flows
        A flows table of the site; it is not changed.
    transfers
        What to plant.
    trials
        How often each is planted, each time from another draw of host, place and
        time.
    home
        Home networks; `None` for the private ones.
    seed
        Of all draws: the same seed gives the same table.

    Raises
    ------
    FlowsError
        If there are no flows, or none leaves the site.
    OptionError
        If there is nothing to plant, or an option has an impossible value.

    Examples
    --------
    >>> import exfilml
    >>> flows = exfilml.read_flows("today.pcap")  # doctest: +SKIP
    >>> planted = exfilml.inject(
    ...     flows, exfilml.Transfer("udp-53", 200_000, flows=20)
    ... )  # doctest: +SKIP
    """
    wanted = [transfers] if isinstance(transfers, Transfer) else list(transfers)
    odd = [t for t in wanted if not isinstance(t, Transfer)]
    if odd or not wanted:
        given = repr(odd[0])[:60] if odd else "none"
        raise OptionError(
            f"transfers: got {given}, expected one or more exfilml.Transfer."
        )
    check_count("trials", trials, 1_000_000)
    planter = Planter(Site.of(flows, home), seed=seed)
    plan = planter.plan([t for t in wanted for _ in range(trials)])
    rows = planter.rows(plan)
    flows = validate_flows(flows)
    if pd.api.types.is_integer_dtype(flows.index.dtype):
        next_ = int(flows.index.max()) + 1
        index: pd.Index = pd.RangeIndex(next_, next_ + len(rows))
    else:
        index = pd.Index([f"planted {i}" for i in range(len(rows))], dtype=object)
    rows.index = index
    if "scenario" not in flows:
        missing = pd.Series(pd.NA, index=flows.index, dtype="str")
        flows = flows.assign(scenario=missing)
    kept = flows.astype({"scenario": "str"})
    together = pd.concat([kept, rows.drop(columns="transfer")])
    return Planted(
        flows=validate_flows(together),
        index=index,
        transfers=plan,
        notes=tuple(f"{note}: new ones stand for them" for note in notes_of(plan)),
    )
