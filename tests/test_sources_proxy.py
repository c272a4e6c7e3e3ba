"""Requests that Squid, the W3C's format and Zeek's http.log tell of, as flows."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import conn, json_lines, zeek_tsv
from sites import office

import exfilml
from exfilml.exceptions import ExfilmlError, SourceError, SourceWarning
from exfilml.places import PRIVATE_NETWORKS, orient, stays_inside
from exfilml.policy import Policy
from exfilml.schema import capability
from exfilml.sources import _packed, _requests
from exfilml.sources._requests import Requests

REAL = os.environ.get("EXFILML_REAL_DATA")
ZEEK = Path(REAL or "") / "logs" / "zeek"
real = pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")


def squid(**changed) -> str:
    """One request as Squid logs it in its own format, with labelled fields after."""
    row = {
        "end": 1700000000.586,
        "ms": 921,
        "client": "10.0.0.5",
        "result": "TCP_MISS/200",
        "down": 507,
        "method": "POST",
        "url": "http://up.example.com/x?y",
        "hierarchy": "HIER_DIRECT/203.0.113.7",
        "type": "text/html",
        "labels": " up=5000 port=40000 proxy=10.0.0.80 agent=Mozilla%2F5.0%20(X11)",
    } | changed
    return (
        "{end:.3f} {ms:6d} {client} {result} {down} {method} {url} - {hierarchy} "
        "{type}{labels}\n"
    ).format(**row)


def like_httpd(**changed) -> str:
    row = {
        "client": "10.0.0.5",
        "at": "14/Nov/2023:23:13:20 +0100",
        "request": "POST http://up.example.com/x HTTP/1.1",
        "down": 507,
        "headers": ' "http://ref.example/" "Mozilla/5.0 (X11; \\"q\\")"',
        "result": "TCP_MISS:HIER_DIRECT",
        "labels": " up=5000",
    } | changed
    return (
        '{client} - joe [{at}] "{request}" 200 {down}{headers} {result}{labels}\n'
    ).format(**row)


BLUE_COAT = (
    "date time time-taken c-ip cs-username sc-filter-result cs-categories sc-status "
    "s-action cs-method rs(Content-Type) cs-uri-scheme cs-host cs-uri-port "
    "cs(User-Agent) s-ip sc-bytes cs-bytes"
)
IIS = (
    "date time s-ip cs-method cs-uri-stem cs-uri-query s-port cs-username c-ip "
    "cs(User-Agent) sc-status sc-bytes cs-bytes time-taken"
)


def blue_coat(**changed) -> str:
    row = {
        "at": "2023-11-14 22:13:20",
        "ms": 1500,
        "client": "10.0.0.5",
        "verdict": "OBSERVED",
        "action": "TCP_NC_MISS",
        "method": "POST",
        "scheme": "http",
        "host": "up.example.com",
        "port": 80,
        "agent": '"Mozilla/5.0 (X11; ""q"")"',
        "proxy": "10.0.0.80",
        "down": 700,
        "up": 90000,
    } | changed
    return (
        '{at} {ms} {client} joe {verdict} "Search Engines/Portals" 200 {action} '
        "{method} text/html;%20charset=utf-8 {scheme} {host} {port} {agent} {proxy} "
        "{down} {up}\n"
    ).format(**row)


def w3c(lines, fields=BLUE_COAT, software="SGOS 7.3") -> str:
    head = f"#Software: {software}\n#Version: 1.0\n#Date: 2023-11-14 00:00:00\n"
    return f"{head}#Fields: {fields}\n" + "".join(lines)


def request(**changed) -> dict[str, object]:
    """One request as Zeek's http.log has it."""
    row = {
        "ts": 1700000000.25,
        "uid": "CAbc1",
        "id.orig_h": "10.0.0.5",
        "id.orig_p": 40000,
        "id.resp_h": "203.0.113.7",
        "id.resp_p": 80,
        "trans_depth": 1,
        "method": "POST",
        "host": "up.example.com",
        "uri": "/x",
        "user_agent": "curl/8",
        "request_body_len": 5000,
        "response_body_len": 507,
        "orig_mime_types": "application/zip",
    }
    return row | changed


HTTP_FIELDS = dict.fromkeys(request(), "string")


