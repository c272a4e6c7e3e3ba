"""Flows find their processes: as a plain loop over all events would, and no other way."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from host_logs import lines, sysmon
from hypothesis import given, settings
from hypothesis import strategies as st
from sites import office

from exfilml import add_processes, case_context, read_host_events
from exfilml.exceptions import FlowsError, OptionError, SourceWarning
from exfilml.hosts._events import Event, table
from exfilml.schema import validate_flows

T0 = pd.Timestamp("2026-03-09 10:00", tz="UTC")
BEGIN = T0.value // 1000
LOCAL, REMOTE = "10.20.0.12", "203.0.113.9"


def event(at=0.0, process="curl", **changed) -> Event:
    fields = {
        "time": BEGIN + round(at * 1e6),
        "host": "WS1",
        "kind": "network",
        "process": process,
        "protocol": 6,
        "local_ip": LOCAL,
        "local_port": 50000,
        "remote_ip": REMOTE,
        "remote_port": 443,
    }
    return Event(**(fields | changed))


def flow(at=0.0, *, swapped=False, **changed) -> dict:
    ends = ((LOCAL, 50000), (REMOTE, 443))
    (src, sport), (dst, dport) = reversed(ends) if swapped else ends
    return {
        "start": T0 + pd.to_timedelta(round(at * 1e6), unit="us"),
        "duration_s": 2.0,
        "src_ip": src,
        "src_port": sport,
        "dst_ip": dst,
        "dst_port": dport,
        "protocol": 6,
        "src_bytes": 1000,
        "dst_bytes": 1000,
    } | changed


def flows(*rows) -> pd.DataFrame:
    return validate_flows(pd.DataFrame(list(rows)))


def found(rows, events, **options) -> list:
    joined = add_processes(flows(*rows), table(events), **options)
    return [None if pd.isna(name) else name for name in joined["process"]]


def test_an_event_before_the_first_packet_names_the_flow_either_way():
    events = [event(-0.2, r"C:\Users\ann\X.exe")]
    assert found([flow(), flow(swapped=True)], events) == [r"c:\users\*\x.exe"] * 2
    other = [flow(src_port=50001), flow(protocol=17), flow(dst_ip="203.0.113.8")]
    assert found(other, events) == [None] * 3


@pytest.mark.parametrize(
    ("at", "hit"), [(-10.1, False), (-10.0, True), (12.0, True), (12.1, False)]
)
def test_events_count_from_before_the_start_to_behind_the_end(at, hit):
    assert found([flow()], [event(at)]) == (["curl"] if hit else [None])
    assert found([flow()], [event(at)], tolerance=60) == ["curl"]


def test_the_nearest_event_is_taken_and_doubt_is_counted():
    """The earlier of two as near; of one moment the first by name."""
    events = [event(3, "late"), event(-3, "early"), event(-8, "older")]
    joined = add_processes(flows(flow(), flow(4)), table(events))
    assert joined["process"].tolist() == ["early", "late"]
    assert joined.attrs["processes"] == {
        "flows": 2,
        "events": 3,
        "connection": 2,
        "remote end": 0,
        "local end": 0,
        "ambiguous": 2,
    }
    assert found([flow()], [event(-1, "b"), event(-1, "a"), event(-1, "b")]) == ["a"]
    same = add_processes(flows(flow()), table([event(-1), event(1), event(2)]))
    assert same.attrs["processes"]["ambiguous"] == 0


def test_what_says_more_comes_first():
    """Both ends, then the remote one, then the local one; and it is said which."""
    both = event(5, "both")
    far = event(1, "far", local_port=None, protocol=None)
    near = event(0, "near", remote_ip=None, remote_port=None)
    for events, name, by in (
        ([both, far, near], "both", "connection"),
        ([far, near], "far", "remote end"),
        ([near], "near", "local end"),
    ):
        joined = add_processes(flows(flow(), flow(swapped=True)), table(events))
        assert joined["process"].tolist() == [name] * 2
        assert joined["process_by"].tolist() == [by] * 2
    udp = flow(protocol=17)
    assert found([udp], [event(0, "dns", protocol=None)]) == ["dns"]


def test_addresses_are_alike_in_any_form():
    six = flow(src_ip="2001:db8:0:0::1", dst_ip="2001:DB8::2")
    events = [event(local_ip="2001:db8::1", remote_ip="2001:db8::2")]
    assert found([six], events) == ["curl"]


def test_what_flows_say_themselves_stays():
    rows = [flow(process="known"), flow()]
    assert found(rows, [event()]) == ["known", "curl"]


def test_logs_can_be_joined_one_after_the_other():
    both = flows(flow(), flow(src_port=50001), flow(src_port=50002))
    once = add_processes(both, table([event()]))
    far = event(process="other", local_port=None)
    twice = add_processes(once, table([far]))
    assert twice["process"].tolist() == ["curl", "other", "other"]
    assert twice["process_by"].tolist() == ["connection", *["remote end"] * 2]


def test_no_rows_and_no_events():
    none = add_processes(flows(flow()).iloc[:0], table([event()]))
    assert len(none) == 0
    assert found([flow()], []) == [None]
    started = event(kind="process", detail="x")
    assert found([flow()], [started]) == [None]


def test_order_and_index_are_kept_and_nothing_is_changed():
    many = flows(*(flow(k, src_port=50000 + k) for k in range(20)))
    events = table([event(k, f"p{k}", local_port=50000 + k) for k in range(20)])
    mixed = many.sample(frac=1.0, random_state=0)
    before = mixed.copy(deep=True)
    joined = add_processes(mixed, events.sample(frac=1.0, random_state=1))
    pd.testing.assert_frame_equal(mixed, before)
    assert joined.index.equals(mixed.index)
    assert joined["process"].tolist() == [f"p{k}" for k in mixed.index]


def test_joining_piece_by_piece_is_joining_at_once():
    many = office(400, days=1)
    picked = many.sample(200, random_state=0)
    events = table(
        Event(
            time=row.start.value // 1000 - 1000, host="h", kind="network",
            process=f"p{row.dst_port}", protocol=row.protocol, local_ip=row.src_ip,
            local_port=row.src_port, remote_ip=row.dst_ip, remote_port=row.dst_port,
        )
        for row in picked.itertuples()
    )  # fmt: skip
    whole = add_processes(many, events)
    parts = pd.concat([add_processes(many.iloc[k::7], events) for k in range(7)])
    pd.testing.assert_frame_equal(parts.sort_index(), whole)
    assert whole["process"].notna().sum() == 200


def test_events_without_an_address_are_told():
    with pytest.warns(SourceWarning, match="1 of 2 network events do not say on which"):
        assert found([flow()], [event(local_ip=None), event()]) == ["curl"]


def test_refusals():
    with pytest.raises(FlowsError, match="Expected host events"):
        add_processes(flows(flow()), pd.DataFrame({"time": []}))
    for tolerance in (-1, 1e9, float("nan"), "x", True):
        with pytest.raises(OptionError, match=r"expected 0 … 86,400 seconds"):
            add_processes(flows(flow()), table([event()]), tolerance=tolerance)


# --- against a plain loop ------------------------------------------------------------------

ADDRESSES = ["10.0.0.1", "10.0.0.2", "203.0.113.1"]
PORTS = [1, 2]
SECONDS = st.integers(-30, 30)
ENDS = st.tuples(
    st.sampled_from([6, 17]), st.sampled_from(ADDRESSES), st.sampled_from(PORTS),
    st.sampled_from(ADDRESSES), st.sampled_from(PORTS),
)  # fmt: skip
SAID = st.sampled_from(["both", "far", "near"])
EVENTS = st.lists(
    st.tuples(ENDS, SECONDS, st.sampled_from("abc"), SAID, st.booleans()), max_size=12
)
FLOWS = st.lists(st.tuples(ENDS, SECONDS, st.integers(0, 20)), min_size=1, max_size=6)


def plainly(given_flow, events, tolerance):
    """Look at every event, as the promise says; return process and doubt."""
    (protocol, *ends), start, duration = given_flow
    near, far = tuple(ends[:2]), tuple(ends[2:])

    def fits(how, there, mine, other):
        (theirs, lip, lport, rip, rport), _, _, said, silent = there
        if said != how or (not silent and theirs != protocol):
            return False
        if how == "both":
            return (mine, other) == ((lip, lport), (rip, rport))
        if how == "far":
            return mine[0] == lip and other == (rip, rport)
        return mine == (lip, lport)

    for how in ("both", "far", "near"):
        turned = [(near, far), (far, near)]
        rounds = [turned] if how == "both" else [[turned[0]], [turned[1]]]
        for ways in rounds:
            hits = [
                e
                for e in events
                if any(fits(how, e, a, b) for a, b in ways)
                and start - tolerance <= e[1] <= start + duration + tolerance
            ]
            if hits:
                best = min(hits, key=lambda e: (abs(e[1] - start), e[1], e[2]))
                return best[2], len({e[2] for e in hits}) > 1
    return None, False


@settings(max_examples=300, deadline=None)
@given(FLOWS, EVENTS, st.integers(0, 15))
def test_the_join_is_that_of_a_plain_loop(given_flows, given_events, tolerance):
    made = [
        event(
            at, name, protocol=None if silent else protocol, local_ip=lip,
            local_port=None if said == "far" else lport,
            remote_ip=None if said == "near" else rip,
            remote_port=None if said == "near" else rport,
        )
        for (protocol, lip, lport, rip, rport), at, name, said, silent in given_events
    ]  # fmt: skip
    rows = [
        flow(at, duration_s=float(duration), protocol=protocol, src_ip=a, src_port=b,
             dst_ip=c, dst_port=d)
        for (protocol, a, b, c, d), at, duration in given_flows
    ]  # fmt: skip
    joined = add_processes(flows(*rows), table(made), tolerance=tolerance)
    expected = [plainly(f, given_events, tolerance) for f in given_flows]
    names = [None if pd.isna(name) else name for name in joined["process"]]
    assert names == [name for name, _ in expected]
    assert joined.attrs["processes"]["ambiguous"] == sum(doubt for _, doubt in expected)


# --- context -------------------------------------------------------------------------------


def happened(minutes, detail, kind="process", **changed) -> Event:
    return event(
        60 * minutes, r"C:\a\cmd.exe", kind=kind, detail=detail, protocol=None,
        local_port=None, remote_ip=None, remote_port=None, **changed,
    )  # fmt: skip


def cases(*hosts) -> pd.DataFrame:
    return pd.DataFrame({"local_ip": list(hosts), "first_seen": T0})


def test_packing_and_copying_come_first_and_stand_in_order_of_time():
    events = [
        happened(-14, r'"C:\Program Files\WinRAR\rar.exe" a -hpx C:\t\out.rar C:\docs'),
        happened(-3, r"C:\t\out.rar", kind="file"),
        *(happened(-1 + k / 10, f"notepad {k}") for k in range(9)),
        happened(2, "powershell Compress-Archive C:\\docs x.zip"),
        happened(-16, "rar.exe a too early"),
        happened(0, "curl elsewhere", host="WS2", local_ip="10.20.0.99"),
        event(0),
    ]
    told = case_context(cases(LOCAL, "10.20.0.1", None), table(events), most=4)
    assert told["context"].isna().tolist() == [False, True, True]
    assert told["context"][0] == (
        r'09:46:00 "C:\Program Files\WinRAR\rar.exe" a -hpx C:\t\out.rar C:\docs; '
        r"09:57:00 file C:\t\out.rar by cmd.exe; 09:59:48 notepad 8; "
        r"10:02:00 powershell Compress-Archive C:\docs x.zip; and 8 more"
    )


def test_context_is_bounded_and_harmless():
    """Terminal escapes, very long command lines, and a formula."""
    events = table(
        [happened(0, "\x1b[2J=cmd()\r\n" + "x" * 10_000), happened(1, "\u202eexe.txt")]
    )
    (text,) = case_context(cases(LOCAL), events)["context"]
    assert text.isprintable()
    assert len(text) < 500


def test_who_opened_the_connection_is_said():
    """Of the case's address and time alone, whoever opened it, and a few of many."""
    case = cases(LOCAL).assign(
        src_ip=REMOTE, dst_ip=LOCAL, last_seen=T0 + pd.Timedelta("1h")
    )
    events = [
        event(1800, r"C:\x\rclone.exe", pid=7, user="ann"),
        event(1801, r"C:\x\rclone.exe", pid=7, user="ann", local_port=50001),
        event(1800, "elsewhere", remote_ip="203.0.113.8"),
        event(3700, "later"),
        event(0, "other host", host="WS2", local_ip="10.20.0.13"),
    ]
    said = "connected by C:\\x\\rclone.exe (process 7, ann)"
    assert case_context(case, table(events))["context"].tolist() == [said]
    packed = [*events, happened(1, "tar -cf x .")]
    told = case_context(case, table(packed))["context"]
    assert told.tolist() == [f"{said}; 10:01:00 tar -cf x ."]
    many = [event(k, f"p{k}") for k in range(5)]
    told = case_context(case, table(many))["context"]
    assert told.tolist() == ["connected by p0, p1, p2 and 2 more"]


