"""The playbook for T1048.001: three key indicators and three questions, answered.

**Key indicators.** *External port*: opaque bytes leave over a service that is not used
for encryption here; used for it is a service of which the baseline shows at least half
the judged uploads encrypted, or, where it shows fewer than five, one that is registered
for encrypted traffic. Ephemeral ports are counted as one service and belong to nobody. *Encryption signs*: uploads that look encrypted, or are obscured
with a repeating key, and no TLS, SSH, QUIC or other handshake explains it; or names in
DNS and echo data that carry more than is usual. *Volume rise*: an upload, or a sum over
a window, of four times (2 bits) or more what is usual for this host.

**Questions.** *Unexpected transfer*: the destination is new to this host, or the policy
does not allow it, and the upload is large or of a kind that this host does not send.
*Non-standard encryption*: signs of encryption that the baseline makes surprising (2 bits
or more). *Threat intelligence*: whether an indicator meets a flow.

"Not visible" is said where the data cannot answer: no payload, no past of the host, no
intelligence given.

One file because each answer is a rule, and the rules are read together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from exfilml.baseline import BARE, MIN_JUDGED_BYTES
from exfilml.features import FEATURES, human_bytes
from exfilml.features.mismatch import SPEAKS
from exfilml.places import EPHEMERAL_FROM
from exfilml.tally import n_days
from exfilml.triage.case import NO, NOT_VISIBLE, YES, Answer, Fact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.names import Names
    from exfilml.triage._material import Material

WORTH: Final = 2.0
"""Bits of evidence from which on it counts: four times the usual, one in four."""
FEWEST_FLOWS: Final = 5

_VOLUME_OF_HOST: Final = ("volume_host", "volume_host_service", "sum_case")
_VOLUME: Final = (
    *("volume_service", "volume_place", "sum_place", "hidden_case", "hidden_host"),
    *("hidden_place", "bare_volume"),
)
_ENCRYPTION: Final = ("concealed", "bare_host", "bare_place", "misdeclared")
_UNEXPECTED: Final = (*_ENCRYPTION, "carried", "chunks", "mismatch", "new_service_host")
_ENCRYPTED_BY_REGISTRY: Final = (
    SPEAKS["tls"] | SPEAKS["ssh"] | SPEAKS["quic"] | SPEAKS["openvpn"] | {"esp", "ah"}
)

_FAMILIES: Final = {feature.name: feature.family for feature in FEATURES}

QUESTIONS: Final = {
    "external_port": (
        "Does something opaque go to an external address over a port that is not used "
        "for encryption here?"
    ),
    "encryption_signs": "Are there signs of encryption outside TLS, SSH, QUIC and such?",
    "volume_rise": "Did the outgoing volume rise suddenly against this host's past?",
    "unexpected_transfer": (
        "Is it a large or unexpected transfer to an unknown or unauthorised address?"
    ),
    "nonstandard_encryption": (
        "Is the encryption non-standard compared with the baseline?"
    ),
    "threat_intelligence": "Does threat intelligence know the destination?",
}


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to all of `QUESTIONS`, by name, one list with an answer for each case."""

    by_name: dict[str, list[Answer]]

    def of(self, case: int, *names: str) -> tuple[Answer, ...]:
        """Return some answers about a case."""
        return tuple(self.by_name[name][case] for name in names)


INDICATORS: Final = ("external_port", "encryption_signs", "volume_rise")
ASKED: Final = ("unexpected_transfer", "nonstandard_encryption", "threat_intelligence")


def answer(
    material: Material, intel: pd.DataFrame | None, rows: list[dict[str, Any]]
) -> Answers:
    """Answer the playbook for each case.

    Parameters
    ----------
    material
        The cases.
    intel
        Matches of the flows with indicators, by place of the flow in the table; `None`
        where there were no indicators.
    rows
        Of `exfilml.rank_cases`.
    """
    signs = _encryption_signs(material)
    rise = _volume_rise(material)
    by_name = {
        "external_port": _external_port(material, signs, rows),
        "encryption_signs": signs,
        "volume_rise": rise,
        "unexpected_transfer": _unexpected_transfer(material, rise),
        "nonstandard_encryption": _nonstandard(material, signs),
        "threat_intelligence": _intelligence(material, intel),
    }
    return Answers(by_name)


def _answers(name: str, found: list[tuple[str, list[Fact]]]) -> list[Answer]:
    question = QUESTIONS[name]
    return [Answer(name, question, said, tuple(facts)) for said, facts in found]


