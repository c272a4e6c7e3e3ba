"""Column maps: tables of any tool, and maps that say what no map can say."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from sites import office

import exfilml
from exfilml import cli
from exfilml.exceptions import ColumnMapError, ExfilmlError, SourceError, SourceWarning

REAL = os.environ.get("EXFILML_REAL_DATA")
COUNTS = ["src_bytes", "dst_bytes", "src_packets", "dst_packets"]
ENDS = {
    "src_ip": "src",
    "src_port": "sport",
    "dst_ip": "dst",
    "dst_port": "dport",
    "protocol": "proto",
}
COLUMNS = {
    **ENDS,
    "start": "begin",
    "duration_s": "len",
    "src_bytes": "out",
    "dst_bytes": "in",
    "src_packets": "outp",
    "dst_packets": "inp",
    "app": "svc",
}
ROW = {
    "begin": "2023-11-14T22:13:20.250Z",
    "len": 1.5,
    "src": "10.0.0.5",
    "sport": 40000,
    "dst": "203.0.113.7",
    "dport": 443,
    "proto": "tcp",
    "out": 1328,
    "in": 5368,
    "outp": 8,
    "inp": 9,
    "svc": "billing, main",
    "unused": None,
}
EXPECTED = {
    "start": pd.Timestamp("2023-11-14T22:13:20.25Z"),
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
    "conn_state": "established",
    "app": "billing, main",
    "sensor": "table",
}


def csv(rows, delimiter=",", header=True) -> str:
    def text(value):
        word = "" if value is None else str(value)
        return f'"{word}"' if delimiter in word else word

    lines = [delimiter.join(text(v) for v in row.values()) for row in rows]
    return "\n".join([delimiter.join(rows[0])] * header + lines) + "\n"


def read(tmp_path, data, columns=None, name="table", **options):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    columns = {"columns": COLUMNS} if columns is None else columns
    return exfilml.read_flows(path, columns=columns, **options)


def mapped(row=None, **top) -> dict[str, object]:
    """A map with changes: None takes a column out."""
    columns = COLUMNS | (row or {})
    return {"columns": {k: v for k, v in columns.items() if v is not None}, **top}


def written(tmp_path, kind, rows=(ROW,)):
    path = tmp_path / "table"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    elif kind == "csv":
        path.write_text(csv(rows))
    elif kind == "array":
        path.write_text(json.dumps(list(rows), indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "array", "parquet"])
def test_a_table_of_any_format_is_read_by_its_map(tmp_path, kind):
    flows = exfilml.read_flows(written(tmp_path, kind), columns={"columns": COLUMNS})
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED
    (table,) = exfilml.iter_flows(tmp_path / "table", columns={"columns": COLUMNS})
    pd.testing.assert_frame_equal(table, flows)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "array", "parquet"])
def test_totals_are_those_of_the_table(tmp_path, kind):
    rng = np.random.default_rng(0)
    sizes = rng.integers(40, 2**40, (3000, 2)).tolist()
    rows = [ROW | {"out": a, "in": b, "sport": n} for n, (a, b) in enumerate(sizes)]
    path = written(tmp_path, kind, rows)
    flows = exfilml.read_flows(path, columns={"columns": COLUMNS})
    assert flows["src_bytes"].sum() == sum(a for a, _ in sizes)
    assert flows["dst_bytes"].sum() == sum(b for _, b in sizes)


def test_a_map_is_a_file(tmp_path):
    path = tmp_path / "map.toml"
    path.write_text(
        """
        delimiter = ";"
        nulls = ["", "n/a"]
        [time]
        format = "%d.%m.%Y %H:%M:%S"
        timezone = "Europe/Prague"
        [bytes]
        unit = "kB"
        [columns]
        start = "begin"
        src_ip = "src"
        src_port = "sport"
        dst_ip = "dst"
        dst_port = { value = 443 }
        protocol = { column = "proto", values = { "tcp/ip" = "tcp" } }
        src_bytes = "out"
        dst_bytes = "in"
        duration_s = { column = "len", unit = "ms" }
        process = "svc"
        """
    )
    row = ROW | {"begin": "14.11.2023 23:13:20", "proto": "tcp/ip", "len": 1500}
    row |= {"out": "1.328", "in": 2, "svc": "n/a"}
    flows = read(tmp_path, csv([row], ";"), str(path))
    shown = ["duration_s", "dst_port", "protocol", "src_bytes", "dst_bytes"]
    assert flows[shown].values.tolist() == [[1.5, 443, 6, 1328, 2000]]
    assert flows["start"][0] == pd.Timestamp("2023-11-14T22:13:20Z")
    assert flows["process"].isna().all()


@pytest.mark.parametrize(
    ("form", "given"),
    [
        ("iso", "2023-11-14T22:13:20.25+00:00"),
        ("iso", "2023-11-14 23:13:20.25"),
        ("s", 1700000000.25),
        ("ms", 1700000000250),
        ("us", "1700000000250000"),
        ("ns", 1700000000250000000),
        ("%Y/%m/%d %H:%M:%S.%f", "2023/11/14 23:13:20.250"),
        ("%Y/%m/%d %H:%M:%S.%f %z", "2023/11/14 21:13:20.250 -0100"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_times_of_any_form(tmp_path, form, given, kind):
    path = written(tmp_path, kind, [ROW | {"begin": given}])
    columns = mapped(time={"format": form, "timezone": "Europe/Prague"})
    flows = exfilml.read_flows(path, columns=columns)
    assert flows["start"][0] == EXPECTED["start"]


def test_local_times_need_a_zone(tmp_path):
    text = csv([ROW | {"begin": "2023-11-14 23:13:20.25"}])
    with pytest.raises(SourceError, match="times are local"):
        read(tmp_path, text)
    flows = read(tmp_path, text, timezone="Europe/Prague")
    assert flows["start"][0] == EXPECTED["start"]


def test_an_end_gives_the_duration(tmp_path):
    text = csv([ROW | {"len": "2023-11-14T22:13:21.750Z"}])
    flows = read(tmp_path, text, mapped({"duration_s": None, "end": "len"}))
    assert flows["duration_s"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("layer", "expected"), [("ip", 1328), ("layer2", 1216), ("payload", 1648)]
)
def test_bytes_become_ip_bytes(tmp_path, layer, expected):
    flows = read(tmp_path, csv([ROW]), mapped(bytes={"layer": layer}))
    assert flows["src_bytes"].tolist() == [expected]
    payload = flows["src_payload_bytes"].tolist()
    assert payload == ([1328] if layer == "payload" else [pd.NA])


def test_records_of_one_direction_are_paired_and_vantages_count_once(tmp_path):
    back = ROW | {"src": ROW["dst"], "dst": ROW["src"], "sport": 443, "dport": 40000}
    back |= {"out": 5368, "outp": 9, "begin": "2023-11-14T22:13:20.260Z"}
    rows = [r | {"unused": place} for r in (ROW, back) for place in ("a", "b")]
    columns = mapped({"dst_bytes": None, "dst_packets": None}, directions="one")
    flows = read(tmp_path, csv([ROW, back]), columns)
    assert flows[COUNTS].values.tolist() == [[1328, 5368, 8, 9]]
    flows = read(tmp_path, csv(rows), columns)
    assert flows[COUNTS].values.tolist() == [[2 * 1328, 2 * 5368, 16, 18]]
    columns["columns"]["vantage"] = "unused"
    flows = read(tmp_path, csv(rows), columns)
    assert flows[COUNTS].values.tolist() == [[1328, 5368, 8, 9]]


def test_csv_without_a_line_of_names(tmp_path):
    flows = read(tmp_path, csv([ROW], "\t", header=False),
                 mapped(names=list(ROW), delimiter="\t"))  # fmt: skip
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED


def test_fields_within_fields(tmp_path):
    row = ROW | {"src": {"ip": "10.0.0.5", "nat": None}, "a.b": "x"}
    columns = mapped({"src_ip": "src.ip", "app": "a.b"})
    for rows in ([row], [row, ROW | {"src": {"ip": "10.0.0.6"}, "proto": 17}]):
        flows = read(tmp_path, "".join(json.dumps(r) + "\n" for r in rows), columns)
        assert flows[["src_ip", "app"]].iloc[0].tolist() == ["10.0.0.5", "x"]
    assert sorted(flows["protocol"]) == [6, 17]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("0x1b", 27), ("27", 27), (".AP.SF", 27), ("SPAF", 27), ("none", pd.NA)],
)
def test_tcp_flags(tmp_path, given, expected):
    flows = read(tmp_path, csv([ROW | {"svc": given}]), mapped({"tcp_flags": "svc"}))
    assert flows["tcp_flags"].tolist() == [expected]


def test_only_the_files_that_are_meant_are_read_by_the_map(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "export-1.csv").write_text(csv([ROW]))
    flows = read(tmp_path, csv([ROW]))
    exfilml.write_flows(flows.assign(src_ip="10.9.9.9"), folder / "kept.parquet")
    columns = mapped(files="export-*.csv")
    both = exfilml.read_flows(folder, columns=columns)
    assert sorted(both["src_ip"]) == ["10.0.0.5", "10.9.9.9"]


def test_missing_columns_are_named(tmp_path):
    text = csv([ROW]).replace("sport", "port")
    with pytest.raises(
        SourceError, match=r"no column 'sport', which columns names\. Th"
    ):
        read(tmp_path, text)
    parquet.write_table(pa.Table.from_pylist([{"a": 1}]), tmp_path / "table")
    with pytest.raises(SourceError, match=r"no column .* There are 'a'\."):
        exfilml.read_flows(tmp_path / "table", columns=mapped())
    with pytest.raises(SourceError, match="several columns are called 'src'"):
        read(tmp_path, csv([ROW]).replace("unused", "src"))


def test_bad_records_are_counted(tmp_path):
    rows = [ROW, ROW | {"src": "x"}, ROW | {"out": -1}, ROW | {"begin": "soon"}]
    with pytest.warns(SourceWarning, match="4 of 5 lines could not be read"):
        assert len(read(tmp_path, csv(rows) + "half,a,line\n")) == 1
    text = "".join(json.dumps(row) + "\n" for row in rows) + "{\n"
    with pytest.warns(SourceWarning, match="4 of 5 lines could not be read"):
        assert len(read(tmp_path, text)) == 1


# -- maps that are wrong ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, r"columns, \[columns\]: start, src_ip, .*, dst_bytes missing, expected"),
        (mapped(formt="csv"), r"columns: unknown key 'formt' \(did you mean 'format'\?"),
        (mapped(format="xlsx"), r"format = 'xlsx': expected one of csv, jsonl, parquet"),
        (mapped(delimiter=";;"), r"delimiter = ';;': expected one character"),
        (mapped(delimiter="\n"), "delimiter = .* expected one character"),
        (mapped(quote="|"), "quote = "),
        (mapped(names=["a", "a"]), "names = .* all different"),
        (mapped(nulls="-"), "nulls = '-': expected a list"),
        (mapped(directions="up"), "directions = 'up': expected one of both, one"),
        (mapped(time={"format": "days"}), r"\[time\]: format = 'days': expected iso, s"),
        (mapped(time={"timezone": "Mars"}), r"\[time\]: timezone = 'Mars': expected"),
        (mapped(time=3), r"\[time\]: got 3, expected a table"),
        (mapped(bytes={"unit": "kb"}), r"\[bytes\]: unit = 'kb': expected one of B, kB"),
        (mapped({"src_packets": None}, bytes={"layer": "layer2"}), "src_packets is miss"),
        (mapped({"src_ipp": "x"}), r"\[columns\]: unknown key 'src_ipp' \(did you mean"),
        (mapped({"app": 3}), r"\[columns\]: app = 3: expected the name of a column"),
        (mapped({"app": {}}), r"\[columns\], app: expected either column or value"),
        (mapped({"app": {"column": "x", "value": 1}}), "either column or value"),
        (mapped({"app": {"column": "x", "unit": "s"}}), "app: unknown key 'unit'"),
        (mapped({"app": {"column": "x", "values": 1}}), "values = 1: expected a table"),
        (mapped({"duration_s": {"column": "x", "unit": "h"}}), "unit = 'h': expected"),
        (mapped({"conn_state": {"value": "SF"}}), "'SF' is no state; expected establ"),
    ],
)  # fmt: skip
def test_a_map_that_is_wrong_is_refused_with_table_and_key(tmp_path, table, message):
    with pytest.raises(ColumnMapError, match=message):
        read(tmp_path, csv([ROW]), table)


def test_a_map_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(
        ColumnMapError, match=r"none\.toml: the column map cannot be re"
    ):
        read(tmp_path, csv([ROW]), tmp_path / "none.toml")
    (tmp_path / "map.toml").write_text("[columns")
    with pytest.raises(ColumnMapError, match=r"map\.toml: not a TOML file"):
        read(tmp_path, csv([ROW]), tmp_path / "map.toml")
    with pytest.raises(ColumnMapError, match="columns: got 3, expected the path"):
        read(tmp_path, csv([ROW]), 3)


WHOLE = [
    (csv([ROW, ROW | {"sport": 1}]).encode(), mapped()),
    (csv([ROW] * 2, ";").encode(), mapped(delimiter=";", directions="one")),
    (
        json.dumps([ROW, ROW | {"proto": 17}]).encode(),
        mapped(bytes={"layer": "payload"}),
    ),
    ((json.dumps(ROW) + "\n").encode() * 3, mapped(time={"format": "ns"})),
]
CHUNKS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b",", b";", b"\n", b"\xff", b"\x00", b"-1", b"9" * 30, b"nan", b'"', b"{", b"}",
         b"[", b"]", b"null", b"\\u0000", b"\\ud800", b"1e400", b"true", b"2023-02-30"]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 40), CHUNKS), max_size=6),
)
def test_damaged_tables_end_in_flows_or_one_clear_error(tmp_path_factory, whole, edits):
    data = bytearray(whole[0])
    for at, cut, put in edits:
        data[at : at + cut] = put
    path = tmp_path_factory.mktemp("fuzz") / "table"
    path.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = exfilml.read_flows(path, columns=whole[1], timezone="UTC")
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["column", "value", "values", "unit", "format", "x"]), inner
        )
    ),
    max_leaves=4,
)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(
        ["format", "files", "delimiter", "quote", "names", "nulls", "directions", "time",
         "bytes", "columns"]
    ),
    VALUES,
    st.sampled_from([None, "src_ip", "app", "duration_s", "conn_state"]),
)  # fmt: skip
def test_maps_of_anything_are_read_or_refused(key, value, column):
    from exfilml.sources._column_map import ColumnMap

    table = mapped({column: value}) if column else mapped() | {key: value}
    try:
        fields = ColumnMap.of(table).fields
    except ColumnMapError:
        return
    assert {"start", "src_ip", "src_bytes"} <= dict(fields).keys()


@pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")
def test_a_real_log_reads_by_a_map_as_by_its_reader():
    path = next((Path(REAL or "") / "logs/nfdump").glob("*.csv"))
    columns = {
        "start": "ts",
        "end": "te",
        "src_ip": "sa",
        "dst_ip": "da",
        "src_port": "sp",
        "dst_port": "dp",
        "protocol": "pr",
        "tcp_flags": "flg",
        "src_packets": "ipkt",
        "src_bytes": "ibyt",
    }
    told = {"columns": columns, "directions": "one", "time": {"timezone": "UTC"}}
    own = exfilml.read_flows(path, timezone="UTC")
    with warnings.catch_warnings():
        # The summary at the end is no record.
        warnings.simplefilter("ignore", SourceWarning)
        flows = exfilml.read_flows(path, columns=told)
    for name in ("src_bytes", "dst_bytes", "src_packets", "dst_packets"):
        assert flows[name].sum() == own[name].sum()


# -- the command line ----------------------------------------------------------------


@pytest.fixture
def run(capfd):
    """Run a command; return its status and what it printed."""

    def call(*arguments):
        status = cli.run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return call


NAMES = {
    "start": "time",
    "src_ip": "from",
    "src_port": "from_port",
    "dst_ip": "to",
    "dst_port": "to_port",
    "protocol": "ip_protocol",
    "src_bytes": "sent",
    "dst_bytes": "received",
}
MAP = 'files = "*.csv"\n[columns]\n' + "".join(
    f'{k} = "{v}"\n' for k, v in NAMES.items()
)


def test_commands_take_a_map(tmp_path, run):
    week = tmp_path / "week"
    week.mkdir()
    for day in (0, 1):
        flows = office(1500, payload=False, seed=day)
        flows[list(NAMES)].rename(columns=NAMES).to_csv(
            week / f"{day}.csv", index=False
        )
    (tmp_path / "map.toml").write_text(MAP)
    told = ("--map", tmp_path / "map.toml", "--quiet")
    out = tmp_path / "flows.parquet"
    status, _, err = run("flows", week, "--out", out, *told)
    assert (status, len(exfilml.read_flows(out))) == (0, 3000), err
    model = tmp_path / "model.exfilml"
    status, _, err = run("train", week, "--model", model, *told)
    assert (status, "3,000 flows" in err) == (0, True), err
    status, out, err = run("rank", week, "--model", model, "--format", "jsonl", *told)
    assert (status, json.loads(out.splitlines()[0])["capability"]) == (0, "volume"), err


def test_a_table_that_is_read_by_a_map_is_not_written_over(tmp_path, run):
    (tmp_path / "map.toml").write_text(MAP)
    table = tmp_path / "site" / "table.csv"
    table.parent.mkdir()
    flows = office(50, payload=False)
    flows[list(NAMES)].rename(columns=NAMES).to_csv(table, index=False)
    before = table.read_bytes()
    told = ("--map", tmp_path / "map.toml", "--quiet")
    status, _, _ = run("flows", table.parent, "--out", table, *told)
    assert (status, table.read_bytes()) == (2, before)


def test_a_wrong_map_ends_a_command_with_one_line(tmp_path, run):
    (tmp_path / "map.toml").write_text("[columns]\nsrc = 'a'")
    (tmp_path / "table").write_text(csv([ROW]))
    status, _, err = run("flows", tmp_path / "table", "--map", tmp_path / "map.toml",
                         "--out", tmp_path / "out.csv")  # fmt: skip
    assert (status, len(err.strip().splitlines())) == (2, 1)
    assert "map.toml, [columns]: unknown key 'src'" in err


@pytest.mark.parametrize("form", ["%d %Q", "%Y-%", "%G", "%E"])
def test_a_time_format_that_nobody_knows_is_an_error_of_the_map(tmp_path, form):
    with pytest.raises(ColumnMapError, match="format = "):
        read(tmp_path, csv([ROW]), mapped(time={"format": form}))


def test_a_file_that_the_map_does_not_cover_is_told_so(tmp_path):
    with pytest.raises(SourceError, match=r"the column map is for files named 'x\*'"):
        read(tmp_path, csv([ROW]), mapped(files="x*"))


def test_an_absurd_end_leaves_the_duration_out(tmp_path):
    rest = {k: v for k, v in COLUMNS.items() if k != "duration_s"}
    columns = mapped(columns=rest | {"end": "until"})
    rows = [ROW | {"until": "9999-01-01T00:00:00.000001+00:00"}]
    with pytest.warns(SourceWarning, match="1 impossible value"):
        flows = read(tmp_path, csv(rows), columns)
    assert flows["duration_s"].isna().tolist() == [True]
