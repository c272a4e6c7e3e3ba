"""A table of nftables that drops what goes to a case's addresses, until it expires.

Each address has a timeout, which runs from when the table is loaded; the rules ask for
the time as well, so that a table that is loaded late still ends on the day it says.
Sources: nft(8), https://wiki.nftables.org/wiki-nftables/index.php/Element_timeouts.
"""

from __future__ import annotations

from typing import Final

from exfilml.containment._draft import Draft, stamp
from exfilml.containment._targets import Target

_HOOKS: Final = ("input", "forward", "output")


def table(draft: Draft) -> str:
    """Write the table of a case; empty if no address is the case's alone."""
    found = draft.targets.only(names=False)
    if not found:
        return ""
    name = f"inet exfilml_{draft.case}"
    what = [
        "Drops and counts all packets from and to the addresses, on this machine.",
        "Load it on a router or firewall of the site; your own rules stay as they are.",
        f"Check: nft -c -f FILE. Load: nft -f FILE. Undo: nft delete table {name}",
        f"Ends at {stamp(draft.expires)} (meta time), or with the timeouts before it.",
    ]
    named = [t.value for t in draft.targets.only(names=True)]
    if named:
        what.append(f"The addresses answered for {', '.join(named[:3])}.")
        what.append("Whether others need other names there is not visible here.")
    seconds = max(int((draft.expires - draft.at).total_seconds()), 1)
    four = [t for t in found if ":" not in t.value]
    six = [t for t in found if ":" in t.value]
    lines = [
        # The first line makes the second one work when there is none yet.
        f"table {name}",
        f"delete table {name}",
        f"table {name} {{",
        *_set("remote4", "ipv4_addr", four, seconds),
        *_set("remote6", "ipv6_addr", six, seconds),
        "    chain remote {",
        f"        meta time >= {int(draft.expires.timestamp())} return",
        *(
            f"        {family} {end} @remote{n} counter drop"
            for family, n in (("ip", 4), ("ip6", 6))
            for end in ("daddr", "saddr")
        ),
        "    }",
    ]
    for hook in _HOOKS:
        lines += [
            f"    chain {hook} {{",
            f"        type filter hook {hook} priority -10; policy accept;",
            "        jump remote",
            "    }",
        ]
    return draft.header(what) + "\n".join([*lines, "}"]) + "\n"


def _set(name: str, kind: str, found: list[Target], seconds: int) -> list[str]:
    lines = [f"    set {name} {{", f"        type {kind}", "        flags timeout"]
    if found:
        elements = [f"            {t.value} timeout {seconds}s," for t in found]
        elements[-1] = elements[-1].removesuffix(",")
        lines += ["        elements = {", *elements, "        }"]
    return [*lines, "    }"]
