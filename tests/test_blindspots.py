"""What would be missed: counted from trials that do not disturb each other."""

from __future__ import annotations

import datetime as dt
import json
import sys

import numpy as np
import pandas as pd
import pytest
import sites

import exfilml
from exfilml import cli
from exfilml.blindspots import REACHED, _batches, _smallest
from exfilml.cli import _assess
from exfilml.exceptions import CalibrationWarning, FlowsError, OptionError
from exfilml.inject import CARRIERS, PLACES, Planter, Site, Transfer
from exfilml.terminal import blindspots_text

# The function of that name stands before the module in the package.
module = sys.modules["exfilml.blindspots"]

GRID = {
    "sizes": (1_000, 30_000, 1_000_000, 30_000_000),
    "pacings": (1, 20),
    "carriers": ("tcp-443", "http-base64", "dns", "tls"),
    "trials": 10,
}


@pytest.fixture(scope="module")
def detector():
    return exfilml.Detector(random_state=0, n_estimators=50).fit(
        sites.office(2000, seed=0, days=10)
    )


@pytest.fixture(scope="module")
def today():
    return sites.office(300, seed=5, days=1, first_day="2026-03-16")


@pytest.fixture(scope="module")
def found(detector, today):
    return exfilml.blindspots(detector, today, **GRID)


def test_every_cell_is_counted(found):
    table = found.table
    assert len(table) == 2 * 4 * 3 * 2 * 4
    assert (table["trials"] == 10).all()
    assert (table["alerted"] <= table["trials"]).all()
    assert np.allclose(table["recall"], table["alerted"] / table["trials"])
    assert (table["low"] <= table["recall"] + 1e-12).all()
    assert (table["high"] >= table["recall"] - 1e-12).all()
    assert table["low"].between(0, 1).all()
    assert len(found.smallest) == len(table) // 4


def test_more_upload_is_not_seen_less(found):
    """Hosts and places are the same at every size: one draw of payload may slip."""
    by = ["capability", "carrier", "place", "flows"]
    for key, curve in found.table.groupby(by):
        assert curve["up_bytes"].is_monotonic_increasing
        assert np.diff(curve["recall"]).min() >= -0.2, key
        assert curve["recall"].iloc[-1] >= curve["recall"].iloc[0]


def test_payload_shows_what_volumes_hide(found):
    def recall(capability, carrier):
        rows = found.table[
            (found.table["capability"] == capability)
            & (found.table["carrier"] == carrier)
            & (found.table["place"] == "known")
        ]
        return rows["alerted"].sum() / rows["trials"].sum()

    assert recall("payload", "tcp-443") > recall("volume", "tcp-443")
    assert recall("payload", "tcp-443") > recall("payload", "tls")


def test_more_budget_never_needs_more_upload(detector, today):
    few = {**GRID, "carriers": ("tls", "tcp-443"), "trials": 6}
    smaller, larger = (
        exfilml.blindspots(detector, today, alerts_per_day=n, **few) for n in (1, 8)
    )
    assert (larger.table["alerted"] >= smaller.table["alerted"]).all()
    a, b = (f.smallest["up_bytes"].fillna(np.inf) for f in (smaller, larger))
    assert (b <= a * (1 + 1e-12)).all()
    assert (smaller.budget, larger.budget) == (1.0, 8.0)


def test_the_seed_decides_and_the_input_is_kept(detector, today):
    before = today.copy(deep=True)
    few = {**GRID, "carriers": ("tls",), "trials": 4}
    one, same = (exfilml.blindspots(detector, today, seed=7, **few) for _ in range(2))
    pd.testing.assert_frame_equal(one.table, same.table)
    pd.testing.assert_frame_equal(today, before)


def test_no_two_trials_of_a_batch_share_a_case(detector, today):
    planter = Planter(Site.of(today, detector.home_))
    wanted = [
        Transfer(carrier, size, 2, place)
        for carrier in CARRIERS
        for place in PLACES
        for size in (1000, 50_000)
        for _ in range(8)
    ]
    plan = planter.plan(wanted, [i % 8 for i in range(len(wanted))])
    done = []
    for batch in _batches(plan):
        rows = planter.rows(plan.iloc[batch])
        cases = pd.DataFrame(
            {"case": detector.score(rows).case, "transfer": rows["transfer"]}
        ).drop_duplicates()
        assert cases["case"].is_unique
        done += list(batch)
    assert sorted(done) == list(range(len(plan)))


