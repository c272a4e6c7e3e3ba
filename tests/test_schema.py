"""The flows table has one door, and what passes it is typed, whole and possible."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exfilml import sources
from exfilml.columns import COLUMNS, DTYPES, PAYLOAD_COLUMNS, REQUIRED
from exfilml.exceptions import FlowsError, OutputError, SourceError
from exfilml.schema import (
    LABEL_COLUMNS,
    apply_labels,
    capability,
    empty_flows,
    validate_flows,
)
from exfilml.sources._labels import read_labels

START = pd.Timestamp("2024-03-01T12:00:00Z")
KNOWN = {
    "first_speaker": ("src", "dst"),
    "conn_state": (
        *("established", "midstream", "one_sided", "rejected", "unsolicited"),
    ),
    "src_verdict": ("opaque", "text", "unknown"),
    "dst_verdict": ("opaque", "text", "unknown"),
}
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


def values(column) -> st.SearchStrategy:
    """Possible values of a column, missing ones included where they may be."""
    if column.name == "start":
        return st.datetimes(
            pd.Timestamp("1970-01-01").to_pydatetime(),
            pd.Timestamp("2200-01-01").to_pydatetime(),
        ).map(lambda t: pd.Timestamp(t, tz="UTC"))
    if column.unit == "address":
        return st.ip_addresses().map(str)
    if column.dtype in {"int64", "Int64"}:
        some = st.integers(0, int(column.high))
    elif column.dtype == "float64":
        some = st.floats(0, column.high)
    elif column.dtype == "boolean":
        some = st.booleans()
    else:
        some = st.sampled_from(KNOWN[column.name]) if column.name in KNOWN else TEXT
    return some if column.required else st.none() | some


ROW = st.fixed_dictionaries({column.name: values(column) for column in COLUMNS})


@st.composite
def tables(draw, min_size: int = 0) -> pd.DataFrame:
    """Valid flows tables under any index, some optional columns left out."""
    rows = draw(st.lists(ROW, min_size=min_size, max_size=4))
    index = draw(st.lists(st.integers(-9, 9), min_size=len(rows), max_size=len(rows)))
    optional = [column.name for column in COLUMNS if not column.required]
    absent = draw(st.sets(st.sampled_from(optional), max_size=6))
    table = pd.DataFrame(
        {
            c.name: pd.Series([row[c.name] for row in rows], dtype=c.dtype)
            for c in COLUMNS
            if c.name not in absent
        }
    )
    table.index = pd.Index(index, dtype="int64")
    return table


quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def one(**changes) -> pd.DataFrame:
    row = {
        "start": START,
        "src_ip": "10.0.0.1",
        "src_port": 40000,
        "dst_ip": "198.51.100.7",
        "dst_port": 443,
        "protocol": 6,
        "src_bytes": 1000,
        "dst_bytes": 500,
    }
    return pd.DataFrame([row | changes])


@quick
@given(tables())
def test_what_passes_the_door_has_every_column_in_its_dtype(table):
    before = table.copy(deep=True)
    valid = validate_flows(table)
    assert {name: str(valid[name].dtype) for name in DTYPES} == DTYPES
    assert valid.columns.tolist() == list(DTYPES)
    pd.testing.assert_index_equal(valid.index, table.index)
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_frame_equal(valid[table.columns], table)
    pd.testing.assert_frame_equal(validate_flows(valid), valid)


@quick
@given(tables())
def test_parquet_gives_back_an_equal_table(tmp_path, table):
    valid = validate_flows(table)
    sources.write_flows(valid, tmp_path / "flows.parquet")
    pd.testing.assert_frame_equal(
        sources.read_parquet(tmp_path / "flows.parquet"), valid
    )


@quick
@given(tables(min_size=1), st.data())
def test_every_impossible_column_is_listed_at_once(table, data):
    bounded = [c.name for c in COLUMNS if c.high is not None and c.name in table]
    bad = data.draw(st.sets(st.sampled_from(bounded), min_size=1, max_size=5))
    for name in bad:
        table.iloc[-1, table.columns.get_loc(name)] = -1
    missing = data.draw(st.sets(st.sampled_from(REQUIRED), max_size=2)) - bad
    with pytest.raises(FlowsError) as caught:
        validate_flows(table.drop(columns=list(missing)))
    lines = str(caught.value).splitlines()
    for name in bad:
        expected = f"  {name}: 1 of {len(table):,} rows outside 0 … "
        assert any(line.startswith(expected) for line in lines), name
        assert any(f"row {len(table) - 1}: '-1" in line for line in lines)
    for name in missing:
        assert any("missing columns" in line and name in line for line in lines)


@quick
@given(tables(min_size=2))
def test_row_order_does_not_matter(table):
    there = validate_flows(table.iloc[::-1])
    pd.testing.assert_frame_equal(there.iloc[::-1], validate_flows(table))


def test_no_rows_in_no_rows_out():
    pd.testing.assert_frame_equal(validate_flows(empty_flows()), empty_flows())
    bare = pd.DataFrame({name: [] for name in REQUIRED})
    pd.testing.assert_frame_equal(
        validate_flows(bare).reset_index(drop=True), empty_flows()
    )
    assert capability(empty_flows()).tolist() == []


def test_unknown_columns_are_kept_behind():
    valid = validate_flows(one(zone="dmz", duration_s=3))
    assert valid.columns.tolist() == [*DTYPES, "zone"]
    assert valid["zone"].tolist() == ["dmz"]


@pytest.mark.parametrize(
    ("column", "given", "expected"),
    [
        ("src_port", "443", 443),
        ("src_bytes", 7.0, 7),
        ("src_packets", 3.0, 3),
        ("src_packets", None, pd.NA),
        ("duration_s", "1.5", 1.5),
        ("duration_s", 2, 2.0),
        ("app", None, None),
        ("app_verified", 1, True),
    ],
)
def test_values_that_mean_the_same_are_converted(column, given, expected):
    value = validate_flows(one(**{column: given}))[column].iloc[0]
    assert pd.isna(value) if pd.isna(expected) else value == expected


@pytest.mark.parametrize(
    ("column", "given", "complaint"),
    [
        ("start", pd.Timestamp("2024-01-01"), "times without a zone"),
        ("start", "2024-01-01", "expected datetime64"),
        ("start", pd.Timestamp("1969-06-01", tz="UTC"), "outside 1970–2200"),
        ("start", pd.NaT, "."),
        ("src_ip", "10.0.0.256", "not an IPv4 or IPv6 address"),
        ("src_ip", None, "not an IPv4 or IPv6 address: row 0: missing"),
        ("dst_ip", 17, "expected text"),
        ("src_port", 65536, "outside 0 … 65535 port: row 0: '65536'"),
        ("src_port", None, "1 of 1 rows missing"),
        ("src_port", "http", "expected int64"),
        ("src_bytes", -1, "outside 0"),
        ("src_bytes", 2**60, "outside 0"),
        ("src_bytes", 0.5, "not whole numbers"),
        ("src_bytes", np.inf, "not whole numbers"),
        ("src_packets", -1, "outside 0"),
        ("duration_s", -0.1, "outside 0"),
        ("duration_s", np.inf, "outside 0"),
        ("src_entropy", 8.1, "outside 0 … 8 bits/byte"),
        ("src_verdict", "crypto", "not one of opaque"),
        ("conn_state", "SF", "not one of established"),
        ("app", 5, "expected text"),
        ("app_verified", "maybe", "expected boolean"),
    ],
)
def test_each_impossible_value_is_named_with_its_row(column, given, complaint):
    with pytest.raises(FlowsError, match=rf"(?s)  {column}: .*{complaint}"):
        validate_flows(one(**{column: given}))


def test_tables_that_are_none_are_refused():
    with pytest.raises(FlowsError, match="got list"):
        validate_flows([1])
    with pytest.raises(FlowsError, match="columns given: none"):
        validate_flows(pd.DataFrame())
    twice = one()
    twice.insert(0, "src_ip", "10.0.0.2", allow_duplicates=True)
    with pytest.raises(FlowsError, match="more than once: src_ip"):
        validate_flows(twice)


def test_other_zones_and_resolutions_become_utc_microseconds():
    local = one(start=pd.Timestamp("2024-03-01T13:00:00+01:00").as_unit("ns"))
    assert validate_flows(local)["start"].tolist() == [START]


def test_capability_names_the_most_that_was_seen():
    rows = [{}, {"src_packets": 3}, {"app": "DNS"}, {"src_sampled_bytes": 0}]
    flows = validate_flows(pd.concat([one(**row) for row in rows], ignore_index=True))
    expected = ["volume", "packets", "application", "payload"]
    assert capability(flows).tolist() == expected


def test_payload_columns_are_the_evidence_fields_in_order():
    """The schema and the payload room name the same things."""
    from exfilml import schema
    from exfilml.payload import VERDICTS, PayloadEvidence

    renamed = {"stream_bytes": "payload_bytes", "n_bytes": "sampled_bytes"}
    names = [renamed.get(name, name) for name in PayloadEvidence._fields]
    assert list(PAYLOAD_COLUMNS) == names
    assert schema.VERDICTS == VERDICTS


# --- labels ----------------------------------------------------------------------


def labels(**changes) -> pd.DataFrame:
    row = dict.fromkeys(LABEL_COLUMNS) | {
        "src_ip": "10.0.0.1",
        "dst_ip": "198.51.100.7",
        "protocol": 6,
        "label": "exfil",
        "scenario": "raw tcp",
    }
    return pd.DataFrame([row | changes])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_labels_round_trip_and_match_by_ends_and_time(tmp_path, suffix):
    table = pd.concat(
        [labels(), labels(dst_port=53, label="c2"), labels(src_ip="10.0.0.9")]
    )
    table["start"], table["end"] = "2024-03-01T11:00:00", "2024-03-01T12:00:01Z"
    path = tmp_path / f"labels{suffix}"
    table.to_csv(path) if suffix == ".csv" else table.to_parquet(path)
    read = read_labels(path)
    turned = {"src_ip": "198.51.100.7", "dst_ip": "10.0.0.1"}
    flows = validate_flows(
        pd.concat(
            [
                one(),
                one(dst_port=53),
                one(**turned, src_port=53, dst_port=4),
                one(start=START + pd.Timedelta(hours=1)),
                one(protocol=17),
            ],
            ignore_index=True,
        )
    )
    found = apply_labels(flows, read)
    assert found["label"].fillna("").tolist() == ["exfil", "c2", "c2", "", ""]
    assert found["scenario"].fillna("").tolist()[0] == "raw tcp"
    assert flows["label"].isna().all()


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (pd.DataFrame({"src_ip": ["10.0.0.1"]}), "columns missing: src_port"),
        (labels(dst_port="http"), "column dst_port"),
        (labels(start="yesterday"), "column start"),
        (labels(protocol=None), "column protocol"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, table, complaint):
    path = tmp_path / "labels.csv"
    table.to_csv(path, index=False)
    with pytest.raises(SourceError, match=complaint):
        read_labels(path)
    with pytest.raises(SourceError, match="not a readable labels file"):
        read_labels(tmp_path / "absent.csv")


# --- storing ---------------------------------------------------------------------


def test_csv_disarms_formulas(tmp_path):
    names = ["=1+1", "+1", "-1", "@x", "safe.example", None]
    flows = pd.concat([one(server_name=n) for n in names], ignore_index=True)
    sources.write_flows(flows, tmp_path / "x.csv")
    back = pd.read_csv(tmp_path / "x.csv", keep_default_na=False)["server_name"]
    assert back.tolist() == ["'=1+1", "'+1", "'-1", "'@x", "safe.example", ""]


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "x.parquet"
    sources.write_flows(one(), target)
    before = target.read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with pytest.raises(OutputError, match=r"x\.parquet.*No space left"):
        sources.write_flows(one(), target)
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


def test_places_and_suffixes_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        sources.write_flows(one(), tmp_path / "absent" / "x.parquet")
    for name, shown in (("x.xlsx", ".xlsx"), ("x", "a file without suffix")):
        with pytest.raises(OutputError, match=f"not as {shown}"):
            sources.write_flows(one(), tmp_path / name)
    assert list(Path(tmp_path).iterdir()) == []


def test_addresses_are_those_the_standard_library_knows():
    for text in ("::1", "fe80::1", "255.255.255.255", "2001:db8::"):
        assert ipaddress.ip_address(text)
        validate_flows(one(src_ip=text))