def read(tmp_path, text, name="access.log"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flows = exfilml.read_flows(path)
    return flows, [str(w.message).removeprefix(f"{path}: ") for w in caught]


# -- Squid -------------------------------------------------------------------------


def test_columns_of_a_request_through_squid(tmp_path):
    flows, told = read(tmp_path, squid())
    expected = {
        "start": pd.Timestamp("2023-11-14T22:13:19.665Z"),
        "duration_s": 0.921,
        "src_ip": "10.0.0.5",
        "src_port": 40000,
        "dst_ip": "203.0.113.7",
        "dst_port": 80,
        "protocol": 6,
        "src_bytes": 5000,
        "dst_bytes": 507,
        "src_payload_bytes": 5000,
        "dst_payload_bytes": 507,
        "conn_state": "established",
        "app": "HTTP",
        "server_name": "up.example.com",
        "user_agent": "Mozilla/5.0 (X11)",
        "content_type": "text/html",
        "sensor": "access.log",
        "via": "proxy 10.0.0.80",
    }
    row = flows.iloc[0]
    assert row[list(expected)].to_dict() == expected
    assert row[["src_packets", "app_verified", "uid", "src_entropy"]].isna().all()
    assert capability(flows).tolist() == ["application"]
    assert told == [
        (
            "its bytes are those that HTTP carried, headers and bodies; they stand for "
            "IP bytes."
        )
    ]


@pytest.mark.parametrize("headers", ["", ' "-" "Mozilla/5.0 (X11; \\"q\\")"'])
def test_columns_of_a_request_in_the_formats_of_web_servers(tmp_path, headers):
    labels = " up=5000 server=203.0.113.7"
    row = read(tmp_path, like_httpd(headers=headers, labels=labels))[0].iloc[0]
    expected = {
        "start": pd.Timestamp("2023-11-14T22:13:20Z"),
        "duration_s": 0.0,
        "src_ip": "10.0.0.5",
        "dst_ip": "203.0.113.7",
        "dst_port": 80,
        "src_bytes": 5000,
        "dst_bytes": 507,
        "server_name": "up.example.com",
        "via": "proxy",
    }
    assert row[list(expected)].to_dict() == expected
    agent = row["user_agent"]
    assert pd.isna(agent) if not headers else agent == 'Mozilla/5.0 (X11; "q")'


def test_tunnels_have_the_name_that_was_asked_for_or_shaken_hands_with(tmp_path):
    tunnel = {"method": "CONNECT", "result": "TCP_TUNNEL/200", "type": "-"}
    lines = [
        squid(url="a.example:443", labels=" up=10", **tunnel),
        squid(url="203.0.113.7:443", labels=" up=20 sni=b.example", **tunnel),
        squid(url="203.0.113.7:8443", labels=" up=30", **tunnel),
        squid(url="[2001:db8::7]:443", labels=" up=40", **tunnel),
    ]
    flows = read(tmp_path, "".join(lines))[0].sort_values("src_bytes")
    shown = flows[["server_name", "dst_ip", "dst_port", "app"]].astype(object)
    assert shown.where(shown.notna(), None).to_numpy().tolist() == [
        ["a.example", "203.0.113.7", 443, "HTTP_Connect"],
        ["b.example", "203.0.113.7", 443, "HTTP_Connect"],
        [None, "203.0.113.7", 8443, "HTTP_Connect"],
        [None, "2001:db8::7", 443, "HTTP_Connect"],
    ]


def test_denied_requests_and_entries_without_a_host_are_passed_over_and_told(tmp_path):
    lines = [
        squid(),
        squid(result="TCP_DENIED/407", hierarchy="HIER_NONE/-"),
        squid(result="NONE/400", method="-", url="error:invalid-request"),
        like_httpd(result="TCP_DENIED:HIER_NONE"),
    ]
    flows, told = read(tmp_path, "".join(lines))
    assert flows["src_bytes"].tolist() == [5000]
    assert told[:2] == [
        (
            "2 of 4 requests were denied by the proxy and sent nothing to anybody; "
            "passed over."
        ),
        "1 of 4 entries name no host (errors, cache queries); passed over.",
    ]


def test_what_a_server_answers_cannot_speak_for_squid(tmp_path):
    """The type is the answer's, the referrer and the program the client's."""
    lines = [
        squid(type="text/html up=1", labels=" up=5000"),
        squid(type="x port=1 up=7", labels=" up=6000 port=40001"),
        like_httpd(
            headers=' "-" "x up=1 TCP_DENIED:X "', labels=" up=7000", client="10.1.1.2"
        ),
        like_httpd(
            headers=' "-" "x\\" 1 2 up=1"', labels=" up=8000", client="10.1.1.1"
        ),
    ]
    flows, _ = read(tmp_path, "".join(lines))
    assert sorted(flows["src_bytes"]) == [5000, 6000, 7000, 8000]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (squid(labels=""), r"counts what was sent to clients \(%<st\).*up=%>st port="),
        (like_httpd(labels=""), r"and no uploads.*logformat exfilml %ts"),
        (like_httpd(headers="", labels=""), r"and no uploads"),
        (
            '1.2.3.4 - - [14/Nov/2023:23:13:20 +0100] "GET / HTTP/1.1" 200 5\n',
            "web server",
        ),
    ],
)
def test_logs_that_count_no_uploads_are_refused_with_what_to_do(
    tmp_path, text, message
):
    with pytest.raises(SourceError, match=message):
        read(tmp_path, text)


