"""What the page says of one case: its line in the table, and what opens under it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from exfilml.places import service_name
from exfilml.report.page._answers import UNANSWERED, answered
from exfilml.report.page._explained import NAMED, Explained, seen_before, usual_upload
from exfilml.report.page._pictures import families, largest_flows, streams, uploads
from exfilml.report.page._wording import (
    LONGEST_NAME,
    bytes_text,
    cell,
    chance_text,
    cut,
    is_missing,
    moment,
    name,
    plural,
    real,
    sentence,
    time_text,
    value_of,
)

if TYPE_CHECKING:
    from exfilml.baseline import Baseline
    from exfilml.triage.case import Case

MOST_FLOWS: Final = 8
QUIET_FLOWS: Final = 3
MOST_REASONS: Final = 14
LONGEST_WHY: Final = 340
_SIMPLE_NAME: Final = re.compile(r"[0-9A-Za-z_-]{1,40}")
_LEVELS: Final = ("close", "watch", "L1", "T2", "incident")


def line(row: Mapping[Any, Any], at: int, case: Case | None) -> dict[str, Any]:
    """Return the cells of a row; `at` is its place on the page, from 0."""
    suspicion = real(row.get("suspicion"))
    up = real(row.get("up_bytes"))
    seen = moment(row.get("last_seen", row.get("start")))
    identity = str(row.get("case", ""))
    level = "" if case is None else case.decision.level
    reasons = sentence(cell(row.get("reasons")))
    return {
        "id": f"r{at}",
        "name": name(identity, LONGEST_NAME),
        "anchor": f"case-{identity}" if _SIMPLE_NAME.fullmatch(identity) else "",
        "rank": cell(row.get("rank", at + 1)),
        "level": level,
        "level_sort": _LEVELS.index(level) if level in _LEVELS else -1,
        "level_class": level if level in _LEVELS else "watch",
        "alert": bool(value_of(row, "alert") or False),
        "bits": "?" if suspicion is None else f"{suspicion:.1f}",
        "suspicion": 0.0 if suspicion is None else suspicion,
        "local": _short(row.get("local_ip")),
        "place": _short(row.get("place")),
        "service": _service(row),
        "up": bytes_text(up),
        "up_sort": f"{up or 0:.0f}",
        "seen": time_text(seen),
        "seen_iso": "" if seen is None else f"{seen:%Y-%m-%dT%H:%M:%SZ}",
        "seen_sort": 0 if seen is None else int(seen.timestamp()),
        "why": cut(reasons, LONGEST_WHY),
        "incident": "" if case is None else name(case.incident, LONGEST_NAME),
    }


def _short(value: Any) -> str:
    if is_missing(value):
        return "?"
    text = name(value, LONGEST_NAME * 8)
    if len(text) <= LONGEST_NAME:
        return text
    # The end of a host name says whose it is.
    return text[: LONGEST_NAME // 2 - 1] + "…" + text[-LONGEST_NAME // 2 :]


def _service(row: Mapping[Any, Any]) -> str:
    protocol, port = real(row.get("protocol")), real(row.get("dst_port"))
    if protocol is None:
        return "?"
    if port is None:
        return f"{service_name(int(protocol), 0).split('/')[0]}, many ports"
    named = service_name(int(protocol), int(port))
    return named if str(int(port)) in named or port == 0 else f"{named} {int(port)}"


@dataclass(frozen=True)
class Behind:
    """The flows behind a row, as far as they are known.

    Attributes
    ----------
    flows
        As `exfilml.triage.case.Case.flows`, `None` where they are not known.
    contributions
        Bits by family of evidence, empty where they are not known.
    largest
        The largest uploads, as `largest_flows` gives them.
    """

    flows: pd.DataFrame | None = None
    contributions: Mapping[str, float] = field(default_factory=dict)
    largest: list[dict[str, Any]] = field(default_factory=list)


def behind(
    rows: list[Mapping[Any, Any]], sources: Sequence[Case | Explained | None]
) -> list[Behind]:
    """Return what stands behind each row."""
    # Of what nobody is called for, less is shown: a page must fit into a mail.
    most = [MOST_FLOWS if value_of(row, "alert") else QUIET_FLOWS for row in rows]
    tables = [None if source is None else source.flows for source in sources]
    largest = largest_flows(tables, most)
    return [
        Behind()
        if source is None
        else Behind(source.flows, source.contributions, flows)
        for source, flows in zip(sources, largest, strict=True)
    ]


def detail(
    row: Mapping[Any, Any], case: Case | None, known: Behind, past: Baseline | None
) -> dict[str, Any]:
    """Return what opens under a row; `past` is what the baseline saw."""
    bits = known.contributions
    found = {
        "reasons": _reasons(row),
        "families": families(bits),
        "families_note": _bits_note(row, bits),
        "chance": chance_text(
            row.get("p_value"), "case" if "first_seen" in row else "flow"
        ),
        "identity": _identity(row, known.flows),
        "uploads": None,
        "streams": [],
        "seen_before": [],
        "flows": None,
    }
    if known.flows is not None and known.largest:
        lead = known.largest[0]
        host, service = str(lead["local_ip"]), str(lead["service"])
        usual = None if past is None else usual_upload(past, host, service)
        found["uploads"] = uploads(known.flows, usual)
        found["streams"] = streams(known.largest)
        found["flows"] = _flows(known.largest, len(known.flows))
        if past is not None:
            pairs = seen_before(past, host, service, str(lead["place"]))
            found["seen_before"] = [(name(who), what) for who, what in pairs]
    return {**found, **(UNANSWERED if case is None else answered(case))}


def _reasons(row: Mapping[Any, Any]) -> list[str]:
    parts = str(value_of(row, "reasons") or "").split("; ")
    context = value_of(row, "context")
    if context is not None:
        parts.append(f"on the host: {context}")
    return [sentence(part.strip()) for part in parts[:MOST_REASONS] if part.strip()]


def _bits_note(row: Mapping[Any, Any], bits: Mapping[str, float]) -> str:
    if not bits:
        return ""
    total = sum(real(value) or 0.0 for value in bits.values())
    text = f"{total:.1f} bits in the flow that leads"
    suspicion = real(row.get("suspicion"))
    if "first_seen" in row and suspicion is not None:
        text += f"; measured against other cases, the case has {suspicion:.1f}"
    return text


def _identity(
    row: Mapping[Any, Any], flows: pd.DataFrame | None
) -> list[tuple[str, str]]:
    """Return what an analyst pivots with, in full."""
    ends = f"{cell(row.get('src_ip'))} → {cell(row.get('dst_ip'))}"
    found = [
        ("Initiator → responder", name(ends)),
        ("Place", cell(row.get("place"))),
        ("Server name", cell(row.get("server_name"))),
        ("Application", cell(row.get("app"))),
        ("Direction", cell(row.get("direction"))),
        (
            "Up / down",
            f"{bytes_text(row.get('up_bytes'))} / {bytes_text(row.get('down_bytes'))}",
        ),
        ("First seen", _seen(row.get("first_seen", row.get("start")))),
        ("Last seen", _seen(row.get("last_seen"))),
        ("Remote addresses", cell(row.get("addresses"))),
        ("Judged from", cell(row.get("capability"))),
        ("Not visible", cell(row.get("not_visible"))),
    ]
    for term, column in NAMED.items():
        if flows is not None and column in flows:
            found.append((term, _some(flows[column])))
    return [(term, text) for term, text in found if text]


def _seen(value: Any) -> str:
    time = moment(value)
    return "" if time is None else f"{time_text(time, seconds=True)} UTC"


def _some(column: pd.Series) -> str:
    counts = Counter(text for text in column.tolist() if isinstance(text, str))
    shown = [name(text, 120) for text, _ in counts.most_common(3)]
    more = len(counts) - len(shown)
    return " · ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _port(value: Any) -> str:
    port = real(value)
    return "?" if port is None else f"{port:.0f}"


def _flows(largest: list[dict[str, Any]], total: int) -> dict[str, Any]:
    rows = [
        [
            time_text(flow["start"], seconds=True),
            f"{name(flow['src_ip'])}:{_port(flow['src_port'])}",
            f"{name(flow['dst_ip'])}:{_port(flow['dst_port'])}",
            cell(flow.get("app")) or "?",
            bytes_text(flow["up_bytes"]),
            bytes_text(flow["down_bytes"]),
            f"{real(flow.get('suspicion')) or 0:.1f}",
        ]
        for flow in largest
    ]
    return {
        "head": ["start (UTC)", "initiator", "responder", "app", "up", "down", "bits"],
        "rows": rows,
        "more": 0,
        "total": "",
        "title": plural(total, "flow")
        if total == len(rows)
        else f"The {len(rows)} largest of {total:,} flows",
    }
