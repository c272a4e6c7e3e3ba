"""NetFlow 5 and 9 and IPFIX, as exporters send them: raw, or in a capture.

A raw file holds one datagram after the other, as `nc -ul` writes them. A capture is
read for what exporters sent in it where the caller says so (`exports`), and never by
itself: whoever sends packets into a network could hide the rest of a capture behind a
few datagrams that look like NetFlow. In it a datagram is known by its content, whichever
port it went to.

The library netflume takes datagrams apart (RFC 3954, RFC 7011); `_records` says what the
fields mean, `_templates` where templates come from. What none was found for is lost, and
told with counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from exfilml.exceptions import SourceError
from exfilml.sources._clock import Clock
from exfilml.sources._datagrams import (
    DATA,
    HEADERS,
    V5,
    V5_MOST,
    V5_RECORD,
    Datagram,
    Found,
    begins,
    check_library,
)
from exfilml.sources._directed import SAMPLED, paired, scaling
from exfilml.sources._lines import BadLines
from exfilml.sources._logs import losses, whole
from exfilml.sources._reading import DAMAGED, Options, Reading
from exfilml.sources._records import Row, halves, row
from exfilml.sources._templates import (
    Definition,
    Key,
    Known,
    fits,
    is_raw,
    key_of,
    lent,
    open_datagrams,
    records_in,
)

NO_TEMPLATE: Final = "with data without a template"
BORROWED: Final = "read with templates of other files"
NO_FLOW_RECORDS: Final = "with records that are no flows"
UNKNOWN_RATE: Final = "with samplers whose rate is not told"
NO_EXPORTS: Final = "with packets that are no exports"
_BATCH: Final = 50_000
_SHOWN: Final = 5


def detect(head: bytes) -> bool:
    """Say from the first bytes whether this is a raw file of datagrams."""
    return begins(head)


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If the library is missing, or no flow could be read.
    """
    check_library(path, captured=options.exports and not is_raw(path))
    account = _Account(path, options)
    total = 0
    for flows in paired(account.halves(), options, path):
        total += len(flows)
        yield Reading(flows)
    yield account.losses(total)