def test_the_line_that_is_told_to_be_configured_is_read(tmp_path):
    """Each of its codes, put in as Squid would."""
    with pytest.raises(SourceError) as caught:
        read(tmp_path, squid(labels=""))
    text = str(caught.value).split('"')[1].removeprefix("logformat exfilml ")
    for code, value in {
        "%ts.%03tu": "1700000000.586", "%6tr": "   921", "%>a": "10.0.0.5",
        "%Ss/%03>Hs": "TCP_MISS/200", "%<st": "507", "%rm": "PUT",
        "%ru": "http://up.example.com/", "%[un": "-", "%Sh/%<a": "HIER_DIRECT/1.2.3.4",
        "%mt": "-", "%>st": "4711", "%>p": "40000", "%>la": "10.0.0.80",
        "%#{User-Agent}>h": "curl%2F8",
    }.items():  # fmt: skip
        assert code in text
        text = text.replace(code, value)
    row = read(tmp_path, f"{text}\n")[0].iloc[0]
    assert (row["src_bytes"], row["user_agent"]) == (4711, "curl/8")


def test_bad_lines_are_counted_and_the_first_is_named(tmp_path):
    lines = [
        squid(),
        squid(labels=""),
        "1700000000.586 x up=5\n",
        squid(client="pc7.example"),
        like_httpd(at="yesterday"),
    ]
    flows, told = read(tmp_path, "".join(lines) + squid(labels=" up=1")[:-40])
    assert len(flows) == 1
    assert told[0].startswith(
        "5 of 6 lines could not be read; first: line 2: without up"
    )


# -- the W3C's format --------------------------------------------------------------


def test_columns_of_a_request_through_blue_coat(tmp_path):
    flows, _ = read(tmp_path, w3c([blue_coat()]))
    expected = {
        "start": pd.Timestamp("2023-11-14T22:13:18.5Z"),
        "duration_s": 1.5,
        "src_ip": "10.0.0.5",
        "dst_ip": "10.0.0.80",
        "dst_port": 80,
        "src_bytes": 90000,
        "dst_bytes": 700,
        "app": "HTTP",
        "server_name": "up.example.com",
        "user_agent": 'Mozilla/5.0 (X11; "q")',
        "via": "proxy 10.0.0.80",
    }
    assert flows.iloc[0][list(expected)].to_dict() == expected


def test_fields_may_change_and_be_separated_by_tabs(tmp_path):
    other = "date time c-ip c-port cs-uri r-ip cs-bytes sc-bytes time-taken"
    lines = [
        blue_coat(),
        f"#Fields: {other}\n",
        "2023-11-14\t22:13:30\t10.0.0.6\t5000\thttps://b.example/x\t203.0.113.9\t7\t8\t0.25\n",
        "#Fields: date time c-ip cs-host sc-bytes\n",
        "2023-11-14 22:13:31 10.0.0.6 b.example 10\n",
        "2023-11-14 22:13:32 10.0.0.6 b.example 10\n",
    ]
    flows, told = read(tmp_path, w3c(lines))
    row = flows.iloc[1]
    assert row[["src_port", "dst_ip", "dst_port", "src_bytes"]].tolist() == [
        *(5000, "203.0.113.9", 443, 7)
    ]
    # Seconds by the draft, as there is a decimal point.
    assert row["duration_s"] == 0.25
    assert told[0] == (
        "2 of 4 lines could not be read; first: line 9: without cs-bytes before it."
    )


