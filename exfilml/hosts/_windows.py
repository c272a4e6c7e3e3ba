r"""Events of Windows: Sysmon's, and the Security log's.

Sysmon 1 (ProcessCreate), 3 (NetworkConnect) and 11 (FileCreate): Microsoft, Sysinternals
"Sysmon", https://learn.microsoft.com/sysinternals/downloads/sysmon; event 3 is off by
default, and its source is the end that opened the connection, which ``Initiated`` says
to be this host or not. ``UtcTime`` is UTC and does not say so. Security 4688 (process
created; its command line needs a policy of its own), 5156 and 5158 (the Windows
Filtering Platform permitted a connection, or to bind a port):
https://learn.microsoft.com/windows/security/threat-protection/auditing/event-5156. Their
source is always the local end, the program a path of the device
(``\device\harddiskvolume2\…``), the protocol a number.

Read as JSON, one record a line or an array: as winlogbeat writes it
(``winlog.event_data``, or Elastic's common names), as evtx_dump does
(``Event.EventData``, with attributes or XML text in it), or with all fields side by side
(NXLog); and as CSV with a line of names that are those of the fields.

One file because an event means the same, however it was exported.
"""

from __future__ import annotations

import csv
import html
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from exfilml.hosts._events import (
    BadEventError,
    Event,
    moment,
    network,
    number,
    text,
)
from exfilml.hosts._json import records
from exfilml.sources._lines import BadLines, Block

_FIELDS: Final = re.compile(
    rb"(?i)sysmon|security-auditing|\"winlog\"|\"event_data\"|\"eventdata\"|"
    rb"\"(?:EventID|event_id)\""
)
_DATA: Final = re.compile(r"<Data Name=[\"']([^\"']{1,64})[\"']>([^<]*)</Data>")
_IDS: Final = frozenset({1, 3, 11, 4688, 5156, 5158})
_SYSMON: Final = frozenset({1, 3, 11})
# Of exports, in local time unless they say otherwise.
_TIMES: Final = ("EventTime", "TimeGenerated", "Date and Time", "_time", "time")
_PROGRAM: Final = frozenset({"Image", "Application", "NewProcessName"})
# Elastic's names, where winlogbeat's modules renamed the fields.
_COMMON: Final = {
    "Image": "process.executable",
    "ProcessId": "process.pid",
    "CommandLine": "process.command_line",
    "User": "user.name",
    "Protocol": "network.transport",
    "SourceIp": "source.ip",
    "SourcePort": "source.port",
    "DestinationIp": "destination.ip",
    "DestinationPort": "destination.port",
    "TargetFilename": "file.path",
    "Application": "process.executable",
    "SourceAddress": "source.ip",
    "DestAddress": "destination.ip",
    "DestPort": "destination.port",
    "NewProcessName": "process.executable",
    "NewProcessId": "process.pid",
    "SubjectUserName": "user.name",
}


def detect(head: bytes) -> int | None:
    """Say where the first event of Windows shows, if there is one."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] in {b"{", b"["}:
        found = _FIELDS.search(head)
        return None if found is None else found.start()
    line = start.partition(b"\n")[0].decode("utf-8", "replace")
    names = {name.strip().strip('"').lower() for name in line.split(",")}
    return 0 if names & _NAMES_OF_ID and len(names) > 2 else None


_NAMES_OF_ID: Final = frozenset({"eventid", "event_id", "event id", "eventcode"})


def read(blocks: Iterator[Block], bad: BadLines, zone: str | None) -> Iterator[Event]:
    """Yield the events of a log; pass over those of other kinds."""
    first = next(blocks, None)
    if first is None:
        return
    every = itertools.chain([first], blocks)
    is_json = first.data.lstrip()[:1] in {b"{", b"["}
    found = records(every, bad) if is_json else _lines(every, bad)
    for line, record in found:
        try:
            event = _event(record, zone)
        except BadEventError as error:
            bad.add(line, str(error))
        else:
            if event is not None:
                yield event


def _lines(
    blocks: Iterator[Block], bad: BadLines
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the records of separated values under a line of names."""
    texts = (
        line + "\n"
        for block in blocks
        for line in block.data.decode("utf-8", "replace").split("\n")
    )
    rows = csv.reader(texts)
    names: list[str] = []
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            bad.lines += 1
            bad.add(rows.line_num, f"no separated values: {str(error)[:60]}")
            continue
        if not names:
            names = [name.strip() for name in row]
            continue
        if not any(row):
            continue
        bad.lines += 1
        if len(row) == len(names):
            yield rows.line_num, dict(zip(names, row, strict=True))
        else:
            bad.add(rows.line_num, f"{len(row)} of {len(names)} fields")


def _event(record: Mapping[str, Any], zone: str | None) -> Event | None:
    record = record.get("_source", record)
    if not isinstance(record, dict):
        return None
    system, given = _parts(record)
    code = _code(record, system)
    if code is None or code not in _IDS:
        return None
    data = _fields(given)
    if not _PROGRAM & data.keys():
        # Elastic's names say what modules took out of it.
        data = {**_renamed(record), **data}
    if code in _SYSMON and not _is_sysmon(record, system, data):
        return None
    time = _time(record, system, data, zone)
    return _made(code, time, text(_host(record, system)), data)


