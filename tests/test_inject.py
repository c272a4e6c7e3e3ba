"""Synthetic uploads: what is planted is what was asked, and looks like the real thing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sites
from hypothesis import given, settings
from hypothesis import strategies as st

import exfilml
from exfilml import payload
from exfilml.columns import COLUMNS, PAYLOAD_COLUMNS
from exfilml.exceptions import FlowsError, OptionError
from exfilml.inject import CARRIERS, Transfer, inject
from exfilml.inject._carriers import FTP_CONTROL
from exfilml.inject._wire import encrypted
from exfilml.payload import PayloadEvidence, kept_slices
from exfilml.places import orient, parse_networks
from exfilml.schema import capability, validate_flows

LAB = Path(__file__).parent.parent / "datasets" / "lab" / "develop"
SAMPLE = Path(__file__).parent.parent / "datasets" / "sample"
RAW = ("tcp-odd", "tcp-443", "tcp-high", "udp-53", "udp-123", "udp-odd")


@pytest.fixture(scope="module")
def flows():
    return sites.office(400, seed=1)


@pytest.fixture(scope="module")
def planted(flows):
    wanted = [
        Transfer(name, 70_001, n, place)
        for name in CARRIERS
        for n in (1, 20)
        for place in ("new", "near", "known")
    ]
    return inject(flows, wanted, seed=3)


def test_the_front_door_is_not_hidden_by_the_rooms():
    """`exfilml.inject` stays the function when its room has been imported."""
    import exfilml.blindspots
    import exfilml.inject

    assert exfilml.inject is inject
    assert callable(exfilml.blindspots)
    assert not isinstance(exfilml.blindspots, type(pytest))


def test_the_bytes_are_exactly_those_asked_for(planted):
    rows = planted.flows.loc[planted.index]
    carried = rows.groupby("scenario", sort=False)["planted_bytes"].sum()
    assert carried.tolist() == planted.transfers["up_bytes"].tolist()
    sent = rows.groupby("scenario", sort=False)["src_payload_bytes"].sum().to_numpy()
    raw = planted.transfers["carrier"].isin((*RAW, "icmp")).to_numpy()
    assert (sent[raw] == 70_001).all()
    assert (sent[~raw] > 70_001).all()


def test_each_upload_is_cut_as_asked(planted):
    rows = planted.flows.loc[planted.index]
    data = rows[rows["planted_bytes"] > 0]
    flows_of = data.groupby("scenario", sort=False).size().to_numpy()
    assert (flows_of == planted.transfers["flows"]).all()
    # Pieces differ by a byte at most.
    spread = data.groupby("scenario")["planted_bytes"].agg(np.ptp)
    assert spread.max() <= 1


def test_rows_are_those_of_a_flows_table(flows, planted):
    rows = planted.flows.loc[planted.index]
    assert list(rows.columns[: len(COLUMNS)]) == [c.name for c in COLUMNS]
    pd.testing.assert_frame_equal(validate_flows(rows), rows)
    assert set(rows["label"]) == {"exfil"}
    assert rows["scenario"].notna().all()
    assert (capability(rows) == "payload").all()
    assert planted.index.is_unique
    assert not planted.index.isin(flows.index).any()
    # Headers are counted.
    assert (rows["src_bytes"] > rows["src_payload_bytes"]).all()
    assert (rows["src_bytes"] >= 20 * rows["src_packets"]).all()


def test_the_table_given_is_kept_and_not_changed(flows):
    before = flows.copy(deep=True)
    planted = inject(flows, Transfer("udp-53", 5000))
    pd.testing.assert_frame_equal(flows, before)
    kept = planted.flows.loc[flows.index, flows.columns]
    pd.testing.assert_frame_equal(kept, flows)


def test_an_index_of_texts_is_kept(flows):
    named = flows.head(50).set_axis([f"flow {i}" for i in range(50)])
    planted = inject(named, Transfer("tls", 5000, 2))
    assert planted.index.tolist() == ["planted 0", "planted 1"]
    assert planted.flows.index[:50].tolist() == named.index.tolist()


def test_the_seed_decides(flows):
    wanted = [Transfer(name, 9000, 3, "known") for name in CARRIERS]
    one, same, other = (inject(flows, wanted, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(one.flows, same.flows)
    assert not one.flows.equals(other.flows)


def test_the_side_that_speaks_first_is_known(planted):
    """A row that lacked it would give itself away."""
    rows = planted.flows.loc[planted.index]
    control = rows["app"] == FTP_CONTROL.app
    assert control.any()
    assert (rows.loc[control, "first_speaker"] == "dst").all()
    assert (rows.loc[~control, "first_speaker"] == "src").all()


def test_hosts_and_hours_are_those_of_the_site(flows, planted):
    rows = planted.flows.loc[planted.index]
    for host, of in rows.groupby("src_ip"):
        own = flows[flows["src_ip"] == host]
        assert of["start"].dt.floor("D").isin(own["start"].dt.floor("D")).all()
    # The whole of an upload falls on one day.
    days = rows.groupby("scenario")["start"].agg(lambda s: s.dt.date.nunique())
    assert (days == 1).all()


def test_new_places_are_new_and_known_ones_known(flows, planted):
    home = parse_networks(None)
    before, after = orient(flows, home), orient(planted.flows.loc[planted.index], home)
    known = set(before["remote_ip"])
    plan = planted.transfers
    for carrier in CARRIERS:
        of = plan[plan["carrier"] == carrier]
        assert not set(of.loc[of["place"] == "new", "remote_ip"]) & known
        assert set(of.loc[of["place"] == "known", "remote_ip"]) <= known
        near = of.loc[of["place"] == "near", "remote_ip"]
        assert len(near) == 2
        assert not set(near) & known
        assert not set(near) & set(before["local_ip"])
        assert {ip.rpartition(".")[0] for ip in near} <= {
            ip.rpartition(".")[0] for ip in known
        }
    new = plan.loc[plan["place"] == "new", "remote_ip"]
    networks = {ip.rpartition(".")[0] for ip in known}
    assert not {ip.rpartition(".")[0] for ip in new} & networks
    assert new.is_unique
    new_rows = after[["place"]].loc[
        planted.flows.loc[planted.index, "scenario"].str.contains("-(?:new|near)-")
    ]
    assert not set(new_rows["place"]) & set(before["place"])
    # This office uses no ICMP, FTP or NTP: that is said.
    text = " ".join(planted.notes)
    for title in ("ICMP echo", "FTP", "raw UDP to port 123", "raw TCP to an odd port"):
        assert title in text
    assert "base64" not in text


def test_known_tls_places_keep_their_names(flows, planted):
    plan = planted.transfers
    of = plan[(plan["carrier"] == "tls") & (plan["place"] == "known")]
    pairs = set(zip(flows["dst_ip"], flows["server_name"], strict=True))
    assert set(zip(of["remote_ip"], of["server_name"], strict=True)) <= pairs


def test_a_source_without_names_shows_none_of_an_upload(flows):
    bare = flows.assign(server_name=pd.Series(pd.NA, index=flows.index, dtype="str"))
    planted = inject(bare, [Transfer("tls", 900, place=p) for p in ("new", "known")])
    assert planted.transfers["place"].tolist() == ["new", "known"]
    assert planted.flows["server_name"].isna().all()


def test_stolen_flows_teach_no_places(flows):
    theft = sites.theft(flows, dst_port=443).assign(label="exfil")
    only = pd.concat([flows[flows["dst_port"] != 443], theft], ignore_index=True)
    planted = inject(only, Transfer("tcp-443", 1000, place="known"), trials=5)
    assert (planted.transfers["place"] == "new").all()


def test_hosts_of_version_6_stay_with_it(flows):
    six = flows.assign(
        src_ip="fd00::" + flows["src_ip"].str.rpartition(".")[2],
        dst_ip="2001:db9::" + flows["dst_ip"].str.rpartition(".")[2],
    )
    for place in ("new", "near", "known"):
        planted = inject(six, [Transfer(c, 3000, place=place) for c in CARRIERS])
        rows = planted.flows.loc[planted.index]
        assert rows["dst_ip"].str.contains(":").all()
        icmp = rows[rows["app"] == "ICMPV6"]
        assert icmp["protocol"].tolist() == [58]
        assert icmp["app_verified"].tolist() == [True]


# Payload.


def test_ciphertext_is_text_until_the_key_is_applied():
    """XOR with the keystream gives the plaintext back, at any offset."""
    key, size = b"k" * 32, 5000
    read = encrypted(key, size)
    whole = read(0, size)
    assert read(1000, 500) == whole[1000:1500]
    assert read(4990, 100) == whole[4990:]
    stream = b"".join(
        hashlib.shake_256(key + i.to_bytes(8, "big")).digest(1024) for i in range(5)
    )
    plain = bytes(a ^ b for a, b in zip(whole, stream, strict=False))
    assert payload.judge(plain).verdict == "text"
    assert payload.judge(whole).verdict == "opaque"


@given(st.integers(0, 5000))
@settings(max_examples=200, deadline=None)
def test_slices_are_kept_as_the_extractor_keeps_them(candidates):
    from exfilml.sources._plugin import SLICE_BYTES, Side

    side = Side()
    side.keep(bytes(4096), 4096)
    for i in range(candidates):
        if side.is_due(SLICE_BYTES):
            side.keep(i.to_bytes(4, "big").ljust(SLICE_BYTES), SLICE_BYTES)
    kept = [
        int.from_bytes(side.slices[at : at + 4])
        for at in range(0, len(side.slices), SLICE_BYTES)
    ]
    assert kept == list(kept_slices(candidates))


@pytest.mark.parametrize("name", [*CARRIERS, "ftp-control"])
@pytest.mark.parametrize("size", [1, 63, 99, 100, 101, 1448, 4097, 33_333])
def test_what_is_judged_is_what_the_extractor_would_judge(name, size):
    """Cut into packets and fed to the sampler, a stream gives the same evidence."""
    from exfilml.sources._plugin import Side as Sampler

    carrier = CARRIERS.get(name, FTP_CONTROL)
    wire = carrier.wire(encrypted(b"x" * 32, size), size, "up.aaaaaaaaa.example")
    for side in (wire.up, wire.down):
        sampler = Sampler()
        stream = side.read(0, side.size)
        assert len(stream) == side.size
        for at in range(0, side.size, side.packet):
            packet = stream[at : at + side.packet]
            sampler.payload += len(packet)
            if not sampler.full or sampler.is_due(len(packet)):
                sampler.keep(packet, len(packet))
        extracted = payload.judge_stream(
            bytes(sampler.head),
            bytes(sampler.slices),
            stream_bytes=sampler.payload,
            protocol=carrier.protocol,
            packets=sampler.packets,
        )
        assert repr(side.judge(carrier.protocol)) == repr(extracted)


def test_evidence_has_the_order_of_the_columns():
    names = list(PayloadEvidence._fields)
    assert names[2:] == list(PAYLOAD_COLUMNS)[2:]
    assert (names[:2], PAYLOAD_COLUMNS[:2]) == (
        ["stream_bytes", "n_bytes"],
        ("payload_bytes", "sampled_bytes"),
    )


FACTS = ("verdict", "concealed", "handshake", "encoding", "protocol")
# Carrier and the labelled transfer of a lab that was made the same way. The XOR that
# develop sends to 443 and 53 is another cipher: the sample has these two.
TWINS = (
    ("tcp-odd", "develop", "tcp-odd-a"),
    ("tcp-odd", "develop", "tcp-drip-a"),
    ("tcp-high", "develop", "tcp-large-a"),
    ("tcp-443", "sample", "chacha-tcp-443"),
    ("udp-53", "sample", "cbc-udp-53"),
    ("udp-123", "develop", "udp-ntp-port-a"),
    ("udp-odd", "develop", "udp-other-a"),
    ("http", "develop", "http-put-address-a"),
    ("http-base64", "sample", "base64-http-post"),
    ("ftp", "develop", "ftp-passive-a"),
    ("icmp", "develop", "icmp-echo-a"),
    ("dns", "develop", "dns-direct-a"),
    ("tls", "develop", "large-https-upload-a"),
)


@pytest.mark.slow
def test_synthetic_rows_look_like_those_of_the_lab():
    """Verdict, facts, application, state and overhead agree, carrier by carrier."""
    labs = {}
    for name, folder, file in (
        ("develop", LAB, "test.pcap.gz"),
        ("sample", SAMPLE, "test.pcap"),
    ):
        table = exfilml.read_flows(folder / file, progress=False)
        labels = exfilml.read_labels(folder / "labels.csv")
        labs[name] = exfilml.apply_labels(table, labels)
    for carrier, lab, scenario in TWINS:
        real = labs[lab][labs[lab]["scenario"] == scenario]
        real = real.loc[[real["src_payload_bytes"].idxmax()]].iloc[0]
        size = int(real["src_payload_bytes"])
        if carrier in {"dns", "http-base64"}:
            size //= 2
        planted = inject(labs[lab], Transfer(carrier, size), home="10.0.0.0/8")
        rows = planted.flows.loc[planted.index]
        mine = rows[rows["planted_bytes"] > 0].iloc[0]
        for name in (
            *("protocol", "app", "app_verified", "conn_state", "first_speaker"),
            *(f"src_{fact}" for fact in FACTS),
        ):
            assert str(mine[name]) == str(real[name]), (carrier, name)
        # The lab merges segments, and a wire does not. Of 20 kB headers are little.
        overhead = mine["src_bytes"] / mine["src_payload_bytes"]
        if size < 20_000:
            continue
        assert 1.0 < overhead < (1.2 if carrier == "dns" else 1.07), carrier
        if carrier in {"tls", "http", "icmp", "dns"}:
            assert str(mine["dst_verdict"]) == str(real["dst_verdict"]), carrier
            assert str(mine["dst_handshake"]) == str(real["dst_handshake"]), carrier


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("carrier pigeon", 1000), "carrier 'carrier pigeon': expected one of tcp-odd"),
        (("tls", -5), "up_bytes: got -5, expected a whole number from 1"),
        (("tls", 1.5), "up_bytes: got 1.5"),
        (("tls", True), "up_bytes: got True"),
        (("tls", 2**62), "up_bytes"),
        (("tls", 1000, 0), "flows: got 0"),
        (("tls", 10, 20), "10 bytes cannot be cut into 20 flows"),
        (("tls", 1000, 1, "old"), "place 'old': expected new, near"),
    ],
)
def test_a_transfer_that_is_none_is_refused(arguments, text):
    with pytest.raises(OptionError) as error:
        Transfer(*arguments)
    assert text in str(error.value)


def test_what_cannot_be_planted_is_refused(flows):
    one = Transfer("tls", 1000)
    for call, error, text in (
        (lambda: inject(flows, []), OptionError, "got none, expected one or more"),
        (lambda: inject(flows, ["tls"]), OptionError, "got 'tls'"),
        (lambda: inject(flows, one, trials=0), OptionError, "trials: got 0"),
        (lambda: inject(flows, one, seed=-1), OptionError, "seed: got -1"),
        (lambda: inject(flows, one, home="x"), OptionError, "home network 'x'"),
        (lambda: inject(flows.head(0), one), FlowsError, "There are no flows"),
        (
            lambda: inject(flows, one, home="172.16.0.0/12"),
            FlowsError,
            "goes from a home network",
        ),
        (lambda: inject([], one), FlowsError, "Expected a flows table"),
    ):
        with pytest.raises(error) as raised:
            call()
        assert text in str(raised.value)
