"""Count anew what the facts of a case say, from its flows and those of the baseline.

Plain pandas over columns of the flows table; which end is local and what a place is
comes from `exfilml.places`, nothing else from the library.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from exfilml.places import orient, parse_networks

# What no row shows: bits are the detector's word.
OF_THE_DETECTOR = {"evidence_bits"}
# A verdict on fewer bytes is none.
JUDGED_BYTES = 32
_COUNTED = (
    *("start", "duration_s", "src_ip", "local_ip", "remote_ip", "place", "service"),
    *("up_bytes", "down_bytes", "concealed", "hidden_bytes"),
    *(
        f"{side}_{name}"
        for side in ("src", "dst")
        for name in (
            *("payload_bytes", "sampled_bytes", "entropy", "body_entropy", "verdict"),
            *("encoding", "handshake"),
        )
    ),
)
_IP_BYTES = ("scope.", "mostly_download", "unanswered")


class Recount:
    """Numbers by the names that facts give them, `None` for what is not known.

    Parameters
    ----------
    baseline
        Flows that the detector learned from.
    """

    def __init__(self, baseline):
        oriented = orient(baseline, parse_networks(None))
        names = ["local_ip", "place", "service"]
        table = oriented[names].astype("str")
        table["day"] = baseline["start"].dt.floor("D")
        table["judged"] = oriented.numbers("up_sampled_bytes") >= JUDGED_BYTES
        table["concealed"] = oriented.numbers("up_concealed") == 1.0
        self.hosts = table["local_ip"].nunique()
        self.of_host = table.groupby("local_ip").size()
        self.users = table.groupby("place")["local_ip"].nunique()
        self.own = table.groupby(["local_ip", "place"])["day"].agg(["size", "nunique"])
        judged = table[table["judged"]]
        self.of_service = judged.groupby("service")["concealed"].agg(["size", "sum"])

    def of(self, case, fact):
        """Return what each number of a fact should be, of those that rows show."""
        rows = case.flows.loc[list(fact.flows)]
        counts = {
            "flows": len(rows),
            "down_bytes": int(rows["down_bytes"].sum()),
            "up_bytes": _up(fact, rows),
        }
        if fact.name.startswith("scope."):
            return {**counts, **_scope(rows)}
        if fact.name.startswith("destination."):
            return self._destination(case, fact)
        if fact.name == "port.use":
            service = _of_largest(case)["service"]
            known = service in self.of_service.index
            judged, sealed = self.of_service.loc[service] if known else (0, 0)
            return {
                "service": service,
                "judged_flows": int(judged),
                "encrypted_flows": int(sealed),
            }
        if fact.name == "payload.concealed":
            return {**counts, **_concealed(case, rows)}
        if fact.name == "payload.explained":
            return _kinds(rows)
        mine = self.of_host.get(case.row["local_ip"], 0)
        return {**counts, "baseline_flows_of_host": int(mine)}

    def _destination(self, case, fact):
        host, places = case.row["local_ip"], case.flows["place"]
        own = {
            p: self.own.loc[host, p] for p in set(places) if (host, p) in self.own.index
        }
        known = places.isin(set(own))
        return {
            "hosts_of_the_baseline": self.hosts,
            "flows_to_new_places": int((~known).sum()),
            "new_to_host": bool((~known).all()),
            "hosts_of_the_site": int(_most(self.users, case.flows, known, fact)),
            "flows_of_host": max((int(row["size"]) for row in own.values()), default=0),
            "days_of_host": max(
                (int(row["nunique"]) for row in own.values()), default=0
            ),
        }


def _most(users, flows, known, fact):
    """Return the most hosts that used one of the places that a fact is about."""
    told = flows if fact.name == "destination.known" else flows[~known]
    return users.reindex(told["place"].unique()).fillna(0).max()


def _up(fact, rows):
    if fact.name.startswith(_IP_BYTES):
        return int(rows["up_bytes"].sum())
    return int(_payload(rows, "payload_bytes").fillna(0).sum())


def _payload(rows, name):
    ours = rows["local_ip"] == rows["src_ip"]
    return rows[f"src_{name}"].where(ours, rows[f"dst_{name}"])


def _of_largest(case):
    up = _payload(case.flows, "payload_bytes").fillna(0).astype("int64")
    return case.flows.loc[up.idxmax()]


def _concealed(case, rows):
    judged = _payload(case.flows, "sampled_bytes") >= JUDGED_BYTES
    body, whole = _payload(rows, "body_entropy"), _payload(rows, "entropy")
    names = set(_payload(rows, "encoding").dropna())
    return {
        "concealed_flows": int(rows["concealed"].sum()),
        "judged_flows": int(judged.sum()),
        "entropy_bits_per_byte": float(body.fillna(whole).max()),
        "encoding": ", ".join(sorted(names)),
    }


def _kinds(rows):
    """Count the handshakes, and the verdicts of what has none."""
    up, down = _payload(rows, "handshake"), rows["src_handshake"]
    other = down.where(rows["local_ip"] != rows["src_ip"], rows["dst_handshake"])
    kinds = up.fillna(other).fillna(_payload(rows, "verdict"))
    return kinds.value_counts().to_dict()


def _scope(rows):
    ends = rows["start"] + pd.to_timedelta(rows["duration_s"].fillna(0), unit="s")
    hours = rows.groupby(rows["start"].dt.floor("h"))["up_bytes"].sum()
    days = rows.groupby(rows["start"].dt.floor("D"))["up_bytes"].sum()
    hidden = rows["hidden_bytes"]
    return {
        "hidden_bytes": int(hidden.sum()),
        "hidden_flows": int(((hidden > 0) | rows["concealed"]).sum()),
        "unseen_flows": int(_payload(rows, "payload_bytes").isna().sum()),
        "first": rows["start"].min(),
        "last": ends.max(),
        "days": len(days),
        "hour": hours.idxmax(),
        "hour_up_bytes": int(hours.max()),
        "day": days.idxmax(),
        "day_up_bytes": int(days.max()),
        "addresses": rows["remote_ip"].nunique(),
        "places": rows["place"].nunique(),
        "hosts": rows["local_ip"].nunique(),
    }


def untraceable(case, recount):
    """Yield what of a case's facts cannot be found again: fact, number, said, counted."""
    known = set(case.flows.index)
    # A flows table has a hundred columns; few of them are counted.
    case = replace(case, flows=case.flows[list(_COUNTED)])
    told = [f for a in (*case.indicators, *case.questions) for f in a.facts]
    for fact in (*told, *case.against, *case.scope):
        strange = set(fact.flows) - known
        if strange:
            yield fact.name, "flows", sorted(strange)[:3], "none of the case's"
            continue
        counted = recount.of(case, fact)
        for name, said in fact.numbers.items():
            if name in OF_THE_DETECTOR or (not fact.flows and name not in counted):
                continue
            if name not in counted or not _same(said, counted[name]):
                yield fact.name, name, said, counted.get(name)


def _same(said, counted):
    if isinstance(said, bool | str | pd.Timestamp):
        return said == counted
    return abs(float(said) - float(counted)) < 1e-3
