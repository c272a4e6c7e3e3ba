"""The registered domain of a host name, by the Public Suffix List.

A domain is registered one label below a public suffix, private suffixes such as cloud
storage buckets included: ``cdn7.example.co.uk`` belongs to ``example.co.uk``. What
lies below it is its owner's to choose, and so is what a name there can carry.

Source: https://publicsuffix.org/list/ (the copy that `publicsuffixlist` ships).
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable
from typing import Final

REMEMBERED: Final = 65_536
"""Names whose domain is remembered. Names come from packets, that is, from whoever
sends them: what is remembered of them must be bounded."""


@functools.cache
def _suffix_list() -> Callable[[str], str | None]:
    from publicsuffixlist import PublicSuffixList

    find: Callable[[str], str | None] = PublicSuffixList().privatesuffix
    return find


@functools.lru_cache(maxsize=REMEMBERED)
def registered_domain(text: str) -> str | None:
    """Return the registered domain of a host name, else the name itself.

    Addresses given as names give `None`.
    """
    # A packet engine that cuts long names from the left can leave a dot there.
    name = text.strip().strip(".").lower()
    named_port = name.count(":") == 1 or (name.startswith("[") and "]:" in name)
    host = name.rsplit(":", 1)[0] if named_port else name
    if not host:
        return None
    bare = host.strip("[]")
    # No other text is an address, and asking takes longer than all the rest.
    if ":" in bare or bare[-1:].isdigit():
        try:
            ipaddress.ip_address(bare)
        except ValueError:
            pass
        else:
            return None
    return _suffix_list()(host) or host
