"""What a STIX pattern asks of flows: alternatives, each an indicator and a port.

The grammar is OASIS's own, in `stix2-patterns` (the `stix2` library parses patterns
with it too, but needs an HTTP client and builds objects that nobody here asks for).
It takes a millisecond for a pattern; the form of nearly all indicators, one comparison
with one value, is read by an expression of its own.

A pattern is understood if one flow can show it: comparisons joined by OR, observations
joined by OR, and a value AND the responder's port. A domain AND what it resolves to
(the form in which MISP exports ``domain|ip``) is matched by the name, and what the flow
does not show is said with each match. AND of other things, FOLLOWEDBY,
WITHIN, REPEATS, START, NOT, LIKE and MATCHES are not answered by halves: such
alternatives are left out and counted.

Source: STIX 2.1, section 9 (https://docs.oasis-open.org/cti/stix/v2.1/).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from exfilml.exceptions import IntelError

MOST_ALTERNATIVES: Final = 10_000
LONGEST: Final = 1_000_000
_SIMPLE: Final = re.compile(
    r"\s*\[\s*([a-z0-9-]+):([a-z0-9_.]+)\s*=\s*'((?:[^'\\]|\\.)*)'\s*\]\s*", re.ASCII
)
_PATHS: Final = {
    "ipv4-addr:value": "address",
    "ipv6-addr:value": "address",
    "domain-name:value": "domain",
    "url:value": "url",
    "network-traffic:dst_ref.value": "any",
    "network-traffic:src_ref.value": "any",
    "network-traffic:extensions.http-request-ext.request_header.Host": "domain",
}
_FINGERPRINTS: Final = frozenset({"ja3", "ja3_hash", "ja3_md5", "ja4"})
# True of every flow that shows the value beside it.
_IMPLIED: Final = re.compile(r"network-traffic:(dst|src)_ref\.type")


class Alternative(NamedTuple):
    """One way to satisfy a pattern: see `exfilml.triage._claims.SCHEMA`."""

    text: str
    hint: str | None
    port: int | None
    unseen: str | None = None


class Understood(NamedTuple):
    """What a pattern asks of flows.

    Attributes
    ----------
    alternatives
        Those that one flow can show.
    partly
        How many others ask for something that flows show, and more.
    others
        How many ask for nothing that flows show, such as files.
    """

    alternatives: list[Alternative]
    partly: int
    others: int


class NoPatternError(ValueError):
    """A text is no pattern."""


class Term(NamedTuple):
    """One comparison.

    Its kind is one of the hints, ``any`` of them, ``port``, ``resolves``, ``true`` (of
    every flow that shows the value beside it), ``more`` (than one flow) or ``other``.
    """

    kind: str
    text: str = ""


OTHER: Final = Term("other")
# Of several observations, or with a qualifier.
MORE: Final = Term("more")


def understand(pattern: str) -> Understood:
    """Return what a pattern asks of flows.

    Raises
    ------
    NoPatternError
        If it is no pattern.
    IntelError
        If `stix2-patterns` is not installed.
    """
    simple = _SIMPLE.fullmatch(pattern)
    if simple:
        term = term_of(f"{simple[1]}:{simple[2]}", unescaped(simple[3]))
        return _understood([(term,)])
    if len(pattern) > LONGEST:
        raise NoPatternError(f"longer than {LONGEST:,} characters")
    try:
        return _understood(_parse(pattern))
    except RecursionError as reason:
        raise NoPatternError("nested too deeply") from reason


def _understood(ways: list[tuple[Term, ...]]) -> Understood:
    alternatives, partly, others = [], 0, 0
    for way in ways:
        said = {term for term in way if term.kind != "true"}
        ports = {term.text for term in said if term.kind == "port"}
        beside = sorted(term.text for term in said if term.kind == "resolves")
        values = [term for term in said if term.kind not in {"port", "resolves"}]
        if len(values) != 1 or values[0] in {OTHER, MORE} or len(ports) > 1:
            is_partly = MORE in values or len(said) > (OTHER in said)
            partly += is_partly
            others += not is_partly
            continue
        (value,) = values
        if beside and value.kind != "domain":
            partly += 1
            continue
        hint = None if value.kind == "any" else value.kind
        port = int(next(iter(ports))) if ports else None
        unseen = f"resolves to {', '.join(beside)}" if beside else None
        alternatives.append(Alternative(value.text, hint, port, unseen))
    return Understood(alternatives, partly, others)


def term_of(path: str, text: str) -> Term:
    """Return what an equation says of a flow."""
    if path in _PATHS:
        return Term(_PATHS[path], text)
    if path == "network-traffic:dst_port":
        is_port = re.fullmatch(r"\d{1,5}", text, re.ASCII) and 0 < int(text) < 65536
        return Term("port", str(int(text))) if is_port else OTHER
    if path == "domain-name:resolves_to_refs.[*].value":
        return Term("resolves", text)
    if _IMPLIED.fullmatch(path):
        return Term("true")
    if path.rsplit(".", 1)[-1].rsplit(":", 1)[-1].lower() in _FINGERPRINTS:
        return Term("fingerprint", text)
    return OTHER


def _parse(pattern: str) -> list[tuple[Term, ...]]:
    """Return the alternatives of a pattern, by the grammar."""
    try:
        from exfilml.triage._stix_grammar import parse
    except ModuleNotFoundError as reason:
        raise IntelError(
            "a STIX pattern of more than one comparison needs the package "
            "stix2-patterns; install exfilml[triage]."
        ) from reason
    return parse(pattern)


def unescaped(text: str) -> str:
    """Return what a quoted text of a pattern says."""
    return re.sub(r"\\(.)", r"\1", text)
