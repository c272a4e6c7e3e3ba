"""Indicators in CSV, with the column names that feeds use or a column map.

Known without a map are the columns of abuse.ch (Feodo Tracker, ThreatFox, URLhaus,
SSLBL's JA3; https://abuse.ch), whose header is the last comment, and the obvious names.
A row can hold several indicators, for example an address and a name. ``first_seen`` and
``last_seen`` say when something was observed, not until when it holds, and are read
only if a column map says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from exfilml.exceptions import IntelError
from exfilml.triage._account import Account
from exfilml.triage._claims import (
    SCHEMA,
    confidence_of,
    port_of,
    same,
    tlp_of,
)
from exfilml.triage._columns import Columns, choose, columns_of, header_of
from exfilml.triage._texts import Text
from exfilml.triage._times import times_of

_INDICATORS: Final = {
    "indicator": ("indicator", "ioc", "ioc_value", "value", "indicator_value"),
    "address": (
        *("address", "ip", "ip_address", "dst_ip", "src_ip", "ipv4", "ipv6"),
        *("cidr", "network", "subnet"),
    ),
    "domain": ("domain", "host", "hostname", "domain_name", "fqdn"),
    "url": ("url", "uri"),
    "fingerprint": ("fingerprint", "ja3", "ja3_md5", "ja3_hash", "ja4"),
}
_ABOUT: Final = {
    "port": ("port", "dst_port"),
    "source": ("source", "feed", "provider"),
    "confidence": ("confidence", "confidence_level"),
    "tlp": ("tlp", "tlp_label", "marking"),
    "valid_from": ("valid_from",),
    "valid_until": ("valid_until", "expires", "expiration", "expiry", "expire"),
    "reference": ("reference", "id", "ioc_id", "case"),
    "description": (
        *("description", "comment", "note", "threat", "malware_printable", "malware"),
        *("listingreason", "reason"),
    ),
}
ALIASES: Final = {**_INDICATORS, **_ABOUT}
KNOWN: Final = tuple(name for names in _INDICATORS.values() for name in names)


def read(text: Text, columns: Mapping[str, str], account: Account) -> pa.Table:
    """Return the claims of a CSV file.

    Raises
    ------
    IntelError
        If no column holds indicators.
    """
    head = header_of(text, [*KNOWN, *columns.values()])
    if head is None:
        raise IntelError(
            f"{text.path}: no header with a known column; expected one of "
            f"{', '.join(KNOWN[:8])} …, or a column map such as "
            'columns={"indicator": "name of the column"}.'
        )
    names, separator = head
    found = choose(text.path, names, ALIASES, columns, IntelError)
    if any(name in columns for name in _INDICATORS):
        found.update({n: [] for n in _INDICATORS if n not in columns})
    table = columns_of(text, names, separator, account)
    about = {name: _about(name, found[name], table, text, account) for name in _ABOUT}
    unseen = same(None, len(table), pa.string())
    parts = []
    for kind in _INDICATORS:
        for name in found[kind]:
            texts = table.get(name)
            hint = None if kind == "indicator" else kind
            hints = same(hint, len(table), pa.string())
            part = {"text": texts, "hint": hints, "unseen": unseen, **about}
            claims = pa.table(part, schema=SCHEMA)
            parts.append(claims.filter(pc.not_equal(texts, "")))
    claims = pa.concat_tables(parts)
    empty = len(table) - sum(1 for _ in parts) if not len(claims) else 0
    account.add(text.name, "rows without an indicator", max(empty, 0))
    return claims.combine_chunks()


_PARSERS: Final[Mapping[str, tuple[Callable[[object], Any], str]]] = {
    "port": (port_of, "ports that are none"),
    "confidence": (confidence_of, "confidences that are none (0 to 100 or words)"),
    "tlp": (tlp_of, "TLP labels that are none"),
}


def _about(
    name: str, found: list[str], table: Columns, text: Text, account: Account
) -> Any:
    """Return a column of what is said about the indicators."""
    kind = SCHEMA.field(name).type
    if not found:
        return same(text.name if name == "source" else None, len(table), kind)
    texts = table.get(found[0])
    if name in {"valid_from", "valid_until"}:
        times, odd = times_of(texts)
        if odd.any():
            first = texts[int(odd.argmax())].as_py()
            account.add(text.name, f"times of {name}", int(odd.sum()), first)
        return pa.array(times, kind, from_pandas=True)
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    if name not in _PARSERS:
        return pc.fill_null(texts, text.name) if name == "source" else texts
    parse, odd_ones = _PARSERS[name]
    coded = texts.dictionary_encode()
    distinct = coded.dictionary.to_pylist()
    parsed = [parse(value) for value in distinct]
    odd_at = pa.array([value is None for value in parsed], pa.bool_())
    wrong = pc.fill_null(odd_at.take(coded.indices), fill_value=False)
    n = pc.sum(wrong).as_py() or 0
    if n:
        first = texts[pc.index(wrong, value=True).as_py()].as_py()
        account.add(text.name, odd_ones, n, first)
    return pa.array(parsed, kind).take(coded.indices)
