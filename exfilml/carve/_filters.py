"""Expressions with which other tools select the packets of flows.

Display filters of tshark and Wireshark (wireshark-filter(4)) and capture filters of
tcpdump (pcap-filter(7)). Flows of the same two hosts and the same service share a term
that lists their other ports. If there are too many, terms grow wider: first all ports of
the opening side, then all between two hosts, then all of a host; the result says so.

Capture filters know no times, and of IPv6 no ports behind extension headers. Neither
looks into tunnels like `carve_packets` does: tshark decodes them, tcpdump does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from exfilml.carve._carved import SLACK_S, check_slack
from exfilml.carve._wanted import PORTED, TOLD_APART, check_flows, times_of
from exfilml.exceptions import CarveError

if TYPE_CHECKING:
    import pandas as pd

MOST_TERMS: Final = 40
MOST_RUNS: Final = 400
"""Ranges of ports in all terms together."""

WIDTHS: Final = ("flows", "services", "host pairs", "hosts")
_NAMES: Final = {6: "tcp", 17: "udp", 132: "sctp"}
_ECHO: Final = {1: ("icmp", "icmp"), 58: ("icmpv6", "icmp6")}


@dataclass(frozen=True, slots=True)
class Filters:
    """Expressions for the packets of flows.

    Attributes
    ----------
    tshark
        For ``tshark -Y`` and Wireshark's display filter.
    tcpdump
        For ``tcpdump`` and whatever takes libpcap's filters. It does not tell times.
    width
        What they select: exactly these ``flows``; all flows of the same ``services`` of
        the same hosts; all between the ``host pairs``; or all of the ``hosts``.
    """

    tshark: str
    tcpdump: str
    width: str


@dataclass(frozen=True, slots=True)
class _Term:
    """Packets of one protocol between two hosts; None stands for any."""

    src: str
    dst: str | None
    protocol: int | None
    sports: tuple[tuple[int, int], ...] | None
    dport: int | None
    begin: int
    end: int


def packet_filters(
    flows: pd.DataFrame,
    *,
    wrapped: Iterable[str] = (),
    fragments: bool = False,
    slack_s: float = SLACK_S,
) -> Filters:
    """Write the filters for flows.

    Parameters
    ----------
    flows
        As for `carve_packets`.
    wrapped
        What the packets are wrapped in, as `Carved.wrapped` says: tcpdump must be told
        of VLAN tags, MPLS and PPPoE.
    fragments
        Whether to take all IP fragments between the hosts, because later fragments have
        no ports.
    slack_s
        Seconds before and behind the flows' times.

    Raises
    ------
    CarveError
        If no flow has addresses.
    FlowsError
        If `flows` lacks columns.
    """
    check_flows(flows)
    check_slack(slack_s)
    known = flows[list(TOLD_APART)].notna().all(axis=1)
    if not known.any():
        raise CarveError("No flow of the case has addresses, protocol and time.")
    terms, width = _terms(flows[known], round(slack_s * 1e9))
    shark = _any(_shark(term) for term in terms)
    dump = _any(_dump(term) for term in terms)
    if fragments:
        pairs = _unique((t.src, t.dst, t.protocol) for t in terms)
        shark = _any([shark, *(_shark_fragment(*pair) for pair in pairs)])
        dump = _any([dump, *(_dump_fragment(*pair) for pair in pairs)])
    return Filters(shark, _unwrapped(dump, set(wrapped)), width)


def _terms(flows: pd.DataFrame, slack: int) -> tuple[list[_Term], str]:
    """Return the terms of the narrowest width of which there are not too many."""
    begins, finishes = times_of(flows)
    table = flows[["src_ip", "dst_ip", "protocol"]].astype({"protocol": int})
    table = table.assign(
        src_ip=table["src_ip"].astype(str),
        dst_ip=table["dst_ip"].astype(str),
        begin=begins - slack,
        end=finishes + slack,
    )
    ported = table["protocol"].isin(PORTED).to_numpy()
    for name in ("src_port", "dst_port"):
        port = flows[name].to_numpy(np.float64, na_value=np.nan)
        table[name] = np.where(ported & ~np.isnan(port), port, -1).astype(int)
    for width in WIDTHS:
        terms = _grouped(table, width)
        runs = sum(len(t.sports or ()) for t in terms)
        if len(terms) <= MOST_TERMS and runs <= MOST_RUNS:
            return terms, width
    # Not even the hosts are few: those of the most flows would be an answer to
    # another question.
    begin, end = int(table["begin"].min()), int(table["end"].max())
    hosts = _unique(table["src_ip"])
    return [_Term(host, None, None, None, None, begin, end) for host in hosts], WIDTHS[
        -1
    ]


def _grouped(table: pd.DataFrame, width: str) -> list[_Term]:
    keys = {
        "flows": ["src_ip", "dst_ip", "protocol", "dst_port"],
        "services": ["src_ip", "dst_ip", "protocol", "dst_port"],
        "host pairs": ["src_ip", "dst_ip", "protocol"],
        "hosts": ["src_ip"],
    }[width]
    terms = []
    for key, part in table.groupby(keys, sort=False):
        named: tuple[Any, ...] = (*cast("tuple[Any, ...]", key), None, None, None)
        src, dst, protocol, dport = named[:4]
        sports = _runs(part["src_port"]) if width == "flows" else None
        begin, end = int(part["begin"].min()), int(part["end"].max())
        dport = None if dport == -1 else dport
        terms.append(_Term(src, dst, protocol, sports, dport, begin, end))
    return terms


def _runs(ports: pd.Series) -> tuple[tuple[int, int], ...] | None:
    """Return ranges of ports, None if one is not known."""
    numbers = np.unique(ports.to_numpy())
    if numbers[0] < 0:
        return None
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return tuple((int(part[0]), int(part[-1])) for part in parts)


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _any(parts: Iterable[str]) -> str:
    listed = list(parts)
    return listed[0] if len(listed) == 1 else " or ".join(f"({p})" for p in listed)


def _seconds(nanos: int) -> str:
    sign, nanos = ("-", -nanos) if nanos < 0 else ("", nanos)
    return f"{sign}{nanos // 10**9}.{nanos % 10**9:09d}"


def _shark_time(begin: int, end: int) -> str:
    first, last = _seconds(max(begin, 0)), _seconds(max(end, 0))
    return f"frame.time_epoch >= {first} and frame.time_epoch <= {last}"


def _layer(address: str) -> str:
    return "ipv6" if ":" in address else "ip"


def _shark(term: _Term) -> str:
    """Write a term; both ways, or any way where ports are not told apart."""
    time = _shark_time(term.begin, term.end)
    here = _layer(term.src)
    if term.dst is None:
        return f"{here}.addr == {term.src} and {time}"
    hosts = [
        f"{here}.src == {a} and {here}.dst == {b}"
        for a, b in ((term.src, term.dst), (term.dst, term.src))
    ]
    name = _NAMES.get(term.protocol or 0)
    if name is None:
        kind = _ECHO.get(term.protocol or 0, (None,))[0]
        if kind is None:
            field = "ip.proto" if here == "ip" else "ipv6.nxt"
            kind = f"{field} == {term.protocol}"
        return f"{kind} and (({hosts[0]}) or ({hosts[1]})) and {time}"
    ways = []
    for ends, (mine, theirs) in zip(
        hosts, (("srcport", "dstport"), ("dstport", "srcport")), strict=True
    ):
        parts = [ends]
        if term.sports is not None:
            parts.append(_shark_ports(f"{name}.{mine}", term.sports))
        if term.dport is not None:
            parts.append(f"{name}.{theirs} == {term.dport}")
        ways.append(" and ".join(parts))
    # What an error message of ICMP quotes has ports, too.
    return f"{name} and not icmp and not icmpv6 and (({ways[0]}) or ({ways[1]})) and {time}"


def _shark_ports(field: str, runs: tuple[tuple[int, int], ...]) -> str:
    if len(runs) == 1 and runs[0][0] == runs[0][1]:
        return f"{field} == {runs[0][0]}"
    listed = ", ".join(f"{a}..{b}" if a < b else f"{a}" for a, b in runs)
    return f"{field} in {{{listed}}}"


def _shark_fragment(src: str, dst: str | None, protocol: int | None) -> str:
    if dst is None:
        return f"{_layer(src)}.addr == {src}"
    split = "(ip.flags.mf == 1 or ip.frag_offset > 0)"
    kind = f"ip.proto == {protocol}"
    here = _layer(src)
    if here == "ipv6":
        split, kind = "ipv6.fraghdr", f"ipv6.fraghdr.nxt == {protocol}"
    return (
        f"{split} and {kind} and (({here}.src == {src} and {here}.dst == {dst}) or "
        f"({here}.src == {dst} and {here}.dst == {src}))"
    )


def _dump(term: _Term) -> str:
    if term.dst is None:
        return f"host {term.src}"
    hosts = [
        f"src host {a} and dst host {b}"
        for a, b in ((term.src, term.dst), (term.dst, term.src))
    ]
    name = _NAMES.get(term.protocol or 0)
    if name is None:
        kind = _ECHO.get(term.protocol or 0, (None, None))[1]
        six = "ip6" if ":" in term.src else "ip"
        kind = kind or f"{six} proto {term.protocol}"
        return f"{kind} and (({hosts[0]}) or ({hosts[1]}))"
    ways = []
    for ends, (mine, theirs) in zip(
        hosts, (("src", "dst"), ("dst", "src")), strict=True
    ):
        parts = [ends]
        if term.sports is not None:
            listed = " or ".join(
                f"{mine} portrange {a}-{b}" if a < b else f"{mine} port {a}"
                for a, b in term.sports
            )
            parts.append(f"({listed})" if len(term.sports) > 1 else listed)
        if term.dport is not None:
            parts.append(f"{theirs} port {term.dport}")
        ways.append(" and ".join(parts))
    return f"{name} and (({ways[0]}) or ({ways[1]}))"


def _dump_fragment(src: str, dst: str | None, protocol: int | None) -> str:
    if dst is None:
        return f"host {src}"
    if ":" in src:
        return f"host {src} and host {dst} and ip6[6] = 44 and ip6[40] = {protocol}"
    return f"host {src} and host {dst} and ip[6:2] & 0x3fff != 0 and ip[9] = {protocol}"


def _unwrapped(expression: str, wrapped: set[str]) -> str:
    """Tell tcpdump to look behind tags, too: each moves where it looks from there on."""
    if "vlan in vlan" in wrapped:
        return f"({expression}) or (vlan and (({expression}) or (vlan and ({expression}))))"
    for name, word in (("vlan", "vlan"), ("mpls", "mpls"), ("pppoe", "pppoes")):
        if name in wrapped:
            return f"({expression}) or ({word} and ({expression}))"
    return expression