def test_the_smallest_upload_is_interpolated():
    def curve(*recall):
        sizes = [10, 100, 1000, 10_000][: len(recall)]
        table = pd.DataFrame({"up_bytes": sizes, "recall": recall}).assign(
            capability="payload", carrier="tls", place="new", flows=1, suppressed=0
        )
        row = _smallest(table).iloc[0]
        return row["bound"], row["up_bytes"]

    assert curve(1.0, 1.0) == ("at most", 10)
    assert curve(0.0, 0.5, 0.8)[0] == "none"
    bound, size = curve(0.0, 0.8, 1.0, 1.0)
    assert bound == "about"
    assert size == pytest.approx(100 * 10**0.5)
    # A lucky small size does not count where a larger one is missed.
    assert curve(1.0, 0.5, REACHED) == ("about", pytest.approx(1000))


def test_sentences_and_json_say_the_same(found):
    lines = found.lines()
    for capability, line in zip(("payload", "volume"), lines, strict=True):
        rows = found.smallest[found.smallest["capability"] == capability]
        size = rows["up_bytes"].fillna(np.inf)
        worst = rows[size == size.max()].iloc[0]
        title = CARRIERS[worst["carrier"]].title
        assert f": {title} to {worst['place']} places, in " in line
    said = json.loads(json.dumps(found.to_dict()))
    assert len(said["table"]) == len(found.table)
    assert {row["bound"] for row in said["smallest"]} <= {"at most", "about", "none"}


def test_the_heat_map_takes_and_returns_axes(found):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert found.plot(ax, capability="volume", flows=20) is ax
    assert len(ax.texts) == 4 * 3 * 4
    assert ax.get_yticklabels()[0].get_text() == "tcp-443, new"
    with pytest.raises(OptionError, match="flows=3"):
        found.plot(ax, flows=3)


def test_without_payload_volumes_are_judged(detector, today):
    few = {**GRID, "carriers": ("tls",), "trials": 2}
    netflow = sites.office(300, seed=5, days=1, payload=False)
    blind = exfilml.Detector(random_state=0, n_estimators=20).fit(
        sites.office(800, payload=False)
    )
    for model, flows, why in (
        (detector, netflow, "the flows show no payload"),
        (blind, today, "the model never saw payload"),
    ):
        found = exfilml.blindspots(model, flows, **few)
        assert set(found.table["capability"]) == {"volume"}
        assert why in found.notes[0]


def test_places_that_the_site_lacks_are_left_out_and_named(detector, today):
    found = exfilml.blindspots(
        detector, today, **{**GRID, "carriers": ("icmp",), "trials": 2}
    )
    assert set(found.table["place"]) == {"new", "near"}
    assert "lead to no known place: ICMP echo" in found.notes[0]
    with pytest.raises(OptionError, match="no such place for any"):
        exfilml.blindspots(detector, today, carriers=["icmp"], places=["known"])


def test_progress_is_told(detector, today):
    told = []
    few = {**GRID, "carriers": ("tls",), "trials": 2}
    exfilml.blindspots(detector, today, progress=told.append, **few)
    assert told[0] == "surveying the site"
    assert told[-1].endswith("flows planted and scored")
    assert len(told) < 25


def test_a_budget_beyond_the_calibration_is_warned_of_once(detector, today):
    with pytest.warns(CalibrationWarning) as warned:
        exfilml.blindspots(
            detector,
            today,
            alerts_per_day=0.01,
            **{**GRID, "carriers": ("tls",), "trials": 2},
        )
    assert len(warned) == 2  # one for each capability


# --- under a policy ------------------------------------------------------------------

FEW = {
    "sizes": (100_000, 1_000_000, 30_000_000),
    "pacings": (1, 20),
    "places": ("new",),
    "trials": 6,
}
APPROVAL = {
    "network": "0.0.0.0/0",
    "payload": ["opaque", "unseen"],
    "max_upload_per_day": "5 MB",
    "reason": "anything",
    "owner": "lab",
    "expires": dt.date(2026, 3, 17),
}


def under(policy, detector, today, *carriers):
    declared = None if policy is None else exfilml.Policy.parse(policy)
    return exfilml.blindspots(
        detector, today, carriers=carriers, policy=declared, **FEW
    )


