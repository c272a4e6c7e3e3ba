"""SiLK's rwcut text: columns, delimiters, times, totals."""

from __future__ import annotations

import subprocess
import warnings

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exfilml
from exfilml.exceptions import ExfilmlError, SourceWarning
from exfilml.schema import capability

# rwcut's default columns and widths, of rwcut(1).
TITLES = {
    "sIP": 39, "dIP": 39, "sPort": 5, "dPort": 5, "pro": 3, "packets": 10, "bytes": 10,
    "flags": 8, "sTime": 23, "duration": 9, "eTime": 23, "sensor": 10,
}  # fmt: skip


def there(**changed) -> dict[str, object]:
    return {
        "sIP": "10.0.0.5",
        "dIP": "203.0.113.7",
        "sPort": 40000,
        "dPort": 443,
        "pro": 6,
        "packets": 8,
        "bytes": 1328,
        "flags": "FS PA",
        "sTime": "2009/02/12T00:08:59.250",
        "duration": "1.500",
        "eTime": "2009/02/12T00:09:00.750",
        "sensor": "S0",
    } | changed


def back(**changed) -> dict[str, object]:
    ends = {"sIP": "203.0.113.7", "dIP": "10.0.0.5", "sPort": 443, "dPort": 40000}
    return there(**(ends | {"packets": 9, "bytes": 5368} | changed))


def rwcut(*records, mark="|", padded=True, last=True, titles=True, fields=TITLES):
    """As rwcut prints records."""

    def line(values):
        texts = [
            str(v).rjust(fields[n]) if padded else str(v) for n, v in values.items()
        ]
        return mark.join(texts) + (mark if last else "") + "\n"

    rows = [{n: r[n] for n in fields} for r in records]
    head = line({n: n for n in fields}) if titles else ""
    return head + "".join(map(line, rows))


def read(tmp_path, text, **options):
    (tmp_path / "flows.txt").write_bytes(
        text if isinstance(text, bytes) else text.encode()
    )
    return exfilml.read_flows(tmp_path / "flows.txt", **options)


EXPECTED = {
    "start": pd.Timestamp("2009-02-12T00:08:59.25Z"),
    "duration_s": 1.5,
    "src_ip": "10.0.0.5",
    "src_port": 40000,
    "dst_ip": "203.0.113.7",
    "dst_port": 443,
    "protocol": 6,
    "src_bytes": 1328,
    "dst_bytes": 5368,
    "src_packets": 8,
    "dst_packets": 9,
    "tcp_flags": 0x1B,
    "conn_state": "established",
    "sensor": "S0",
}


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"padded": False},
        {"padded": False, "mark": ",", "last": False},
        {"last": False},
        {"mark": "\t", "padded": False},
    ],
)
def test_two_directions_are_one_flow(tmp_path, form):
    flows = read(tmp_path, rwcut(there(), back(), **form), timezone="Europe/Prague")
    assert len(flows) == 1
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED
    assert capability(flows).tolist() == ["packets"]
    (streamed,) = exfilml.iter_flows(tmp_path / "flows.txt")
    pd.testing.assert_frame_equal(streamed, flows)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2009-02-12 00:08:59.250", "2009-02-12 00:09:00.750"),
        ("1234397339.250", "1234397340.750"),
        ("2009/02/12T00:08:59.250000", "2009/02/12T00:09:00.750000"),
    ],
)
def test_times_of_other_forms_are_utc(tmp_path, start, end):
    times = {"sTime": start, "eTime": end}
    row = read(tmp_path, rwcut(there(**times), back(**times))).iloc[0]
    assert row[["start", "duration_s"]].tolist() == [EXPECTED["start"], 1.5]


def test_flags_in_other_forms(tmp_path):
    for word, value in (("27", 27), (" S      ", 2), ("FSRPAUEC", 255), ("0x12", 18)):
        row = read(tmp_path, rwcut(there(flags=word))).iloc[0]
        assert row["tcp_flags"] == value
    assert pd.isna(read(tmp_path, rwcut(there(pro=17))).iloc[0]["tcp_flags"])


def test_the_port_of_icmp_is_type_and_code(tmp_path):
    row = read(tmp_path, rwcut(there(pro=1, sPort=0, dPort=2048))).iloc[0]
    assert row[["protocol", "src_port", "dst_port"]].tolist() == [1, 0, 0]


def test_few_columns_and_counts_that_were_not_asked_for(tmp_path):
    few = {n: TITLES[n] for n in ("sTime", "sIP", "dIP", "sPort", "dPort", "pro")}
    few["bytes"] = 10
    flows = read(tmp_path, rwcut(there(), back(), fields=few))
    assert capability(flows).tolist() == ["volume"]
    assert flows[["src_bytes", "dst_bytes"]].values.tolist() == [[1328, 5368]]
    assert flows["sensor"].tolist() == ["flows.txt"]


def test_lines_that_are_none_are_counted_and_rates_applied(tmp_path):
    text = rwcut(there()) + "half a line\n" + rwcut(there(sIP="x"), titles=False)
    with pytest.warns(SourceWarning, match="2 of 3 lines could not be read"):
        assert len(read(tmp_path, text)) == 1
    with pytest.warns(SourceWarning, match="sampling rate given, 1 packet in 1,000"):
        row = read(tmp_path, rwcut(there()), sampling=1000).iloc[0]
    assert row[["src_bytes", "src_packets"]].tolist() == [1_328_000, 8000]


def test_totals_equal_those_of_awk(tmp_path):
    records = [
        there(sPort=1024 + n % 700, bytes=40 + 7919 * n % 100_003, packets=1 + n % 99)
        for n in range(5000)
    ]
    flows = read(tmp_path, rwcut(*records))
    program = r"""
        BEGIN { FS = "|" }
        NR == 1 { for (i = 1; i <= NF; i++) { gsub(/ /, "", $i); at[$i] = i }; next }
        { bytes += $at["bytes"]; packets += $at["packets"] }
        END { printf "%d %d", bytes, packets }"""
    done = subprocess.run(
        ["awk", program, tmp_path / "flows.txt"],
        capture_output=True,
        text=True,
        check=True,
    )
    octets, packets = map(int, done.stdout.split())
    assert flows["src_bytes"].sum() == octets
    assert flows["src_packets"].sum() == packets


CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"|", b",", b"\n", b"\xff", b"\0", b"-1", b"9" * 30, b"nan"]),
    st.sampled_from([b"sIP|dIP\n", b"2009/02/30T00:00:00", rwcut(there()).encode()]),
)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 40), CHUNKS), max_size=6))
def test_damaged_files_end_in_flows_or_one_clear_error(tmp_path_factory, edits):
    data = bytearray(rwcut(there(), back(), there()).encode())
    for at, cut, put in edits:
        data[at : at + cut] = put
    path = tmp_path_factory.mktemp("fuzz") / "flows.txt"
    path.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = exfilml.read_flows(path, timezone="UTC")
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)