def _evidence(
    material: Material, features: tuple[str, ...], least: float = WORTH
) -> list[list[Fact]]:
    """Return a fact for each evidence of each case from `least` bits on, largest first."""
    facts: list[list[Fact]] = [[] for _ in range(material.n_cases)]
    for name in features:
        at, bits = material.leading(name)
        some = np.flatnonzero(bits >= least)
        if len(some) == 0:
            continue
        said = material.said(name)
        for case in some.tolist():
            numbers = {
                "evidence_bits": float(bits[case]),
                "up_bytes": float(material.asked.up[at[case]]),
            }
            labels = material.labels([at[case]])
            fact = Fact(f"evidence.{name}", said[case], numbers, labels, "baseline")
            facts[case].append(fact)
    return [sorted(of_case, key=_strength) for of_case in facts]


def _strength(fact: Fact) -> float:
    return -float(fact.numbers["evidence_bits"])


def _varied(facts: list[Fact]) -> list[Fact]:
    """Put the strongest fact of each family of evidence before the others."""
    families: set[str] = set()
    first: list[Fact] = []
    rest: list[Fact] = []
    for fact in sorted(facts, key=_strength):
        family = _FAMILIES[fact.name.removeprefix("evidence.")]
        (rest if family in families else first).append(fact)
        families.add(family)
    return first + rest


def _encryption_signs(material: Material) -> list[Answer]:
    asked = material.asked
    sampled = asked.oriented.numbers("up_sampled_bytes")
    judged = sampled >= MIN_JUDGED_BYTES
    concealed = material.concealed
    entropy = asked.oriented.numbers("up_body_entropy")
    whole = asked.oriented.numbers("up_entropy")
    entropy = np.where(np.isnan(entropy), whole, entropy)
    verdict = _texts(asked.oriented.names("up_verdict").filled("unknown"))
    wrapped = _texts(asked.observed.names["wrapper"])
    encoding = _texts(asked.oriented.names("up_encoding").filled(""))
    carried = _evidence(material, ("carried",))
    found = []
    for case, mine in enumerate(material.members):
        seen = mine[judged[mine]]
        bare = mine[concealed[mine]]
        facts: list[Fact] = []
        if len(bare):
            facts.append(
                _concealed_fact(material, seen, bare, entropy[bare], encoding[bare])
            )
        facts += carried[case]
        if facts:
            found.append((YES, facts))
        elif len(seen):
            found.append((NO, [_explained(material, seen, wrapped, verdict)]))
        else:
            text = (
                "too few payload bytes to judge"
                if (sampled[mine] > 0).any()
                else "the payload is not visible"
            )
            labels = material.labels(mine)
            fact = Fact("payload.not_visible", text, {"flows": len(mine)}, labels)
            found.append((NOT_VISIBLE, [fact]))
    return _answers("encryption_signs", found)


def _concealed_fact(
    material: Material,
    seen: NDArray[np.int64],
    bare: NDArray[np.int64],
    entropy: NDArray[np.float64],
    encoding: NDArray[np.object_],
) -> Fact:
    size = float(material.asked.up[bare].sum())
    how = sorted({str(name) for name in encoding if name})
    numbers: dict[str, Any] = {
        "concealed_flows": len(bare),
        "judged_flows": len(seen),
        "up_bytes": size,
    }
    text = (
        f"{human_bytes(size)} opaque or obscured outside any handshake, in {len(bare):,} "
        f"of {len(seen):,} uploads that could be judged"
    )
    told = []
    if how:
        numbers["encoding"] = ", ".join(how)
        told.append(" and ".join(how))
    if not np.isnan(entropy).all():
        numbers["entropy_bits_per_byte"] = float(np.nanmax(entropy))
        told.append(f"up to {np.nanmax(entropy):.2f} bits/byte")
    if told:
        text += f" ({', '.join(told)})"
    return Fact("payload.concealed", text, numbers, material.labels(bare))


def _explained(
    material: Material,
    seen: NDArray[np.int64],
    wrapped: NDArray[np.object_],
    verdict: NDArray[np.object_],
) -> Fact:
    """Say what the judged uploads are, where none is concealed."""
    kinds = np.where(wrapped[seen] != BARE, wrapped[seen], verdict[seen])
    names, counts = np.unique(kinds.astype(str), return_counts=True)
    numbers = dict(zip(names.tolist(), counts.tolist(), strict=True))
    parts = ", ".join(f"{count:,} {name}" for name, count in numbers.items())
    text = f"no upload that could be judged is opaque outside a handshake: {parts}"
    return Fact("payload.explained", text, numbers, material.labels(seen))


