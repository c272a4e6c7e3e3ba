"""Host names and addresses as rules may hold them.

A name in a packet is whatever its sender wrote. What is drafted is a name by RFC 1123
and RFC 5891 alone, with underscores, which occur in DNS: letters, digits, hyphens and
dots, so that nothing in it means anything to the programs that read it.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Final

from exfilml.domains import (
    REMEMBERED,
    are_public_suffixes,
    is_public_suffix,
    registered_domain,
)

_LABEL: Final = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_TOP: Final = "(?:[a-z][a-z0-9-]{0,61}[a-z0-9]|[a-z])"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)+{_TOP}", re.ASCII)
_PORT: Final = re.compile(r":[0-9]{1,5}", re.ASCII)
LONGEST: Final = 253
# Names that mean something inside a site only: RFC 6761, 6762, 8375, 9476, and ICANN's
# reservation of .internal; .corp, .home, .mail, .intranet and .lan are used alike.
_INSIDE: Final = frozenset(
    {
        *("local", "localhost", "localdomain", "internal", "arpa", "alt", "onion"),
        *("invalid", "corp", "home", "mail", "intranet", "lan", "private"),
    }
)


def host_name(text: str) -> str | None:
    """Return a host name in lower-case ASCII, without a port; `None` for what is none."""
    name = text.strip()
    if len(name) > 2 * LONGEST:
        return None
    name = _PORT.sub("", name) if name.count(":") == 1 else name
    name = name.removesuffix(".").lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii").lower()
        except UnicodeError:
            return None
    return name if len(name) <= LONGEST and _NAME.fullmatch(name) else None


def canonical(text: str) -> str:
    """Return an address as rules may hold it.

    Without a zone (RFC 4007): that is any text after a percent sign.

    Raises
    ------
    ValueError
        If it is no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_address(value: str) -> bool:
    """Tell what `canonical` gave from what `host_name` gave."""
    return ":" in value or value.replace(".", "").isdigit()


def host_or_address(text: str) -> str | None:
    """Return a host name, or an address that stands for one; `None` for neither."""
    bare = text.strip()
    bare = bare[1:].partition("]")[0] if bare.startswith("[") else bare
    bare = bare.rpartition(":")[0] if bare.count(":") == 1 else bare
    try:
        return canonical(bare)
    except ValueError:
        return host_name(text)


def why_nobodys(name: str) -> str:
    """Say why a name, as `host_name` gives it, is no place outside; else empty."""
    top = name.rsplit(".", 1)[-1]
    if top in _INSIDE:
        return f"names below .{top} are the site's own or nobody's"
    if is_public_suffix(name):
        return "a public suffix: everyone can register a name below it"
    return ""


def why_many_owners(name: str) -> str:
    """Say why a name is not one owner's; empty if nothing says so."""
    if _is_suffix(name):
        return "its owner hosts the sites of others below it (Public Suffix List)"
    return ""


def hosts_others(name: str) -> bool:
    """Say whether a name lies below a suffix whose owner hosts the sites of others.

    The name is its tenant's, the address behind it is not.
    """
    registered = registered_domain(name) or name
    suffix = registered.partition(".")[2]
    if _is_suffix(name):
        return not is_public_suffix(name)
    return _is_suffix(suffix) and not is_public_suffix(suffix)


@functools.lru_cache(REMEMBERED)
def _is_suffix(name: str) -> bool:
    import pyarrow as pa

    return bool(are_public_suffixes(pa.array([name], pa.string()))[0])
