"""Next steps: what to do with a case, the most urgent first, and the commands for it.

Which steps come first depends on the level; which are there at all, on what is known
and on what was not visible. Words in capitals stand for what only the analyst knows.
Names that came from the network are quoted for the shell, and an argument of their own:
``--place=…`` cannot be read as another option.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Final

import pandas as pd

from exfilml.export import printable
from exfilml.places import network_of
from exfilml.triage._scope import is_known
from exfilml.triage.case import NO, NOT_VISIBLE, YES, Case, Step

MOST_STEPS: Final = 6
_WHEN: Final = "%Y-%m-%d %H:%M"
_STORE: Final = ("--store", "feedback.sqlite", "--cases", "triage.json")


def next_steps(case: Case) -> tuple[Step, ...]:
    """Say what to do next.

    Parameters
    ----------
    case
        With its answers and its decision; steps that it has already are not looked at.

    Returns
    -------
    tuple of Step
        `MOST_STEPS` at most, the most urgent first.
    """
    found = (step(case) for step in _ORDER[case.decision.level])
    return tuple(step for step in found if step is not None)[:MOST_STEPS]


def _contain(case: Case) -> Step:
    return Step(
        f"Draft blocks and detections for {_place(case)}, and decide who may apply them; "
        "nothing is applied by itself.",
        _command("triage", "SOURCE", "--case", case.name, "--drafts", "drafts"),
    )


def _keep(case: Case) -> Step:
    return Step(
        f"Keep captures, flows and the logs of {_host(case)} from "
        f"{case.row['first_seen']:{_WHEN}} UTC on: what is deleted cannot be handed over."
    )


def _check_host(case: Case) -> Step:
    sent = f"sent to {_place(case)} at {_busiest(case):{_WHEN}} UTC"
    named = case.flows.get("process", pd.Series(dtype="str")).dropna().unique()
    if len(named):
        names = ", ".join(sorted(map(str, named))[:3])
        return Step(
            f"On {_host(case)}, look at {names}, which {sent}: its file, who started it, "
            "which files it read."
        )
    return Step(
        f"On {_host(case)}, find the process that {sent}; logs of the host name it.",
        _command("triage", "SOURCE", "--case", case.name, "--host-events", "LOGS"),
    )


def _packets(case: Case) -> Step | None:
    signs = case.answer("encryption_signs").answer
    if signs == NO and case.decision.level in {"watch", "L1"}:
        return None
    carve = _command("carve", case.name, "CAPTURE", "--out", f"{case.name}.pcap")
    if signs == NOT_VISIBLE:
        return Step(
            "Look at the packets, if they were captured: of the payload nothing, or too "
            f"little, was seen here{_filter(case)}.",
            carve,
        )
    what = (
        "where the opaque bytes begin" if signs == YES else "what the handshake shows"
    )
    return Step(f"Look at the packets: {what}{_filter(case)}.", carve)


def _decrypt(case: Case) -> Step | None:
    if case.answer("encryption_signs").answer != YES:
        return None
    return Step(
        "Try keys from the host's memory or a report on the malware; without one, a "
        "repeating XOR key is looked for.",
        _command("decrypt", f"{case.name}.pcap", "--key-file", "KEYS"),
    )


def _ask_owner(case: Case) -> Step:
    asked = f"who sent {_place(case)} something on {case.row['first_seen']:%Y-%m-%d}, and why"
    owner = case.asset.get("owner")
    if owner is not None and not pd.isna(owner):
        return Step(f"Ask {owner}, who owns {_host(case)}, {asked}.")
    if case.asset and not is_known(case.asset):
        network = network_of(_host(case))
        return Step(
            f"{_host(case)} is in none of the asset files: ask who runs {network}, or look "
            f"into DHCP leases and switches of {case.row['first_seen']:{_WHEN}} UTC; then "
            f"ask {asked}."
        )
    return Step(f"Ask the owner of {_host(case)} {asked}; --assets names owners.")


def _history(case: Case) -> Step:
    if len(case.history):
        return Step(
            "Look for cases of the past that looked like this one.",
            _command("history", "similar", case.name, "--history", "HISTORY"),
        )
    if case.row["place"] == printable(str(case.row["place"])):
        what = f"--place={case.row['place']}"
    else:
        what = f"--address={case.row['dst_ip']}"
    return Step(
        f"Look up who else sent to {_place(case)}, and since when.",
        _command("history", "query", "--history", "HISTORY", what),
    )


def _intelligence(case: Case) -> Step | None:
    if case.answer("threat_intelligence").answer != NOT_VISIBLE:
        return None
    return Step(
        f"Ask threat intelligence about {_place(case)}; no indicators were given.",
        _command("triage", "SOURCE", "--case", case.name, "--intel", "INDICATORS"),
    )


def _feedback(case: Case) -> Step:
    return Step(
        "Keep what came out: VERDICT is true (theft) or false.",
        _command("feedback", case.name, "VERDICT", "--reason", "WHY", *_STORE),
    )


def _benign(case: Case) -> Step:
    return Step(
        "If it is what it looks like, keep that it is no theft.",
        _command("feedback", case.name, "false", "--reason", "WHY", *_STORE),
    )


def _approve(case: Case) -> Step | None:
    """Draft an approval, where something argues against theft and none is in force."""
    if not case.against or any(f.name == "policy.approved" for f in case.against):
        return None
    return Step(
        "If it is honest and will come again, draft an approval for the policy, judged "
        "false first.",
        _command(
            *("feedback", "suppress", "SOURCE", "--store", "feedback.sqlite"),
            *("--out", "approvals.toml"),
        ),
    )


_ORDER: Final[dict[str, tuple[Callable[[Case], Step | None], ...]]] = {
    "incident": (_contain, _keep, _check_host, _packets, _decrypt, _ask_owner),
    "T2": (_check_host, _packets, _decrypt, _ask_owner, _contain, _feedback),
    "L1": (_ask_owner, _packets, _history, _intelligence, _feedback, _approve),
    "watch": (_history, _packets, _benign, _approve),
    "close": (_benign,),
}


def _command(*words: str) -> str:
    return shlex.join(("exfilml", *words))


def _place(case: Case) -> str:
    return str(case.row["place"])


def _host(case: Case) -> str:
    return str(case.row["local_ip"])


def _busiest(case: Case) -> pd.Timestamp:
    """Return when the largest upload began."""
    at = int(case.flows["up_bytes"].to_numpy().argmax())
    moment: pd.Timestamp = case.flows["start"].iloc[at]
    return moment


def _filter(case: Case) -> str:
    """Say how Wireshark and tshark show the packets, where that is short."""
    ends = [end for side in ("local_ip", "remote_ip") for end in set(case.flows[side])]
    if len(ends) != 2:
        return ""
    terms = [f"{'ipv6' if ':' in end else 'ip'}.addr == {end}" for end in ends]
    return f" (Wireshark: {' && '.join(terms)})"
