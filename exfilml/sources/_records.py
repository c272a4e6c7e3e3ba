"""What the fields of NetFlow 5 and 9 and IPFIX mean, in the flows table's words.

Elements by the numbers of IANA's registry "IPFIX Information Elements", which begins
with those of NetFlow version 9 (RFC 3954 §8); Cisco's and vendors' own as cited. Names
are netflume's where it has one, ``ie231`` or ``e29305.1`` (an enterprise's) where not.

**Bytes** are IP bytes: ``octetDeltaCount`` (1), ``octetTotalCount`` (85), "including IP
header(s) and IP payload" (RFC 5102 §5.10). Where an exporter has only bytes of layer 2
(352, 353), 14 a packet are taken off. ``OUT_BYTES`` and ``OUT_PKTS`` (23, 24) of version
9 count the other direction where 1 is there too, as FortiGate and nProbe mean them and
nfdump reads them. IPFIX calls them ``post…``, the same packets behind a middlebox: they
count where nothing else does. Both directions stand in one record under RFC 5103
(enterprise 29305) and as initiator and responder (231, 232, 298, 299; Cisco ASA's NSEL).

**Sampling**: the rate stands in the header of version 5 (its lower 14 bits; exporters
leave the mode 0 that goes with it), in options (34, 50 by sampler 48, 305 and 306, 309
and 310 by selector 302; RFC 5476) or in the record. Counts are multiplied by it.

**Applications** have numbers (95), whose names options tell (96; Cisco's NBAR,
FortiGate), or names: PAN-OS' ``App-ID`` (56701), nProbe's ``L7_PROTO_NAME`` (57591).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from exfilml.sources._clock import MOST, Clock, Record, first_of, times_of
from exfilml.sources._datagrams import V5, V9, Datagram
from exfilml.sources._lines import BadLines
from exfilml.sources._logs import flows_of
from exfilml.sources._words import APPLICATIONS, UNKNOWN_PROTOCOL

Row = tuple[Any, ...]
_COLUMNS: Final = {
    "start": pa.float64(),
    "duration_s": pa.float64(),
    "src_ip": pa.string(),
    "src_port": pa.int64(),
    "dst_ip": pa.string(),
    "dst_port": pa.int64(),
    "protocol": pa.int64(),
    "tcp_flags": pa.int64(),
    "src_bytes": pa.int64(),
    "src_packets": pa.int64(),
    "dst_bytes": pa.int64(),
    "dst_packets": pa.int64(),
    "app": pa.string(),
    "sensor": pa.string(),
}
NO_ADDRESSES: Final = "have no addresses"
NO_BYTES: Final = "count no bytes"
_NO_APPS: Final = frozenset(
    {"", "unknown", "incomplete", "not-applicable", "insufficient-data", "unclassified"}
)
_ICMP: Final = frozenset({1, 58})
_TCP: Final = 6
_MOST_SAID: Final = 100_000
_RATE_BITS: Final = 0x3FFF


class Said:
    """What an exporter says of itself: sampling rates and the like.

    Attributes
    ----------
    unknown
        Samplers that records name, and whose rate nobody told.
    boot
        When it was started, in milliseconds since 1970.
    """

    def __init__(self) -> None:
        self._rates: dict[int | None, int] = {}
        self._apps: dict[Any, str] = {}
        self.unknown: set[int] = set()
        self.boot: float | None = None

    def learn(self, datagram: Datagram, stated: Sequence[Record]) -> None:
        """Take in a header and records of options."""
        if datagram.version == V5:
            rate = int.from_bytes(datagram.data[22:24]) & _RATE_BITS
            if rate:
                self._rates[None] = rate
            return
        from netflume import sampling_rate

        for record in stated:
            rate = sampling_rate(record)
            if rate is not None and len(self._rates) < _MOST_SAID:
                self._rates[_sampler(record)] = rate
            self.boot = first_of(record, "system_init_time_ms") or self.boot
            name, number = record.get("ie96"), record.get("ie95")
            if name is not None and len(self._apps) < _MOST_SAID:
                self._apps[number] = _text(name)

    def learn_apps(self, other: Said) -> bool:
        """Take over names of applications; a number with two names has none."""
        for number, name in other._apps.items():
            known = self._apps.setdefault(number, name)
            if known != name:
                self._apps[number] = ""
        return bool(other._apps)

    def rate(self, record: Record) -> int | None:
        """Return one packet in how many a record is of; None where nobody said."""
        own = first_of(record, "sampling_interval") or first_of(
            record, "sampler_interval"
        )
        if own:
            return own
        sampler = _sampler(record)
        if sampler is None:
            many = set(self._rates.values())
            return many.pop() if len(many) == 1 else self._rates.get(None)
        known = self._rates.get(sampler, self._rates.get(None))
        # Sampler 0 is none.
        if known is None and sampler and len(self.unknown) < _MOST_SAID:
            self.unknown.add(sampler)
        return known

    def app(self, record: Record) -> str | None:
        """Return the name of the application; None where there is none."""
        name = self._apps.get(record.get("ie95"))
        for own in ("ie56701", "ie57591", "e35632.119"):
            name = name or (_text(record[own]) if own in record else None)
        if name is None or name.lower() in _NO_APPS:
            return None
        return APPLICATIONS.get(name.lower(), name)


def _sampler(record: Record) -> int | None:
    sampler = record.get("sampler_id", record.get("selector_id"))
    return sampler if isinstance(sampler, int) else None


def _text(value: Any) -> str:
    """Return the text of a field that the library takes for a number or bytes."""
    if isinstance(value, int):
        data = value.to_bytes((value.bit_length() + 7) // 8)
    else:
        try:
            data = bytes.fromhex(value)
        except ValueError:
            data = str(value).encode()
    text = data.decode("utf-8", "replace").strip("\0 ")
    return "".join(letter for letter in text if letter.isprintable())


def row(
    record: Record, datagram: Datagram, clock: Clock, said: Said, rate: int
) -> Row | str:
    """Make a row of a record; or say why it is no flow."""
    src, dst = record.get("src_addr"), record.get("dst_addr")
    if not (isinstance(src, str) and isinstance(dst, str)):
        return NO_ADDRESSES
    counters = _counters(record, datagram.version)
    if counters is None:
        return NO_BYTES
    protocol = _or(first_of(record, "proto"), UNKNOWN_PROTOCOL)
    start, end = times_of(record, clock)
    ports = (
        (0, 0)
        if protocol in _ICMP
        else (
            first_of(record, "src_port", "ie180", "ie182") or 0,
            first_of(record, "dst_port", "ie181", "ie183") or 0,
        )
    )
    flags, reverse = first_of(record, "tcp_flags"), first_of(record, "e29305.6")
    if flags is not None:
        # As wide as IPFIX has them, offset and reserved bits too.
        flags = (flags | (reverse or 0)) & 0xFF if protocol == _TCP else None
    return (
        start * 1000,
        None if end is None else (end - start) / 1000,
        src,
        ports[0],
        dst,
        ports[1],
        protocol,
        flags,
        *(None if n is None else min(n * rate, MOST) for n in counters),
        said.app(record),
        datagram.exporter or None,
    )


def _counters(
    record: Record, version: int
) -> tuple[int, int | None, int, int | None] | None:
    """Return bytes and packets of the source, and of the destination."""
    there = first_of(record, "ie232", "e29305.1", "e29305.85")
    there_packets = first_of(record, "ie299", "e29305.2", "e29305.86")
    here = first_of(record, "octets", "octets_total", "ie231")
    here_packets = first_of(record, "packets", "packets_total", "ie298")
    if here is None:
        frames = first_of(record, "ie352", "ie353")
        if frames is not None:
            least = 20 * (here_packets or 0)
            here = max(frames - 14 * (here_packets or 0), min(least, frames))
    out, out_packets = first_of(record, "out_octets"), first_of(record, "out_packets")
    if here is None:
        here, here_packets = out, _or(here_packets, out_packets)
    elif version == V9 and there is None:
        there, there_packets = out, out_packets
    if here is None and there is None:
        return None
    known = here_packets is not None or there_packets is not None
    zero = 0 if known else None
    return here or 0, _or(here_packets, zero), there or 0, _or(there_packets, zero)


def _or(value: int | None, other: Any) -> Any:
    return other if value is None else value


def halves(rows: Sequence[Row], sensor: str, bad: BadLines) -> pd.DataFrame:
    """Make a table of rows, each one direction or both."""
    if not rows:
        return pd.DataFrame()
    columns: dict[str, Any] = {
        name: pa.array(values, kind)
        for (name, kind), values in zip(
            _COLUMNS.items(), zip(*rows, strict=True), strict=True
        )
    }
    columns["sensor"] = columns["sensor"].fill_null(sensor)
    first = bad.lines + 1
    bad.lines += len(rows)
    return flows_of(columns, None, first, bad)
