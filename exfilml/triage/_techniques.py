"""Which technique of MITRE ATT&CK fits what was seen of a case, and why.

After the descriptions of T1048 and its sub-techniques, T1041, T1567 and T1030 in
ATT&CK v17 (https://attack.mitre.org). A flow does not show intent: what is named is how
data would have left, if it was theft.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exfilml.baseline import BARE, MIN_JUDGED_BYTES
from exfilml.triage._playbook import ASKED, WORTH, Answers
from exfilml.triage.case import NO, NOT_VISIBLE, YES, Answer, Technique

if TYPE_CHECKING:
    from exfilml.triage._material import Material

NAMES: Final = {
    "T1048": "Exfiltration Over Alternative Protocol",
    "T1048.001": "Exfiltration Over Symmetric Encrypted Non-C2 Protocol",
    "T1048.002": "Exfiltration Over Asymmetric Encrypted Non-C2 Protocol",
    "T1048.003": "Exfiltration Over Unencrypted Non-C2 Protocol",
    "T1041": "Exfiltration Over C2 Channel",
    "T1567": "Exfiltration Over Web Service",
    "T1030": "Data Transfer Size Limits",
}
# A place on the web that so many hosts use is a service, and no server of a thief.
WEB_SERVICE_HOSTS: Final = 5
_WEB: Final = frozenset({"https", "https/udp", "http", "http-alt"})
_C2: Final = ("c2", "c&c", "command and control", "command-and-control", "botnet")


def techniques(material: Material, answers: Answers) -> list[tuple[Technique, ...]]:
    """Return the techniques that fit each case, the best first.

    None where nothing of the case is out of the ordinary.
    """
    sampled = material.asked.oriented.numbers("up_sampled_bytes")
    wrapper = material.asked.observed.names["wrapper"]
    judged = sampled >= MIN_JUDGED_BYTES
    handshake = material.any(
        judged & wrapper.each(lambda name: name != BARE, missing=False)
    )
    _, chunks = material.leading("chunks")
    services = material.at_largest(
        lambda asked: asked.observed.names["service"].tolist()
    )
    apart = material.judged.scored.apart[material.cases]
    found: list[tuple[Technique, ...]] = []
    for case in range(material.n_cases):
        transfer, odd, intel = answers.of(case, *ASKED)
        usual = YES not in {odd.answer, intel.answer} and transfer.answer == NO
        if usual or apart[case]:
            found.append(())
            continue
        (sign,) = answers.of(case, "encryption_signs")
        hosts = int(transfer.facts[0].numbers.get("hosts_of_the_site", 0))
        web = services[case] in _WEB and hosts >= WEB_SERVICE_HOSTS
        some = [*_by_intel(intel), _how(sign, hosts if web else 0, handshake[case])]
        if chunks[case] >= WORTH:
            some.append(_named("T1030", material.said("chunks")[case]))
        found.append(tuple(some))
    return found


def _by_intel(intel: Answer) -> list[Technique]:
    for fact in intel.facts:
        if fact.name == "intel.match" and any(w in fact.text.lower() for w in _C2):
            why = f"the destination is known as a command channel: {fact.text}"
            return [_named("T1041", why)]
    return []


def _how(sign: Answer, web_hosts: int, handshake: bool) -> Technique:
    """Return the technique that says how data left."""
    fact = sign.facts[0]
    if sign.answer == YES and fact.name == "payload.concealed":
        return _named("T1048.001", fact.text)
    if sign.answer == YES:
        why = f"{fact.text}; whether these bytes are encrypted is not visible"
        return _named("T1048", why)
    if sign.answer == NOT_VISIBLE:
        why = f"{fact.text}, so whether it is encrypted cannot be told"
        return _named("T1048", why)
    if handshake and web_hosts:
        return _named(
            "T1567", f"a web service that {web_hosts:,} hosts of the site use"
        )
    if handshake:
        return _named("T1048.002", f"encrypted after a handshake: {fact.text}")
    return _named("T1048.003", f"the payload is not encrypted: {fact.text}")


def _named(technique: str, reason: str) -> Technique:
    return Technique(technique, NAMES[technique], reason)