def test_denied_tunnelled_and_broken_lines(tmp_path):
    tunnel = {"method": "CONNECT", "scheme": "tcp", "port": 443, "agent": "-"}
    lines = [
        blue_coat(action="TCP_DENIED", verdict="DENIED"),
        blue_coat(action="TCP_TUNNELED", host="203.0.113.7", **tunnel),
        "2023-11-14 x broken\n",
        blue_coat(agent='"never closed'),
        blue_coat(up="-"),
    ]
    flows, told = read(tmp_path, w3c(lines))
    assert flows[["dst_ip", "app", "src_bytes"]].to_numpy().tolist() == [
        ["203.0.113.7", "HTTP_Connect", 90000]
    ]
    assert told[0].startswith("3 of 5 lines could not be read; first: line 7: 3 of 18")
    assert told[1].startswith("1 of 5 requests were denied")


def iis(client="203.0.113.9", down=7_000_000, **changed) -> str:
    at = changed.get("at", "2023-11-14 22:13:20")
    agent = "Mozilla/5.0+(Windows+NT)"
    return f"{at} 10.0.0.20 GET /a - 443 - {client} {agent} 200 {down} 300 1200\n"


def test_a_web_servers_log_is_inbound_and_its_clients_are_the_places(tmp_path):
    text = w3c([iis()], IIS, "Microsoft Internet Information Services 10.0")
    flows, told = read(tmp_path, text)
    assert flows[["src_ip", "dst_ip", "dst_port"]].iloc[0].tolist() == [
        *("203.0.113.9", "10.0.0.20", 443)
    ]
    assert flows["via"].isna().all()
    oriented = orient(flows, PRIVATE_NETWORKS)
    shown = ["direction", "local_ip", "place", "up_bytes", "down_bytes"]
    assert oriented[shown].iloc[0].tolist() == [
        *("inbound", "10.0.0.20", "203.0.113.9", 7_000_000, 300)
    ]
    assert told[1].startswith("a web server wrote it: its clients are the remote side")
    assert flows["user_agent"].tolist() == ["Mozilla/5.0 (Windows NT)"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (w3c([], IIS.replace(" sc-bytes cs-bytes", ""), "Microsoft Internet Information Services 10.0"),
         r"without cs-bytes, sc-bytes: .*In IIS: .*Bytes Sent and Bytes Received"),
        (w3c([], BLUE_COAT.replace(" cs-bytes", "")), r"without cs-bytes.*of the proxy"),
        (w3c([], "date time c-ip cs-bytes sc-bytes"), r"without cs-host"),
        (w3c([], "date time x-edge-location sc-bytes c-ip cs(Host) cs-bytes"), "CloudFront"),
    ],
)  # fmt: skip
def test_w3c_logs_that_lack_something_are_refused_with_what_to_do(
    tmp_path, text, message
):
    with pytest.raises(SourceError, match=message):
        read(tmp_path, text)


# -- Zeek's http.log ---------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_an_http_log_alone_gives_a_flow_for_each_connection_and_host(tmp_path, as_json):
    rows = [
        request(),
        request(ts=1700000003.25, trans_depth=2, request_body_len=1, user_agent="x"),
        request(ts=1700000004.0, host="b.example:8080", request_body_len=7),
        request(ts=1700000005.0, uid="CAbc2", request_body_len=9),
        request(ts=1700000006.0, uid="CAbc3", method="CONNECT", host="t.example:443"),
    ]
    if as_json:
        for row in rows:
            row["orig_mime_types"] = [row["orig_mime_types"]]
    data = (
        json_lines(rows) if as_json else zeek_tsv(rows, path="http", fields=HTTP_FIELDS)
    )
    flows, told = read(tmp_path, data, "http.log")
    shown = ["uid", "server_name", "src_bytes", "dst_bytes", "duration_s", "user_agent"]
    assert flows[shown].to_numpy().tolist() == [
        ["CAbc1", "up.example.com", 5001, 1014, 3.0, "curl/8"],
        ["CAbc1", "b.example", 7, 507, 0.0, "curl/8"],
        ["CAbc2", "up.example.com", 9, 507, 0.0, "curl/8"],
    ]
    assert set(flows["content_type"]) == {"application/zip"}
    assert told == [
        "1 of 5 requests are for tunnels (CONNECT), whose bytes are not in it; left out.",
        (
            "its bytes are those of unpacked bodies, without headers; they stand for IP "
            "bytes."
        ),
    ]