def _external_port(
    material: Material, signs: list[Answer], rows: list[dict[str, Any]]
) -> list[Answer]:
    services = material.at_largest(
        lambda asked: asked.observed.names["service"].tolist()
    )
    judged, concealed = material.at_largest(
        lambda asked: asked.take("service", "judged", "concealed")
    )
    found = []
    for case, (service, n, k) in enumerate(
        zip(services, judged.tolist(), concealed.tolist(), strict=True)
    ):
        sign = signs[case]
        numbers = {"service": service, "judged_flows": n, "encrypted_flows": k}
        if service.endswith("/high"):
            # Counted as one service, and no port of it stands for anything.
            used = False
            text = (
                f"the port is one of those from {EPHEMERAL_FROM:,} on, which are "
                "nobody's for encryption"
            )
        elif n >= FEWEST_FLOWS:
            used = k >= n / 2
            text = (
                f"{k:.0f} of {n:.0f} flows to {service} in the baseline are encrypted"
            )
        else:
            used = service in _ENCRYPTED_BY_REGISTRY
            text = (
                f"{service} is {'' if used else 'not '}registered as an encrypted "
                f"service, and the baseline shows the payload of {n:.0f} flows of it"
            )
        fact = Fact("port.use", text, numbers, source="baseline")
        # Where the other side opened the connection, as in active FTP, data still leaves.
        if rows[case]["direction"] == "internal":
            inside = Fact("direction", "the flows are internal")
            found.append((NO, [inside, fact]))
        elif used:
            found.append((NO, [fact]))
        else:
            found.append((sign.answer, [*sign.facts[:1], fact]))
    return _answers("external_port", found)


def _volume_rise(material: Material) -> list[Answer]:
    raised = _evidence(material, _VOLUME_OF_HOST)
    hidden = _evidence(material, ("hidden_host", "carried", "bare_volume"))
    said = material.said("volume_host")
    at, _ = material.leading("volume_host")
    (seen,) = material.asked.only(at).take("host", "n")
    undivided = _undivided(material)
    found = []
    for case in range(material.n_cases):
        fact = Fact(
            "volume.of_host",
            said[case],
            {
                "up_bytes": float(material.asked.up[at[case]]),
                "baseline_flows_of_host": float(seen[case]),
            },
            material.labels([at[case]]),
            "baseline",
        )
        if undivided[case]:
            text = "the source does not say who sent how much"
            found.append((NOT_VISIBLE, [Fact("volume.undivided", text)]))
        elif seen[case] == 0:
            others = [f for f in raised[case] if f.name != "evidence.volume_host"]
            found.append((NOT_VISIBLE, [_no_past(fact), *others]))
        elif raised[case] or hidden[case]:
            found.append((YES, _varied([*raised[case], *hidden[case]])))
        else:
            found.append((NO, [fact]))
    return _answers("volume_rise", found)


def _no_past(fact: Fact) -> Fact:
    text = "the baseline has no flow of this host, so it has no past to compare with"
    return Fact("host.no_past", text, fact.numbers, fact.flows, "baseline")


def _undivided(material: Material) -> NDArray[np.bool_]:
    """Say in which cases no flow says who sent how much."""
    flows = material.asked.oriented["undivided"]
    flags = flows.array.to_numpy(dtype=bool, na_value=False)
    return ~material.any(~flags)


def destination(material: Material) -> list[Fact]:
    """Say of each case how well the site and the host know where it goes."""
    asked = material.asked
    new = asked.is_new("host_place")
    place = asked.observed.hashes["place"]
    who, count = asked.tally("host_place").by_second
    at = np.searchsorted(who, place)
    at[at == len(who)] = 0
    users = np.where(who[at] == place, count[at], 0) if len(who) else 0 * at
    n, days = asked.take("host_place", "n", "days")
    # Of several places, as in a scan, the one that gets most speaks.
    largest = material.at_largest(lambda some: some.oriented["place"].tolist())
    facts = []
    for case, mine in enumerate(material.members):
        unknown = mine[new[mine]]
        hosts = int(users[mine].max())
        numbers: dict[str, Any] = {
            "new_to_host": len(unknown) == len(mine),
            "flows_to_new_places": len(unknown),
            "hosts_of_the_site": hosts,
            "hosts_of_the_baseline": asked.baseline.n_hosts,
        }
        who_else = f"{hosts:,} of {asked.baseline.n_hosts:,} hosts did"
        if len(unknown):
            text = f"this host never used {largest[case]} before ({who_else})"
            facts.append(
                Fact(
                    "destination.new",
                    text,
                    numbers,
                    material.labels(unknown),
                    "baseline",
                )
            )
            continue
        numbers["flows_of_host"] = float(n[mine].max())
        numbers["days_of_host"] = int(n_days(days[mine]).max())
        text = (
            f"this host used {largest[case]} in {numbers['flows_of_host']:,.0f} flows on "
            f"{numbers['days_of_host']:,} days of the baseline ({who_else})"
        )
        labels = material.labels(mine)
        facts.append(Fact("destination.known", text, numbers, labels, "baseline"))
    return facts


