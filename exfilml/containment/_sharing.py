"""Whether others need what a case went to.

Known from the case alone: how many other hosts of the site used the place in the
baseline and in the history, what nDPI and the Public Suffix List know of addresses and
names, and whether the technique is a web service. That nothing is known of others is
said, and does not mean that there are none.
"""

from __future__ import annotations

from typing import Final

from exfilml.containment._names import host_name, hosts_others
from exfilml.triage.case import Case, Fact

MANY_HOSTS: Final = 5
"""Other hosts of the site that used a place before, from which on it is shared."""
# What nDPI calls addresses and names of clouds, CDNs and services that everyone uses,
# as they begin (https://github.com/ntop/nDPI, ndpi_protocol_ids.h).
_SHARED_APPS: Final = (
    *("AWS", "Akamai", "Alibaba", "Amazon", "Apple", "Azure", "Cloudflare"),
    *("DigitalOcean", "Discord", "DropBox", "Dropbox", "Edgecast", "Facebook"),
    *("GitHub", "GitLab", "Google", "MS_OneDrive", "Microsoft", "Oracle", "Pastebin"),
    *("Salesforce", "Slack", "Teams", "Telegram", "Tencent", "Yandex", "iCloud"),
)


def why_place_is_shared(case: Case) -> str:
    """Say why others need the place of a case, by whatever address; else empty."""
    web = next((t.id for t in case.techniques if t.id.startswith("T1567")), "")
    if web:
        return f"a web service that others use too (ATT&CK {web})"
    others = other_hosts(case)
    if others is not None and others >= MANY_HOSTS:
        return f"{others:,} other hosts of the site used it before"
    return ""


def why_address_is_shared(case: Case) -> str:
    """Say why others need the addresses of a case, if not the place; else empty."""
    for app in case.flows["app"].dropna().unique():
        names = [p for p in str(app).split(".") if p.startswith(_SHARED_APPS)]
        if names:
            return f"in the networks of {names[0]}, as nDPI knows them"
    for text in case.flows["server_name"].dropna().unique():
        name = host_name(text)
        if name and hosts_others(name):
            return f"the host of {name} hosts the sites of others (Public Suffix List)"
    return ""


def other_hosts(case: Case) -> int | None:
    """Return how many other hosts used the place before; `None` if no fact tells.

    By the baseline (facts on the ``destination``) and the history.
    """
    known = []
    for fact in _destination(case):
        # The host itself is one of them, unless the place is new to it.
        itself = 0 if fact.numbers.get("new_to_host") else 1
        known.append(max(int(fact.numbers["hosts_of_the_site"]) - itself, 0))
    history = case.history
    if {"by", "hosts"} <= set(history.columns):
        seen = history[history["hosts"].notna()].groupby("by")["hosts"].max()
        if "place" in seen.index:
            itself = 1 if seen.get("host_place", 0) else 0
            known.append(max(int(seen["place"]) - itself, 0))
    return max(known) if known else None


def _destination(case: Case) -> list[Fact]:
    """Return facts on how well the site and the host know where data went."""
    answers = (*case.questions, *case.indicators)
    facts = [*case.against, *(fact for answer in answers for fact in answer.facts)]
    return [
        fact
        for fact in facts
        if fact.name.startswith("destination.") and "hosts_of_the_site" in fact.numbers
    ]


def others_told(case: Case) -> str:
    """Say who else uses the place of a case, and whether its host did before."""
    others = other_hosts(case)
    if others is None:
        told = "how many other hosts use the place is not known here"
    elif others == 0:
        told = "no other host of the site used the place before, as far as is known"
    else:
        hosts = "1 other host" if others == 1 else f"{others:,} other hosts"
        told = f"{hosts} of the site used the place before"
    for fact in _destination(case):
        flows = fact.numbers.get("flows_of_host")
        if flows:
            days = int(fact.numbers["days_of_host"])
            return (
                f"{told}; the case's own host used it in {flows:,.0f} flows on {days:,} "
                "days of the baseline"
            )
    return told
