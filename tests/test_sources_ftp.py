"""Data connections of FTP are named after what their control connections said."""

from __future__ import annotations

import pandas as pd
import pytest
from captures import noise

from exfilml import payload
from exfilml.schema import empty_flows, validate_flows
from exfilml.sources._ftp import APP, Announced, name_transfers

CLIENT, SERVER = "10.0.0.5", "192.0.2.9"
NOON = 1_709_294_400_000_000
SECOND = 1_000_000


def flow(
    start_s: float, port: int, data: bytes, **changes: object
) -> dict[str, object]:
    """A data connection that the client opens and uploads on."""
    found = payload.judge(data)
    sides = {"src_verdict": found.verdict, "src_concealed": found.concealed}
    sides |= {"src_magic": found.magic, "src_sampled_bytes": len(data)}
    row = {
        "start": pd.Timestamp(NOON + int(start_s * SECOND), unit="us", tz="UTC"),
        "src_ip": CLIENT, "src_port": 40000, "dst_ip": SERVER, "dst_port": port,
        "protocol": 6, "src_bytes": 5000, "dst_bytes": 400, **sides,
    }  # fmt: skip
    return row | changes


def said(port: int, name: str, **changes: object) -> Announced:
    """What a control connection of a minute agreed upon."""
    values = {
        "client": CLIENT, "server": SERVER, "port": port, "passive": True,
        "upload": True, "name": name, "first_us": NOON, "last_us": NOON + 60 * SECOND,
    }  # fmt: skip
    return Announced(**(values | changes))


def table(*rows: dict[str, object]) -> pd.DataFrame:
    return validate_flows(pd.DataFrame(list(rows)))


def test_passive_upload_is_named_and_held_against_its_name():
    """Ciphertext that is announced as a table is no table."""
    flows = table(flow(5, 50000, noise(2000)), flow(6, 50001, noise(2000)))
    named = name_transfers(flows, [said(50000, "Report.CSV")])
    assert named["app"].tolist()[0] == APP
    assert bool(named["app_verified"][0])
    assert named["src_declared"].tolist()[0] == "report.csv"
    assert bool(named["src_misdeclared"][0])
    pd.testing.assert_frame_equal(named.iloc[1:], flows.iloc[1:])


def test_active_transfers_are_opened_by_the_server():
    """In active mode the client awaits, and its upload goes to the opener."""
    row = flow(5, 50000, b"")
    row |= {"src_ip": SERVER, "dst_ip": CLIENT}
    row |= {"dst_verdict": "opaque", "dst_concealed": True, "dst_sampled_bytes": 2000}
    named = name_transfers(table(row), [said(50000, "a.bin", passive=False)])
    assert named["app"].tolist() == [APP]
    assert named["dst_declared"].tolist() == ["a.bin"]


def test_ports_that_come_back_take_their_names_in_turn():
    """The n-th connection to a port is the n-th announcement of it."""
    flows = table(flow(5, 50000, noise(99)), flow(1, 50000, noise(99, 1)))
    named = name_transfers(flows, [said(50000, "first"), said(50000, "second")])
    assert named["src_declared"].tolist() == ["second", "first"]


@pytest.mark.parametrize("changes", [
    {"start": pd.Timestamp(NOON + 61 * SECOND, unit="us", tz="UTC")},
    {"dst_port": 50001}, {"src_ip": "10.0.0.6"}, {"protocol": 17},
    {"app": "TLS", "app_verified": True},
])  # fmt: skip
def test_what_was_not_announced_is_left_alone(changes):
    """Another time, end or protocol, and what is verified as something else."""
    flows = table(flow(5, 50000, noise(900), **changes))
    pd.testing.assert_frame_equal(name_transfers(flows, [said(50000, "x.csv")]), flows)


def test_nothing_announced_or_no_flows():
    """Empty in, empty out; the input is not changed."""
    flows = table(flow(5, 50000, noise(900)))
    assert name_transfers(flows, []) is flows
    assert name_transfers(empty_flows(), [said(1, "x")]).empty
    before = flows.copy()
    name_transfers(flows, [said(50000, "x.csv")])
    pd.testing.assert_frame_equal(flows, before)
