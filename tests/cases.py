"""Cases with their answers, built by hand: for tests of what is made of a triage."""

from __future__ import annotations

import pandas as pd

from exfilml.places import PRIVATE_NETWORKS, orient
from exfilml.ranking import CASE_COLUMNS
from exfilml.schema import validate_flows
from exfilml.triage.case import (
    NO,
    NOT_VISIBLE,
    YES,
    Answer,
    Case,
    Decision,
    Fact,
    Incident,
    Rule,
    Step,
    Technique,
    Triage,
)

HOME = PRIVATE_NETWORKS
MADE = pd.Timestamp("2026-03-05T08:00:00Z")
# Raw ciphertext to an address that nobody here knows, on the port of TLS.
FLOW = {
    "start": pd.Timestamp("2026-03-04T22:10:00Z"),
    "duration_s": 12.5,
    "src_ip": "10.20.0.17",
    "src_port": 50123,
    "dst_ip": "198.51.100.23",
    "dst_port": 8443,
    "protocol": 6,
    "src_bytes": 5_200_000,
    "dst_bytes": 61_000,
    "src_packets": 3_700,
    "dst_packets": 1_150,
}
T1048_001 = Technique(
    "T1048.001",
    "Exfiltration Over Symmetric Encrypted Non-C2 Protocol",
    "5.2 MB of opaque payload outside any handshake",
)
# Columns that a case has beside those of the flows table.
_MORE = ("suspicion", "concealed", "hidden_bytes")


def case(
    *flows,
    name="00c0ffee17",
    level="T2",
    rank=1,
    home=HOME,
    against=(),
    techniques=(T1048_001,),
    **more,
):
    """Build a case from its flows, each given by what differs from `FLOW`.

    A flow may also give ``suspicion``, ``concealed`` and ``hidden_bytes``; `more` are
    other attributes of the case.
    """
    given = list(flows) or [{}]
    plain = [{**FLOW, **{k: f[k] for k in f if k not in _MORE}} for f in given]
    table = validate_flows(pd.DataFrame(plain))
    oriented = orient(table, tuple(home))
    table = table.assign(
        **{
            column: oriented[column]
            for column in (
                *("local_ip", "remote_ip", "place", "service", "direction"),
                *("up_bytes", "down_bytes"),
            )
        },
        suspicion=[f.get("suspicion", 14.5) for f in given],
        concealed=[f.get("concealed", True) for f in given],
    )
    table["hidden_bytes"] = [
        f.get("hidden_bytes", up if hidden else 0)
        for f, up, hidden in zip(
            given, table["up_bytes"], table["concealed"], strict=True
        )
    ]
    table = table.sort_values("start", kind="stable")
    lead = table.loc[table["up_bytes"].idxmax()]
    ends = table["start"] + pd.to_timedelta(table["duration_s"].fillna(0), unit="s")
    one_port = len(set(table["dst_port"])) == 1
    row = {
        **{
            column: lead[column]
            for column in (
                *("local_ip", "place", "direction", "src_ip", "dst_ip"),
                *("protocol", "app", "server_name"),
            )
        },
        "rank": rank,
        "suspicion": float(table["suspicion"].max()),
        "p_value": 0.0008,
        "alert": level not in {"close", "watch"},
        "case": name,
        "dst_port": int(lead["dst_port"]) if one_port else None,
        "flows": len(table),
        "addresses": table["remote_ip"].nunique(),
        "first_seen": table["start"].min(),
        "last_seen": ends.max(),
        "up_bytes": int(table["up_bytes"].sum()),
        "down_bytes": int(table["down_bytes"].sum()),
        "capability": "payload",
        "not_visible": "process",
        "reasons": "opaque payload where none is usual",
    }
    return Case(
        row={column: row[column] for column in CASE_COLUMNS},
        flows=table,
        contributions={"payload": 9.0, "volume": 5.5},
        indicators=_indicators(table),
        questions=_questions(table),
        against=tuple(against),
        decision=more.pop("decision", _decision(level)),
        techniques=tuple(techniques),
        scope=more.pop("scope", (_scope(table),)),
        next_steps=more.pop("next_steps", (Step("Ask the owner of the host."),)),
        **more,
    )


def triage(*cases, incidents=(), made=MADE, **about):
    """Put cases together; `about` adds to what was known."""
    starts = [case.flows["start"] for case in cases]
    about = {
        "flows": sum(len(case.flows) for case in cases),
        "cases": len(cases),
        "first": min((s.min() for s in starts), default=None),
        "last": max((s.max() for s in starts), default=None),
        "alerted": sum(bool(case.row["alert"]) for case in cases),
        "baseline_first": MADE - pd.Timedelta(days=31),
        "baseline_last": MADE - pd.Timedelta(days=1),
        "intel": None,
        "assets": None,
        "history": None,
        "made": made,
        "version": "0.1.0",
        **about,
    }
    return Triage(tuple(cases), tuple(incidents), about)


def incident(*cases):
    """Build the incident that some cases make up."""
    link = Fact("link.place", "the same place", {"cases": len(cases)})
    return Incident(
        f"i{cases[0].name}", tuple(case.name for case in cases), (link,), ()
    )


def _decision(level):
    return Decision(
        level, (Rule("built by hand", "at least", level, "a test asks for it"),)
    )


def _up(table):
    return Fact(
        "volume.up",
        f"{int(table['up_bytes'].sum()):,} bytes left",
        {"up_bytes": int(table["up_bytes"].sum())},
        tuple(table.index),
    )


def _hidden(table):
    rows = table[table["concealed"]]
    return Fact(
        "payload.concealed",
        f"{len(rows)} flows opaque outside any handshake",
        {"flows": len(rows), "hidden_bytes": int(rows["hidden_bytes"].sum())},
        tuple(rows.index),
    )


def _indicators(table):
    hidden = YES if table["concealed"].any() else NO
    return (
        Answer(
            "external_port",
            "An external address on a port not used for encryption here?",
            YES,
            (_up(table),),
        ),
        Answer(
            "encryption_signs",
            "Signs of symmetric encryption outside TLS, SSH and QUIC?",
            hidden,
            (_hidden(table),),
        ),
        Answer(
            "volume_rise",
            "A sudden rise of outgoing volume?",
            YES,
            (_up(table),),
        ),
    )


def _questions(table):
    hidden = YES if table["concealed"].any() else NO
    nothing = Fact("intel.none", "no indicators were given", source="intel")
    return (
        Answer(
            "unexpected_transfer",
            "A large or unexpected transfer to an unknown address?",
            YES,
            (_up(table),),
        ),
        Answer(
            "nonstandard_encryption",
            "Encryption that is not usual here?",
            hidden,
            (_hidden(table),),
        ),
        Answer(
            "threat_intelligence",
            "Any match of threat intelligence?",
            NOT_VISIBLE,
            (nothing,),
        ),
    )


def _scope(table):
    return Fact(
        "scope.bytes",
        f"{int(table['up_bytes'].sum()):,} bytes from one host",
        {"up_bytes": int(table["up_bytes"].sum()), "hosts": 1},
        tuple(table.index),
    )
