"""What the policy says of scored flows and cases: approved, re-armed, against a rule.

**Approvals** hold for cases, while all that `exfilml.policy` asks of them is true. A
case that is approved keeps its suspicion and its p-value, raises no alert and comes
after all others; its reasons begin with the approval. A case of which part of the
flows is what an approval names, or all of them but not as it allows, is *re-armed*: it
ranks and alerts as if there were no approval, and its reasons say what changed. With
a `State`, a day's upload includes what earlier calls saw of the same cases.

**Rules.** A flow that breaks a rule gains bits of suspicion, and so does, once, its
case, *after* calibration: that something is forbidden is knowledge which no calibration
block has. Up to 8 bits: fewer, the more often normal operation broke the rule
(`exfilml.precedents`). ``p_value`` and the thresholds stay what calibration says. A
host that breaks a rule is one fact, however many names it asks for: of its cases that
alert by these bits alone only the worst does.

One file because a case is read once, for approvals and rules alike.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.baseline import BARE, MIN_JUDGED_BYTES, case_key
from exfilml.features import Asked, human_bytes
from exfilml.names import Names
from exfilml.networks import Networks, address_numbers
from exfilml.places import service_name
from exfilml.policy import Approval, Policy, is_registered_domain
from exfilml.precedents import Precedents
from exfilml.state import KINDS, State

if TYPE_CHECKING:
    from numpy.typing import NDArray

# More bits than any suspicion has.
BELOW: Final = 2e6
DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class _Way:
    """A way out of the site that may be declared.

    Attributes
    ----------
    declared
        Field of `Policy` with the hosts that it leads through.
    name
        What goes that way.
    said
        Sentence about a flow that goes another way.
    ports
        IANA protocol number and responder's port.
    token
        Application that goes that way over any port, where it is verified.
    """

    declared: str
    name: str
    said: str
    ports: tuple[tuple[int, int], ...]
    token: str = ""


_WAYS: Final = (
    _Way(
        "resolvers",
        "DNS",
        "DNS to {remote}, which is no sanctioned resolver ({declared})",
        ((6, 53), (17, 53), (6, 853), (17, 853)),
        "DNS",
    ),
    _Way(
        "proxies",
        "web",
        "web traffic straight to {remote}, through no sanctioned proxy ({declared})",
        tuple((way, port) for way in (6, 17) for port in (80, 443, 8080, 8443)),
        "HTTP",
    ),
    _Way(
        "mail_relays",
        "mail",
        "mail straight to {remote}, through no sanctioned mail relay ({declared})",
        ((6, 25),),
    ),
)
_SHARED: Final = {
    "nat": "a NAT address",
    "resolvers": "a resolver",
    "proxies": "a proxy",
    "mail_relays": "a mail relay",
}


@dataclass(frozen=True)
class Ruling:
    """What the policy says of each flow and case.

    Attributes
    ----------
    broken
        int64, shape (n_flows,): which rule a flow breaks, −1 for none.
    flow_bits
        float64, shape (n_flows,): bits that this adds.
    approved
        bool, shape (n_cases,).
    outward
        bool, shape (n_cases,): goes to a declared resolver, proxy or mail relay, and so
        may leave the site.
    """

    broken: NDArray[np.int64]
    flow_bits: NDArray[np.float64]
    approved: NDArray[np.bool_]
    outward: NDArray[np.bool_]
    _asked: Asked
    _case: NDArray[np.int64]
    _policy: Policy | None = None
    # Name and sentence of each rule.
    _rules: list[tuple[str, str]] = field(default_factory=list)
    # Whether each approval is about any case.
    _met: list[bool] = field(default_factory=list)
    # Of approved and re-armed cases: what is said, and the kinds of change.
    _notes: dict[int, str] = field(default_factory=dict)
    _changes: dict[int, list[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        policy: Policy | None,
        asked: Asked,
        case: NDArray[np.int64],
        state: State | None = None,
    ) -> Ruling:
        """Hold flows against a policy.

        Parameters
        ----------
        policy
            `None` for one that says nothing.
        asked
            The flows.
        case
            int64, shape (n_flows,): case of each flow.
        state
            What came before, these flows included.
        """
        broken = np.full(len(case), -1)
        approved = np.zeros(case.max(initial=-1) + 1, dtype=bool)
        ruling = cls(
            broken,
            np.zeros(len(case)),
            approved,
            approved.copy(),
            asked,
            case,
            policy,
        )
        if policy is not None and len(case):
            sides = _Sides.of(asked)
            ruling._hold_rules(policy, sides)
            for approval in policy.approvals:
                ruling._hold(approval, sides, state)
        return ruling

    @property
    def case_bits(self) -> NDArray[np.float64]:
        """Bits that broken rules add to each case, shape (n_cases,)."""
        bits = np.zeros(len(self.approved))
        np.maximum.at(bits, self._case, self.flow_bits)
        return bits

    def leading(
        self,
        suspicion: NDArray[np.float64],
        trial: NDArray[np.int64] | None = None,
    ) -> NDArray[np.bool_]:
        """Say which case is the worst of its host that breaks a rule, for each rule.

        Parameters
        ----------
        suspicion
            float64, shape (n_cases,), as cases are ranked: approved ones last.
        trial
            int64, shape (n_flows,): flows of different trials know nothing of each
            other, so that a host has a worst case in each; `None` for one trial.

        Returns
        -------
        numpy.ndarray of bool, shape (n_cases,)
        """
        at = np.flatnonzero(self.broken >= 0)
        frame = pd.DataFrame(
            {
                "host": self._asked.observed.hashes["local_ip"][at],
                "rule": self.broken[at],
                "trial": 0 if trial is None else trial[at],
                "case": self._case[at],
                "suspicion": suspicion[self._case[at]],
            }
        )
        # Cases are numbered by what they are, so that row order decides nothing.
        worst = frame.sort_values(["suspicion", "case"], ascending=[False, True])
        found = np.zeros(len(self.approved), dtype=bool)
        found[worst.drop_duplicates(["host", "rule", "trial"])["case"]] = True
        return found

    @property
    def below(self) -> NDArray[np.float64]:
        """How much lower each case ranks than its suspicion says, shape (n_cases,)."""
        return np.where(self.approved, BELOW, 0.0)

    @property
    def counts(self) -> dict[str, Any] | None:
        """What the policy did, in plain numbers; `None` without one.

        Cases that are ``approved``, all of them, or ``rearmed``; those re-armed by each
        of the ``changes`` (upload, payload, destination, expired); those that break
        each rule (``broken``); and the approvals that are about no case (``unused``).
        """
        if self._policy is None:
            return None
        at = np.flatnonzero(self.broken >= 0)
        pairs = np.unique(self._case[at] * (len(self._rules) + 1) + self.broken[at])
        rules, times = np.unique(pairs % (len(self._rules) + 1), return_counts=True)
        names = [self._rules[rule][0] for rule in rules.tolist()]
        return {
            "approved": int(self.approved.sum()),
            "unused": self._met.count(False),
            "rearmed": len(self._changes),
            "changes": dict(Counter(chain(*self._changes.values()))),
            "broken": dict(zip(names, times.tolist(), strict=True)),
        }

    def note_of(self, case: int) -> str:
        """Say which approval covers a case, or was re-armed by it; "" for none."""
        return self._notes.get(case, "")

    def about_flows(self, rows: NDArray[np.int64], reasons: list[str]) -> list[str]:
        """Put what the policy says of some flows before their reasons."""
        said = [
            f"policy: {self._sentence(row)}" if self.broken[row] >= 0 else ""
            for row in rows.tolist()
        ]
        return self._together(rows, said, reasons)

    def about_cases(
        self, cases: NDArray[np.int64], worst: NDArray[np.int64], reasons: list[str]
    ) -> list[str]:
        """Put what the policy says of some cases before their reasons.

        Parameters
        ----------
        cases, worst
            Cases, and a flow of each.
        reasons
            Of each.
        """
        size = np.bincount(self._case, minlength=len(self.approved))
        at = np.flatnonzero(self.broken >= 0)
        # The largest upload that breaks a rule stands for the others.
        at = at[np.lexsort((self._asked.tie[at], -self._asked.up[at]))]
        leading = dict(
            zip(self._case[at[::-1]].tolist(), at[::-1].tolist(), strict=True)
        )
        times = Counter(self._case[at].tolist())
        said = []
        for case in cases.tolist():
            if case not in leading:
                said.append("")
                continue
            some = times[case] < size[case]
            part = f"{times[case]} of {size[case]} flows, " if some else ""
            said.append(f"policy: {part}{self._sentence(leading[case])}")
        return self._together(worst, said, reasons)

    def _together(
        self, rows: NDArray[np.int64], said: list[str], reasons: list[str]
    ) -> list[str]:
        if self._policy is None:
            return reasons
        cases = self._case[rows].tolist()
        local = self._asked.oriented.rows(rows).names("local_ip")
        shared = local.map(self._shared).tolist()
        return [
            "; ".join(part for part in (self._notes.get(c), *parts) if part)
            for c, *parts in zip(cases, said, reasons, shared, strict=True)
        ]

    def _shared(self, address: str) -> str:
        """Say that an address speaks for many hosts."""
        for declared, name in _SHARED.items():
            networks: Networks = getattr(self._policy, declared)
            if networks and networks.covers(address):
                return f"{address} is declared as {name}, and stands for many hosts"
        return ""

    def _sentence(self, row: int) -> str:
        remote = self._asked.oriented.rows([row]).names("remote_ip").tolist()[0]
        service = self._asked.observed.names["service"][[row]].tolist()[0]
        said: str = self._rules[self.broken[row]][1]
        return said.format(remote=remote, service=service)

    def _hold_rules(self, policy: Policy, sides: _Sides) -> None:
        """Find the flows that break a rule."""
        sanctioned = np.zeros(len(self._case), dtype=bool)
        precedents = Precedents(self._asked.known)
        for way in _WAYS:
            networks: Networks = getattr(policy, way.declared)
            if not networks:
                continue
            to = sides.remote_in(networks)
            self.outward[self._case[to]] = True
            mine = sides.outbound & sides.goes(way)
            through = to | sides.local_in(networks)
            sanctioned |= mine & through
            if way.declared == "proxies":
                # A proxy listens where it likes, and its own log names the servers.
                through |= sides.logged_by_proxy
                sanctioned |= to | mine & through
            said = way.said.replace("{declared}", str(networks))
            services = [service_name(*end) for end in way.ports]
            worth = precedents.bits_past(networks, sorted(set(services)))
            self._break(mine & ~through, way.name, said, worth)
        seen = np.zeros(len(self._case), dtype=bool)
        for segment in policy.segments:
            inside = sides.local_in(segment.networks) & ~seen
            seen |= inside
            allowed = sides.service.each(segment.services.__contains__, missing=False)
            said = "{service} to {remote}, which "
            said += f"segment {_escaped(segment.name)} may not use"
            forbidden = inside & sides.outbound & ~allowed & ~sanctioned
            texts = [text or "" for text in sides.service.texts]
            each = precedents.bits_of_services(segment.networks, texts)
            bits = each[sides.service.codes]
            self._break(forbidden, f"segment {segment.name}", said, bits)

    def _break(
        self,
        rows: NDArray[np.bool_],
        name: str,
        said: str,
        bits: float | NDArray[np.float64],
    ) -> None:
        # The first rule that a flow breaks is the one that is named.
        self.broken[rows & (self.broken < 0)] = len(self._rules)
        np.copyto(self.flow_bits, np.maximum(self.flow_bits, bits), where=rows)
        self._rules.append((name, said))

    def _hold(
        self,
        approval: Approval,
        sides: _Sides,
        state: State | None,
    ) -> None:
        """Hold the cases that an approval is about against it."""
        meant = sides.meant(approval)
        n_cases = len(self.approved)
        about = np.bincount(self._case[meant], minlength=n_cases) > 0
        self._met.append(bool(about.any()))
        about &= ~self.approved
        rows = np.flatnonzero(about[self._case])
        if len(rows) == 0:
            return
        case, oriented = self._case[rows], self._asked.oriented.rows(rows)
        start = oriented["start"].to_numpy(dtype="datetime64[us]").astype(np.int64)
        lasting = np.nan_to_num(oriented.numbers("duration_s")) * 1e6
        changes: dict[int, list[tuple[str, str]]] = {}
        order = np.argsort(case, kind="stable")
        ordered = case[order]

        def of_case(c: int) -> NDArray[np.int64]:
            return order[slice(*np.searchsorted(ordered, [c, c + 1]))]

        def change(cases: NDArray[np.int64], kind: str, say: Any) -> None:
            for c in np.unique(cases).tolist():
                changes.setdefault(c, []).append((kind, say(c)))

        day = start // (DAY_S * 1_000_000)
        hosts = self._asked.observed.hashes["local_ip"][rows]
        sent = self._sent(rows, hosts, day, state)
        ceiling = approval.max_upload_per_day

        def too_much(c: int) -> str:
            at = of_case(c)
            worst = at[np.argmax(sent[at])]
            much, limit = human_bytes(sent[worst]), human_bytes(ceiling)
            if much == limit:
                much, limit = f"{sent[worst]:,.0f} B", f"{ceiling:,} B"
            date = np.datetime64(int(day[worst]), "D")
            return f"{much} on {date}, above {limit} a day"

        change(case[sent > ceiling], "upload", too_much)
        classes = payload_classes(self._asked, rows)
        within = classes.each(lambda t: t in approval.payload or not t, missing=True)
        allowed = " or ".join(sorted(approval.payload))

        def other_classes(c: int) -> str:
            at = of_case(c)
            found = sorted({str(name) for name in classes[at[~within[at]]].tolist()})
            return f"payload {', '.join(found)}, approved {allowed}"

        change(case[~within], "payload", other_classes)
        astray = ~meant[rows]

        def elsewhere(c: int) -> str:
            at = of_case(c)
            return f"{astray[at].sum()} of {len(at)} flows not as approved"

        change(case[astray], "destination", elsewhere)
        end = (np.datetime64(approval.expires, "D") + 1).astype("datetime64[us]")
        late = start + lasting >= end.astype(np.int64)
        change(case[late], "expired", lambda _: f"expired on {approval.expires}")
        self._note(approval, np.unique(case), changes)

    def _note(
        self,
        approval: Approval,
        cases: NDArray[np.int64],
        changes: dict[int, list[tuple[str, str]]],
    ) -> None:
        for c in cases.tolist():
            found = changes.get(c)
            if not found:
                self.approved[c] = True
                self._changes.pop(c, None)
                self._notes[c] = (
                    f"approved: {approval.reason} ({approval.owner}, until "
                    f"{approval.expires})"
                )
            elif c not in self._changes or len(found) < len(self._changes[c]):
                # Of several approvals the one that comes closest is told of.
                self._changes[c] = [kind for kind, _ in found]
                self._notes[c] = (
                    f"approval re-armed ({approval.reason}; {approval.owner}): "
                    + ", ".join(text for _, text in found)
                )

    def _sent(
        self,
        rows: NDArray[np.int64],
        host: NDArray[np.uint64],
        day: NDArray[np.int64],
        state: State | None,
    ) -> NDArray[np.float64]:
        """Return what the host of each row sent on its day over all of the rows."""
        frame = pd.DataFrame({"host": host, "day": day, "up": self._asked.up[rows]})
        sent = frame.groupby(["host", "day"])["up"].transform("sum").to_numpy()
        if state is None:
            return np.asarray(sent, dtype=np.float64)
        hashes = self._asked.observed.hashes
        keys = case_key({name: column[rows] for name, column in hashes.items()})
        whose = pd.Series(host, index=keys)
        trail = state.only("case", np.sort(keys))
        # Each step of a state lies within one UTC day.
        before = pd.DataFrame(
            {
                "host": whose[~whose.index.duplicated()].reindex(trail.keys).to_numpy(),
                "day": trail.times // DAY_S,
                "up": trail.sums[:, KINDS["case"].index("up")],
            }
        )
        totals = before.groupby(["host", "day"])["up"].sum()
        remembered = totals.reindex(pd.MultiIndex.from_arrays([host, day])).to_numpy()
        most: NDArray[np.float64] = np.maximum(sent, np.nan_to_num(remembered))
        return most


def sentence_of(counts: dict[str, Any], suppressed: int) -> str:
    """Say in a line what a policy did: `Ruling.counts`, and alerts that it suppressed."""

    def listed(of: dict[str, int]) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in of.items())

    changes = f" ({listed(counts['changes'])})" if counts["changes"] else ""
    return (
        f"policy: cases approved: {counts['approved']:,}, of them above the threshold: "
        f"{suppressed:,}; re-armed: {counts['rearmed']:,}{changes}; approvals that met "
        f"no case: {counts['unused']:,}; cases that break a rule: "
        f"{listed(counts['broken']) or 'none'}"
    )


def _escaped(text: str) -> str:
    """Protect braces of a text from being filled in."""
    return text.replace("{", "{{").replace("}", "}}")


@dataclass(frozen=True, slots=True)
class _Sides:
    """The columns that policies speak of, and addresses as numbers.

    Read once, for all approvals. Server names are as `_dotted` gives them.
    """

    asked: Asked
    local: Names
    remote: Names
    service: Names
    place: Names
    server_name: Names
    local_numbers: NDArray[np.uint64]
    remote_numbers: NDArray[np.uint64]
    outbound: NDArray[np.bool_]
    inbound: NDArray[np.bool_]

    @classmethod
    def of(cls, asked: Asked) -> _Sides:
        oriented = asked.oriented
        local, remote = oriented.names("local_ip"), oriented.names("remote_ip")
        direction = oriented.names("direction")
        outbound, inbound = (
            direction.each(way.__eq__, missing=False) for way in ("outbound", "inbound")
        )
        return cls(
            asked,
            local,
            remote,
            asked.observed.names["service"],
            oriented.names("place"),
            oriented.names("server_name").map(_dotted),
            address_numbers(local.texts),
            address_numbers(remote.texts),
            outbound & oriented.leaves,
            inbound,
        )

    def local_in(self, networks: Networks) -> NDArray[np.bool_]:
        """Say which flows have their local end in some networks."""
        return networks.among(self.local_numbers)[self.local.codes]

    def remote_in(self, networks: Networks) -> NDArray[np.bool_]:
        """Say which flows have their remote end in some networks."""
        return networks.among(self.remote_numbers)[self.remote.codes]

    @property
    def logged_by_proxy(self) -> NDArray[np.bool_]:
        """Say which flows a proxy's log tells of, see `exfilml.sources._requests`."""
        return ~self.asked.oriented.names("via").missing

    def goes(self, way: _Way) -> NDArray[np.bool_]:
        """Say which flows are of the kind that goes a way."""
        oriented = self.asked.oriented
        port = oriented["protocol"].to_numpy() * 65536 + oriented["dst_port"].to_numpy()
        verified = self.asked.observed.names["token"].each(
            lambda name: name == way.token, missing=False
        )
        goes: NDArray[np.bool_] = verified | np.isin(
            port, [protocol * 65536 + number for protocol, number in way.ports]
        )
        return goes

    def meant(self, approval: Approval) -> NDArray[np.bool_]:
        """Say which flows are what an approval names, whatever they carry."""
        meant: NDArray[np.bool_] = ~self.inbound
        if approval.hosts:
            meant = meant & self.local_in(approval.hosts)
        if approval.services:
            meant = meant & self.service.each(
                approval.services.__contains__, missing=False
            )
        if approval.networks:
            meant = meant & self.remote_in(approval.networks)
        if approval.places:
            whole = frozenset(filter(is_registered_domain, approval.places))
            below = tuple(_dotted(place) for place in approval.places - whole)
            there = self.place.each(whole.__contains__, missing=False)
            if below:
                there |= self.server_name.each(
                    lambda name: name.endswith(below), missing=False
                )
            meant = meant & there
        return meant


