"""Entries of Zeek's intelligence framework.

Tab-separated, with a line of fields; ``-`` stands for what is not set, and a backslash
begins an escape. Sources: https://docs.zeek.org/en/master/frameworks/intel.html and
.../scripts/policy/frameworks/intel/do_notice.zeek.html. The format knows no expiry:
it stands in the description, and the site's ``Intel::item_expiration`` holds for all.
"""

from __future__ import annotations

from typing import Final

from exfilml.containment._draft import Draft, stamp
from exfilml.containment._texts import plain

FIELDS: Final = (
    *("indicator", "indicator_type", "meta.source", "meta.desc", "meta.url"),
    "meta.do_notice",
)


def entries(draft: Draft) -> str:
    """Write the entries of a case; empty if nothing is the case's alone."""
    targets = draft.targets
    found = [*targets.only(names=False), *targets.only(names=True)]
    if not found:
        return ""
    what = [
        "Load with redef Intel::read_files, frameworks/intel/seen and .../do_notice.",
        "Take it out when it expires: Zeek does not know.",
    ]
    if any(t.below for t in found):
        what.append(
            "Zeek compares whole names: names below a domain, as DNS tunnels use them, "
            "are met by the other drafts only."
        )
    desc = (
        f"exfilml draft, case {draft.case}, level {draft.level}, "
        f"expires {stamp(draft.expires)}"
    )
    rows = [
        (
            t.value,
            "Intel::DOMAIN" if t.is_name else "Intel::ADDR",
            "exfilml",
            desc,
            draft.url,
            "T",
        )
        for t in found
    ]
    lines = ["#fields\t" + "\t".join(FIELDS), *("\t".join(map(_cell, r)) for r in rows)]
    return draft.header(what) + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return plain(text).replace("\\", "\\x5c")
