"""Names what a file is that holds no flows, or that is not read yet.

A refusal that knows the file tells the reader what to do with it.
"""

from __future__ import annotations

import re
from typing import Final

from exfilml.exceptions import SourceError

_COMMON_LOG: Final = re.compile(
    rb'\S+ \S+ [^\[\r\n]*\[[0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[^\]\r\n]+\] "[^\r\n]*" [0-9]{3} '
)
_AWS: Final = re.compile(rb"(?:\S+ )*(?:ACCEPT|REJECT) (?:\S+ )*OK\b")
_EVENT_FORMAT: Final = re.compile(
    rb"(?:^|[ >])(?:CEF:[0-9]|LEEF:[0-9.]{1,4})\|", re.MULTILINE
)


class CompanionError(SourceError):
    """A log of Zeek that is read where it lies beside conn.log, and not alone."""


def refusal(path: str, head: bytes) -> SourceError | None:  # noqa: PLR0911
    """Say what a file is, by its first bytes; None if they are unknown."""
    # Late, as `_discover.READERS`.
    from exfilml.sources import _squid, _w3c
    from exfilml.sources._zeek_log import fields_of

    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or set(head[1:16:2]) == {0}:
        return SourceError(
            f"{path}: text in UTF-16, as Windows writes it; convert it to UTF-8 "
            "(`iconv -f UTF-16 -t UTF-8`)."
        )
    if head.startswith(b"start,duration_s,src_ip,"):
        return SourceError(
            f"{path}: flows that exfilml wrote as CSV, for other programs. Keep them as "
            ".parquet to read them again."
        )
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
    if head.startswith((b"Date first seen", b"Date flow start")):
        return SourceError(
            f"{path}: nfdump's printed format; print it with `nfdump -r FILE -o csv`."
        )
    if _AWS.match(head):
        return SourceError(
            f"{path}: AWS VPC flow logs in a format of their own. Put the line of its "
            "fields before them (version account-id …)."
        )
    if b"AzureNetworkAnalytics" in head or b"FlowIntervalEndTime" in head:
        return _analytics(path, head)
    if _EVENT_FORMAT.search(head):
        return SourceError(
            f"{path}: events in CEF or LEEF, which are not read; let the firewall log "
            "in its own format."
        )
    return None


def _analytics(path: str, head: bytes) -> SourceError:
    what = f"{path}: Azure's traffic analytics"
    if b"Bytes" in head.split(b"\n", 1)[0]:
        return SourceError(
            f"{what}, whose columns differ. Say what they mean in a column map (--map)."
        )
    return SourceError(
        f"{what}, which counts flows, not bytes. Give the flow logs that it was made of "
        "(PT1H.json)."
    )
