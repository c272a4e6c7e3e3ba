"""NetFlow 5 and 9 and IPFIX as exporters send them: fields, templates, losses."""

from __future__ import annotations

import builtins
import io
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
from collectors import collect, own_totals, totals
from exports import (
    ABSOLUTE,
    COMMON,
    EXPORTED,
    UPTIME,
    VARIABLE,
    back,
    capture,
    data_set,
    ip,
    ipfix,
    options_set,
    template_set,
    there,
    v5,
    v9,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import exfilml
from exfilml import cli
from exfilml.exceptions import ExfilmlError, OptionError, SourceError, SourceWarning
from exfilml.schema import capability
from exfilml.sources._datagrams import Found, captured_datagrams, raw_datagrams
from exfilml.spool import Spool

REAL = os.environ.get("EXFILML_REAL_DATA")
BIFLOW = 29305
START = pd.Timestamp(EXPORTED - 5, unit="s", tz="UTC")


def read(tmp_path, *files, **options):
    paths = []
    for at, data in enumerate(files):
        paths.append(tmp_path / f"{at}.dat")
        paths[-1].write_bytes(data)
    return exfilml.read_flows(paths if len(paths) > 1 else paths[0], **options)


def heard(tmp_path, *files, **options):
    """Read, and return all that was said too."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flows = read(tmp_path, *files, **options)
    return flows, " ".join(str(w.message) for w in caught)


EXPECTED = {
    "start": START,
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
    "sensor": "0.dat",
}


@pytest.mark.parametrize(
    "data",
    [
        v5(there(), back()),
        v5(there()) + v5(back()),
        v9(template_set(256, COMMON), data_set(256, COMMON, there(), back())),
        v9(template_set(256, COMMON))
        + v9(data_set(256, COMMON, there()))
        + v9(data_set(256, COMMON, back())),
        # Templates that come later in the file.
        v9(data_set(256, COMMON, there(), back())) + v9(template_set(256, COMMON)),
        ipfix(
            template_set(300, ABSOLUTE, 10), data_set(300, ABSOLUTE, there(), back())
        ),
        # Padding between datagrams, as in packets of a fixed size.
        v9(template_set(256, COMMON)) + bytes(61) + v9(data_set(256, COMMON, there()))
        + bytes(3) + v5(back()),
    ],
    ids=["v5", "v5-joined", "v9", "v9-apart", "v9-later", "ipfix", "padded"],
)  # fmt: skip
def test_two_directions_are_one_flow(tmp_path, data):
    flows = read(tmp_path, data)
    assert len(flows) == 1
    assert flows.iloc[0][list(EXPECTED)].to_dict() == EXPECTED
    assert capability(flows).tolist() == ["packets"]
    (streamed,) = exfilml.iter_flows(tmp_path / "0.dat")
    pd.testing.assert_frame_equal(streamed, flows)


def test_a_capture_is_read_for_its_exports_only_where_that_is_asked(tmp_path):
    data = capture(
        v9(data_set(256, COMMON, there())),
        v9(template_set(256, COMMON), data_set(256, COMMON, back())),
        port=53,
        others=2,
    )
    packets = read(tmp_path, data)
    assert set(packets["dst_ip"]) == {"192.0.2.99"}
    with pytest.warns(SourceWarning, match="2 of 4 packets are no exports"):
        flows = read(tmp_path, data, exports=True)
    expected = EXPECTED | {"sensor": "192.0.2.1"}
    assert flows.iloc[0][list(expected)].to_dict() == expected
    flows, told = heard(tmp_path, data[:-9], exports=True)
    assert (len(flows), "the capture is cut off" in told) == (1, True)
    with pytest.raises(OptionError, match="bpf_filter with exports=True"):
        read(tmp_path, data, exports=True, bpf_filter="udp")


def test_a_capture_without_exports_holds_no_flows(tmp_path):
    flows, told = heard(tmp_path, capture(others=3), exports=True)
    assert (len(flows), "3 of 3 packets are no exports" in told) == (0, True)
    with pytest.warns(SourceWarning):
        assert list(exfilml.iter_flows(tmp_path / "0.dat", exports=True)) == []
    with_some = tmp_path / "1.dat"
    with_some.write_bytes(capture(v5(there(), back())))
    (table,) = exfilml.iter_flows(with_some, exports=True)
    assert table["dst_bytes"].tolist() == [5368]


def test_exporters_in_a_capture_have_their_own_templates(tmp_path):
    short = {8: 4, 12: 4, 7: 2, 11: 2, 4: 1, 1: 2}
    first = capture(v9(template_set(256, COMMON), data_set(256, COMMON, there())))
    second = capture(
        v9(template_set(256, short), data_set(256, short, there(e11=80))),
        exporter="192.0.2.2",
    )
    flows = read(tmp_path, first + second[24:], exports=True)
    assert flows[["dst_port", "sensor"]].sort_values("dst_port").values.tolist() == [
        [80, "192.0.2.2"],
        [443, "192.0.2.1"],
    ]


# -- templates of other files -------------------------------------------------------


def test_a_template_of_another_file_of_the_call_serves_and_is_told(tmp_path):
    files = (v9(data_set(256, COMMON, there())), v9(template_set(256, COMMON)))
    flows, told = heard(tmp_path, *files)
    assert len(flows) == 1
    assert "read with templates of 1.dat" in told
    with pytest.raises(SourceError, match=r"1 sets of data .* no template .*256"):
        exfilml.read_flows(tmp_path / "0.dat")


def test_templates_that_files_do_not_agree_on_serve_nobody(tmp_path):
    turned = dict(reversed(COMMON.items()))
    files = (
        v9(data_set(256, COMMON, there())),
        v9(template_set(256, COMMON)),
        v9(template_set(256, turned)),
    )
    flows, told = heard(tmp_path, *files)
    assert (len(flows), "do not agree" in told) == (0, True)
    # Nor one of another domain or version, nor one that the data do not fit.
    for other in (
        v9(template_set(256, COMMON), domain=2),
        ipfix(template_set(256, COMMON, 10)),
        v9(template_set(256, {8: 4, 12: 4, 1: 8, 2: 8})),
    ):
        flows, told = heard(tmp_path, files[0], other)
        assert (len(flows), "have no template" in told) == (0, True)


def test_a_template_that_changes_in_a_file_is_read_as_it_is_then(tmp_path):
    other = dict(reversed(COMMON.items()))
    data = v9(template_set(256, COMMON), data_set(256, COMMON, there()))
    data += v9(template_set(256, other), data_set(256, other, back()))
    assert read(tmp_path, data).iloc[0]["dst_bytes"] == 5368
    # Before the first of two, nobody knows which is meant.
    with pytest.warns(SourceWarning, match="1 sets of data .* have no template"):
        flows = read(tmp_path, v9(data_set(256, COMMON, there(e11=80))) + data)
    assert flows["dst_port"].tolist() == [443]


# -- fields -------------------------------------------------------------------------


def one(tmp_path, template, record, make=ipfix, **options):
    version = 10 if make is ipfix else 9
    data = make(template_set(256, template, version), data_set(256, template, record))
    return read(tmp_path, data, **options).iloc[0]


def variant(without, **more):
    """A template and a record with other elements than the usual."""
    template = {k: v for k, v in ABSOLUTE.items() if k not in without}
    record = there()
    for name, (size, value) in more.items():
        element = int(name[1:])
        element = (element, BIFLOW) if name[0] == "r" else element
        template[element], record[element] = size, value
    return template, record


@pytest.mark.parametrize(
    ("without", "more", "expected"),
    [
        ({1, 2}, {"e85": (8, 7), "e86": (8, 2)}, (7, 0, 2, 0)),
        (set(), {"r1": (8, 77), "r2": (4, 3)}, (1328, 77, 8, 3)),
        ({1, 2}, {"e231": (8, 5), "e232": (8, 6)}, (5, 6, None, None)),
        (
            {1, 2},
            {"e231": (4, 5), "e232": (4, 6), "e298": (8, 1), "e299": (8, 2)},
            (5, 6, 1, 2),
        ),
        ({1}, {"e352": (8, 1000)}, (1000 - 8 * 14, 0, 8, 0)),
        # What left a middlebox is what came in.
        (set(), {"e23": (8, 1), "e24": (8, 1)}, (1328, 0, 8, 0)),
        ({1, 2}, {"e23": (8, 9), "e24": (8, 2)}, (9, 0, 2, 0)),
    ],
)
def test_counters(tmp_path, without, more, expected):
    row = one(tmp_path, *variant(without, **more))
    counted = row[["src_bytes", "dst_bytes", "src_packets", "dst_packets"]]
    assert tuple(None if pd.isna(n) else n for n in counted) == expected


def test_out_bytes_of_version_9_are_the_other_direction(tmp_path):
    template, record = variant({152, 153}, e23=(4, 50), e24=(4, 2), e22=(4, 1))
    row = one(tmp_path, template, record, v9)
    assert row[["src_bytes", "dst_bytes", "dst_packets"]].tolist() == [1328, 50, 2]


NTP = EXPORTED - 5 + 2_208_988_800


@pytest.mark.parametrize(
    ("more", "ago", "duration"),
    [
        ({"e150": (4, EXPORTED - 60), "e151": (4, EXPORTED - 50)}, 60, 10),
        ({"e154": (8, NTP << 32), "e155": (8, (NTP << 32) + (1 << 31))}, 5, 0.5),
        ({"e158": (4, 4_000_000), "e159": (4, 1_000_000)}, 4, 3),
        ({"e152": (8, EXPORTED * 1000 - 9000), "e161": (4, 2500)}, 9, 2.5),
        ({"e323": (8, EXPORTED * 1000 - 7000)}, 7, 0),
        ({"e22": (4, 5000), "e21": (4, 7000)}, 2, 2),
        (
            {"e22": (4, 5000), "e21": (4, 7000), "e160": (8, EXPORTED * 1000 - 9000)},
            2,
            2,
        ),
        ({}, 0, 0),
    ],
)
def test_times_of_ipfix(tmp_path, more, ago, duration):
    row = one(tmp_path, *variant({152, 153}, **more))
    assert row["start"] == pd.Timestamp(EXPORTED - ago, unit="s", tz="UTC")
    assert row["duration_s"] == duration


def test_the_start_of_an_exporter_may_stand_in_its_options(tmp_path):
    scope, said = {149: 4}, {160: 8}
    booted = (EXPORTED - 100) * 1000
    template, record = variant({152, 153}, e22=(4, 5000), e21=(4, 7000))
    data = ipfix(
        options_set(400, scope, said, 10), data_set(400, scope | said, {160: booted})
    )
    data += ipfix(template_set(256, template, 10), data_set(256, template, record))
    row = read(tmp_path, data).iloc[0]
    assert row["start"] == pd.Timestamp(EXPORTED - 95, unit="s", tz="UTC")


def test_clocks_that_begin_anew_and_clocks_that_do_not_fit(tmp_path):
    wrapped = there(e22=2**32 - 1000, e21=500)
    row = read(tmp_path, v5(wrapped)).iloc[0]
    assert row["start"] == START + pd.Timedelta(milliseconds=5000 - UPTIME - 1000)
    assert row["duration_s"] == 1.5
    # Neither now nor 50 days ago: the latest of a datagram ended when it was sent.
    odd = there(e22=UPTIME + 10**9, e21=UPTIME + 10**9 + 2000)
    row = read(tmp_path, v5(odd)).iloc[0]
    assert row["start"] == START + pd.Timedelta(seconds=3)


def test_icmp_has_no_ports_and_flags_are_of_tcp(tmp_path):
    row = one(tmp_path, ABSOLUTE, there(e4=1, e7=0, e11=2048))
    assert row[["protocol", "src_port", "dst_port"]].tolist() == [1, 0, 0]
    assert pd.isna(row["tcp_flags"])
    wide = ABSOLUTE | {6: 2}
    assert one(tmp_path, wide, there(e6=0x5012))["tcp_flags"] == 0x12


def test_ipv6_and_fields_of_varying_length(tmp_path):
    template = {27: 16, 28: 16, 7: 2, 11: 2, 4: 1, 1: 8, 2: 8, 152: 8}
    template[(1, 9999)] = VARIABLE
    record = there(e27=ip("2001:db8::5"), e28=ip("2001:db8::7"))
    records = [record | {(1, 9999): b"x" * n} for n in (0, 3, 200)]
    data = ipfix(template_set(256, template, 10), data_set(256, template, *records))
    row = read(tmp_path, data).iloc[0]
    assert row[["src_ip", "dst_ip"]].tolist() == ["2001:db8::5", "2001:db8::7"]
    assert row["src_bytes"] == 3 * 1328


def test_applications_by_number_and_by_name(tmp_path):
    scope, said = {1: 4}, {95: 4, 96: 24}
    names = [
        {95: 0x0D000001, 96: b"bittorrent".ljust(24, b"\0")},
        {95: 0x0D000002, 96: b"unknown".ljust(24, b"\0")},
    ]
    template = COMMON | {95: 4}
    flows = [there(e95=0x0D000001), there(e7=1, e95=0x0D000002), there(e7=2, e95=7)]
    records = v9(template_set(256, template), data_set(256, template, *flows))
    options = v9(options_set(257, scope, said), data_set(257, scope | said, *names))
    for data in (records + options, options + records):
        apps = read(tmp_path, data).set_index("src_port")["app"].sort_index()
        assert apps.fillna("").to_dict() == {1: "", 2: "", 40000: "BitTorrent"}
    # PAN-OS' own element.
    named = COMMON | {56701: 32}
    row = one(tmp_path, named, there(e56701=b"web-browsing".ljust(32, b"\0")), v9)
    assert row["app"] == "web-browsing"


# -- sampling -----------------------------------------------------------------------


def sampled(scope, said, record, version=9):
    make = v9 if version == 9 else ipfix
    return make(
        options_set(400, scope, said, version), data_set(400, scope | said, record)
    )


@pytest.mark.parametrize(
    "data",
    [
        v5(there(), back(), sampling=1 << 14 | 100),
        v5(there(), back(), sampling=100),
        sampled({1: 4}, {34: 4, 35: 1}, {34: 100, 35: 1})
        + v9(template_set(256, COMMON), data_set(256, COMMON, there(), back())),
        # Told later in the file.
        v9(template_set(256, COMMON), data_set(256, COMMON, there(), back()))
        + sampled({1: 4}, {34: 4, 35: 1}, {34: 100, 35: 1}),
        sampled({149: 4}, {302: 8, 305: 4, 306: 4}, {302: 3, 305: 1, 306: 99}, 10)
        + ipfix(
            template_set(256, ABSOLUTE | {302: 8}, 10),
            data_set(256, ABSOLUTE | {302: 8}, there(e302=3), back(e302=3)),
        ),
        v9(
            template_set(256, COMMON | {34: 4}),
            data_set(256, COMMON | {34: 4}, there(e34=100), back(e34=100)),
        ),
    ],
    ids=["v5", "v5-no-mode", "options", "later", "selector", "record"],
)
def test_what_was_sampled_is_scaled_up_and_told(tmp_path, data):
    with pytest.warns(SourceWarning, match="sampled 1 packet in 100; .* scaled up"):
        row = read(tmp_path, data, sampling=7).iloc[0]
    expected = [132800, 536800, 800, 900]
    names = ["src_bytes", "dst_bytes", "src_packets", "dst_packets"]
    assert row[names].tolist() == expected


def test_rates_of_several_samplers(tmp_path):
    template = COMMON | {48: 1}
    said = [{48: 1, 50: 10}, {48: 2, 50: 1000}]
    data = v9(
        options_set(400, {1: 4}, {48: 1, 50: 4}),
        data_set(400, {1: 4, 48: 1, 50: 4}, *said),
        template_set(256, template),
        data_set(256, template, *(there(e7=n, e48=n) for n in (1, 2, 0, 3))),
    )
    flows, told = heard(tmp_path, data)
    octets = flows.set_index("src_port")["src_bytes"].to_dict()
    assert octets == {0: 1328, 1: 13280, 2: 1_328_000, 3: 1328}
    assert "1 packet in 10, 1,000;" in told
    assert "sampler 3, whose rate is not told" in told


def test_a_rate_that_is_not_told_can_be_given(tmp_path):
    with pytest.warns(SourceWarning, match="the sampling rate given, 1 packet in 7"):
        row = read(tmp_path, v5(there()), sampling=7).iloc[0]
    assert row[["src_bytes", "src_packets"]].tolist() == [7 * 1328, 56]
    for wrong in (0, -1, 1.5, True, 10**9, "10"):
        with pytest.raises(OptionError, match="one packet in how many"):
            read(tmp_path, v5(there()), sampling=wrong)
        with pytest.raises(OptionError, match="one packet in how many"):
            exfilml.iter_flows(tmp_path / "0.dat", sampling=wrong)


# -- losses -------------------------------------------------------------------------


def test_losses_are_told_with_counts(tmp_path):
    good = v9(template_set(256, COMMON), data_set(256, COMMON, there()))
    for data, told in (
        (good + v9(data_set(999, COMMON, there())), r"1 sets of data \(32 bytes\)"),
        (good + v5(there(e1=0)) + b"no datagram" * 9, "no datagram; the rest is lost"),
        (good + v9(data_set(256, COMMON, there(e1=0), there()))[:-9], "1 .* cut off"),
        (good + v5(there(), count=40), "1 datagrams could not be read"),
        (good + v5(there(e1=0), count=3), "2 records could not be taken apart"),
        (
            good + v9(template_set(300, {56: 6}), data_set(300, {56: 6}, {56: 1})),
            "1 records have no addresses",
        ),
        (
            good
            + v9(template_set(300, {8: 4, 12: 4}), data_set(300, {8: 4, 12: 4}, {})),
            "1 records count no bytes",
        ),
        (good + v5(there(e4=0, e1=0, e22=UPTIME - 1, e21=UPTIME - 2)), "impossible"),
    ):
        with pytest.warns(SourceWarning, match=told):
            assert read(tmp_path, data)["src_bytes"].iloc[0] == 1328
    with pytest.raises(SourceError, match="no flow could be read: 1 datagrams"):
        read(tmp_path, v5(there(), count=55582))
    with pytest.warns(SourceWarning, match="holds no flows"):
        assert len(read(tmp_path, v9(template_set(256, COMMON)))) == 0


@pytest.mark.parametrize("library", ["netflume", "dpkt"])
def test_a_missing_library_is_named_with_what_to_do(tmp_path, monkeypatch, library):
    load = builtins.__import__

    def missing(name, *arguments, **named):
        if name == library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return load(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(
        SourceError, match=rf'needs {library}.*pip install "exfilml\[netflow\]"'
    ):
        read(tmp_path, capture(v5(there())), exports=True)


def test_the_command_line_takes_rates_captures_and_standard_input(
    tmp_path, capfd, monkeypatch
):
    out = tmp_path / "flows.parquet"
    (tmp_path / "x.pcap").write_bytes(capture(v5(there(), back())))
    asked = ("flows", str(tmp_path / "x.pcap"), "--out", str(out), "-q")
    assert cli.run([*asked, "--exports", "--sampling", "10"]) == 0
    assert "given, 1 packet in 10" in capfd.readouterr().err
    assert exfilml.read_flows(out)["dst_bytes"].tolist() == [53680]
    assert cli.run([*asked, "--exports", "--sampling", "0"]) == 2
    assert "one packet in how many" in capfd.readouterr().err

    class Given:
        buffer = io.BytesIO(v5(there(), back()))

    monkeypatch.setattr(sys, "stdin", Given)
    assert cli.run(["flows", "-", "--out", str(out), "-q"]) == 0
    assert exfilml.read_flows(out)["sensor"].tolist() == ["stdin"]


def test_training_on_disk_takes_rates_and_does_not_mix_them(tmp_path):
    (tmp_path / "x.dat").write_bytes(v5(there(), back()))
    sums = []
    for rate in (None, 10):
        spool = Spool(tmp_path / "spool", sampling=rate)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SourceWarning)
            spool.fill(tmp_path / "x.dat")
        sums += [int(table["src_bytes"].sum()) for table in spool.tables()]
    assert sums == [1328, 13280]


SEEDS = [
    v5(there(), back(), sampling=100),
    v9(template_set(256, COMMON), data_set(256, COMMON, there(), back())),
    ipfix(template_set(300, ABSOLUTE, 10), data_set(300, ABSOLUTE, there(), back())),
    sampled({1: 4}, {48: 1, 50: 4, 96: 8}, {48: 1, 50: 10, 96: b"abcdefgh"})
    + v9(template_set(256, COMMON | {48: 1}), data_set(256, COMMON | {48: 1}, there())),
    ipfix(template_set(256, {8: 4, 12: 4, 1: 8, (1, 9): VARIABLE}, 10))
    + ipfix(data_set(256, {8: 4, 12: 4, 1: 8, (1, 9): VARIABLE},
                                 there() | {(1, 9): b"abc"})),
]  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from(SEEDS),
    st.booleans(),
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 8), st.binary(max_size=8)),
        max_size=6,
    ),
)
def test_damaged_datagrams_end_in_flows_or_one_clear_error(
    tmp_path_factory, seed, captured, edits
):
    data = bytearray(capture(seed, seed) if captured else seed * 2)
    for at, cut, put in edits:
        place = at + (24 if captured else 0)
        data[place : place + cut] = put
    path = tmp_path_factory.mktemp("fuzz") / "flows.dat"
    path.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = exfilml.read_flows(path, exports=captured)
        except ExfilmlError:
            return
    pd.testing.assert_frame_equal(exfilml.validate_flows(flows), flows)


# -- real files --------------------------------------------------------------------

real = pytest.mark.skipif(REAL is None, reason="EXFILML_REAL_DATA is not set")
PACKETS = Path(REAL) / "logs" / "netflow-packets" if REAL else Path()


def together() -> dict[str, list[Path]]:
    """Files of one exporter, by what their names have in common."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(PACKETS.glob("*.dat")):
        name = re.sub(
            r"(_(opt)?(tpls?|data|tpldata|dpi)[^.]*)+\.dat$|\.dat$", "", path.name
        )
        groups.setdefault(name, []).append(path)
    return groups


# What nfdump 1.7 counts otherwise, and why.
OTHERWISE = {
    "netflow9_test_cisco_wlc": "records without addresses",
    "netflow9_test_h3c_netstream_varstring": "fields of varying length in version 9",
    "netflow9_test_invalid01": "nfcapd does not apply this rate of 100",
}


@real
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nfcapd") is None, reason="nfdump is not installed")
@pytest.mark.parametrize("name", together())
def test_totals_equal_those_of_nfcapd_for_the_same_datagrams(tmp_path, name):
    paths = sorted(together()[name], key=lambda p: ("tpl" not in p.name, p.name))
    sent = [d.data for p in paths for d in raw_datagrams([p.read_bytes()], Found())]
    written = collect(tmp_path, *sent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flows = exfilml.read_flows(paths)
        except SourceError:
            flows = exfilml.schema.empty_flows()
    mine, other = totals(flows), own_totals(written)
    assert (mine == other) == (name not in OTHERWISE), (mine, other)


@real
@pytest.mark.parametrize(
    "path", sorted(PACKETS.glob("netflow5*")), ids=lambda p: p.name
)
def test_totals_of_version_5_equal_those_of_plain_arithmetic(path):
    data = path.read_bytes()
    octets = packets = at = 0
    while at < len(data):
        count, rate = (int.from_bytes(data[at + i : at + i + 2]) for i in (2, 22))
        if count > 30:
            with pytest.raises(SourceError, match="no flow could be read"):
                exfilml.read_flows(path)
            return
        for record in range(at + 24, at + 24 + 48 * count, 48):
            packets += int.from_bytes(data[record + 16 : record + 20]) * (rate or 1)
            octets += int.from_bytes(data[record + 20 : record + 24]) * (rate or 1)
        at += 24 + 48 * count
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert totals(exfilml.read_flows(path)) == (octets, packets)


@real
def test_a_folder_of_many_exporters_mixes_no_templates():
    """What one file alone yields is what it yields among all; the rest is told."""
    flows, told = {}, {}
    for path in sorted(PACKETS.glob("*.dat")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                flows[path.name] = totals(exfilml.read_flows(path))
            except SourceError as error:
                told[path.name] = str(error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        every = exfilml.read_flows(PACKETS)
    sums = every.groupby("sensor")[["src_bytes", "dst_bytes"]].sum().sum(axis=1)
    assert {n: sums.get(n, 0) for n in flows} == {n: t[0] for n, t in flows.items()}
    # Some templates are of one file alone, and serve the others.
    assert set(sums.index) - set(flows) < set(told)
    assert all(name in text for name, text in told.items())
    assert any("could not be read" in str(w.message) for w in caught)


@real
@pytest.mark.slow
def test_no_packet_of_hundreds_of_protocols_is_mistaken_for_an_export():
    mistaken, packets = {}, 0
    for path in sorted((Path(REAL) / "pcap" / "benign").rglob("*.pcap*")):
        found = Found()
        try:
            exports = list(captured_datagrams(path, found))
        except SourceError:
            continue
        packets += found.packets
        if exports and "netflow" not in path.name:
            mistaken[path.name] = len(exports)
    assert (mistaken, packets > 50_000) == ({}, True)