def _made(code: int, time: int, host: str | None, data: Mapping[str, Any]) -> Event:
    """Make an event of the fields that its number says it has."""
    if code == 3:
        return _sysmon_network(time, host, data)
    if code in {5156, 5158}:
        return _filtering(time, host, data)
    names = ("NewProcessName", "NewProcessId", "SubjectUserName")
    if code in _SYSMON:
        names = ("Image", "ProcessId", "User")
    name, pid, user = (data.get(field) for field in names)
    detail = data.get("TargetFilename" if code == 11 else "CommandLine")
    return Event(
        *(time, host, "file" if code == 11 else "process"),
        *(text(name), number(pid), text(user)),
        detail=text(detail) or (None if code == 11 else text(name)),
    )


def _sysmon_network(time: int, host: str | None, data: Mapping[str, Any]) -> Event:
    source = (data.get("SourceIp"), data.get("SourcePort"))
    other = (data.get("DestinationIp"), data.get("DestinationPort"))
    opened = str(data.get("Initiated", "true")).strip().lower()
    ends = (*other, *source) if opened in {"false", "0"} else (*source, *other)
    return network(
        time, host, data.get("Image"), ends,
        pid=data.get("ProcessId"), user=data.get("User"),
        transport=data.get("Protocol"),
    )  # fmt: skip


def _filtering(time: int, host: str | None, data: Mapping[str, Any]) -> Event:
    ends = (
        *(data.get("SourceAddress"), data.get("SourcePort")),
        *(data.get("DestAddress"), data.get("DestPort")),
    )
    return network(
        time, host, data.get("Application"), ends,
        pid=data.get("ProcessID", data.get("ProcessId")),
        transport=data.get("Protocol"),
    )  # fmt: skip


def _parts(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any]:
    """Return what says where and when a record is from, and what holds its fields."""
    event = record.get("Event")
    if isinstance(event, dict):
        system = event.get("System")
        return system if isinstance(system, dict) else {}, event.get("EventData")
    for holder in (record.get("winlog"), record):
        if isinstance(holder, dict):
            for name in ("event_data", "EventData"):
                if name in holder:
                    return holder, holder[name]
    return record, record


def _fields(data: Any) -> dict[str, Any]:
    """Return the fields of an event's data: an object, a list of them, or XML."""
    if isinstance(data, str):
        return {name: html.unescape(said) for name, said in _DATA.findall(data)}
    if not isinstance(data, dict):
        return {}
    listed = data.get("Data")
    if not isinstance(listed, list):
        return data
    fields = {}
    for item in listed:
        if isinstance(item, dict):
            about = item.get("#attributes", item)
            name = about.get("Name") if isinstance(about, dict) else None
            if isinstance(name, str):
                fields[name] = item.get("#text", item.get("Value"))
    return fields


def _renamed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that stand under Elastic's names."""
    found = {}
    for ours, theirs in _COMMON.items():
        value = _at(record, theirs)
        if value is not None:
            found[ours] = value
    direction = _at(record, "network.direction")
    if direction is not None:
        found["Initiated"] = str(direction) not in {"ingress", "inbound"}
    return found


def _at(record: Mapping[str, Any], path: str) -> Any:
    """Return what stands under a name with dots, nested or not."""
    if path in record:
        return record[path]
    value: Any = record
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _code(record: Mapping[str, Any], system: Mapping[str, Any]) -> int | None:
    for value in (
        *(system.get(n) for n in ("EventID", "event_id", "EventCode", "Event ID")),
        _at(record, "event.code"),
    ):
        said = value.get("#text") if isinstance(value, dict) else value
        if (code := number(said)) is not None:
            return code
    return None


def _is_sysmon(
    record: Mapping[str, Any], system: Mapping[str, Any], data: Mapping[str, Any]
) -> bool:
    """Tell Sysmon's low numbers from those of other logs."""
    provider = system.get("Provider", system.get("provider_name"))
    named = (
        *(provider, system.get("Channel"), system.get("channel")),
        *(system.get("SourceName"), _at(record, "event.provider")),
    )
    said = " ".join(str(part) for part in named if part is not None)
    return "sysmon" in said.lower() if said else "Image" in data


def _time(
    record: Mapping[str, Any],
    system: Mapping[str, Any],
    data: Mapping[str, Any],
    zone: str | None,
) -> int:
    if text(data.get("UtcTime")) is not None:
        return moment(data["UtcTime"])
    created = system.get("TimeCreated", system.get("TimeCreated_attributes"))
    if isinstance(created, dict):
        created = created.get("#attributes", created)
        created = created.get("SystemTime") if isinstance(created, dict) else None
        if text(created) is not None:
            # Windows writes it in UTC, with or without saying so.
            return moment(created)
    for value in (
        *(created, record.get("@timestamp"), system.get("SystemTime")),
        *(record.get(name) for name in _TIMES),
    ):
        if text(value) is not None:
            return moment(value, zone)
    raise BadEventError("time is missing")


def _host(record: Mapping[str, Any], system: Mapping[str, Any]) -> Any:
    for name in ("Computer", "computer_name", "Hostname", "ComputerName", "hostname"):
        if system.get(name) is not None:
            return system[name]
    return _at(record, "host.name")
