"""Logs of hosts: each format says the same, and what cannot be read is told."""

from __future__ import annotations

import csv
import gzip
import io
import json
import warnings

import pandas as pd
import pytest
from host_logs import (
    audit,
    falco,
    filtering,
    flat,
    lines,
    osquery,
    sockaddr,
    sysmon,
    tetragon,
    winlogbeat,
    with_xml,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exfilml import cli, read_host_events
from exfilml.exceptions import OptionError, SourceError, SourceWarning
from exfilml.hosts._events import COLUMNS
from exfilml.hosts._programs import program

ENDS = ["protocol", "local_ip", "local_port", "remote_ip", "remote_port"]


def read(tmp_path, text, name="events", **options) -> pd.DataFrame:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_host_events(path, **options)


def ends(events, row=0) -> list:
    return [None if pd.isna(v) else v for v in events.loc[row, ENDS]]


def as_csv(*records) -> str:
    out = io.StringIO()
    rows = [flat(record) for record in records]
    writer = csv.DictWriter(out, list(dict.fromkeys(n for r in rows for n in r)))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


FORMS = {
    "evtx_dump": lines,
    "winlogbeat": lambda *rs: lines(*map(winlogbeat, rs)),
    "flat": lambda *rs: lines(*map(flat, rs)),
    "xml": lambda *rs: lines(*map(with_xml, rs)),
    "csv": as_csv,
    "array": lambda *rs: json.dumps(rs, indent=1),
    "elastic": lambda *rs: lines(*({"_source": winlogbeat(r)} for r in rs)),
}


@pytest.mark.parametrize("form", FORMS)
def test_sysmon_says_the_same_in_every_form(tmp_path, form):
    """Connections both ways, a program with quotes and commas, and a file."""
    command = r'rar.exe a -hp"se,cret" C:\out.rar "C:\my & files" <all'
    records = [
        sysmon(3),
        sysmon(3, Initiated=False, SourceIp="198.18.0.1", SourcePort=40000,
               DestinationIp="10.20.0.12", DestinationPort=3389, Protocol="udp"),
        sysmon(1, CommandLine=command),
        sysmon(11, TargetFilename=r"C:\out.rar"),
    ]  # fmt: skip
    events = read(tmp_path, FORMS[form](*records))
    assert list(events.columns) == list(COLUMNS)
    assert {n: str(t) for n, t in events.dtypes.items()} == dict(COLUMNS)
    assert events["kind"].tolist() == ["network", "network", "process", "file"]
    assert ends(events) == [6, "10.20.0.12", 50000, "203.0.113.9", 443]
    # The local end is this host's, whoever opened the connection.
    assert ends(events, 1) == [17, "10.20.0.12", 3389, "198.18.0.1", 40000]
    assert events["detail"].tolist()[2:] == [command, r"C:\out.rar"]
    # Processes and files happened where the host's connections are.
    assert events["local_ip"].tolist()[2:] == ["10.20.0.12"] * 2
    assert set(events["host"]) == {"WS1"}
    assert set(events["pid"]) == {4242}
    assert set(events["time"]) == {pd.Timestamp("2026-03-09 10:00:00.250", tz="UTC")}


def test_elastics_names_are_known(tmp_path):
    record = {
        "@timestamp": "2026-03-09T10:00:00.250Z",
        "event": {"code": "3", "provider": "Microsoft-Windows-Sysmon"},
        "host": {"name": "ws1"},
        "process": {"executable": r"C:\a.exe", "pid": 7},
        "source": {"ip": "10.20.0.12", "port": 50000},
        "destination": {"ip": "203.0.113.9", "port": 443},
        "network": {"transport": "tcp", "direction": "egress"},
        "winlog": {"event_id": 3, "event_data": {}},
    }
    events = read(tmp_path, lines(record))
    assert ends(events) == [6, "10.20.0.12", 50000, "203.0.113.9", 443]
    turned = record | {"network": {"transport": "tcp", "direction": "ingress"}}
    events = read(tmp_path, lines(turned))
    assert ends(events) == [6, "203.0.113.9", 443, "10.20.0.12", 50000]


@pytest.mark.parametrize("direction", ["%%14592", "%%14593"])
def test_the_source_of_the_filtering_platform_is_the_local_end(tmp_path, direction):
    events = read(tmp_path, lines(filtering(Direction=direction)))
    assert ends(events) == [6, "10.20.0.12", 3333, "203.0.113.9", 49278]
    assert events["pid"].tolist() == [0x11CC]
    assert program(events["process"][0]) == r"c:\windows\system32\svchost.exe"


def test_a_created_process_of_windows_security(tmp_path):
    record = filtering()
    record["Event"]["System"]["EventID"] = 4688
    record["Event"]["EventData"] = {
        "NewProcessId": "0x1a2c",
        "NewProcessName": r"C:\Windows\System32\tar.exe",
        "CommandLine": "tar -czf x.tgz .",
        "SubjectUserName": "ann",
    }
    events = read(tmp_path, lines(record), address="10.20.0.12")
    row = events.iloc[0]
    assert (row["kind"], row["detail"], row["pid"], row["user"], row["local_ip"]) == (
        *("process", "tar -czf x.tgz .", 0x1A2C, "ann", "10.20.0.12"),
    )


@pytest.mark.parametrize("address", ["203.0.113.9", "2001:db8::9"])
@pytest.mark.parametrize(
    ("arch", "call", "local"),
    [("c000003e", 42, False), ("c00000b7", 203, False), ("c000003e", 49, True)],
)
def test_the_audit_log_says_one_end(tmp_path, address, arch, call, local):
    """Connections say the remote end, a bound socket the local one; mixed records."""
    first = audit(address, 443, arch=arch, call=call).split("\n")
    other = audit(address, 80, arch=arch, call=call, serial=2).split("\n")
    mixed = "\n".join(line for pair in zip(first, other, strict=True) for line in pair)
    events = read(tmp_path, mixed, address="10.20.0.12")
    if local:
        expected = [None, address, 443, None, None]
    else:
        expected = [None, "10.20.0.12", None, address, 443]
    assert ends(events) == expected
    assert events["process"].tolist() == ["/usr/bin/curl"] * 2
    assert events["pid"].tolist() == [700] * 2
    assert events["time"][0] == pd.Timestamp("2026-03-09 10:00:00.250", tz="UTC")


def test_programs_started_by_the_audit_log(tmp_path):
    """Arguments with blanks are in hexadecimal; sockets of the host alone are none."""
    head = "msg=audit(1773050400.250:7):"
    blank = b"my file".hex().upper()
    text = (
        f"type=SYSCALL {head} arch=c000003e syscall=59 pid=9 uid=100000 "
        'exe="/usr/bin/tar"\n'
        f'type=EXECVE {head} argc=3 a0="tar" a1="-cf" a2={blank}\n'
        "type=SYSCALL msg=audit(1773050401.0:8): arch=c000003e syscall=42 pid=9 uid=1 "
        'exe="/bin/x"\n'
        "type=SOCKADDR msg=audit(1773050401.0:8): saddr=01002F6465762F6C6F6700\n"
    )
    events = read(tmp_path, text, address="10.20.0.12")
    assert events["detail"].tolist() == ["tar -cf my file"]
    assert events["user"].tolist() == ["100000"]


@pytest.mark.parametrize(
    "record",
    [
        tetragon(),
        {
            "process_connect": {
                "process": {"pid": 700, "uid": 33, "binary": "/usr/bin/curl"},
                "source_ip": "10.20.0.12", "source_port": 50000,
                "destination_ip": "203.0.113.9", "destination_port": 443,
                "protocol": "TCP",
            },
            "time": "2026-03-09T10:00:00.25Z",
        },
        tetragon(saddr="::ffff:10.20.0.12", daddr="::ffff:203.0.113.9"),
        falco(),
        falco(**{"evt.type": "accept", "fd.name": "203.0.113.9:443->10.20.0.12:50000"}),
        falco(**{"fd.name": None, "fd.lip": "10.20.0.12", "fd.lport": 50000,
                 "fd.rip": "203.0.113.9", "fd.rport": 443}),
        osquery(),
        {**osquery(), "action": "snapshot", "columns": None,
         "snapshot": [osquery()["columns"]]},
        {**osquery(), "columns": None,
         "diffResults": {"added": [osquery()["columns"]], "removed": []}},
    ],
)  # fmt: skip
def test_linux_says_the_same_in_every_form(tmp_path, record):
    events = read(tmp_path, lines(record))
    assert ends(events) == [6, "10.20.0.12", 50000, "203.0.113.9", 443]
    assert events["process"].tolist() == ["/usr/bin/curl"]
    assert events["pid"].tolist() == [700]
    assert events["time"].dt.floor("s").tolist() == [
        pd.Timestamp("2026-03-09 10:00:00", tz="UTC")
    ]


def test_rows_of_osquery_that_went_or_are_no_sockets_are_passed_over(tmp_path):
    other = osquery() | {"columns": {"name": "kernel"}}
    gone = osquery() | {"action": "removed"}
    unix = osquery(family="1", remote_address="", local_address="")
    listening = osquery(remote_address="0.0.0.0", remote_port="0")
    events = read(tmp_path, lines(other, gone, unix, listening))
    assert ends(events) == [6, "10.20.0.12", 50000, None, None]
    # As `osqueryi --json` prints them.
    array = json.dumps([osquery()["columns"]], indent=1)
    assert len(read(tmp_path, array)) == 1


def test_a_started_program_of_tetragon(tmp_path):
    record = {
        "process_exec": {"process": {"binary": "/bin/tar", "arguments": "-cf x ."}},
        "node_name": "web-1",
        "time": "2026-03-09T10:00:00Z",
    }
    events = read(tmp_path, lines(record, tetragon()))
    assert events["detail"].dropna().tolist() == ["/bin/tar -cf x ."]
    assert events["local_ip"].tolist() == ["10.20.0.12"] * 2


def test_what_cannot_be_read_is_counted_and_the_first_is_shown(tmp_path):
    good = [sysmon(3, SourcePort=port) for port in range(50000, 50005)]
    text = (
        lines(*good[:3]) + "{broken\n" + lines(sysmon(3, SourceIp="no address"))
        + lines(*good[3:], sysmon(3, at="2026-13-09")) + '{"Event": {"Sys'
    )  # fmt: skip
    with pytest.warns(SourceWarning, match="4 of 9 lines could not be read; first: "):
        events = read(tmp_path, text)
    assert events["local_port"].tolist() == list(range(50000, 50005))


def test_other_events_are_no_bad_ones(tmp_path):
    """A service that starts, a registry key, and number 3 of another log."""
    other = [sysmon(3), sysmon(3), sysmon(3)]
    other[0]["Event"]["System"]["EventID"] = 7045
    other[1]["Event"]["System"]["EventID"] = 13
    other[2]["Event"]["System"]["Provider"] = {"#attributes": {"Name": "Kernel"}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read(tmp_path, lines(*other, sysmon(3)))) == 1
    with pytest.warns(SourceWarning, match="holds no host events of the kinds"):
        assert len(read(tmp_path, lines(*other))) == 0


def test_a_folder_of_packed_logs_and_other_files(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(lines(sysmon(3)).encode()))
    (tmp_path / "b.log").write_text(audit("203.0.113.9", 443, node="WS1"))
    (tmp_path / "c.txt").write_text("hello\n")
    with pytest.warns(SourceWarning, match=r"1 of 3 files are skipped\. .*c\.txt"):
        events = read_host_events(tmp_path)
    assert len(events) == 2
    # The audit log does not say where; the host's other events do.
    assert events["local_ip"].tolist() == ["10.20.0.12"] * 2


def test_a_started_program_stands_under_the_hosts_address_of_ipv4(tmp_path):
    """Windows speaks of itself all day on its link; that is no address of a case."""
    at = "2026-03-09 10:00:{:02d}.000".format
    text = lines(
        sysmon(3, at=at(1), SourceIp="10.20.0.12"),
        sysmon(3, at=at(2), SourceIp="fd20::12", DestinationIp="fd20::1"),
        sysmon(3, at=at(3), SourceIp="fe80::12", DestinationIp="ff02::fb"),
        sysmon(1, at=at(4)),
    )
    events = read(tmp_path, text)
    assert events["local_ip"].tolist()[-1] == "10.20.0.12"


def test_local_time_needs_a_zone(tmp_path):
    record = flat(sysmon(3)) | {"EventTime": "2026-07-09 10:00:00"}
    del record["UtcTime"]
    with pytest.raises(SourceError, match="do not say where; say it: timezone"):
        read(tmp_path, lines(record))
    events = read(tmp_path, lines(record), timezone="Europe/Prague")
    assert events["time"][0] == pd.Timestamp("2026-07-09 08:00", tz="UTC")


def test_refusals_say_what_was_expected(tmp_path):
    for content, said in {
        "": "the file is empty",
        "hello world\n": "it begins with b'hello world",
        "TIME,TIME(s),PID,COMM,IP,LADDR\n1,1,1,a,4,b\n": "times have no date",
        "ElfFile\0\0\0": "evtx_dump -o jsonl",
        "<Events><Event/></Events>": "XML",
        "type=SYSCALL msg=audit(07/29/2025 09:52:29.237:8) : a": "ausearch --raw",
    }.items():
        with pytest.raises(
            SourceError, match=rf"no host events .*{said}.* Expected Sy"
        ):
            read(tmp_path, content)
    with pytest.raises(SourceError, match="no such file"):
        read_host_events(tmp_path / "none")
    with pytest.raises(SourceError, match="no host event could be read: 1 of 1 lines"):
        read(tmp_path, lines(sysmon(3, SourcePort=70000)))
    with pytest.raises(OptionError):
        read(tmp_path, lines(sysmon(3)), timezone="Mars/North")
    with pytest.raises(SourceError, match="expected that of a host"):
        read(tmp_path, lines(sysmon(3)), address="x")


def test_a_cut_off_gzip_is_told(tmp_path):
    many = lines(*[sysmon(3, SourcePort=k) for k in range(1, 20000)]).encode()
    with pytest.warns(SourceWarning, match="gzip data are cut off"):
        events = read(tmp_path, gzip.compress(many)[:-2000])
    assert 0 < len(events) < 20000


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (r"C:\Users\ann\AppData\Local\x\app-1.9.3\x.exe",
         r"c:\users\*\appdata\local\x\app-*\x.exe"),
        (r"\device\harddiskvolume3\Windows\System32\svchost.exe",
         r"c:\windows\system32\svchost.exe"),
        (r"\\device\\harddiskvolume2\\documents\\listener.exe",
         r"\device\harddiskvolume2\documents\listener.exe"),
        (r"E:\Windows\System32\svchost.exe", r"e:\windows\system32\svchost.exe"),
        (r"\\?\C:\Tools\x.exe", r"c:\tools\x.exe"),
        (r"\\files\share\x.exe", r"\\files\share\x.exe"),
        ("C:/Program Files/Chrome/120.0.6099.130/c.exe",
         r"c:\program files\chrome\*\c.exe"),
        ("/home/bob/bin/Rclone", "/home/*/bin/Rclone"),
        ("/usr/bin/python3.11", "/usr/bin/python*"),
        ("System", "System"),
    ],
)  # fmt: skip
def test_names_of_programs(path, name):
    assert program(path) == name
    assert program(name) == name