def _unexpected_transfer(material: Material, rise: list[Answer]) -> list[Answer]:
    where = destination(material)
    volume = _evidence(material, (*_VOLUME_OF_HOST, *_VOLUME))
    kind = _evidence(material, _UNEXPECTED)
    ruling, broken = material.judged.ruling, _broken(material)
    found = []
    for case in range(material.n_cases):
        facts = [where[case]]
        rearmed = ruling.note_of(int(material.cases[case])).startswith("approval re-")
        against_rule = broken[case]
        not_allowed = against_rule is not None or rearmed
        if against_rule is not None:
            facts.append(against_rule)
        if rearmed:
            note = ruling.note_of(int(material.cases[case]))
            facts.append(Fact("policy.rearmed", note, source="policy"))
        why = _varied(volume[case] + kind[case])
        unknown = where[case].name == "destination.new"
        if (unknown or not_allowed) and why:
            found.append((YES, [*facts, *why]))
        elif rise[case].facts[0].name == "volume.undivided" and unknown:
            found.append((NOT_VISIBLE, [*facts, *rise[case].facts]))
        else:
            usual = Fact("transfer.usual", "nothing about the upload is unusual")
            found.append((NO, [*facts, *(why or [usual])]))
    return _answers("unexpected_transfer", found)


def _broken(material: Material) -> list[Fact | None]:
    """Return a fact for each case with a flow that breaks a rule of the policy."""
    ruling, rows = material.judged.ruling, material.rows
    breaks = ruling.broken[rows] >= 0
    found: list[Fact | None] = [None] * material.n_cases
    for case in np.unique(material.case[breaks]).tolist():
        mine = material.members[case][breaks[material.members[case]]]
        text = ruling.about_flows(rows[mine[:1]], [""])[0]
        numbers = {"flows": len(mine), "bits": float(ruling.flow_bits[rows[mine[0]]])}
        labels = material.labels(mine)
        found[case] = Fact("policy.broken", text, numbers, labels, "policy")
    return found


def _nonstandard(material: Material, signs: list[Answer]) -> list[Answer]:
    surprising = _evidence(material, (*_ENCRYPTION, "carried"))
    slight = _evidence(material, _ENCRYPTION, least=0.0)
    found = []
    for case in range(material.n_cases):
        if signs[case].answer != YES:
            found.append((signs[case].answer, list(signs[case].facts)))
        elif surprising[case]:
            found.append((YES, surprising[case]))
        else:
            usual = slight[case][:1] or list(signs[case].facts[:1])
            found.append((NO, usual))
    return _answers("nonstandard_encryption", found)


def _intelligence(material: Material, intel: pd.DataFrame | None) -> list[Answer]:
    name = "threat_intelligence"
    if intel is None:
        text = "no threat intelligence was given (--intel)"
        fact = Fact("intel.not_given", text, source="intel")
        return _answers(name, [(NOT_VISIBLE, [fact])] * material.n_cases)
    found = []
    for case, matches in enumerate(by_case(material, intel)):
        facts = []
        for _, group in matches.groupby(["source", "indicator"], sort=False):
            one = group.iloc[0]
            sure = one["confidence"]
            numbers = {
                "indicator": one["indicator"],
                "source": one["source"],
                "confidence": None if pd.isna(sure) else float(sure),
                "flows": len(group),
                "early": bool(group["early"].all()),
            }
            text = (
                f"{one['kind']} {one['indicator']} of {one['source']} meets "
                f"{len(group):,} flows"
            )
            text += "" if pd.isna(sure) else f" (confidence {sure:.0f} of 100)"
            if numbers["early"]:
                text += ", all from before it was valid"
            if pd.notna(one["description"]) and one["description"]:
                text += f": {one['description']}"
            facts.append(
                Fact("intel.match", text, numbers, material.marks(group), "intel")
            )
        if facts:
            facts.sort(key=lambda fact: -(fact.numbers["confidence"] or 0.0))
            found.append((YES, facts))
            continue
        n_flows = len(material.members[case])
        text = f"no indicator meets any of the {n_flows:,} flows"
        none = Fact("intel.none", text, {"flows": n_flows}, source="intel")
        found.append((NO, [none]))
    return _answers(name, found)


def by_case(material: Material, intel: pd.DataFrame) -> list[pd.DataFrame]:
    """Split matches by case; their index is the place of the flow in the table."""
    whose = np.full(len(material.judged.scored.case), -1)
    whose[material.rows] = material.case
    numbers = whose[intel.index.to_numpy(dtype=np.int64)]
    return [intel[numbers == case] for case in range(material.n_cases)]


def _texts(names: Names) -> NDArray[np.object_]:
    return np.array(names.tolist(), dtype=object)
