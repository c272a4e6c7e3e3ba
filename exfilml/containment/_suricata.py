"""Rules of Suricata 7: alerts on what a case showed.

Keywords: https://docs.suricata.io/en/suricata-7.0.10/rules/. Signature ids lie in the
range that is reserved for local use (https://sidallocation.org), above the first
100,000, which hand-written rules take. They follow from case and rule, so that a rule
keeps its id; of two that would have the same one takes the next. The revision is the
day of the draft.

Suricata 7 cannot ask whether bytes look random; what it can say of opaque bytes is that
no protocol was recognised in them (``app-layer-protocol:failed``). It says so when both
sides sent something, or one side 100 kB, and the rule holds for packets after that.
``dsize`` makes it a rule about packets: without it Suricata asks once, of the packet
that follows its own verdict, which `flow` then rules out.

Rules about what others need name the case's own host as their source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from exfilml.containment._draft import Draft
from exfilml.containment._ports import Stream
from exfilml.containment._targets import Target
from exfilml.containment._texts import quoted_rule

FIRST_SID: Final = 1_100_000
LAST_SID: Final = 1_999_999
_PRIORITY: Final = {"L1": 3, "T2": 2, "incident": 1}
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp"}
_ONCE: Final = "threshold:type limit,track by_src,seconds 3600,count 1"
_WHAT: Final = (
    "Rules alert. Where Suricata is inline, drop in place of alert would block: never",
    "do so where (alert only) stands.",
)


@dataclass(frozen=True)
class _Rule:
    """A rule without its id; `key` tells it from the others of its case."""

    key: str
    head: str
    msg: str
    options: tuple[str, ...]


def rules(draft: Draft, taken: set[int]) -> str:
    """Write the rules of a case; empty if there is nothing to write.

    Parameters
    ----------
    draft
        The case.
    taken
        Signature ids of other cases; those of this one are added.
    """
    found = [*_addresses(draft), *_names(draft), *_opaque(draft)]
    if not found:
        return ""
    return draft.header(list(_WHAT)) + "".join(
        _written(rule, draft, taken) + "\n" for rule in found
    )


def _written(rule: _Rule, draft: Draft, taken: set[int]) -> str:
    msg = f"exfilml draft, case {draft.case}: {rule.msg}"
    metadata = [
        f"exfilml_case {draft.case}",
        f"exfilml_level {draft.level}",
        f"created_at {draft.at:%Y_%m_%d}",
        f"expires_at {draft.expires:%Y_%m_%d}",
        f"mitre_technique_id {draft.technique}",
    ]
    options = [
        f"msg:{quoted_rule(msg)}",
        *rule.options,
        _ONCE,
        "classtype:policy-violation",
        f"priority:{_PRIORITY[draft.level]}",
        f"metadata:{', '.join(metadata)}",
        f"sid:{_sid(draft.case, rule.key, taken)}",
        f"rev:{draft.at:%Y%m%d}",
    ]
    return f"alert {rule.head} ({'; '.join(options)};)"


def _sid(case: str, key: str, taken: set[int]) -> int:
    """Return a signature id that follows from case and rule, and note it."""
    digest = hashlib.sha256(f"{case} {key}".encode()).digest()
    room = LAST_SID - FIRST_SID + 1
    sid = FIRST_SID + int.from_bytes(digest[:8], "big") % room
    while sid in taken:
        sid = FIRST_SID + (sid + 1 - FIRST_SID) % room
    taken.add(sid)
    return sid


def _addresses(draft: Draft) -> Iterator[_Rule]:
    targets = draft.targets
    for shared in (False, True):
        found = targets.only(names=False, shared=shared)
        if not found:
            continue
        sources = targets.hosts if shared else ()
        for stream in targets.streams:
            if stream.to_own:
                continue
            kind = _named(stream)
            yield _Rule(
                f"address {kind} {'shared' if shared else ''}",
                _head(stream, sources, (t.value for t in found)),
                f"{kind} with {_some(found)}{_note(shared=shared)}",
                _from_opener(stream),
            )


def _opaque(draft: Draft) -> Iterator[_Rule]:
    """Look for the same, from the same host, to wherever it goes."""
    targets = draft.targets
    for stream in targets.streams:
        if not stream.concealed or stream.from_remote or stream.port is None:
            continue
        yield _Rule(
            f"opaque {_named(stream)}",
            _head(stream, targets.hosts, ()),
            f"no known protocol on {_named(stream)} from {targets.hosts[0]} (alert only)",
            (*_from_opener(stream), "dsize:>0", "app-layer-protocol:failed"),
        )


_BUFFERS: Final = (
    # Of http.host Suricata keeps lower case and refuses `nocase`.
    ("dns", "dns.query", "nocase; "),
    ("tls", "tls.sni", "nocase; "),
    ("http", "http.host", ""),
)


def _names(draft: Draft) -> Iterator[_Rule]:
    targets = draft.targets
    for shared in (False, True):
        source = _listed(targets.hosts if shared else ())
        for target in targets.only(names=True, shared=shared):
            for protocol, buffer, nocase in _BUFFERS:
                if target.is_mail and protocol != "dns":
                    continue
                yield _Rule(
                    f"{buffer} {target.value}",
                    f"{protocol} {source} any -> any any",
                    f"{target.value} asked for ({buffer}){_note(shared=shared)}",
                    (_content(buffer, target, nocase),),
                )


def _content(buffer: str, target: Target, nocase: str) -> str:
    # A dot before both: `evil.example` must not match `notevil.example`.
    if target.below:
        text = f'dotprefix; content:".{target.value}"; {nocase}endswith'
    else:
        text = f'content:"{target.value}"; {nocase}bsize:{len(target.value)}'
    return f"{buffer}; {text}"


def _note(*, shared: bool) -> str:
    return " (shared, alert only)" if shared else ""


def _some(found: tuple[Target, ...]) -> str:
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return found[0].value + more


def _named(stream: Stream) -> str:
    name = _PROTOCOLS.get(stream.protocol, f"ip protocol {stream.protocol}")
    return name if stream.port is None else f"{name}/{stream.port}"


def _head(stream: Stream, local: Iterable[str], remote: Iterable[str]) -> str:
    """Return protocol, ends and ports, from the opener to the responder."""
    protocol = _PROTOCOLS.get(stream.protocol, "ip")
    port = "any" if stream.port is None else str(stream.port)
    opener, responder = _listed(local), _listed(remote)
    if stream.from_remote:
        opener, responder = responder, opener
    return f"{protocol} {opener} any -> {responder} {port}"


def _from_opener(stream: Stream) -> tuple[str, ...]:
    if stream.protocol == 6:
        return ("flow:established,to_server",)
    if stream.protocol == 17:
        return ("flow:to_server",)
    return () if stream.protocol in _PROTOCOLS else (f"ip_proto:{stream.protocol}",)


def _listed(addresses: Iterable[str]) -> str:
    texts = list(addresses)
    return f"[{','.join(texts)}]" if texts else "any"
