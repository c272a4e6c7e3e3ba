"""What of a site is never a target, and what it approves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pandas as pd

from exfilml.containment._names import is_address
from exfilml.networks import SPECIAL_NETWORKS, Networks
from exfilml.policy import Policy

_SPECIAL: Final = Networks(SPECIAL_NETWORKS)


@dataclass(frozen=True)
class Site:
    """What of the site is never a target, and what it approves.

    Attributes
    ----------
    own
        Its networks, and its resolvers, proxies, relays and translated addresses.
    policy
        What it declares.
    at
        The time of the draft: approvals that ended before approve nothing.
    """

    own: Networks
    policy: Policy
    at: pd.Timestamp

    def why_approved(self, value: str) -> str:
        """Say which approval an address or a name falls under; else empty."""
        for approval in self.policy.approvals:
            if approval.expires < self.at.date():
                continue
            name = value
            if approval.networks and is_address(value):
                met = approval.networks.covers(value)
            else:
                met = any(f".{name}".endswith(f".{p}") for p in approval.places)
            if met:
                return f"the policy approves transfers there ({approval.reason})"
        return ""

    def why_own(self, address: str) -> str:
        """Say why an address is the site's own, or nobody's; else empty."""
        if self.own.covers(address):
            return "the site's own network, resolver, proxy or relay, never a target"
        if _SPECIAL.covers(address):
            return "an address of special use (RFC 6890), never a target"
        return ""
