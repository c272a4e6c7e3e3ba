"""Templates of NetFlow 9 and IPFIX: where files define them, and what data they fit.

Data can only be read with their template, and exporters send templates now and then.
Those that come later in a file serve for what came before. Those of other files of the
same call serve too, where the files agree on what a template is: in raw files nothing
but version, observation domain and template number tells exporters apart.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from exfilml.exceptions import SourceError
from exfilml.sources._datagrams import (
    DATA,
    V5,
    Datagram,
    Found,
    begins,
    captured_datagrams,
    raw_datagrams,
)
from exfilml.sources._packed import CHUNK, open_plain, plain_file, plain_head
from exfilml.sources._reading import Options
from exfilml.sources._records import Said

# Exporters repeat templates every few minutes.
_LOOKED_AT: Final = 4 << 20
_VARIABLE: Final = 65535
_HEAD: Final = 128
# Of exporters, and of templates: far above those of any site.
_MOST: Final = 100_000

Key = tuple[str, int]
Definition = tuple[tuple[tuple[str, str, int], ...], bool]


@dataclass(frozen=True, slots=True)
class Known:
    """What datagrams define and state, whatever place they have in a file.

    Attributes
    ----------
    templates
        Definitions by exporter and number; more than one is unclear.
    said
        By exporter.
    """

    templates: dict[tuple[Key, int], set[Definition]] = field(default_factory=dict)
    said: dict[Key, Said] = field(default_factory=dict)

    def of(self, key: Key) -> Said:
        """Return what an exporter said; nothing, where there are too many of them."""
        if len(self.said) < _MOST:
            return self.said.setdefault(key, Said())
        return self.said.get(key, Said())

    def learn(self, datagrams: Iterator[Datagram]) -> None:
        """Take in templates, and records of options."""
        import netflume

        store = netflume.TemplateStore()
        for datagram in datagrams:
            exporter, domain = key = key_of(datagram)
            if datagram.version == V5 or not any(
                number < DATA or store.get(exporter, domain, number)[1]
                for number, _, _ in datagram.sets()
            ):
                continue
            # What is wrong with it is told when it is read.
            with suppress(Exception):
                *_, stated = netflume.parse_message(datagram.data, exporter, store)
                self.of(key).learn(datagram, stated)
            if len(self.templates) > _MOST:
                store.take_events()
            for event in store.take_events():
                definition = tuple(event.fields), event.options
                found = self.templates.setdefault((key, event.template_id), set())
                # Two are as unclear as many.
                if len(found) < 2:
                    found.add(definition)


def is_raw(path: Path) -> bool:
    """Say whether a file is one of datagrams, and no capture."""
    return begins(plain_head(path, _HEAD))


@contextmanager
def open_datagrams(
    path: Path, options: Options, found: Found
) -> Iterator[Iterator[Datagram]]:
    """Open a file for its datagrams, whatever it is."""
    if is_raw(path):
        with open_plain(path, options.advance) as plain:
            yield raw_datagrams(plain, found)
        found.damage = found.damage or plain.damage
        return
    with plain_file(path, "capture") as (plain_path, damage):
        try:
            yield captured_datagrams(plain_path, found)
        except SourceError as error:
            raise SourceError(f"{path}: {error}") from None
        found.damage = found.damage or damage


def key_of(datagram: Datagram) -> Key:
    return f"{datagram.exporter}/{datagram.version}", datagram.domain


@functools.lru_cache(maxsize=4096)
def lent(path: Path, _state: tuple[int, int]) -> Known:
    """Return what the beginning of a raw file defines and states.

    It holds as long as time and size of the file do.
    """
    known = Known()
    known.learn(raw_datagrams(_beginning(path), Found()))
    return known


def _beginning(path: Path) -> Iterator[bytes]:
    with open_plain(path, lambda _: None) as plain:
        yield from itertools.islice(plain, _LOOKED_AT // CHUNK)


def _length(fields: Sequence[tuple[str, str, int]]) -> int | None:
    """Return the length of a template's records; None where they vary."""
    sizes = [size for _, _, size in fields]
    return None if _VARIABLE in sizes else sum(sizes)


def fits(fields: Sequence[tuple[str, str, int]], size: int) -> bool:
    """Say whether data can be of a template: whole records, and padding to 4 bytes."""
    length = _length(fields)
    return length is None or (0 < length <= size and size % length < 4)


def records_in(fields: Sequence[tuple[str, str, int]], size: int) -> int:
    """Say how many records data must hold at least."""
    length = _length(fields)
    if length is None:
        return int(size >= len(fields))
    return size // length if length else 0
