"""Containment drafts: what could stop or watch a case, for review, never applied.

`draft_containment` writes texts and touches nothing. Each draft names its case, its
level and its expiry, and says what it would mean for others.

For cases that go to L1 or higher: rules of Suricata (``CASE.rules``), of nftables
(``CASE.nft``) and of Sigma (``CASE.yml``), entries of Zeek's intelligence framework
(``CASE.intel``). For all, those to watch included, a list (``watch_list.csv``) that
`exfilml.read_intel` reads. ``REVIEW.txt`` says what was drafted, and what was not and
why.

A block of what others need does more harm than the case. What is shared
(`exfilml.containment._sharing`) is in no block, no list and no intelligence; rules that
alert about it name the case's own host. The site's own addresses, and the proxy or
resolver that data went through, are in no draft at all.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from exfilml.containment import _nftables, _sigma, _suricata, _zeek
from exfilml.containment._draft import Draft, stamp
from exfilml.containment._gathering import targets_of
from exfilml.containment._neighbours import NOT_ASKED, Neighbours
from exfilml.containment._site import Site
from exfilml.containment._texts import plain
from exfilml.exceptions import OptionError, OutputError
from exfilml.export import complete_file, to_text
from exfilml.networks import Networks
from exfilml.places import parse_networks
from exfilml.policy import Policy
from exfilml.triage._times import time_of
from exfilml.triage.case import LEVELS, Case, Triage

DEFAULT_DAYS: Final = 14
MOST_DAYS: Final = 366
WATCH_LIST: Final = "watch_list.csv"
REVIEW: Final = "REVIEW.txt"
WATCH_COLUMNS: Final = (
    *("indicator", "kind", "case", "reason", "first_seen", "last_seen", "expires"),
)
_LEAST_LEVEL: Final = LEVELS.index("L1")
# Names of files and of tables come from it.
_CASE_NAME: Final = re.compile(r"[0-9A-Za-z]{1,32}", re.ASCII)


@dataclass(frozen=True, eq=False)
class Drafts:
    """Containment drafts, as `exfilml.draft_containment` gives them.

    Attributes
    ----------
    files
        Texts by file name.
    left_out
        DataFrame ``case``, ``about`` (an address, a name or a kind of draft) and
        ``reason``: what is not drafted, or not for blocking.
    """

    files: Mapping[str, str] = field(repr=False)
    left_out: pd.DataFrame

    def write(self, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write the drafts into a folder, which is made if there is none.

        Files of the same names are replaced, others stay.

        Returns
        -------
        tuple of pathlib.Path
            The files.

        Raises
        ------
        OutputError
            If the folder cannot be written to.
        """
        root = Path(folder)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(
                f"{folder}: no folder for drafts can be made there: {reason}. Choose "
                "a folder that you may write to."
            ) from error
        paths = []
        for name, text in self.files.items():
            with complete_file(root / name) as part:
                part.write_text(text, encoding="utf-8", newline="")
            paths.append(root / name)
        return tuple(paths)


def draft_containment(
    triage: Triage | Case,
    *,
    flows: pd.DataFrame | None = None,
    case: str | None = None,
    home: Iterable[str] | str | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    expires: dt.datetime | dt.timedelta | str | None = None,
    at: dt.datetime | str | None = None,
) -> Drafts:
    """Draft what could stop or watch some cases; nothing is applied.

    Parameters
    ----------
    triage
        A triage, or one case of it.
    flows
        The flows that were triaged, to see who else uses the addresses: what other
        hosts need is not blocked. Without them that is not known, and said so.
    case
        Name of the only case to draft for; the others still say what is known of it.
    home
        The site's own networks, never a target; those of the policy by default, else
        private networks.
    policy
        What the site declares, or the path of a policy file: its resolvers, proxies,
        mail relays and translated addresses are never a target, and what it approves
        is never blocked.
    expires
        Until when the drafts hold, or how long; 14 days by default, 366 at most.
    at
        The time of the draft, by default that of the triage, of a single case now.

    Raises
    ------
    FlowsError
        If the flows are no flows table.
    OptionError
        If an option is out of range, or no case has that name.
    PolicyError
        If the policy is none.
    """
    if not isinstance(triage, Triage | Case):
        raise OptionError(
            f"draft_containment: got {type(triage).__name__}, expected what "
            "exfilml.triage_cases gives, or one case of it."
        )
    cases = (triage,) if isinstance(triage, Case) else triage.cases
    made = triage.about.get("made") if isinstance(triage, Triage) else None
    begin = _moment("at", at if at is not None else made)
    end = _end(begin, expires)
    for one in cases:
        if not _CASE_NAME.fullmatch(one.name):
            raise OptionError(
                f"case {plain(one.name)!r}: no name of a case, which is made of "
                "letters and digits; give cases of exfilml.triage_cases."
            )
    wanted = [one for one in cases if case in {None, one.name}]
    if case is not None and not wanted:
        raise OptionError(
            f"case {plain(case)!r}: none of the {len(cases):,} cases has this name."
        )
    site, home_networks = _site(home, policy, begin)
    neighbours = NOT_ASKED
    if flows is not None:
        neighbours = Neighbours.of(flows, home_networks, cases)
    found = [targets_of(one, site, neighbours) for one in wanted]
    # Known from one case, it holds for all of them.
    shared = {t.value: t.shared for targets in found for t in targets.found if t.shared}
    return _drafted([Draft(t.sharing(shared), begin, end) for t in found], begin, end)


