"""Names what a file is that holds no flows, or that is not read yet.

A refusal that knows the file tells the reader what to do with it.
"""

from __future__ import annotations

from exfilml.exceptions import SourceError


class CompanionError(SourceError):
    """A log of Zeek that is read where it lies beside conn.log, and not alone."""


def refusal(path: str, head: bytes) -> SourceError | None:
    """Say what a file is, by its first bytes; None if they are unknown."""
    # Late, as `_discover.READERS`.
    from exfilml.sources._zeek_log import fields_of

    if fields_of(head):
        return CompanionError(
            f"{path}: a log of Zeek that counts no bytes; its names are used where it "
            "lies beside conn.log."
        )
    if head.startswith((b"Date first seen", b"Date flow start")):
        return SourceError(
            f"{path}: nfdump's printed format; print it with `nfdump -r FILE -o csv`."
        )
    if head.startswith((b"version account-id", b"version account_id")) or (
        head[:2] in {b"2 ", b"3 ", b"5 "}
        and (b" ACCEPT " in head or b" NODATA" in head)
    ):
        return SourceError(f"{path}: AWS VPC flow logs, which are not read yet.")
    if b"AzureNetworkAnalytics" in head or b"FlowIntervalEndTime" in head:
        return SourceError(f"{path}: Azure flow logs, which are not read yet.")
    if head.startswith(b"{") and b'"class_uid"' in head:
        return SourceError(f"{path}: OCSF events, which are not read yet.")
    return None