def test_context_of_a_host_with_several_addresses():
    """Programs stand under one of them; cases under any."""
    seen = [
        happened(0, "rclone copy", host="WS1", local_ip=LOCAL),
        event(at=30.0, host="WS1", local_ip="fd20::12"),
        # Another host had the address long before.
        event(at=-90_000.0, host="WS2", local_ip="fd20::12"),
        happened(1, "tar czf", host="WS2", local_ip="10.20.0.99"),
    ]
    (said,) = case_context(cases("fd20::12"), table(seen))["context"]
    assert "rclone copy" in said
    assert "tar" not in said


def test_context_of_no_cases_and_refusals():
    events = table([happened(0, "tar -cf x .")])
    assert case_context(cases(), events)["context"].tolist() == []
    for options in ({"minutes": 0}, {"most": 0}, {"most": True}):
        with pytest.raises(OptionError):
            case_context(cases(LOCAL), events, **options)
    with pytest.raises(FlowsError, match="Expected cases"):
        case_context(pd.DataFrame(), events)
    with pytest.raises(FlowsError, match="Expected host events"):
        case_context(cases(LOCAL), pd.DataFrame())


def test_a_log_read_and_joined(tmp_path):
    path = tmp_path / "sysmon.json"
    path.write_text(lines(sysmon(3, at="2026-03-09 09:59:59.900")))
    joined = add_processes(flows(flow(), flow(30)), read_host_events(path))
    assert joined["process"].tolist()[0] == r"c:\program files\browser\browser.exe"
    assert np.array_equal(joined["process"].isna(), [False, True])
