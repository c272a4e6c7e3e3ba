"""What programs in the kernel (eBPF) report: Tetragon's and Falco's events as JSON.

Tetragon (https://tetragon.io/docs/concepts/events): ``process_kprobe`` of a function
whose arguments hold a socket (``sock_arg``: ``saddr``, ``sport``, ``daddr``, ``dport``,
``protocol``), such as ``tcp_connect``; ``process_connect`` with ``source_ip``,
``source_port``, ``destination_ip`` and ``destination_port``; ``process_exec``. The source
is the local end. Times are UTC.

Falco (https://falco.org/docs/reference/rules/supported-fields): alerts with
``output_fields`` among which are ``proc.exepath`` or ``proc.name`` and the connection:
``fd.lip``, ``fd.lport``, ``fd.rip`` and ``fd.rport``, or ``fd.name`` as
``client:port->server:port``, of which the client is the local end unless the event is
an ``accept``.

bcc's tools print times without a date, or seconds since they began: their output cannot
be joined to anything, and is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from exfilml.hosts._events import BadEventError, Event, moment, network, number, text
from exfilml.hosts._json import records
from exfilml.sources._lines import BadLines, Block

_HEAD: Final = re.compile(
    rb"\"process_(?:kprobe|connect|exec|exit|tracepoint|lsm)\"|\"output_fields\""
)
_NAME: Final = re.compile(r"^(.*):([0-9]{1,5})->(.*):([0-9]{1,5})$")


def detect(head: bytes) -> int | None:
    """Say where the first event of Tetragon or Falco shows, if there is one."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    found = _HEAD.search(head) if start[:1] in {b"{", b"["} else None
    return None if found is None else found.start()


def read(
    blocks: Iterator[Block],
    bad: BadLines,
    zone: str | None,  # noqa: ARG001
) -> Iterator[Event]:
    """Yield connections and started programs; pass over other events."""
    for line, record in records(blocks, bad):
        fields = record.get("output_fields")
        try:
            if isinstance(fields, dict):
                event = _falco(record, fields)
            else:
                event = _tetragon(record)
        except BadEventError as error:
            bad.add(line, str(error))
        else:
            if event is not None:
                yield event


def _tetragon(record: Mapping[str, Any]) -> Event | None:
    kind = next((name for name in record if name.startswith("process_")), "")
    about = record.get(kind)
    process = about.get("process") if isinstance(about, dict) else None
    if not isinstance(about, dict) or not isinstance(process, dict):
        return None
    time, host = record.get("time", about.get("time")), text(record.get("node_name"))
    name, pid, user = process.get("binary"), process.get("pid"), process.get("uid")
    if kind == "process_exec":
        said = " ".join(
            part for part in (text(name), text(process.get("arguments"))) if part
        )
        return Event(
            *(moment(time), host, "process", text(name), number(pid), text(user)),
            detail=text(said),
        )
    ends, transport = _socket(kind, about)
    if ends is None:
        return None
    at = moment(time)
    return network(at, host, name, ends, pid=pid, user=user, transport=transport)


def _socket(
    kind: str, about: Mapping[str, Any]
) -> tuple[tuple[Any, Any, Any, Any] | None, Any]:
    """Return the ends of a socket that an event shows, and its protocol."""
    if kind == "process_connect":
        names = ("source_ip", "source_port", "destination_ip", "destination_port")
        holder = about
    else:
        names = ("saddr", "sport", "daddr", "dport")
        arguments = about.get("args")
        held = (
            argument.get("sock_arg")
            for argument in (arguments if isinstance(arguments, list) else ())
            if isinstance(argument, dict)
        )
        holder = next((one for one in held if isinstance(one, dict)), {})
    a, b, c, d = (holder.get(name) for name in names)
    if text(c) is None:
        return None, None
    return (a, b or None, c, d), holder.get("protocol")


def _falco(record: Mapping[str, Any], fields: Mapping[str, Any]) -> Event | None:
    ends = _falco_ends(fields)
    if ends is None:
        return None
    name = text(fields.get("proc.exepath")) or fields.get("proc.name")
    return network(
        moment(record.get("time")), text(record.get("hostname")), name, ends,
        pid=fields.get("proc.pid"),
        user=fields.get("user.name", fields.get("user.uid")),
        transport=fields.get("fd.l4proto"),
    )  # fmt: skip


def _falco_ends(fields: Mapping[str, Any]) -> tuple[Any, Any, Any, Any] | None:
    if text(fields.get("fd.rip")) is not None:
        names = ("fd.lip", "fd.lport", "fd.rip", "fd.rport")
        a, b, c, d = (fields.get(name) for name in names)
        return a, b, c, d
    client: tuple[Any, Any]
    server: tuple[Any, Any]
    found = _NAME.match(str(fields.get("fd.name", "")))
    if found is not None:
        client, server = (found[1], found[2]), (found[3], found[4])
    elif text(fields.get("fd.sip")) is not None:
        client = (fields.get("fd.cip"), fields.get("fd.cport"))
        server = (fields.get("fd.sip"), fields.get("fd.sport"))
    else:
        return None
    accepted = str(fields.get("evt.type", "")).startswith("accept")
    return (*server, *client) if accepted else (*client, *server)
