"""Judges many directions at once, each as if it were alone.

What needs no text to be read runs in compiled code over all of them: look-ups
(`_skim.skim`), the figures and what they settle (`_kernel.survey_many`). Python
is entered for a direction to find its facts and open its carrier, unless it is a
look-up, and for verdicts that the figures leave open.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from exfilml.payload import _dns, _kernel, _skim, _wu
from exfilml.payload._declared import contradicts
from exfilml.payload._evidence import PayloadEvidence
from exfilml.payload._randomness import quantiles
from exfilml.payload._verdict import (
    ICMP,
    SETTLED,
    SIGNED,
    Facts,
    Judged,
    decide,
    facts_of,
    judge_parts,
    known_bits,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FIRST_PACKET: Final = 1460

# By what `_kernel.settle` says; verdicts that are open are written later.
_OPEN: Final = _kernel.UNSETTLED + 1 - len(SETTLED)
_VERDICT: Final = np.array(
    [verdict for verdict, _, _ in SETTLED] + [""] * _OPEN, object
)
_PROBABILITY: Final = np.array([p for _, p, _ in SETTLED] + [math.nan] * _OPEN)
_CONCEALED: Final = np.array([c for _, _, c in SETTLED] + [False] * _OPEN)
# By what `_skim.skim` finds.
_SKIMMED: Final = {
    _skim.ANSWERS: Facts(grammar="dns"),
    _skim.ONE_NAME: Facts(grammar="dns"),
    _skim.TLS: Facts(handshake="tls", start=0, records=3),
}


class Samples(NamedTuple):
    """What was kept of many directions.

    Attributes
    ----------
    data
        Heads and slices, shape ``(n_bytes,)``.
    sizes
        Sizes of the packets that the heads are made of.
    sides
        A row for each direction, shape ``(n, SIDE_COLUMNS)``: where they are, by the
        first columns of the table (`_kernel.AT` and those behind it). The others are
        filled here.
    width
        Bytes per slice.
    """

    data: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    sides: NDArray[np.int64]
    width: int


def judge_many(samples: Samples) -> tuple[NDArray[Any], ...]:
    """Judge each direction; see `exfilml.payload.judge_stream` for what is told.

    Returns
    -------
    tuple of ndarray
        A column for each field of `PayloadEvidence`, in their order, shapes ``(n,)``;
        of objects where values may be missing.
    """
    data, sizes, sides, width = samples
    sides[:, _kernel.START], sides[:, _kernel.RECORDS] = -1, 0
    sides[:, _kernel.SEARCH], sides[:, _kernel.KNOWN] = 1, 0
    # One type for the compiler, whether the bytes can be written or not.
    data = data.view()
    data.flags.writeable = False
    _skim.skim(data, sizes, sides)
    work = _Work(samples)
    work.take_skimmed()
    work.find_facts()
    contents = np.empty(len(data), np.uint8)
    found = np.empty((len(sides), _kernel.N_RESULTS))
    _kernel.survey_many(data, sides, width, quantiles(), contents, found)
    return work.conclude(contents, found)


class _Work:
    """What is known of the directions, on the way to evidence."""

    def __init__(self, samples: Samples) -> None:
        self.raw = samples.data.tobytes()
        self.sizes = samples.sizes.tolist()
        self.sides = samples.sides
        self.width = samples.width
        self.facts: dict[int, Facts] = {}
        self.carried, self.names, self.longest, self.domain = (
            _nothing(len(self.sides)) for _ in range(4)
        )

    def take_skimmed(self) -> None:
        """Take over what `_skim` has told, with the names that are asked for."""
        sides = self.sides
        lookup = sides[:, _kernel.LOOKUP]
        of = np.flatnonzero(lookup == _skim.ONE_NAME)
        for i, at, size in zip(
            of.tolist(),
            sides[of, _kernel.NAME_AT].tolist(),
            sides[of, _kernel.NAME_BYTES].tolist(),
            strict=True,
        ):
            domain, _, carried, longest = _dns.place(self.raw[at : at + size].lower())
            if not _dns.is_settled(domain, carried):
                lookup[i] = _skim.TO_READ
                continue
            self.domain[i], self.carried[i] = domain, carried
            self.names[i], self.longest[i] = 1, longest
        for kind, facts in _SKIMMED.items():
            of = np.flatnonzero(lookup == kind)
            sides[of, _kernel.START : _kernel.KNOWN + 1] = (
                facts.start, facts.records, _searches(facts), _known(facts),
            )  # fmt: skip
            for i in of.tolist():
                self.facts[i] = facts

    def find_facts(self) -> None:
        """Find facts and open carriers of all others."""
        sides = self.sides
        protocol = sides[:, _kernel.PROTOCOL]
        there = sides[:, _kernel.HEAD] + sides[:, _kernel.SLICES] > 0
        for kind in ICMP:
            there |= protocol == kind
        of = np.flatnonzero(there & (sides[:, _kernel.LOOKUP] < _skim.ANSWERS))
        told = []
        for i, row in zip(of.tolist(), sides[of].tolist(), strict=True):
            self.facts[i] = facts = facts_of(
                *self.samples_of(row), self.width, row[_kernel.PROTOCOL],
                is_dns=row[_kernel.LOOKUP] == _skim.TO_READ,
            )  # fmt: skip
            self.carried[i], names = facts.n_carried, facts.names
            if names is not None:
                self.names[i], self.longest[i], self.domain[i] = (
                    names.unique, names.longest, names.domain,
                )  # fmt: skip
            told.append((facts.start, facts.records, _searches(facts), _known(facts)))
        if told:
            sides[of, _kernel.START : _kernel.KNOWN + 1] = told

    def samples_of(self, row: list[int]) -> tuple[bytes, bytes, tuple[int, ...]]:
        """Return head, slices and sizes of packets of a direction."""
        at, head, slices, sizes_at, packets, *_ = row
        middle = at + head
        return (
            self.raw[at:middle],
            self.raw[middle : middle + slices],
            tuple(self.sizes[sizes_at : sizes_at + packets]),
        )

    def conclude(
        self, contents: NDArray[np.uint8], found: NDArray[np.float64]
    ) -> tuple[NDArray[Any], ...]:
        """Give the verdicts, those that are open one by one."""
        sides = self.sides
        count = len(sides)
        settled = sides[:, _kernel.SETTLED]
        figures = found[:, : _kernel.N_EVIDENCE].copy()
        verdict, probability, concealed = (
            values[settled].tolist() for values in (_VERDICT, _PROBABILITY, _CONCEALED)
        )
        opaque_from = np.full(count, math.nan)
        opaque_from[settled == _kernel.IS_SEALED] = 0.0
        behind = settled == _kernel.BEHIND_HANDSHAKE
        opaque_from[behind] = found[behind, _kernel.OPAQUE_FROM]
        encrypted, misdeclared = [False] * count, [False] * count
        handshake, magic, grammar, encoding, period, declared = (
            _nothing(count) for _ in range(6)
        )
        for i, facts in self.facts.items():
            handshake[i], magic[i] = facts.handshake, facts.magic
            grammar[i] = facts.grammar

        open_ = np.flatnonzero(settled >= _kernel.READ_TEXT)
        for i, row in zip(open_.tolist(), sides[open_].tolist(), strict=True):
            facts = self.facts.get(i, _NO_FACTS)
            head, slices, packets = self.samples_of(row)
            if facts.carried is None:
                at = row[_kernel.AT]
                judged = decide(
                    row[_kernel.SETTLED], found[i].tolist(),
                    contents[at : at + len(head) + len(slices)], head, slices,
                    facts.magic, facts.grammar, facts.handshake,
                )  # fmt: skip
            else:
                judged, part = judge_parts(facts.carried, head, row[_kernel.STREAM])
                figures[i, _kernel.BODY_ENTROPY] = judged.entropy
                figures[i, _kernel.BODY_P] = judged.p_random
                magic[i], declared[i] = judged.magic, part.declared
                misdeclared[i] = contradicts(
                    part.declared, judged.verdict, judged.concealed, judged.magic,
                    part.data,
                )  # fmt: skip
                judged = _of_carrier(
                    judged, facts, len(head), found[i, _kernel.PRINTABLE]
                )
            verdict[i], probability[i] = judged.verdict, judged.probability
            concealed[i], opaque_from[i] = judged.concealed, judged.opaque_from
            encoding[i], period[i] = judged.encoding, judged.period
            if judged.verdict == "opaque" and judged.opaque_from == 0.0:
                bare = handshake[i] is grammar[i] is magic[i] is None
                first = head[: packets[0] if packets else _FIRST_PACKET]
                encrypted[i] = (
                    bare
                    and row[_kernel.PROTOCOL] not in ICMP
                    and _wu.looks_fully_encrypted(first)
                )

        seen = sides[:, _kernel.HEAD] + sides[:, _kernel.SLICES]
        stream = sides[:, _kernel.STREAM].copy()
        for i in np.flatnonzero(stream > seen).tolist():
            if self.carried[i]:
                # What was seen of the stream stands for the rest of it.
                self.carried[i] = round(self.carried[i] * (stream[i] / seen[i]))
        return (
            stream, seen, *figures.T, _objects(verdict), np.array(probability),
            np.array(concealed, bool), opaque_from, np.array(encrypted, bool),
            _objects(handshake),
            _objects(magic), _objects(encoding), _objects(period),
            _objects(grammar), _objects(declared), np.array(misdeclared, bool),
            _objects(self.carried), _objects(self.names), _objects(self.longest),
            _objects(self.domain),
        )  # fmt: skip


def _nothing(count: int) -> list[Any]:
    return [None] * count


_NO_FACTS: Final = Facts()


def _known(facts: Facts) -> int:
    bits = known_bits(facts.magic, facts.grammar, facts.handshake)
    return bits if facts.carried is None else bits | _kernel.CARRIED


def _searches(facts: Facts) -> bool:
    """Whether opaque bytes are searched for; what a carrier holds is for itself."""
    return facts.carried is None and facts.grammar not in SIGNED


def _objects(values: list[Any]) -> NDArray[np.object_]:
    return np.array(values, object)


def _of_carrier(judged: Judged, facts: Facts, head: int, printable: float) -> Judged:
    """Say what the verdict on its content says of the direction."""
    if facts.names is not None:
        if not judged.concealed:
            # Labels are part of a message that follows its grammar.
            return Judged("structured", 1.0, concealed=False, magic=judged.magic)
        judged.verdict = "encoded"
        judged.encoding, judged.period = facts.names.encoding, None
    elif judged.verdict == "unknown" and judged.size < _kernel.UNKNOWN_BELOW <= head:
        # Nothing but the carrier's own lines, or fillers of echo data.
        judged.verdict = "text" if printable >= _kernel.TEXT_SHARE else "structured"
        judged.probability = 1.0
    return judged


def judge_one(
    head: bytes,
    slices: bytes,
    width: int,
    stream_bytes: int,
    protocol: int,
    packets: tuple[int, ...],
) -> PayloadEvidence:
    """Judge one direction; the doors of the room check and document the arguments."""
    sides = np.zeros((1, _kernel.SIDE_COLUMNS), np.int64)
    sides[0, : _kernel.START] = (
        0, len(head), len(slices), 0, len(packets), stream_bytes, protocol,
    )  # fmt: skip
    data = np.frombuffer(head + slices, np.uint8)
    sizes = np.array(packets, np.int64)
    columns = judge_many(Samples(data, sizes, sides, width))
    return PayloadEvidence._make(column.tolist()[0] for column in columns)
