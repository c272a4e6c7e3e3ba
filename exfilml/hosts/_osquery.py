"""Results of osquery: its tables ``socket_events`` and ``process_open_sockets``.

Columns: the tables' specifications (https://osquery.io/schema: ``socket_events``,
``process_open_sockets``); the result log: https://osquery.readthedocs.io "Logging",
with rows that were added one a line, in batches (``diffResults``), or as snapshots; and
what ``osqueryi --json`` prints. ``process_open_sockets`` has no program in it (its
``path`` is that of a UNIX socket): the query has to join ``processes``, whose ``path`` or
``name`` is taken. Rows of other tables are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from exfilml.hosts._events import BadEventError, Event, moment, network, text
from exfilml.hosts._json import records
from exfilml.sources._lines import BadLines, Block

_HEAD: Final = re.compile(rb"\"(?:hostIdentifier|calendarTime|local_address)\"")
# The address family of UNIX sockets.
_UNIX: Final = "1"


def detect(head: bytes) -> int | None:
    """Say where the first result of osquery shows, if there is one."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    found = _HEAD.search(head) if start[:1] in {b"{", b"["} else None
    return None if found is None else found.start()


def read(
    blocks: Iterator[Block],
    bad: BadLines,
    zone: str | None,  # noqa: ARG001
) -> Iterator[Event]:
    """Yield an event for each row of a table of sockets that was added."""
    for line, record in records(blocks, bad):
        for row in _rows(record):
            try:
                event = _event(record, row)
            except BadEventError as error:
                bad.add(line, str(error))
            else:
                if event is not None:
                    yield event


def _rows(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a result that are there, not those that went."""
    batch = record.get("diffResults")
    if record.get("action") == "removed":
        return
    for found in (
        record.get("columns"),
        record.get("snapshot"),
        batch.get("added") if isinstance(batch, dict) else None,
        record if "local_address" in record else None,
    ):
        for row in found if isinstance(found, list) else [found]:
            if isinstance(row, dict) and "local_address" in row:
                yield row


def _event(record: Mapping[str, Any], row: Mapping[str, Any]) -> Event | None:
    if text(row.get("family")) == _UNIX:
        return None
    process = text(row.get("path")) or text(row.get("name")) or text(row.get("cmdline"))
    at = text(row.get("time")) or record.get("unixTime")
    time = moment(at)
    host = text(record.get("hostIdentifier"))
    ends = (
        *(row.get("local_address"), _known(row.get("local_port"))),
        *(row.get("remote_address"), _known(row.get("remote_port"))),
    )
    user = row.get("username", row.get("uid", row.get("auid")))
    kind = row.get("protocol")
    return network(
        time, host, process, ends, pid=row.get("pid"), user=user, transport=kind
    )


def _known(port: Any) -> Any:
    """Return a port; osquery writes 0 for none, and −1 where it failed."""
    return None if text(port) in {"0", "-1"} else port