def _drafted(drafts: list[Draft], begin: pd.Timestamp, end: pd.Timestamp) -> Drafts:
    files: dict[str, str] = {}
    left_out: list[tuple[str, str, str]] = []
    told = [
        "Containment drafts of exfilml, for review. Nothing was applied.",
        f"Made {stamp(begin)}, expire {stamp(end)}.",
    ]
    taken: set[int] = set()
    for draft in drafts:
        mine = {name: text for name, text in _texts(draft, taken) if text}
        files.update(mine)
        missing = [(draft.case, *pair) for pair in _missing(draft, mine)]
        left_out += missing
        told += ["", *_told(draft, mine, missing)]
    watched = _watch_list(drafts)
    files[WATCH_LIST] = to_text(watched, "csv")
    told += ["", f"{WATCH_LIST}: {len(watched)} indicators, for exfilml's --intel."]
    files[REVIEW] = "\n".join(plain(line, 1000) for line in told) + "\n"
    return Drafts(
        files,
        pd.DataFrame(left_out, columns=["case", "about", "reason"], dtype="str"),
    )


def _texts(draft: Draft, taken: set[int]) -> Iterator[tuple[str, str]]:
    if LEVELS.index(draft.level) < _LEAST_LEVEL:
        return
    yield f"{draft.case}.rules", _suricata.rules(draft, taken)
    yield f"{draft.case}.nft", _nftables.table(draft)
    yield f"{draft.case}.intel", _zeek.entries(draft)
    yield f"{draft.case}.yml", _sigma.rules(draft)


def _missing(draft: Draft, mine: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield from draft.targets.told
    if LEVELS.index(draft.level) < _LEAST_LEVEL:
        reason = f"decided {draft.level}: drafted from L1 on, below it is only watched"
        yield "rules", reason
    elif f"{draft.case}.nft" not in mine:
        reason = "no address is the case's alone: nothing to block by address"
        yield "nftables", reason
    if any(t.is_mail for t in draft.targets.found):
        reason = "stop mail to the domain at the mail relay; no rule here can"
        yield "mail", reason


def _told(
    draft: Draft, mine: Mapping[str, str], missing: list[tuple[str, str, str]]
) -> Iterator[str]:
    yield f"Case {draft.case}, decided {draft.targets.case.decision.text}"
    yield f"  For others: {draft.targets.others}."
    yield f"  Drafted: {', '.join(mine) or 'nothing'}"
    for target in draft.targets.found:
        kind = "shared" if target.shared else "its alone, as far as is known"
        yield f"    {target.value} ({kind}), {target.up_bytes:,} bytes sent"
    for _, about, reason in missing:
        yield f"  Left out: {about}: {reason}"


def _watch_list(drafts: list[Draft]) -> pd.DataFrame:
    rows = [
        (
            target.value,
            "domain" if target.is_name else "address",
            draft.case,
            f"decided {draft.targets.case.decision.text}",
            target.first,
            target.last,
            draft.expires,
        )
        for draft in drafts
        for target in draft.targets.found
        if not target.shared
    ]
    table = pd.DataFrame(rows, columns=list(WATCH_COLUMNS))
    texts = dict.fromkeys(WATCH_COLUMNS[:4], "str")
    times = dict.fromkeys(WATCH_COLUMNS[4:], "datetime64[us, UTC]")
    return table.astype({**texts, **times})


def _site(
    home: Iterable[str] | str | None,
    policy: Policy | str | os.PathLike[str] | None,
    at: pd.Timestamp,
) -> tuple[Site, tuple[str, ...]]:
    """Return what is never a target, and the home networks."""
    declared = Policy() if policy is None else Policy.of(policy)
    networks = parse_networks(declared.home if home is None else home)
    more = (declared.nat, declared.resolvers, declared.proxies, declared.mail_relays)
    own = (*networks, *(text for some in more for text in some.texts))
    return Site(Networks(own), declared, at), networks


def _moment(name: str, given: object) -> pd.Timestamp:
    """Return a time in UTC, to the second; now if none is given."""
    if given is None:
        return pd.Timestamp.now(tz="UTC").floor("s")
    moment = time_of(given)
    if np.isnat(moment):
        raise OptionError(
            f"{name}: got {plain(str(given), 80)!r}, expected a time such as "
            "2026-11-28T12:00:00Z."
        )
    return pd.Timestamp(moment, tz="UTC").floor("s")


def _end(
    begin: pd.Timestamp, expires: dt.datetime | dt.timedelta | str | None
) -> pd.Timestamp:
    if expires is None:
        expires = dt.timedelta(days=DEFAULT_DAYS)
    most = dt.timedelta(days=MOST_DAYS)
    if isinstance(expires, dt.timedelta):
        lasting = expires
    else:
        lasting = _moment("expires", expires) - begin
    if not dt.timedelta(seconds=1) <= lasting <= most:
        raise OptionError(
            f"expires: got {lasting} after {stamp(begin)}, expected up to {MOST_DAYS} "
            "days after the draft: give it anew when it is still needed."
        )
    return (begin + lasting).floor("s")