def _dotted(name: str) -> str:
    """Return a host name in the form that ends with those of what it lies below."""
    return "." + name.strip().rstrip(".").lower()


def payload_classes(asked: Asked, rows: NDArray[np.int64]) -> Names:
    """Name the payload class of the uploads of some flows: of `exfilml.policy.CLASSES`.

    An empty name stands for an upload with too few bytes to judge.
    """
    oriented, observed = asked.oriented.rows(rows), asked.observed
    sampled = oriented.numbers("up_sampled_bytes")
    looks = oriented.names("up_verdict").map(_LOOKS.get).filled("unknown")
    concealed = observed.values["concealed"][rows] > 0
    wrapper = observed.names["wrapper"][rows]
    found = looks.where(~concealed, _all("opaque", len(rows)))
    bare = wrapper.each(lambda name: name == BARE, missing=True)
    found = found.where(bare, wrapper)
    found = found.where(~(sampled < MIN_JUDGED_BYTES), _all("", len(rows)))
    return found.where(~np.isnan(sampled), _all("unseen", len(rows)))


_LOOKS: Final = {
    "opaque": "opaque",
    "compressed": "compressed",
    "encoded": "plain",
    "text": "plain",
    "structured": "plain",
}


def _all(name: str, count: int) -> Names:
    return Names.one_of([name], np.zeros(count, dtype=np.int64))