def test_what_an_approval_hides_is_counted_apart(detector, today):
    """Up to its ceiling nothing alerts that else would; beyond it all is as before."""
    plain, approved = (
        under(policy, detector, today, "tcp-odd", "tls")
        for policy in (None, {"approve": [APPROVAL]})
    )
    assert plain.table["suppressed"].sum() == 0
    within = plain.table["up_bytes"] <= 1_000_000
    # In TLS an upload is not of the payload that is approved.
    covered = within & ~(
        (plain.table["carrier"] == "tls") & (plain.table["capability"] == "payload")
    )
    assert plain.table.loc[covered, "alerted"].sum() > 0
    hidden = approved.table["suppressed"]
    assert (hidden[covered] == plain.table.loc[covered, "alerted"]).all()
    assert (approved.table.loc[covered, "alerted"] == 0).all()
    rest = approved.table[~covered]
    pd.testing.assert_frame_equal(rest, plain.table[~covered])
    lines = [line for line in approved.lines() if line.startswith("hidden by")]
    seen = approved.table.groupby("capability")["suppressed"].sum()
    assert f"seeing payload: {seen['payload']} of 72 trials" in lines[0]
    assert f"from volumes alone: {seen['volume']} of 72 trials" in lines[1]
    text = blindspots_text(approved)
    assert "* an approval keeps uploads quiet" in text
    assert "an approval" not in blindspots_text(plain)


def test_an_approval_that_has_expired_hides_nothing(detector, today):
    last = today["start"].max().date()
    for expires, hides in ((last, True), (last - dt.timedelta(days=1), False)):
        policy = {"approve": [APPROVAL | {"expires": expires}]}
        found = under(policy, detector, today, "tcp-odd")
        assert (found.table["suppressed"].sum() > 0) == hides
        assert any("expired" in note for note in found.notes) != hides


def test_each_trial_that_breaks_a_rule_alerts_for_itself(detector, today, monkeypatch):
    """Whatever the same host does in other trials: as if each were scored alone."""
    policy = exfilml.Policy.parse(
        {"segment": [{"network": "0.0.0.0/0", "services": ["domain"]}]}
    )
    few = {
        "carriers": ("tls", "http"),
        "sizes": (100, 1000),
        "pacings": (1,),
        "places": ("known",),
        "trials": 12,
    }
    plain, together = (
        exfilml.blindspots(detector, today, policy=p, **few) for p in (None, policy)
    )
    volume = plain.table["capability"] == "volume"
    assert plain.table.loc[volume, "recall"].max() < 0.5
    assert (together.table["recall"] == 1.0).all()
    monkeypatch.setattr(
        module, "_batches", lambda plan: ([i] for i in range(len(plan)))
    )
    alone = exfilml.blindspots(detector, today, policy=policy, **few)
    pd.testing.assert_series_equal(alone.table["alerted"], together.table["alerted"])


def test_home_networks_of_a_policy_come_before_the_models(detector, today):
    with pytest.raises(FlowsError, match=r"home network \(192\.0\.2\.0/24\)"):
        under({"home": "192.0.2.0/24"}, detector, today, "tls")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"trials": 0}, "trials: got 0"),
        ({"sizes": [-1]}, "up_bytes: got -1"),
        ({"sizes": []}, "sizes: got []"),
        ({"sizes": [1000, 1000]}, "no value twice"),
        ({"sizes": 1000}, "sizes: got 1000"),
        ({"carriers": "tls"}, "carriers: got 'tls', expected a list"),
        ({"carriers": ["smoke"]}, "carrier 'smoke'"),
        ({"pacings": [0]}, "flows: got 0"),
        ({"places": ["old"]}, "place 'old'"),
        ({"alerts_per_day": 0}, "alerts per day"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_options_that_are_none_are_refused(detector, today, options, text):
    with pytest.raises(OptionError) as error:
        exfilml.blindspots(detector, today, **options)
    assert text in str(error.value)


def test_no_flows_are_refused(detector, today):
    with pytest.raises(FlowsError, match="no flows"):
        exfilml.blindspots(detector, today.head(0))


def test_the_command(detector, today, tmp_path, capfd, monkeypatch):
    pytest.importorskip("matplotlib")
    model, table = tmp_path / "m.exfilml", tmp_path / "today.parquet"
    exfilml.save_model(detector, model)
    exfilml.write_flows(today, table)
    asked = ["blindspots", str(table), "--model", str(model), "--trials", "1"]
    plot = tmp_path / "recall.png"
    monkeypatch.setattr(_assess, "FEWEST_TRIALS", 1)
    assert cli.run([*asked, "--quiet", "--plot", str(plot)]) == 0
    out, err = capfd.readouterr()
    assert "Smallest upload in a day" in out
    assert "tls" in out
    assert plot.stat().st_size > 0
    assert "planted and scored" not in err
    monkeypatch.undo()
    for options, text in (
        (["--trials", "0"], "trials: got 0"),
        (["--trials", "4"], "expected 5 or more"),
        (["--alerts-per-day", "0"], "alerts per day"),
        (["--plot", str(tmp_path / "recall.txt")], "suffix must be"),
    ):
        assert cli.run([*asked, *options]) == 2
        assert text in capfd.readouterr().err
