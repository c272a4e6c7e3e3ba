"""Files, mail and FTP in the logs of Zeek and Suricata: who sent what to whom."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import conn, json_lines, zeek_tsv

import exfilml
from exfilml.exceptions import ExfilmlError
from exfilml.places import PRIVATE_NETWORKS, orient, stays_inside
from exfilml.sources._mail import recipient_domains

FILES = {"fuid": "string", "conn_uids": "set[string]", "filename": "string"}
FILES |= {"mime_type": "string", "is_orig": "bool"}
FTP = {"uid": "string", "command": "string", "arg": "string", "fuid": "string"}
SMTP = {"uid": "string", "mailfrom": "string", "rcptto": "set[string]"}
SMTP |= {"user_agent": "string"}
LISTS = {"conn_uids", "rcptto"}


def zeek(folder, logs, uids, *, as_json):
    """Read a conn.log, beside which others lie."""
    logs |= {"conn": (None, [conn(uid=uid, service=None) for uid in uids])}
    for kind, (fields, rows) in logs.items():
        lines = [{"ts": 1700000000.0} | row for row in rows]
        if as_json:
            for row in lines:
                row |= {k: row[k].split(",") for k in LISTS & set(row)}
            data = json_lines(lines)
        elif fields is None:
            data = zeek_tsv(lines)
        else:
            data = zeek_tsv(lines, path=kind, fields={"ts": "time"} | fields)
        (folder / f"{kind}.log").write_bytes(data)
    return exfilml.read_flows(folder / "conn.log").set_index("uid")


def shown(flows, *names):
    columns = flows[list(names)].astype(object)
    return columns.where(columns.notna(), None).T.to_dict("list")


@pytest.mark.parametrize("as_json", [False, True])
def test_zeek_names_files_on_the_side_that_sent_them(tmp_path, as_json):
    files = [
        {
            "conn_uids": "C1",
            "filename": "Plans.ZIP",
            "mime_type": "a/b",
            "is_orig": True,
        },
        {
            "conn_uids": "C2",
            "filename": "setup.exe",
            "mime_type": "c/d",
            "is_orig": False,
        },
        {"conn_uids": "C2", "filename": "C:\\tmp\\out.7z", "is_orig": True},
        {"conn_uids": "C3", "mime_type": "x/cert", "is_orig": False},
    ]
    flows = zeek(
        tmp_path, {"files": (FILES, files)}, ["C1", "C2", "C3"], as_json=as_json
    )
    assert shown(flows, "content_type", "src_declared", "dst_declared") == {
        "C1": ["a/b", "plans.zip", None],
        "C2": [None, "out.7z", "setup.exe"],
        "C3": [None, None, None],
    }
    assert flows[["src_misdeclared", "src_sampled_bytes"]].isna().all(axis=None)


@pytest.mark.parametrize("as_json", [False, True])
def test_ftp_log_names_what_went_over_data_connections(tmp_path, as_json):
    commands = [
        {"uid": "C1", "command": "STOR", "arg": "ftp://10.0.0.9/./out/Secret.zip"}
        | {"fuid": "F1"},
        {
            "uid": "C1",
            "command": "RETR",
            "arg": "ftp://10.0.0.9/tool.exe",
            "fuid": "F2",
        },
        {"uid": "C1", "command": "PASV", "arg": "-"},
    ]
    files = [
        {
            "fuid": "F1",
            "conn_uids": "C2",
            "mime_type": "application/zip",
            "is_orig": True,
        },
        {"fuid": "F2", "conn_uids": "C3", "mime_type": "a/exe", "is_orig": False},
    ]
    logs = {"ftp": (FTP, commands), "files": (FILES, files)}
    flows = zeek(tmp_path, logs, ["C1", "C2", "C3"], as_json=as_json)
    assert shown(flows, "app", "content_type", "src_declared", "dst_declared") == {
        "C1": ["FTP_CONTROL", None, None, None],
        "C2": [None, "application/zip", "secret.zip", None],
        "C3": [None, None, None, "tool.exe"],
    }


MAILS = [
    # From, to, and what is the place.
    ("a@corp.example", ["b@corp.example"], "corp.example"),
    (
        "<a@mail.corp.example>",
        ["<b@corp.example>", "<E@Drop.Thief.net>"],
        "drop.thief.net",
    ),
    (None, ["x@one.example", "y@two.example"], "one.example"),
    ("a@corp.example", [], None),
    ("a@corp.example", None, None),
    ("a@corp.example", ["postmaster", "@", "x@"], None),
    ("a@corp.example", ["x@[203.0.113.9]"], "203.0.113.9"),
]


@pytest.mark.parametrize(("sender", "recipients", "place"), MAILS)
def test_mail_goes_to_the_first_domain_that_is_not_the_senders(
    sender, recipients, place
):
    foreign, first = (
        x.to_pylist()[0] for x in recipient_domains([sender], [recipients])
    )
    assert (foreign or first) == place


@pytest.mark.parametrize("as_json", [False, True])
def test_smtp_log_gives_the_recipients_domain_as_the_place(tmp_path, as_json):
    mails = [
        {"uid": "C1", "mailfrom": "a@corp.example", "rcptto": "b@corp.example"}
        | {"user_agent": "Outlook"},
        {"uid": "C1", "mailfrom": "a@corp.example"}
        | {"rcptto": "c@corp.example,e@box.thief.net"},
        {"uid": "C2", "mailfrom": "a@corp.example", "rcptto": "b@corp.example"},
        {"uid": "C3"},
    ]
    logs = {"smtp": (SMTP, mails)}
    flows = zeek(tmp_path, logs, ["C1", "C2", "C3"], as_json=as_json)
    assert shown(flows, "server_name", "user_agent", "app") == {
        "C1": ["box.thief.net", "Outlook", "SMTP"],
        "C2": ["corp.example", None, "SMTP"],
        "C3": [None, None, "SMTP"],
    }
    # Through the site's own relay too.
    relayed = flows.assign(dst_ip="10.0.0.25", dst_port=25)
    oriented = orient(relayed, PRIVATE_NETWORKS)
    assert oriented["place"].tolist() == ["thief.net", "corp.example", "10.0.0.25"]
    assert not stays_inside(oriented).any()


# -- Suricata ----------------------------------------------------------------------


def event(kind, flow_id, *, answers=False, **fields) -> dict[str, object]:
    source, target = ("10.0.0.5", 40000), ("203.0.113.7", 443)
    if answers:
        source, target = target, source
    return {
        "timestamp": "2023-11-14T22:14:00.000000+0100",
        "flow_id": flow_id,
        "event_type": kind,
        "src_ip": source[0],
        "src_port": source[1],
        "dest_ip": target[0],
        "dest_port": target[1],
        "proto": "TCP",
    } | fields


def flow(flow_id, sent=9000, received=500) -> dict[str, object]:
    about = {
        "pkts_toserver": 8,
        "pkts_toclient": 8,
        "bytes_toserver": sent,
        "bytes_toclient": received,
        "start": "2023-11-14T23:13:20.250000+0100",
        "end": "2023-11-14T23:13:21.750000+0100",
    }
    return event("flow", flow_id, flow=about, app_proto="http")


def eve(tmp_path, events):
    path = tmp_path / "eve.json"
    path.write_bytes(json_lines(events))
    return exfilml.read_flows(path).set_index("uid")


def test_suricata_names_files_on_the_side_that_sent_them(tmp_path):
    def file(flow_id, name, *, answers=False, **http):
        about = {"filename": name, "size": 5, "state": "CLOSED"}
        return event("fileinfo", flow_id, answers=answers, fileinfo=about, http=http)

    post = {"http_method": "POST", "url": "/up.php?id=1", "hostname": "up.example"}
    events = [
        file(1, "C:\\out\\Secret.ZIP", **post),
        file(1, "later.txt", **post),
        file(1, "/answer.js?x", answers=True),
        file(2, "/up.php", **post),
        file(3, "/dir/put.7z", http_method="PUT", url="/dir/put.7z"),
        event("ftp_data", 4, ftp_data={"filename": "a/Stored.bin", "command": "STOR"}),
        event("ftp_data", 5, ftp_data={"filename": "fetched", "command": "RETR"}),
        *(flow(i) for i in range(1, 5)),
        flow(5, 500, 9000),
    ]
    flows = eve(tmp_path, events)
    assert shown(flows, "server_name", "src_declared", "dst_declared") == {
        "1": ["up.example", "secret.zip", "answer.js"],
        "2": ["up.example", None, None],
        "3": [None, "put.7z", None],
        "4": [None, "stored.bin", None],
        "5": [None, None, "fetched"],
    }


def test_suricata_gives_the_recipients_domain_as_the_place(tmp_path):
    def mail(flow_id, sender, *recipients):
        about = {"helo": "pc", "mail_from": sender, "rcpt_to": list(recipients)}
        return event("smtp", flow_id, smtp=about)

    events = [
        mail(1, "<a@corp.example>", "<b@corp.example>"),
        mail(1, "<a@corp.example>", "<b@corp.example>", "<e@box.thief.net>"),
        mail(2, "<a@corp.example>", "<b@corp.example>"),
        event("smtp", 3, smtp={"helo": "pc"}),
        event("tls", 3, tls={"sni": "mx.example"}),
        *(flow(i) for i in range(1, 4)),
    ]
    assert eve(tmp_path, events)["server_name"].tolist() == [
        *("box.thief.net", "corp.example", "mx.example")
    ]


# -- fuzz --------------------------------------------------------------------------

CHUNKS = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([b'"', b"\n", b"\t", b"[", b"{", b"}", b"null", b"\\u0000", b"@"]),
)
EDITS = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 40), CHUNKS), max_size=6)


def damaged(data: bytes, edits) -> bytes:
    changed = bytearray(data)
    for at, cut, put in edits:
        changed[at : at + cut] = put
    return bytes(changed)


@settings(deadline=None, max_examples=60)
@given(edits=EDITS, kind=st.sampled_from(["files", "ftp", "smtp"]))
def test_damaged_logs_beside_conn_log_cost_names_alone(tmp_path_factory, edits, kind):
    folder = tmp_path_factory.mktemp("fuzz")
    rows = {
        "files": (FILES, {"fuid": "F1", "conn_uids": "C1", "filename": "a.zip"}),
        "ftp": (FTP, {"uid": "C1", "arg": "ftp://h/a", "fuid": "F1"}),
        "smtp": (SMTP, {"uid": "C1", "mailfrom": "a@b.c", "rcptto": "d@e.f,g@h.i"}),
    }
    for name, (fields, row) in rows.items():
        lines = [{"ts": 1700000000.0} | row] * 3
        data = zeek_tsv(lines, path=name, fields={"ts": "time"} | fields)
        data = damaged(data, edits) if name == kind else data
        (folder / f"{name}.log").write_bytes(data)
    (folder / "conn.log").write_bytes(zeek_tsv([conn(uid="C1")]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flows = exfilml.read_flows(folder / "conn.log")
    assert flows["src_bytes"].tolist() == [1328]


@settings(deadline=None, max_examples=60)
@given(edits=EDITS)
def test_damaged_events_end_in_flows_or_one_clear_error(tmp_path_factory, edits):
    events = [
        event("fileinfo", 1, fileinfo={"filename": "/a/b.zip"}, http={"url": "/x"}),
        event("smtp", 1, smtp={"mail_from": "<a@b.c>", "rcpt_to": ["<d@e.f>"]}),
        event("ftp_data", 1, ftp_data={"filename": "x"}),
        flow(1),
    ]
    path = tmp_path_factory.mktemp("fuzz") / "eve.json"
    path.write_bytes(damaged(json_lines(events), edits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exfilml.read_flows(path)
        except ExfilmlError:
            return
