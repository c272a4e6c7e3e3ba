"""Linux's audit log, as the audit daemon writes it (``/var/log/audit/audit.log``).

An event is several records with the same ``msg=audit(SECONDS:NUMBER)``: ``SYSCALL`` says
which process called what, ``SOCKADDR`` the address given to it, ``EXECVE`` the arguments
of a program that was started. Fields: the audit project's ``specs/fields``
(https://github.com/linux-audit/audit-documentation/wiki); numbers of system calls: the
kernel's tables for x86-64, 64-bit ARM and x86-32. Text with blanks or quotes in it is
written in hexadecimal; ``saddr`` is the kernel's ``sockaddr`` (``man 7 ip``,
``man 7 ipv6``), of which the family is in the order of bytes of the machine.

The address given to ``connect``, ``sendto`` and ``sendmsg`` is the remote end, that of
``accept`` too, and that of ``bind`` the local one. Nothing says the other end, nor
whether it is TCP or UDP: the host's own address has to come from elsewhere.
"""

from __future__ import annotations

import re
import socket
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from exfilml.hosts._events import BadEventError, Event, moment, network, number, text
from exfilml.sources._lines import BadLines, Block, shown

_LINE: Final = re.compile(
    rb"^(?:node=(\S+) )?type=(\w+) msg=audit\(([0-9]+\.[0-9]+):([0-9]+)\)\s?: ?(.*)$"
)
_HEAD: Final = re.compile(rb"(?m)^(?:node=\S+ )?type=\w+ msg=audit\([0-9]+\.[0-9]+:")
_PAIR: Final = re.compile(r"([A-Za-z_0-9]+)=(\"[^\"]*\"|\S+)")
_ARGUMENT: Final = re.compile(r"a[0-9]+")
# By architecture, as `arch` writes it.
_CALLS: Final = {
    "c000003e": {
        42: "connect", 43: "accept", 44: "sendto", 46: "sendmsg", 49: "bind",
        59: "execve", 288: "accept4", 322: "execveat",
    },
    "c00000b7": {
        200: "bind", 202: "accept", 203: "connect", 206: "sendto", 211: "sendmsg",
        221: "execve", 242: "accept4", 281: "execveat",
    },
    "40000003": {
        11: "execve", 358: "execveat", 361: "bind", 362: "connect", 364: "accept4",
        369: "sendto", 370: "sendmsg",
    },
}  # fmt: skip
_REMOTE: Final = frozenset({"connect", "accept", "accept4", "sendto", "sendmsg"})
_STARTED: Final = frozenset({"execve", "execveat"})
# Records of an event follow each other, but those of several may mix.
MOST_OPEN: Final = 4096


@dataclass(slots=True)
class _Open:
    """Records of an event so far."""

    call: dict[str, str] = field(default_factory=dict)
    address: str | None = None
    arguments: str | None = None


def detect(head: bytes) -> int | None:
    """Say where the first record of the audit daemon begins, if there is one."""
    found = _HEAD.search(head)
    return None if found is None else found.start()


def read(
    blocks: Iterator[Block],
    bad: BadLines,
    zone: str | None,  # noqa: ARG001
) -> Iterator[Event]:
    """Yield an event for each pair of records that says one."""
    waiting: OrderedDict[tuple[bytes, bytes, bytes], _Open] = OrderedDict()
    for block in blocks:
        for line, data in enumerate(block.data.split(b"\n"), block.first):
            if not data.strip():
                continue
            bad.lines += 1
            found = _LINE.match(data.rstrip(b"\r"))
            if found is None:
                bad.add(line, f"no record of the audit daemon: {shown(data)}")
                continue
            node, kind, time, serial, rest = found.groups()
            if kind not in {b"SYSCALL", b"SOCKADDR", b"EXECVE"}:
                continue
            key = (node or b"", time, serial)
            event = waiting.setdefault(key, _Open())
            try:
                _take(event, kind, rest)
                made = _event(event, node, time)
            except BadEventError as error:
                bad.add(line, str(error))
                del waiting[key]
                continue
            if made is not None:
                del waiting[key]
                yield made
            elif len(waiting) > MOST_OPEN:
                waiting.popitem(last=False)


def _take(event: _Open, kind: bytes, rest: bytes) -> None:
    said = rest.decode("utf-8", "replace")
    # What auditd appends in words says what stands before it.
    raw, _, words = said.partition("\x1d")
    fields = dict(_PAIR.findall(raw))
    if kind == b"SYSCALL":
        event.call = fields
        name = dict(_PAIR.findall(words)).get("SYSCALL")
        if name is not None:
            event.call["syscall"] = name
    elif kind == b"SOCKADDR":
        event.address = fields.get("saddr", "")
    else:
        given = [_plain(value) for name, value in fields.items() if _is_argument(name)]
        event.arguments = " ".join(given)


def _is_argument(name: str) -> bool:
    return _ARGUMENT.fullmatch(name) is not None


def _event(event: _Open, node: bytes | None, time: bytes) -> Event | None:
    """Return what the records together say, if they say it already."""
    call = event.call
    if not call:
        return None
    name = call.get("syscall", "")
    if name.isdecimal():
        name = _CALLS.get(call.get("arch", ""), {}).get(int(name[:9]), "")
    at = moment(time.decode())
    host = None if node is None else text(node.decode("utf-8", "replace"))
    process = _plain(call.get("exe", "")) or _plain(call.get("comm", ""))
    pid, user = number(call.get("pid")), text(call.get("uid"))
    if name in _STARTED and event.arguments is not None:
        detail = text(event.arguments)
        return Event(at, host, "process", text(process), pid, user, detail=detail)
    if event.address is None or not (name in _REMOTE or name == "bind"):
        return None
    end = _end(event.address)
    if end is None:
        # A socket of this host alone, as of its log daemon.
        event.address = None
        return None
    ends = (*end, None, None) if name == "bind" else (None, None, *end)
    return network(at, host, process, ends, pid=pid, user=user)


def _plain(value: str) -> str:
    """Return a text that is quoted, or in hexadecimal because of what is in it."""
    if value.startswith('"'):
        return value.strip('"')
    if len(value) >= 2 and len(value) % 2 == 0 and re.fullmatch("[0-9A-F]+", value):
        said = bytes.fromhex(value).decode("utf-8", "replace")
        return said.replace("\0", " ").strip()
    return value


def _end(saddr: str) -> tuple[str, int] | None:
    """Return address and port of a ``sockaddr``; None if it is of another family.

    Raises
    ------
    BadEventError
        If it is cut off, or no hexadecimal number.
    """
    try:
        data = bytes.fromhex(saddr)
    except ValueError:
        raise BadEventError(f"saddr cannot be {saddr[:40]!r}") from None
    family = {b"\x02\0": 4, b"\0\x02": 4, b"\x0a\0": 16, b"\0\x0a": 16}.get(data[:2])
    if family is None:
        return None
    begin = 4 if family == 4 else 8
    if len(data) < begin + family:
        raise BadEventError(f"saddr is cut off: {saddr[:40]!r}")
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    found = socket.inet_ntop(kind, data[begin : begin + family])
    return found, int.from_bytes(data[2:4], "big")