# --- what is no log ------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True)
    | st.text(max_size=12) | st.sampled_from(["10.0.0.5", "443", "0x1f", "2026-03-09"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["Event", "System", "EventData", "EventID", "Data", "#text", "Provider",
             "#attributes", "Name", "winlog", "event_data", "SourceIp", "TimeCreated",
             "columns", "snapshot", "output_fields", "process", "args", "sock_arg",
             "daddr", "fd.name", "local_address", "unixTime"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
GOOD = [sysmon(3), winlogbeat(sysmon(1)), flat(sysmon(11)), filtering(), with_xml(sysmon()),
        tetragon(), falco(), osquery()]  # fmt: skip


def paths_of(record, here=()):
    for name, value in record.items():
        yield (*here, name)
        if isinstance(value, dict):
            yield from paths_of(value, (*here, name))


def changed(record, path, value):
    copy = json.loads(json.dumps(record))
    at = copy
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return copy


def quietly(tmp_path, data):
    """Read what may be refused or warned of, and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", SourceWarning)
        try:
            return read(tmp_path, data, timezone="UTC")
        except SourceError:
            return None


FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(st.data())
def test_any_value_anywhere_breaks_its_line_at_most(tmp_path, data):
    record = data.draw(st.sampled_from(GOOD))
    path = data.draw(st.sampled_from(list(paths_of(record))))
    bad = changed(record, path, data.draw(VALUES))
    events = quietly(tmp_path, lines(record, bad, record))
    assert events is not None
    assert len(events) >= 2


@FUZZ
@given(st.data())
def test_bytes_that_are_no_log_are_refused_or_counted(tmp_path, data):
    text = data.draw(
        st.sampled_from(
            [lines(*GOOD), audit("203.0.113.9", 443), as_csv(sysmon(), sysmon(1))]
        )
    ).encode()
    cut = data.draw(st.integers(0, len(text)))
    noise = data.draw(st.binary(max_size=40))
    end = data.draw(st.integers(cut, len(text)))
    quietly(tmp_path, text[:cut] + noise + text[end:])


@FUZZ
@given(st.text(alphabet='0123456789ABCDEFabcdef =:{}"\x1d', max_size=60))
def test_any_record_of_the_audit_daemon(tmp_path, text):
    good = audit("203.0.113.9", 443)
    bad = f"type=SOCKADDR msg=audit(1773050400.250:9): saddr={text}\n"
    call = good.split("\n")[0].replace(":1)", ":9)") + "\n"
    events = quietly(tmp_path, call + bad + good)
    assert events is not None
    assert len(events) >= 1


def test_addresses_in_the_kernels_form():
    """As the kernel's documentation and a published audit log have them."""
    assert sockaddr("127.0.0.1", 1) == "020000017F0000010000000000000000"
    assert sockaddr("203.0.113.110", 80).startswith("02000050CB00716E")


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("nowhere.json", "no such file or folder."),
        ("10.0.0.999=nowhere.json", "'10.0.0.999' is no IP address"),
        ("10.0.0.5=", "names no file or folder"),
    ],
)
def test_a_mistake_in_the_option_is_told_before_flows_are_read(
    tmp_path, capsys, option, reason
):
    (tmp_path / "conn.log").write_text("nothing that can be read")
    command = ["flows", str(tmp_path / "conn.log"), "--host-events", option]
    assert cli.run([*command, "--out", str(tmp_path / "f.parquet")]) == 2
    assert reason in capsys.readouterr().err


def test_packed_events_that_are_damaged_are_not_empty(tmp_path):
    path = tmp_path / "events.json.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00 no gzip")
    with pytest.raises(SourceError, match="the gzip data are cut off or damaged"):
        read_host_events(path)
