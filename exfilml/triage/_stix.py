"""STIX 2.0 and 2.1 bundles, and TAXII envelopes of such objects, as JSON files.

Read are objects of type ``indicator`` whose pattern is a STIX pattern. Of several
versions of an object the last one modified counts; revoked ones are left out. Observed
addresses (``ipv4-addr`` and other observables) are no indicators: nobody claims that
they are bad.

Source: STIX 2.1, sections 3 (common properties), 4.7 (indicator) and 7.2.1.4 (TLP;
https://docs.oasis-open.org/cti/stix/v2.1/), and the extension for TLP 2.0
(https://github.com/oasis-open/cti-stix-common-objects).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa

from exfilml.triage._account import Account
from exfilml.triage._claims import Claims, confidence_of, strictest, tlp_of
from exfilml.triage._stix_pattern import NoPatternError, understand
from exfilml.triage._texts import Text
from exfilml.triage._times import time_of

TLP_2_IDS: Final = {
    "clear": "94868c89-83c2-464b-929b-a1a8aa3c8487",
    "green": "bab4a63c-aed9-4cf5-a766-dfca5abac2bb",
    "amber": "55d920b0-5e8b-4f79-9ee9-91f868d9b421",
    "amber+strict": "939a9414-2ddd-4d32-a0cd-375ea402b003",
    "red": "e828b379-4e03-4974-9ac4-e53a884c97c1",
}
_TLP_IDS: Final = {
    # TLP 1 of STIX 2.0 and 2.1.
    "613f2e26-407d-48c7-9eca-b8e91df99dc9": "clear",
    "34098fce-860f-48ae-8e50-ebd3cc5e41da": "green",
    "f88d31f6-486f-44da-b317-01333bde0b82": "amber",
    "5e57c739-391a-4eb3-b6be-7d15ca92d5ed": "red",
    **{number: label for label, number in TLP_2_IDS.items()},
}
_MORE: Final = "STIX patterns that ask for more than one flow shows"
_NOT_SEEN: Final = "STIX patterns for what flows do not show"


def is_mine(data: Any) -> bool:
    """Say whether JSON is a bundle or an envelope."""
    return isinstance(data, dict) and (
        data.get("type") == "bundle" or isinstance(data.get("objects"), list)
    )


def read(text: Text, data: dict[str, Any], account: Account) -> pa.Table:
    """Return the claims of a bundle."""
    claims = Claims(text.name, account)
    objects = data.get("objects", [])
    if not isinstance(objects, list):
        claims.left_out("bundles whose objects are no list", objects)
        objects = []
    known = _last_modified(objects, claims)
    labels = {f"marking-definition--{i}": t for i, t in _TLP_IDS.items()}
    names: dict[str, str] = {}
    for each in known:
        if each.get("type") == "marking-definition":
            label = _label(each)
            if label:
                labels[str(each.get("id"))] = label
        elif each.get("type") == "identity" and isinstance(each.get("name"), str):
            names[str(each.get("id"))] = each["name"]
    for each in known:
        if each.get("type") == "indicator":
            _indicator(each, labels, names, claims)
        else:
            claims.left_out("STIX objects that are no indicators", is_news=False)
    return claims.table()


def _last_modified(objects: list[Any], claims: Claims) -> list[dict[str, Any]]:
    """Return objects without their earlier versions."""
    last: dict[str, dict[str, Any]] = {}
    for n, each in enumerate(objects):
        if not isinstance(each, dict) or not isinstance(each.get("type"), str):
            claims.left_out("STIX objects without a type", each)
            continue
        # An object without an id has no versions.
        key = each["id"] if isinstance(each.get("id"), str) else f"#{n}"
        if key in last:
            claims.left_out("earlier versions of STIX objects", is_news=False)
            if _modified(each) < _modified(last[key]):
                continue
        last[key] = each
    return list(last.values())


def _modified(each: dict[str, Any]) -> Any:
    time = time_of(each.get("modified") or each.get("created"))
    return time.astype("int64")


def _label(marking: dict[str, Any]) -> str | None:
    """Return the TLP label of a marking definition."""
    definition = marking.get("definition")
    given = definition.get("tlp") if isinstance(definition, dict) else None
    extensions = marking.get("extensions")
    for extension in extensions.values() if isinstance(extensions, dict) else ():
        if isinstance(extension, dict):
            given = extension.get("tlp_2_0", given)
    return tlp_of(given) or tlp_of(marking.get("name"))


def _indicator(
    each: dict[str, Any], labels: dict[str, str], names: dict[str, str], claims: Claims
) -> None:
    pattern = each.get("pattern")
    language = each.get("pattern_type", "stix")
    if each.get("revoked") is True:
        claims.left_out("revoked STIX indicators", is_news=False)
        return
    if language != "stix":
        reason = "STIX indicators in other pattern languages"
        claims.left_out(reason, language, is_news=False)
        return
    try:
        if not isinstance(pattern, str):
            raise NoPatternError("no text")
        alternatives, partly, others = understand(pattern)
    except NoPatternError:
        claims.left_out("STIX patterns that are none", pattern)
        return
    for reason, n, is_news in ((_MORE, partly, True), (_NOT_SEEN, others, False)):
        claims.account.add(claims.file, reason, n, pattern, is_news=is_news)
    confidence = each.get("confidence")
    about = {
        "source": names.get(str(each.get("created_by_ref")), claims.file),
        "confidence": confidence_of(confidence),
        "tlp": strictest(_labels(each, labels)),
        "reference": each["id"] if isinstance(each.get("id"), str) else None,
        "description": _first_text(each.get("name"), each.get("description")),
    }
    if confidence is not None and about["confidence"] is None:
        claims.left_out("confidences that are none (0 to 100)", confidence)
    for name in ("valid_from", "valid_until"):
        about[name] = time = time_of(each.get(name))
        if each.get(name) is not None and np.isnat(time):
            claims.left_out(f"times of {name}", each[name])
    for text, hint, port, unseen in alternatives:
        claims.add(text, hint, {**about, "port": port, "unseen": unseen})


def _labels(each: dict[str, Any], labels: dict[str, str]) -> list[str]:
    refs = each.get("object_marking_refs")
    given = refs if isinstance(refs, list) else []
    return [labels[ref] for ref in given if isinstance(ref, str) and ref in labels]


def _first_text(*given: object) -> str | None:
    texts: Iterable[str] = (g for g in given if isinstance(g, str) and g.strip())
    return next(iter(texts), None)
