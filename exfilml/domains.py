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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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


@functools.cache
def _suffixes(*, only_icann: bool) -> Any:
    """Return the list, with or without the suffixes that companies declare."""
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(only_icann=only_icann, accept_unknown=False)


@functools.cache
def _rules() -> tuple[Any, Any]:
    """Return suffixes that the list writes out, and those below which all are some."""
    import pyarrow as pa
    from publicsuffixlist import PSLFILE

    lines = Path(PSLFILE).read_text(encoding="utf-8").splitlines()
    # `!` marks exceptions: the list itself knows them.
    rules = [
        rule if rule.isascii() else rule.encode("idna").decode("ascii")
        for rule in map(str.strip, lines)
        if rule and not rule.startswith(("//", "!", "*"))
    ]
    stars = [line.strip()[2:] for line in lines if line.startswith("*.")]
    return pa.array(rules, pa.string()), pa.array(stars, pa.string())


def is_public_suffix(name: str) -> bool:
    """Say whether a registry registers names below a name: ``co.uk``, ``com``.

    Suffixes that companies declare, such as hosts for the sites of others, are none.
    """
    found: bool = _suffixes(only_icann=True).publicsuffix(name) == name
    return found


def are_public_suffixes(names: Any) -> NDArray[np.bool_]:
    """Say which names of an Arrow array are suffixes, declared by companies or public.

    Only names that some rule writes out, or its parent, are looked up one by one.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rules, stars = _rules()
    parents = pc.replace_substring_regex(names, r"^[^.]*\.", "")
    maybe = pc.or_(pc.is_in(names, value_set=rules), pc.is_in(parents, value_set=stars))
    found = np.zeros(len(names), dtype=bool)
    suffixes = _suffixes(only_icann=False)
    at = np.flatnonzero(maybe.to_numpy(zero_copy_only=False))
    for row, name in zip(
        at.tolist(), names.take(pa.array(at)).to_pylist(), strict=True
    ):
        found[row] = suffixes.publicsuffix(name) == name
    return found
