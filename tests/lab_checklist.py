"""What an analyst's checklist expects of the lab's cases, written from its labels.

`scenarios.csv` says of each planted transfer what carried it, where to, how much, and
whether its payload lies open. From that alone, and from plain sums over the flows of
the baseline, follows what the playbook should answer. `Check` is one such expectation,
with its reason; a transfer without a triaged case is a miss of the ranking, and is told
apart from a wrong answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

import exfilml
from exfilml.schema import label_rows
from exfilml.triage.case import LEVELS

# The ciphertext is the payload itself, on a port that the carrier chose.
BARE = ("tcp", "tcp-head", "udp", "udp-head")
# Ports that IANA registered for protocols that encrypt by themselves.
ENCRYPTED_PORTS = {22, 443, 465, 853, 993, 995, 8443, 8883}
# Honest transfers whose payload is what it should be: nothing to be seen outside of a
# handshake, or a format that says what it is.
EXPLAINED = ("https", "wss", "ssh", "quic", "wireguard")
# Levels that no specialist hears of.
LOW = ("close", "watch", "L1")
# A rise is one that nobody would argue about.
RISE = 4.0


@dataclass(frozen=True)
class Check:
    """An expectation: one of `wanted` is the right answer to `about`."""

    about: str
    wanted: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Past:
    """What plain sums over the baseline say, without the library's own evidence."""

    names: frozenset[str]
    addresses: frozenset[str]
    most: dict[str, int]

    @classmethod
    def of(cls, flows):
        """Count the flows of a baseline."""
        up = pd.concat(
            [
                pd.Series(flows[f"{side}_payload_bytes"].array, flows[f"{side}_ip"])
                for side in ("src", "dst")
            ]
        )
        names = flows["server_name"].dropna().str.lower()
        return cls(
            frozenset(".".join(n.rstrip(".").split(".")[-2:]) for n in names),
            frozenset(flows["dst_ip"]) | frozenset(flows["src_ip"]),
            {k: int(v) for k, v in up.groupby(level=0).max().items()},
        )

    def knows(self, to):
        """Say whether any place of a transfer was used in the baseline."""
        places = [place.rsplit(":", 1)[0] for place in to.split()]
        return any(
            place in self.addresses or ".".join(place.split(".")[-2:]) in self.names
            for place in places
        )


def checks(row, past, host, largest):
    """Yield what is expected of the case of a transfer.

    Parameters
    ----------
    row
        Of `scenarios.csv`.
    past
        Of the baseline.
    host
        The local end of the case.
    largest
        Payload bytes of the largest flow of the transfer on that side.
    """
    carrier = row.carrier.partition("/")[0]
    # The relay may speak STARTTLS, which the label does not tell.
    sealed = row.via == "relay" and host != row.src_ip
    if row.label == "hard-negative":
        yield from _of_honest(carrier)
        return
    visible = row.payload_visible == "yes" and not sealed
    if visible:
        yield from _of_open(row, carrier)
        if not (row.via and host == row.src_ip):
            yield from _of_port(row, carrier)
    elif not sealed:
        why = f"{carrier} hides it: nobody can see ciphertext as such"
        yield Check("encryption_signs", ("no", "not visible"), why)
        yield Check("nonstandard_encryption", ("no", "not visible"), why)
        yield Check("technique", ("T1048.002", "T1567", "T1048", ""), why)
    if not past.knows(row.to):
        why = f"the baseline knows none of {row.to}"
        yield Check("unexpected_transfer", ("yes",), why)
        if visible:
            why += ", and the ciphertext lies open"
            yield Check("level", ("L1", "T2", "incident"), why)
    if host not in past.most:
        yield Check("volume_rise", ("not visible",), f"the baseline knows no {host}")
    elif largest >= RISE * past.most[host]:
        why = f"{largest:,} bytes at once; {past.most[host]:,} at most before"
        yield Check("volume_rise", ("yes",), why)


def _of_honest(carrier):
    if carrier in EXPLAINED:
        why = f"honest {carrier}: a handshake explains the bytes"
        yield Check("encryption_signs", ("no", "not visible"), why)
        yield Check("nonstandard_encryption", ("no", "not visible"), why)
    yield Check("level", LOW, "honest, however much it looks like theft")


def _of_open(row, carrier):
    """Yield what ciphertext in the open asks for."""
    why = f"{row.cipher} lies open in {carrier}"
    yield Check("encryption_signs", ("yes",), why)
    yield Check("nonstandard_encryption", ("yes",), why)
    yield Check("technique", ("T1048.001", "T1048"), why)