class _Account:
    """One file on its way to records, and what was lost of it."""

    def __init__(self, path: Path, options: Options) -> None:
        import netflume

        self._path = path
        self._options = options
        self._found = Found()
        self._store = netflume.TemplateStore()
        self._known = Known()
        self._tried: dict[tuple[Key, int], set[Definition]] = {}
        self._lenders: dict[Path, Known] = {}
        self._borrowed: set[str] = set()
        # Of data without a template: sets by number, and bytes.
        self._lost: Counter[int] = Counter()
        self._lost_size = 0
        self._unclear = False
        self._rates: set[int] = set()
        self._no_flows: Counter[str] = Counter()
        self._why = ""
        self._broken = self._short = self._cut = 0
        self._bad = BadLines(unit="record")

    def halves(self) -> Iterator[pd.DataFrame]:
        """Yield tables of records, each of which is one direction or both."""
        quiet = replace(self._options, advance=lambda _: None)
        with open_datagrams(self._path, quiet, Found()) as datagrams:
            self._known.learn(datagrams)
        rows: list[Row] = []
        with open_datagrams(self._path, self._options, self._found) as datagrams:
            for datagram in datagrams:
                rows += self._rows(datagram)
                if len(rows) >= _BATCH:
                    yield halves(rows, self._path.name, self._bad)
                    rows = []
        yield halves(rows, self._path.name, self._bad)

    def _rows(self, datagram: Datagram) -> Iterator[Row]:
        """Take a datagram apart."""
        import netflume

        key = key_of(datagram)
        sets = [] if datagram.version == V5 else list(datagram.sets())
        data = [(n, end - begin) for n, begin, end in sets if n >= DATA]
        for number, size in data:
            if self._store.get(*key, number)[0] is None:
                self._find(key, number, size)
        header = None
        # More records than there can be: the header is none, nor what follows.
        sound = datagram.version != V5 or datagram.records <= V5_MOST
        # The next one may be sound, whatever is wrong with this one.
        with suppress(Exception):
            header, records, stated = netflume.parse_message(
                datagram.data, key[0], self._store
            )
        if header is None or not sound:
            self._broken += 1
            if not sound:
                self._why = (
                    f" (a header of {datagram.records:,} records, of 30 at most)"
                )
            return
        said = self._known.of(key)
        said.learn(datagram, stated)
        self._count(datagram, key, data, len(records) + len(stated))
        clock = Clock(datagram, said.boot, records)
        for record in records:
            rate = said.rate(record)
            if rate is None:
                rate = self._options.sampling or 1
            elif rate > 1:
                self._rates.add(rate)
            made = row(record, datagram, clock, said, rate)
            if isinstance(made, str):
                self._no_flows[made] += 1
            else:
                yield made

    def _find(self, key: Key, number: int, size: int) -> None:
        """Look for a template further on in the file, and in others."""
        wanted = key, number
        here = self._known.templates.get(wanted)
        if here is None and wanted not in self._tried:
            self._tried[wanted] = self._defined_elsewhere(wanted)
        known = here or self._tried.get(wanted, set())
        if len(known) != 1:
            self._unclear = self._unclear or (here is None and len(known) > 1)
            return
        (fields, is_options) = next(iter(known))
        if here is None:
            if not fits(fields, size):
                return
            self._borrow(wanted)
        self._store.put(*key, number, list(fields), options=is_options)

    def _borrow(self, wanted: tuple[Key, int]) -> None:
        """Note whose template is used; names of applications come with it."""
        key, _ = wanted
        said = self._known.of(key)
        for path, known in self._lenders.items():
            if wanted in known.templates:
                self._borrowed.add(path.name)
            if key in known.said and said.learn_apps(known.said[key]):
                self._borrowed.add(path.name)

    def _defined_elsewhere(self, wanted: tuple[Key, int]) -> set[Definition]:
        """Return how the other files of the same call define a template."""
        if not self._lenders:
            for path in self._options.together:
                with suppress(OSError):
                    status = path.stat()
                    if path != self._path:
                        state = status.st_mtime_ns, status.st_size
                        self._lenders[path] = lent(path, state)
        every = (k.templates.get(wanted, set()) for k in self._lenders.values())
        return set().union(*every)

    def _count(
        self, datagram: Datagram, key: Key, data: list[tuple[int, int]], read: int
    ) -> None:
        """Count what is missing of a datagram."""
        expected = 0
        self._cut += datagram.cut
        if datagram.version == V5:
            expected = datagram.records
            # Its header counts as what it states of sampling.
            read = (len(datagram.data) - HEADERS[V5]) // V5_RECORD
        for number, size in data:
            fields, _ = self._store.get(*key, number)
            if fields is None:
                self._lost[number] += 1
                self._lost_size += size
            else:
                expected += records_in(fields, size)
        self._short += max(0, expected - read)

    def losses(self, flows: int) -> Reading:
        """Say what was lost.

        Raises
        ------
        SourceError
            If there are data, and no flow could be read.
        """
        path = self._path
        told = list(self._told())
        if not flows and (self._lost or self._broken or self._short or self._cut):
            why = self._lost_text() if self._lost else self._broken_text()
            raise SourceError(f"{path}: no flow could be read: {why}.")
        if self._options.sampling is not None and not self._rates:
            told += scaling(path, self._options)
        damage = self._found.damage
        return Reading(
            pd.DataFrame(), (*told, *losses(path, self._bad, damage, flows).losses)
        )

    def _told(self) -> Iterator[tuple[str, str]]:
        path, found = self._path, self._found
        if self._rates:
            many = ", ".join(f"{rate:,}" for rate in sorted(self._rates))
            text = f"1 packet in {many}; bytes and packets are scaled up by that"
            yield SAMPLED, f"{path}: the exporter sampled {text}"
        unknown = sorted(
            {n for said in self._known.said.values() for n in said.unknown}
        )
        if unknown and self._options.sampling is None:
            text = "whose rate is not told: their bytes and packets are as sampled"
            names = ", ".join(map(str, unknown[:_SHOWN]))
            yield UNKNOWN_RATE, f"{path}: records name sampler {names}, {text}"
        if self._borrowed:
            text = ", ".join(sorted(self._borrowed)[:_SHOWN])
            yield BORROWED, f"{path}: read with templates of {text}"
        if self._lost:
            yield NO_TEMPLATE, f"{path}: {self._lost_text()}"
        if self._no_flows:
            counts = (f"{n:,} records {what}" for what, n in self._no_flows.items())
            yield NO_FLOW_RECORDS, f"{path}: {', '.join(counts)}; passed over"
        if self._broken or self._short or self._cut:
            yield DAMAGED, f"{path}: {self._broken_text()}"
        if found.packets:
            text = f"{found.others:,} of {found.packets:,} packets are no exports"
            if found.fragments:
                text += f" ({found.fragments:,} are fragments, which are not joined)"
            if found.others:
                yield NO_EXPORTS, f"{path}: {text}; passed over"

    def _broken_text(self) -> str:
        parts = []
        if self._broken:
            parts.append(f"{self._broken:,} datagrams could not be read{self._why}")
        if self._cut:
            parts.append(f"{self._cut:,} datagrams are cut off")
        if self._short:
            parts.append(f"{self._short:,} records could not be taken apart")
        return "; ".join(parts)

    def _lost_text(self) -> str:
        numbers = ", ".join(map(str, sorted(self._lost)[:_SHOWN]))
        text = (
            f"{sum(self._lost.values()):,} sets of data ({self._lost_size:,} bytes) "
            f"have no template (number {numbers})"
        )
        if self._unclear:
            return f"{text}: the files read with it do not agree on what it is"
        return f"{text}: read it together with the file that holds it"