def test_an_http_log_beside_conn_log_gives_names_and_is_not_counted_twice(tmp_path):
    (tmp_path / "conn.log").write_bytes(zeek_tsv([conn(service=None)]))
    data = zeek_tsv([request()], path="http", fields=HTTP_FIELDS)
    (tmp_path / "http.log").write_bytes(data)
    for source in (tmp_path, [tmp_path / "conn.log", tmp_path / "http.log"]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            flows = exfilml.read_flows(source)
        assert flows[["src_bytes", "server_name"]].to_numpy().tolist() == [
            [1328, "up.example.com"]
        ]
    (tmp_path / "http_old.log").write_bytes(data)
    with pytest.warns(SourceWarning, match=r"http_old.log: lies beside a conn.log"):
        assert len(exfilml.read_flows(tmp_path)) == 1
    with pytest.warns(SourceWarning, match="unpacked bodies"):
        alone = exfilml.read_flows(tmp_path / "http.log")
    assert alone["src_bytes"].tolist() == [5000]


@real
@pytest.mark.parametrize(
    "name", ["zat-json/http.log", "slips-test14-malicious-zeek-dir/http.log"]
)
def test_totals_of_real_http_logs_equal_those_of_jq(name):
    program = (
        '[.[]|select(.method!="CONNECT")]|map(.request_body_len,.response_body_len)'
    )
    done = subprocess.run(
        ["jq", "-sc", program, str(ZEEK / name)],
        capture_output=True,
        check=True,
    )
    counts = json.loads(done.stdout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flows = exfilml.read_flows(ZEEK / name)
    assert flows[["src_bytes", "dst_bytes"]].sum().tolist() == [
        sum(counts[::2]),
        sum(counts[1::2]),
    ]


@real
@pytest.mark.parametrize("name", ["http.log", "http.log.gz", "http.log.corrupt.gz"])
def test_totals_of_a_real_http_log_in_tsv_equal_those_of_awk(name):
    program = '!/^#/ && $8 != "CONNECT" {up += $13; down += $14} END {print up, down}'
    done = subprocess.run(
        ["awk", "-F", "\t", program, str(ZEEK / "zat" / "http.log")],
        capture_output=True,
        check=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flows = exfilml.read_flows(ZEEK / "zat" / name)
    totals = [int(n) for n in done.stdout.split()]
    assert flows[["src_bytes", "dst_bytes"]].sum().tolist() == totals


# -- joined ------------------------------------------------------------------------


def day_of_requests(n, seed=0) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    at = 1700000000 + np.sort(rng.integers(0, 20_000_000, n)) / 1000
    return [
        {
            "end": end,
            "ms": int(rng.integers(0, 900)),
            "client": f"10.0.0.{rng.integers(2, 6)}",
            "result": str(
                rng.choice(["TCP_MISS/200", "TCP_HIT/200", "TCP_DENIED/403"])
            ),
            "down": int(rng.integers(0, 9000)),
            "url": f"http://h{rng.integers(0, 4)}.example/{i}",
            "labels": f" up={rng.integers(0, 9000)}",
        }
        for i, end in enumerate(at)
    ]


def test_totals_equal_those_of_awk(tmp_path):
    path = tmp_path / "access.log"
    path.write_text("".join(squid(**row) for row in day_of_requests(3000)))
    program = r"""$4 !~ /^TCP_DENIED/ {
        sub(/up=/, "", $NF); up[$3] += $NF; down[$3] += $5
    } END {for (c in up) print c, up[c], down[c]}"""
    done = subprocess.run(["awk", program, str(path)], capture_output=True, check=True)
    expected = {
        client: [int(up), int(down)]
        for client, up, down in (
            line.split() for line in done.stdout.decode().splitlines()
        )
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flows = exfilml.read_flows(path)
    sums = flows.groupby("src_ip")[["src_bytes", "dst_bytes"]].sum()
    assert sums.T.to_dict("list") == expected


def joined_by_hand(rows, idle) -> list[tuple[object, ...]]:
    """The rule in plain words: one client, one host, one hour, no long silence."""
    flows: list[list[object]] = []
    last: dict[tuple[object, ...], list[object]] = {}
    for row in sorted(rows, key=lambda r: r["start"]):
        key = (row["src_ip"], row["server_name"], row["start"] // 3600)
        flow = last.get(key)
        if flow is None or row["start"] - flow[3] > idle:
            flow = [*key[:2], row["start"], row["start"], 0, 0]
            last[key] = flow
            flows.append(flow)
        flow[3] = max(flow[3], row["start"] + row["duration_s"])
        flow[4] += row["src_bytes"]
        flow[5] += row["dst_bytes"]
    return sorted(tuple(flow) for flow in flows)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 120), st.integers(5, 200))
def test_joining_is_the_rule_in_however_many_pieces(seed, n, piece):
    rng = np.random.default_rng(seed)
    start = np.sort(rng.integers(0, 8000, n))
    rows = [
        {
            "start": int(at),
            "duration_s": int(rng.integers(0, 50)),
            "src_ip": f"10.0.0.{rng.integers(2, 4)}",
            "server_name": f"h{rng.integers(0, 2)}.example",
            "src_bytes": int(rng.integers(0, 100)),
            "dst_bytes": int(rng.integers(0, 100)),
        }
        for at in start
    ]
    table = pd.DataFrame(rows)
    for way in ("src", "dst"):
        table[f"{way}_payload_bytes"] = table[f"{way}_bytes"].astype("Int64")
    table = table.assign(src_port=0, dst_ip="0.0.0.0", dst_port=80, protocol=6)
    table["start"] = pd.to_datetime(table["start"], unit="s", utc=True).dt.as_unit("us")
    requests = Requests(60)
    parts = [requests.add(table.iloc[i : i + piece]) for i in range(0, n, piece)]
    flows = pd.concat([*(p for p in parts if len(p)), requests.finish()])
    first = flows["start"].astype("int64") // 1_000_000
    actual = zip(
        *(flows["src_ip"], flows["server_name"], first, first + flows["duration_s"]),
        *(flows["src_bytes"], flows["dst_bytes"]),
        strict=True,
    )
    assert sorted(actual) == joined_by_hand(rows, 60)


def test_the_largest_upload_speaks_and_others_fill_in(tmp_path):
    lines = [
        squid(labels=" up=10 agent=small proxy=10.0.0.80"),
        squid(end=1700000001.0, labels=" up=90", hierarchy="HIER_NONE/-", type="a/zip"),
        squid(end=1700000002.0, labels=" up=20 agent=other"),
    ]
    row = read(tmp_path, "".join(lines))[0].iloc[0]
    shown = ["src_bytes", "content_type", "dst_ip", "user_agent", "via"]
    assert row[shown].tolist() == [
        *(120, "a/zip", "203.0.113.7", "small", "proxy 10.0.0.80")
    ]


def test_requests_in_pieces_are_as_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(_packed, "CHUNK", 4000)
    path = tmp_path / "access.log"
    path.write_text("".join(squid(**row) for row in day_of_requests(800, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = exfilml.read_flows(path)
        parts = list(exfilml.iter_flows(path, chunk=50))
    assert max(map(len, parts)) <= 50
    names = ["start", "src_ip", "server_name"]
    pieces = pd.concat(parts).sort_values(names, ignore_index=True)
    pd.testing.assert_frame_equal(
        pieces, whole.sort_values(names, ignore_index=True), check_like=True
    )


# -- places ------------------------------------------------------------------------


def test_a_host_without_an_address_is_the_place(tmp_path):
    lines = [
        squid(hierarchy="HIER_NONE/-", labels=" up=1"),
        squid(hierarchy="HIER_NONE/-", labels=" up=2", url="http://203.0.113.7/x"),
    ]
    flows = read(tmp_path, "".join(lines))[0].sort_values("src_bytes")
    assert flows["dst_ip"].tolist() == [_requests.UNKNOWN, "203.0.113.7"]
    oriented = orient(flows, PRIVATE_NETWORKS)
    assert oriented["place"].tolist() == ["example.com", "203.0.113.7"]
    assert oriented["direction"].tolist() == ["outbound", "outbound"]
    assert not stays_inside(oriented).any()
    # So too where the address is the proxy's, which is one of the site's own.
    inside = orient(read(tmp_path, w3c([blue_coat()]))[0], PRIVATE_NETWORKS)
    assert inside["place"].tolist() == ["example.com"]
    assert inside["direction"].tolist() == ["outbound"]
    assert not stays_inside(inside).any()


def as_proxy_log(flows) -> str:
    """Write web flows as Blue Coat would have logged them: hosts, no addresses."""
    end = flows["start"] + pd.to_timedelta(flows["duration_s"], unit="s")
    return w3c(
        blue_coat(
            at=at.strftime("%Y-%m-%d %H:%M:%S"),
            ms=int(row.duration_s * 1000),
            client=row.src_ip,
            scheme="https",
            host=row.server_name,
            port=443,
            agent="-",
            up=row.src_bytes,
            down=row.dst_bytes,
        )
        for at, row in zip(end, flows.itertuples(), strict=True)
    )


@pytest.fixture(scope="module")
def week_and_day():
    web = [office(6000, payload=False), office(1500, payload=False, seed=1, days=1.0)]
    return [flows[flows["server_name"].notna()] for flows in web]


def test_a_theft_through_a_proxy_comes_first_and_names_the_host(tmp_path, week_and_day):
    week, day = week_and_day
    stolen = day.iloc[[len(day) // 2]].assign(
        server_name="drop.thief.example", src_bytes=60_000_000, dst_bytes=20_000
    )
    day = pd.concat([day, stolen]).assign(
        start=lambda f: f["start"] + pd.Timedelta("7D")
    )
    baseline, _ = read(tmp_path, as_proxy_log(week), "week.log")
    today, _ = read(tmp_path, as_proxy_log(day), "day.log")
    assert set(baseline["dst_ip"]) == {"10.0.0.80"}
    detector = exfilml.Detector(random_state=0).fit(baseline)
    first = exfilml.rank_cases(detector, today, top=3).iloc[0]
    assert first[["place", "up_bytes"]].tolist() == ["thief.example", 60_000_000]
    assert first["capability"] == "application"
    # A proxy's log is no way past the proxy, whatever address the server has.
    direct = today.assign(dst_ip="203.0.113.50")
    policy = Policy.parse({"proxies": ["10.0.0.80"]})
    for flows, past in ((direct, False), (direct.assign(via=None), True)):
        cases = exfilml.rank_cases(detector, flows, policy=policy)
        told = cases["reasons"].astype(str).str.contains("through no sanctioned proxy")
        assert told.any() == past


# -- fuzz --------------------------------------------------------------------------

CHUNKS = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b'"', b"\n", b"\t", b"  ", b"-", b"#", b"#Fields: date time c-ip cs-host\n"]
        + [b" up=", b"up=99999999999999999999", b"[", b"]:", b"://", b"\\x", b"{", b"0"]
    ),
)
TEXTS = {
    "native": squid() * 3 + squid(method="CONNECT", url="a.example:443"),
    "httpd": like_httpd() * 3,
    "w3c": w3c([blue_coat()] * 3),
    "iis": w3c([iis()] * 3, IIS, "Microsoft Internet Information Services 10.0"),
    "zeek": zeek_tsv([request()] * 3, path="http", fields=HTTP_FIELDS).decode(),
    "json": json_lines([request(orig_mime_types=["a/b"])] * 3).decode(),
}


@pytest.mark.parametrize("kind", TEXTS)
@settings(deadline=None, max_examples=60)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 900), st.integers(0, 40), CHUNKS), max_size=6
    )
)
def test_damaged_files_end_in_flows_or_one_clear_error(tmp_path_factory, kind, edits):
    data = bytearray(TEXTS[kind].encode())
    for at, cut, put in edits:
        data[at : at + cut] = put
    path = tmp_path_factory.mktemp("fuzz") / "access.log"
    path.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = exfilml.read_flows(path)
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)
