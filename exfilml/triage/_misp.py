"""MISP events, exported attributes and feeds (folders of event files), as JSON.

Read are attributes that are meant for detection (``to_ids``) and have a type that flows
can show; deleted ones are left out. MISP says when something was seen, not until when
it holds: such indicators do not expire. Confidence comes from the taxonomy
``misp:confidence-level``, TLP from the tags ``tlp:…`` of attribute and event, of which
the strictest counts.

Source: MISP core format (https://datatracker.ietf.org/doc/draft-dulaunoy-misp-core-format/)
and the MISP taxonomies (https://github.com/MISP/misp-taxonomies).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from exfilml.triage._account import Account
from exfilml.triage._claims import Claims, port_of, strictest, tlp_of
from exfilml.triage._texts import Text

# What the parts of a value are, which a bar separates.
_TYPES: Final = {
    "ip-dst": ("address",),
    "ip-src": ("address",),
    "ip-dst|port": ("address", "port"),
    "ip-src|port": ("address", "port"),
    "domain": ("domain",),
    "hostname": ("domain",),
    "hostname|port": ("domain", "port"),
    "domain|ip": ("domain", "address"),
    "url": ("url",),
    "ja3-fingerprint-md5": ("fingerprint",),
    "ja4": ("fingerprint",),
}
_LEVELS: Final = {
    "completely-confident": 100.0,
    "usually-confident": 75.0,
    "fairly-confident": 50.0,
    "rarely-confident": 25.0,
    "unconfident": 0.0,
}
_LEVEL: Final = re.compile(r'misp:confidence-level="?([a-z-]+)"?')
_HASHES: Final = re.compile(r"\s*[0-9a-f]{32},[0-9a-f-]{36}\s*$", re.MULTILINE)


def is_mine(data: Any) -> bool:
    """Say whether JSON holds events, attributes or the manifest of a feed."""
    return is_manifest(data) or any(True for _ in _events(data))


def is_manifest(data: Any) -> bool:
    """Say whether JSON is the manifest of a feed, which lists its events."""
    return (
        isinstance(data, dict)
        and bool(data)
        and all(
            re.fullmatch(r"[0-9a-fA-F-]{36}", key) and isinstance(about, dict)
            for key, about in data.items()
        )
    )


def is_hashes(text: Text) -> bool:
    """Say whether a file is a feed's ``hashes.csv``, which holds no indicators."""
    return text.name == "hashes.csv" and _HASHES.match(text.text) is not None


def read(text: Text, data: Any, account: Account) -> pa.Table:
    """Return the claims of events."""
    claims = Claims(text.name, account)
    for event in () if is_manifest(data) else _events(data):
        _event(event, claims)
    return claims.table()


def _events(data: Any) -> Iterator[dict[str, Any]]:
    """Yield the events of a file; attributes without one count as one."""
    if isinstance(data, dict) and "response" in data:
        data = data["response"]
    for each in data if isinstance(data, list) else [data]:
        if not isinstance(each, dict):
            continue
        if isinstance(each.get("Event"), dict):
            yield each["Event"]
        elif isinstance(each.get("Attribute"), list):
            yield each


def _event(event: dict[str, Any], claims: Claims) -> None:
    creator = event.get("Orgc")
    name = creator.get("name") if isinstance(creator, dict) else None
    source = name if isinstance(name, str) and name else claims.file
    objects = event.get("Object", [])
    groups = [event, *(objects if isinstance(objects, list) else [objects])]
    for group in groups:
        attributes = group.get("Attribute", []) if isinstance(group, dict) else None
        if not isinstance(attributes, list):
            claims.left_out("MISP objects without attributes", group)
            continue
        for attribute in attributes:
            _attribute(attribute, event, source, claims)


def _attribute(
    attribute: Any, event: dict[str, Any], source: str, claims: Claims
) -> None:
    value = attribute.get("value") if isinstance(attribute, dict) else None
    if not isinstance(value, str) or not isinstance(attribute.get("type"), str):
        claims.left_out("MISP attributes without a type and a value", attribute)
        return
    parts = _TYPES.get(attribute["type"])
    if attribute.get("deleted") in (True, "1"):
        claims.left_out("deleted MISP attributes", is_news=False)
    elif not parts:
        reason = "MISP attributes of types that flows do not show"
        claims.left_out(reason, attribute["type"], is_news=False)
    elif attribute.get("to_ids") in (False, "0"):
        reason = "MISP attributes that are not meant for detection"
        claims.left_out(reason, value, is_news=False)
    else:
        _claim(value, parts, attribute, event, source, claims)


def _claim(
    value: str,
    parts: tuple[str, ...],
    attribute: dict[str, Any],
    event: dict[str, Any],
    source: str,
    claims: Claims,
) -> None:
    texts = dict(zip(parts, value.split("|"), strict=False))
    port = port_of(texts.pop("port", None))
    if value.count("|") != len(parts) - 1 or ("port" in parts and port is None):
        claims.left_out("MISP values that do not fit their type", value)
        return
    tags = [*_tags(attribute), *_tags(event)]
    # The attribute's own level comes first.
    levels = [_LEVELS.get(found[1]) for t in tags if (found := _LEVEL.fullmatch(t))]
    labels = [tlp_of(tag) for tag in tags if tag.lower().startswith("tlp:")]
    comment, info = attribute.get("comment"), event.get("info")
    about = {
        "port": port,
        "source": source,
        "confidence": next((x for x in levels if x is not None), None),
        "tlp": strictest([label for label in labels if label]),
        "reference": _text(attribute.get("uuid")),
        "description": _text(comment) or _text(info),
    }
    for hint, text in texts.items():
        claims.add(text, hint, about)


def _tags(holder: dict[str, Any]) -> list[str]:
    tags = holder.get("Tag")
    given = tags if isinstance(tags, list) else []
    names = (tag.get("name") for tag in given if isinstance(tag, dict))
    return [name for name in names if isinstance(name, str)]


def _text(given: object) -> str | None:
    return given if isinstance(given, str) and given.strip() else None
