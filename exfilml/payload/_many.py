"""Judges many directions at once, each as if it were alone.

What needs no text to be read runs in compiled code over all of them: look-ups and TLS
(`_skim.skim`), the figures and what they settle (`_kernel.survey_many`). Python is
entered for a direction to find its facts and open its carrier, unless it is one of
these, and for verdicts that the figures leave open.

One file because both doors, for many directions and for one, give evidence by the same
functions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from exfilml.payload import _dns, _fragments, _kernel, _skim, _wu
from exfilml.payload._declared import contradicts
from exfilml.payload._evidence import PayloadEvidence
from exfilml.payload._randomness import null
from exfilml.payload._verdict import (
    HEADER_BYTES,
    ICMP,
    SETTLED,
    SIGNED,
    Facts,
    Judged,
    by_odds,
    consecutive,
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
    work = _Work(Samples(data, sizes, sides, width))
    work.take_skimmed()
    work.find_facts()
    work.measure()
    return work.conclude()


def warm_up() -> None:
    """Compile, or load from the cache, what `judge_many` calls."""
    sides = np.zeros((1, _kernel.SIDE_COLUMNS), np.int64)
    nothing = np.zeros(0, np.uint8)
    judge_many(Samples(nothing, np.zeros(0, np.int64), sides, 0))


class _Work:
    """What is known of the directions, on the way to evidence."""

    def __init__(self, samples: Samples) -> None:
        count = len(samples.sides)
        self.samples = samples
        self.contents = np.empty(len(samples.data), np.uint8)
        self.found = np.empty((count, _kernel.N_RESULTS))
        # Of those that pass for ciphertext, and of which nothing else is known.
        self.passed = np.zeros(count, bool)
        self.odds = np.zeros(count)
        self.exempt = np.ones(count, bool)
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
            asked = _asked(self.raw[at : at + size])
            if asked is None:
                lookup[i] = _skim.TO_READ
            else:
                self.carried[i], self.names[i], self.longest[i], self.domain[i] = asked
        for kind, facts in _SKIMMED.items():
            of = np.flatnonzero(lookup == kind)
            sides[of, _kernel.START : _kernel.KNOWN + 1] = (
                facts.start, facts.records, _searches(facts), _known(facts),
            )  # fmt: skip
            for i in of.tolist():
                self.facts[i] = facts

    def find_facts(self) -> None:
        """Find facts and open carriers of the others."""
        sides = self.sides
        protocol = sides[:, _kernel.PROTOCOL]
        there = sides[:, _kernel.HEAD] + sides[:, _kernel.SLICES] > 0
        for kind in ICMP:
            there |= protocol == kind
        of = np.flatnonzero(there & (sides[:, _kernel.LOOKUP] < _skim.ANSWERS))
        told = []
        for at, row in zip(of.tolist(), sides[of].tolist(), strict=True):
            self.facts[at] = facts = facts_of(
                *self.samples_of(row), self.width, row[_kernel.PROTOCOL],
                is_dns=row[_kernel.LOOKUP] == _skim.TO_READ,
            )  # fmt: skip
            (
                self.carried[at], self.names[at], self.longest[at], self.domain[at],
            ) = _names(facts)  # fmt: skip
            told.append((facts.start, facts.records, _searches(facts), _known(facts)))
        if told:
            sides[of, _kernel.START : _kernel.KNOWN + 1] = told

    def measure(self) -> None:
        """Take figures and settle what they settle; most of it is compiled."""
        data, sides, found = self.samples.data, self.sides, self.found
        _kernel.survey_many(
            data, sides, self.width, null(), self.contents, found
        )  # fmt: skip
        # As `decide` has it: from the first byte on, and no piece taken out.
        of = np.flatnonzero(
            (sides[:, _kernel.SETTLED] == _kernel.PASSED)
            & (sides[:, _kernel.KNOWN] == 0)
            & (found[:, _kernel.FOLLOWED] == 1.0)
            & (found[:, _kernel.OPAQUE_FROM] == 0.0)
        )
        at = sides[of, _kernel.AT]
        joined = consecutive(found[of, _kernel.OPAQUE_N], found[of, _kernel.LATER_N])
        places = np.stack([at + np.minimum(HEADER_BYTES, joined // 8), at + joined], 1)
        self.passed[of] = True
        self.odds[of] = _fragments.log_odds_of_many(self.contents, places)
        first = np.full(len(of), _FIRST_PACKET)
        known = sides[of, _kernel.PACKETS] > 0
        first[known] = self.samples.sizes[sides[of, _kernel.SIZES_AT][known]]
        heads = np.stack([at, at + np.minimum(sides[of, _kernel.HEAD], first)], 1)
        self.exempt[of] = _wu.are_exempt(data, heads)

    def samples_of(self, row: list[int]) -> tuple[bytes, bytes, tuple[int, ...]]:
        """Return head, slices and sizes of packets of a direction."""
        at, head, slices, sizes_at, packets, *_ = row
        middle = at + head
        return (
            self.raw[at:middle],
            self.raw[middle : middle + slices],
            tuple(self.sizes[sizes_at : sizes_at + packets]),
        )

    def conclude(self) -> tuple[NDArray[Any], ...]:
        """Give the verdicts, those that are open one by one."""
        sides, contents, found = self.sides, self.contents, self.found
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

        for i in np.flatnonzero(self.passed).tolist():
            judged = by_odds(float(self.odds[i]), 0.0)
            verdict[i], probability[i] = judged.verdict, judged.probability
            concealed[i], opaque_from[i] = judged.concealed, judged.opaque_from
            encrypted[i] = judged.concealed and not self.exempt[i]
        open_ = np.flatnonzero((settled >= _kernel.READ_TEXT) & ~self.passed)
        for i, row in zip(open_.tolist(), sides[open_].tolist(), strict=True):
            at, size = row[_kernel.AT], row[_kernel.HEAD] + row[_kernel.SLICES]
            opened = _open(
                self.facts.get(i, _NO_FACTS), *self.samples_of(row), row,
                found[i].tolist(), contents[at : at + size],
            )  # fmt: skip
            judged = opened.judged
            verdict[i], probability[i] = judged.verdict, judged.probability
            concealed[i], opaque_from[i] = judged.concealed, judged.opaque_from
            encoding[i], period[i] = judged.encoding, judged.period
            magic[i], declared[i] = opened.magic, opened.declared
            misdeclared[i], encrypted[i] = opened.misdeclared, opened.encrypted
            figures[i, _kernel.BODY_ENTROPY], figures[i, _kernel.BODY_P] = opened.body

        seen = sides[:, _kernel.HEAD] + sides[:, _kernel.SLICES]
        stream = sides[:, _kernel.STREAM].copy()
        for i in np.flatnonzero(stream > seen).tolist():
            self.carried[i] = _of_stream(self.carried[i], stream[i], seen[i])
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


class _Opened(NamedTuple):
    """The verdict on one direction, and what was found with it."""

    judged: Judged
    magic: str | None
    declared: str | None
    misdeclared: bool
    encrypted: bool
    body: tuple[float, float]


def _open(
    facts: Facts,
    head: bytes,
    slices: bytes,
    packets: tuple[int, ...],
    row: list[int],
    found: list[float],
    content: NDArray[np.uint8],
) -> _Opened:
    """Give the verdict on one direction, by its carrier if it has one."""
    magic, declared, misdeclared = facts.magic, None, False
    body = found[_kernel.BODY_ENTROPY], found[_kernel.BODY_P]
    if facts.carried is None:
        judged = decide(
            row[_kernel.SETTLED], found, content, head, slices, magic, facts.grammar,
            facts.handshake,
        )  # fmt: skip
    else:
        judged, part = judge_parts(facts.carried, head, row[_kernel.STREAM])
        body = judged.entropy, judged.p_random
        magic, declared = judged.magic, part.declared
        misdeclared = contradicts(
            declared, judged.verdict, judged.concealed, magic, part.data
        )
        judged = _of_carrier(judged, facts, len(head), found[_kernel.PRINTABLE])
    encrypted = (
        judged.verdict == "opaque"
        and judged.opaque_from == 0.0
        and facts.handshake is facts.grammar is magic is None
        and row[_kernel.PROTOCOL] not in ICMP
        and _wu.looks_fully_encrypted(head[: packets[0] if packets else _FIRST_PACKET])
    )
    return _Opened(judged, magic, declared, misdeclared, encrypted, body)


def _asked(name: bytes) -> tuple[int, int, int, str] | None:
    """Bytes carried, names, longest label and domain of a look-up; None: to be read."""
    domain, _, carried, longest = _dns.place(name.lower())
    return (carried, 1, longest, domain) if _dns.is_settled(domain, carried) else None


def _names(facts: Facts) -> tuple[int | None, int | None, int | None, str | None]:
    """Return the same of what was read."""
    names = facts.names
    if names is None:
        return facts.n_carried, None, None, None
    return facts.n_carried, names.unique, names.longest, names.domain


def _of_stream(carried: int | None, stream: int, seen: int) -> int | None:
    """Take what was seen of the stream for the rest of it."""
    return round(carried * max(1.0, stream / seen)) if carried else carried


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
    """Judge one direction; the doors of the room check and document the arguments.

    As `judge_many` does, by the same functions: columns of one value take longer.
    """
    row = [0] * _kernel.SIDE_COLUMNS
    row[: _kernel.START] = (
        0, len(head), len(slices), 0, len(packets), stream_bytes, protocol,
    )  # fmt: skip
    raw = head + slices
    data = np.frombuffer(raw, np.uint8)
    sides = np.array([row], np.int64)
    _skim.skim(data, np.array(packets, np.int64), sides)
    row = sides[0].tolist()
    lookup, asked = row[_kernel.LOOKUP], None
    if lookup == _skim.ONE_NAME:
        at = row[_kernel.NAME_AT]
        asked = _asked(raw[at : at + row[_kernel.NAME_BYTES]])
        if asked is None:
            lookup = _skim.TO_READ
    facts = _SKIMMED.get(lookup)
    if facts is None:
        facts = facts_of(
            head, slices, packets, width, protocol, is_dns=lookup == _skim.TO_READ
        )
    sides[0, _kernel.START : _kernel.KNOWN + 1] = (
        facts.start, facts.records, _searches(facts), _known(facts),
    )  # fmt: skip
    content = np.empty(len(raw), np.uint8)
    figures = np.empty((1, _kernel.N_RESULTS))
    _kernel.survey_many(data, sides, width, null(), content, figures)
    row[_kernel.SETTLED] = int(sides[0, _kernel.SETTLED])
    found = figures[0].tolist()
    opened = _open(facts, head, slices, packets, row, found, content)
    judged = opened.judged
    carried, *names = asked or _names(facts)
    found[_kernel.BODY_ENTROPY], found[_kernel.BODY_P] = opened.body
    return PayloadEvidence._make(
        (
            stream_bytes, len(raw), *found[: _kernel.N_EVIDENCE], judged.verdict,
            judged.probability, judged.concealed, judged.opaque_from,
            opened.encrypted, facts.handshake, opened.magic, judged.encoding,
            judged.period, facts.grammar, opened.declared, opened.misdeclared,
            _of_stream(carried, stream_bytes, len(raw)), *names,
        )
    )  # fmt: skip
