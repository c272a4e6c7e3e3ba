"""How fast logs are read, against Arrow's bare readers of the same bytes.

Run as ``python tests/benchmarks/bench_logs.py [ROWS]`` (default 1,000,000). The script
writes logs of made-up flows by repeating built rows: a Zeek conn.log in TSV, Suricata's
EVE with a DNS or TLS event for every flow, and nfdump's CSV of two records a flow.

Ours is `exfilml.iter_flows`: parsed, converted to IP bytes, enriched, paired and
checked flows tables. Bare is ``pyarrow.csv`` or ``pyarrow.json`` of the same file with
what it infers, which ends with an Arrow table of the log's own columns; it uses a
thread for each core, as it does unasked. Ours uses those threads too, and one that
reads ahead. zat's LogToDataFrame (pandas' C parser, one thread) reads the conn.log
where it is installed. Best of three turns each, turn by turn, in one run; processor
time is of all threads, and less disturbed by what else the machine does.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pyarrow import csv
from pyarrow import json as arrow_json

sys.path.insert(0, str(Path(__file__).parent.parent))

from logs import conn, zeek_header, zeek_line

import exfilml
from exfilml.exceptions import SourceWarning

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 1_000_000
TURNS = 3
TIMES_ZAT = 10
BUILT = 20_000
HEADER_LINES = 8
NFDUMP = (
    "ts,te,td,sa,da,sp,dp,pr,flg,fwd,stos,ipkt,ibyt,opkt,obyt,in,out,sas,das,smk,dmk,"
    "dtos,dir,nh,nhb,svln,dvln,ismc,odmc,idmc,osmc,mpls1,mpls2,cl,sl,al,ra,eng,exid,tr\n"
)
REST = (
    "0,0,0,0,0.0.0.0,0.0.0.0,0,0,00:00:00:00:00:00,00:00:00:00:00:00,"
    "00:00:00:00:00:00,00:00:00:00:00:00,0-0-0,0-0-0,    0.000,    0.000,    0.000,"
    "0.0.0.0,0/0,1,1970-01-01 00:00:00.000\n"
)


def built(n: int) -> list[dict[str, object]]:
    """Connections of a made-up site, in order of time."""
    rng = np.random.default_rng(0)
    rows = []
    for at in range(n):
        name, port, proto, history = (
            ("ssl", 443, "tcp", "ShADadFf"),
            ("dns", 53, "udp", "Dd"),
            ("http", 80, "tcp", "ShADadfF"),
            (None, int(rng.integers(1024, 65536)), "tcp", "S"),
        )[rng.choice(4, p=[0.5, 0.3, 0.15, 0.05])]
        up, down = (int(x) for x in np.exp(rng.normal(7, 1.5, 2)))
        packets = [up // 1000 + 1, down // 1000 + 1]
        remote = int(rng.zipf(1.3)) % 50_000
        rows.append(
            conn(
                ts=1700000000.0 + at / 10,
                uid=f"C{rng.integers(2**60):x}",
                id__orig_h=f"10.0.{rng.integers(8)}.{rng.integers(1, 255)}",
                id__orig_p=int(rng.integers(32768, 61000)),
                id__resp_h=f"{20 + remote // 2**16}.7.{remote >> 8 & 255}.{remote & 255}",
                id__resp_p=port,
                proto=proto,
                service=name,
                duration=float(rng.exponential(5)),
                history=history,
                orig_bytes=up,
                resp_bytes=down,
                orig_pkts=packets[0],
                resp_pkts=packets[1],
                orig_ip_bytes=up + 52 * packets[0],
                resp_ip_bytes=down + 52 * packets[1],
            )
        )
    return rows


def write_zeek(path: Path, rows: list[dict[str, object]], n: int) -> None:
    body = "".join(map(zeek_line, rows))
    path.write_text(zeek_header() + body * (n // len(rows)))


def write_eve(path: Path, rows: list[dict[str, object]], n: int) -> None:
    stamp = "2023-11-14T{:02}:{:02}:{:02}.{:06}+0100"
    lines = []
    for at, row in enumerate(rows):
        ends = {
            "timestamp": stamp.format(at // 3600, at // 60 % 60, at % 60, at),
            "flow_id": at + 10**15,
            "in_iface": "eth0",
            "event_type": "",
            "src_ip": row["id.orig_h"],
            "src_port": row["id.orig_p"],
            "dest_ip": row["id.resp_h"],
            "dest_port": row["id.resp_p"],
            "proto": str(row["proto"]).upper(),
        }
        name = f"www{at % 997}.example"
        if row["service"] == "dns":
            kind = {"dns": {"type": "query", "id": at, "rrname": name, "rrtype": "A"}}
        else:
            kind = {
                "tls": {"sni": name, "version": "TLS 1.3", "ja3": {"hash": "a" * 32}}
            }
        about = {
            "pkts_toserver": row["orig_pkts"],
            "pkts_toclient": row["resp_pkts"],
            "bytes_toserver": row["orig_ip_bytes"],
            "bytes_toclient": row["resp_ip_bytes"],
            "start": ends["timestamp"],
            "end": ends["timestamp"],
            "age": 1,
            "state": "closed",
            "reason": "timeout",
            "alerted": False,
        }
        tcp = {
            "tcp_flags": "1b",
            "tcp_flags_ts": "1b",
            "tcp_flags_tc": "1b",
            "syn": True,
        }
        first = ends | {"event_type": next(iter(kind))} | kind
        last = ends | {
            "event_type": "flow",
            "app_proto": "tls",
            "flow": about,
            "tcp": tcp,
        }
        lines += [json.dumps(first), json.dumps(last)]
    path.write_text("\n".join(lines * (n // len(lines))) + "\n")


def write_nfdump(path: Path, rows: list[dict[str, object]], n: int) -> None:
    lines = []
    for at, row in enumerate(rows):
        begin = f"2023-11-14 {at // 3600:02}:{at // 60 % 60:02}:{at % 60:02}.250"
        there = f"{row['id.orig_h']},{row['id.resp_h']},{row['id.orig_p']},{row['id.resp_p']}"
        back = f"{row['id.resp_h']},{row['id.orig_h']},{row['id.resp_p']},{row['id.orig_p']}"
        for ends, way in ((there, "orig"), (back, "resp")):
            counts = f"{row[f'{way}_pkts']},{row[f'{way}_ip_bytes']}"
            lines.append(
                f"{begin},{begin},0.000,{ends},{str(row['proto']).upper()},...AP.SF,0,0,"
                f"{counts},0,0,0,0,0,0,{REST}"
            )
    path.write_text(NFDUMP + "".join(lines * (n // len(lines))))


def ours(path: Path) -> int:
    return sum(len(table) for table in exfilml.iter_flows(path, timezone="UTC"))


def bare_tsv(path: Path) -> int:
    return csv.read_csv(
        path,
        read_options=csv.ReadOptions(
            skip_rows=HEADER_LINES, autogenerate_column_names=True
        ),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=csv.ConvertOptions(null_values=["-"]),
    ).num_rows


def bare_csv(path: Path) -> int:
    return csv.read_csv(path).num_rows


def bare_json(path: Path) -> int:
    return arrow_json.read_json(path).num_rows


def zat(path: Path) -> int:
    from zat.log_to_dataframe import LogToDataFrame

    return len(LogToDataFrame().create_dataframe(str(path)))


def compare(
    path: Path, lines: int, readers: dict[str, Callable[[Path], int]], target: float
) -> None:
    """Time ours, a bare reader and others turn by turn."""
    seconds = dict.fromkeys(readers, np.inf)
    busy = dict.fromkeys(readers, np.inf)
    for _ in range(TURNS):
        for name, read in readers.items():
            began, worked = time.perf_counter(), time.process_time()
            assert read(path) > 0
            seconds[name] = min(seconds[name], time.perf_counter() - began)
            busy[name] = min(busy[name], time.process_time() - worked)
    size = path.stat().st_size / 2**20
    print(f"{path.name}: {lines:,} lines, {size:,.0f} MiB")
    for name, took in seconds.items():
        print(
            f"  {name:22s} {took:7.2f} s {lines / took:12,.0f} lines/s, "
            f"{busy[name]:6.2f} s of processor time"
        )
    _, bare, *others = readers
    ratio, worked = (t["exfilml"] / t[bare] for t in (seconds, busy))
    print(
        f"  {ratio:.2f} times the bare read, in processor time {worked:.2f} times "
        f"(target: at most {target:g})"
    )
    for other in others:
        for name in ("exfilml", bare):
            ratio, worked = (t[other] / t[name] for t in (seconds, busy))
            print(
                f"  {name} is {ratio:.1f} times as fast as {other}, in processor time "
                f"{worked:.1f} times (target for exfilml: at least {TIMES_ZAT})"
            )


def main(n: int) -> None:
    """Write the logs, and compare."""
    rows = built(BUILT)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", SourceWarning)
        folder = Path(name)
        path = folder / "conn.log"
        write_zeek(path, rows, n)
        readers = {"exfilml": ours, "bare pyarrow.csv": bare_tsv}
        if importlib.util.find_spec("zat") is None:
            print("zat is not installed: not compared (pip install -e '.[bench]')")
        else:
            readers["zat"] = zat
        compare(path, n, readers, 2)
        path.unlink()
        for file, write, bare, called in (
            ("eve.json", write_eve, bare_json, "bare pyarrow.json"),
            ("nfdump.csv", write_nfdump, bare_csv, "bare pyarrow.csv"),
        ):
            path = folder / file
            write(path, rows, n)
            compare(path, n, {"exfilml": ours, called: bare}, 2.5)
            path.unlink()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