def _of_port(row, carrier):
    """Yield what the port asks for, where one was chosen; ICMP has none."""
    number = int(row.carrier.partition("/")[2] or 0)
    if carrier in BARE and number in ENCRYPTED_PORTS:
        if number in {22, 443}:
            why = f"port {number} is used for encryption"
            yield Check("external_port", ("no",), why)
    elif number:
        why = f"{row.carrier} is no port for encryption, and {row.to} is outside"
        yield Check("external_port", ("yes",), why)


def judged(triage, flows, labels, scenarios, past):
    """Hold a triage against the checklist.

    Returns
    -------
    pandas.DataFrame
        One row for each expectation: ``scenario``, ``label``, ``side`` (near, far),
        ``case``, ``rank``, ``alert``, ``about``, ``wanted``, ``got`` (empty where the
        ranking missed the transfer), ``ok``, ``reason`` and ``said``.
    """
    rows, matched = label_rows(flows, labels)
    scenario = labels["scenario"].to_numpy(dtype=object)[matched]
    theirs = pd.DataFrame({"flow": flows.index[rows], "scenario": scenario})
    whose = pd.DataFrame(
        [
            (label, case.name, host, int(up))
            for case in triage
            for label, host, up in zip(
                case.flows.index,
                case.flows["local_ip"],
                _payload(case.flows),
                strict=True,
            )
        ],
        columns=["flow", "case", "host", "up"],
    )
    found = theirs.merge(whose, on="flow", how="left")
    out = []
    for row in scenarios.itertuples():
        mine = found[(found["scenario"] == row.scenario) & found["case"].notna()]
        sides = mine.groupby(["case", "host"])["up"].agg(["sum", "max"]).reset_index()
        sides = sides[sides["sum"] >= 0.5 * sides["sum"].max()]
        if sides.empty:
            missed = checks(row, past, row.src_ip, 0)
            out += [_line(row, "near", None, check) for check in missed]
        for side in sides.itertuples():
            name = "near" if side.host == row.src_ip else "far"
            asked = checks(row, past, side.host, side.max)
            out += [_line(row, name, triage[side.case], check) for check in asked]
    return pd.DataFrame(out)


def _payload(flows):
    up = flows["src_payload_bytes"].where(
        flows["local_ip"] == flows["src_ip"], flows["dst_payload_bytes"]
    )
    return up.fillna(0)


def _line(row, side, case, check):
    got, said = ("", "") if case is None else _got(case, check.about)
    return {
        "scenario": row.scenario,
        "label": row.label,
        "side": side,
        "case": None if case is None else case.name,
        "rank": None if case is None else case.row["rank"],
        "alert": case is not None and bool(case.row["alert"]),
        "about": check.about,
        "wanted": "|".join(check.wanted),
        "got": got,
        "ok": case is not None and got in check.wanted,
        "reason": check.reason,
        "said": said,
    }


def _got(case, about):
    if about == "level":
        return case.decision.level, case.decision.text
    if about == "technique":
        first = case.techniques[:1]
        return (first[0].id, first[0].reason) if first else ("", "")
    answer = case.answer(about)
    return answer.answer, answer.text


def summary(table):
    """Count by question: met, wrong, missed by the ranking."""
    missed = table["case"].isna()
    return (
        pd.DataFrame(
            {
                "asked": table.groupby("about").size(),
                "met": table[table["ok"]].groupby("about").size(),
                "wrong": table[~table["ok"] & ~missed].groupby("about").size(),
                "not ranked": table[missed].groupby("about").size(),
            }
        )
        .fillna(0)
        .astype(int)
    )


def explained(case):
    """Say whether the rules of a decision lead to its level, step by step."""
    level = 0
    for rule in case.decision.rules:
        step = LEVELS.index(rule.level)
        moves = {
            "at least": step >= level,
            "at most": step <= level,
            "one higher": step in {level + 1, len(LEVELS) - 1},
        }
        if not moves[rule.effect] or not rule.text:
            return False
        level = step
    return LEVELS[level] == case.decision.level


def read(folder):
    """Return baseline and test flows, labels and scenarios of a split."""
    flows = [
        exfilml.read_flows(folder / f"{half}.pcap.gz", progress=False)
        for half in ("baseline", "test")
    ]
    scenarios = pd.read_csv(folder / "scenarios.csv", keep_default_na=False)
    return *flows, exfilml.read_labels(folder / "labels.csv"), scenarios
