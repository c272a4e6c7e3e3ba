"""Names what a file is that holds no flows, or that is not read yet.

A refusal that knows the file tells the reader what to do with it.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from exfilml.exceptions import SourceError

# nfdump's nffile.h: magic, in the order of bytes of the machine that wrote it.
_NFDUMP: Final = (b"\x0c\xa5", b"\xa5\x0c")
_COMMON_LOG: Final = re.compile(
    rb'\S+ \S+ [^\[\r\n]*\[[0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[^\]\r\n]+\] "[^\r\n]*" [0-9]{3} '
)
_VERSIONS: Final = {5: "NetFlow version 5", 9: "NetFlow version 9", 10: "IPFIX"}


class CompanionError(SourceError):
    """A log of Zeek that is read where it lies beside conn.log, and not alone."""


def refusal(path: str, head: bytes) -> SourceError | None:  # noqa: PLR0911
    """Say what a file is, by its first bytes; None if they are unknown."""
    # Late, as `_discover.READERS`.
    from exfilml.sources import _squid, _w3c
    from exfilml.sources._zeek_log import fields_of

    of_requests = _squid.refusal(path, head) or _w3c.refusal(path, head)
    if of_requests is not None:
        return of_requests
    if fields_of(head):
        return CompanionError(
            f"{path}: a log of Zeek that counts no bytes; its names are used where it "
            "lies beside conn.log."
        )
    if _COMMON_LOG.match(head):
        return SourceError(
            f"{path}: a web server's access log, which counts what was sent to clients "
            "and neither uploads nor the server's address."
        )
    if head.startswith((*_NFDUMP, b"Date first seen", b"Date flow start")):
        what = "own" if head.startswith(_NFDUMP) else "printed"
        return SourceError(
            f"{path}: nfdump's {what} format; print it with `nfdump -r FILE -o csv`."
        )
    if len(head) >= 20:
        version, count = struct.unpack(">HH", head[:4])
        # Records of version 5, flow sets of version 9, bytes of IPFIX.
        if version in _VERSIONS and 0 < count <= 65535 and b"\0" in head[:20]:
            return SourceError(
                f"{path}: {_VERSIONS[version]} as an exporter sends it; let nfdump or "
                "another collector write flows of it."
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
