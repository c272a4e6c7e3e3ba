"""The domain that mail goes to, from what its envelope says (RFC 5321)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from exfilml.domains import registered_domain


def recipient_domains(
    senders: Iterable[str | None], recipients: Iterable[Iterable[str | None] | None]
) -> tuple[Any, Any]:
    """Return each mail's first domain other than the sender's, and its first at all.

    Mail to colleagues and one other is told by the other. Both are Arrow arrays, with
    None where nobody is named.
    """
    foreign: list[str | None] = []
    first: list[str | None] = []
    for sender, named in zip(senders, recipients, strict=True):
        domains = [domain for text in named or () if (domain := _domain(text))]
        own = registered_domain(_domain(sender) or "")
        others = (d for d in domains if registered_domain(d) != own or own is None)
        foreign.append(next(others, None))
        first.append(domains[0] if domains else None)
    return pa.array(foreign, pa.string()), pa.array(first, pa.string())


def _domain(mailbox: str | None) -> str | None:
    local, at, domain = (mailbox or "").rpartition("@")
    domain = domain.strip().rstrip(">").strip("[]. ").lower()
    return domain if at and local and domain else None
