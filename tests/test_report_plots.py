"""Plots: what is drawn equals what is counted; every one takes and returns Axes."""

from __future__ import annotations

import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sites import office, theft

import exfilml
from exfilml.drawing import drawable
from exfilml.exceptions import (
    DependencyError,
    FlowsError,
    OptionError,
)
from exfilml.policy import Policy
from exfilml.report._plots_scores import chance_band

PLOTS = (exfilml.plot_volumes, exfilml.plot_scores, exfilml.plot_calibration)


@pytest.fixture(scope="module", autouse=True)
def _no_windows():
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def baseline():
    return office(1500)


@pytest.fixture(scope="module")
def detector(baseline):
    return exfilml.Detector(random_state=0, n_estimators=30).fit(baseline)


@pytest.fixture(scope="module")
def today():
    normal = office(500, seed=1, days=2, first_day="2026-03-09")
    drip = pd.concat([theft(normal, up=30_000, dst_port=443)] * 20)
    drip["start"] += pd.to_timedelta(np.arange(20), unit="min")
    return pd.concat([normal, drip], ignore_index=True)


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.mark.parametrize("plot", PLOTS, ids=lambda p: p.__name__)
def test_plots_take_and_return_axes(plot, detector, today, ax):
    assert plot(detector, today, ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.get_title()
    ax.figure.canvas.draw()


@pytest.mark.parametrize("plot", PLOTS, ids=lambda p: p.__name__)
def test_plots_make_a_figure_of_their_own(plot, detector, today):
    first, second = plot(detector, today), plot(detector, today)
    assert first.figure is not second.figure
    plt.close("all")


@pytest.mark.parametrize("plot", PLOTS, ids=lambda p: p.__name__)
def test_no_flows_and_foreign_axes_are_refused(plot, detector, today, ax):
    with pytest.raises(FlowsError, match="no flows"):
        plot(detector, today.iloc[:0], ax=ax)
    with pytest.raises(OptionError, match="ax: got Figure, expected matplotlib Axes"):
        plot(detector, today, ax=Figure())


@pytest.mark.parametrize("plot", PLOTS, ids=lambda p: p.__name__)
def test_without_matplotlib_the_extra_is_named(plot, detector, today, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r"exfilml\[notebook\]"):
        plot(detector, today)


def test_uploads_of_a_case_are_drawn_flow_by_flow(detector, today, ax):
    """Points are the flows' bytes at their times, the line is their running sum."""
    case = exfilml.rank_cases(detector, today)["case"].iloc[0]
    exfilml.plot_volumes(detector, today, case=case, ax=ax)
    drip = today.iloc[500:].sort_values("start")["src_payload_bytes"]
    points = np.concatenate([c.get_offsets() for c in ax.collections])
    assert sorted(points[:, 1]) == sorted(drip)
    (line,) = [a for a in ax.lines if "added up" in a.get_label()]
    assert line.get_ydata().tolist() == drip.cumsum().tolist()
    first = pd.Timestamp(mpl.dates.num2date(min(points[:, 0])))
    assert abs(first - today["start"].iloc[500:].min()) < pd.Timedelta(seconds=1)
    assert ax.get_title() == "10.20.0.12 → 203.0.113.9, https"


def test_the_band_is_of_the_host_and_service_in_the_baseline(
    detector, baseline, today, ax
):
    exfilml.plot_volumes(detector, today, ax=ax)
    own = baseline[(baseline["src_ip"] == "10.20.0.12") & (baseline["dst_port"] == 443)]
    assert len(own) >= 20
    assert ax.get_ylabel() == "upload (payload bytes)"
    low, high = own["src_payload_bytes"].quantile([0.05, 0.95], interpolation="lower")
    (band,) = ax.patches
    assert band.get_y() == pytest.approx(low, rel=0.12)
    assert band.get_y() + band.get_height() == pytest.approx(high, rel=0.12)
    assert f"{len(own):,} flows" in band.get_label()
    assert "10.20.0.12, https" in band.get_label()


def test_a_host_has_a_band_of_its_own_and_one_never_seen_has_the_sites(
    detector, baseline, today, ax
):
    exfilml.plot_volumes(detector, today, local_ip="10.20.0.11", ax=ax)
    (band,) = ax.patches
    n = int((baseline["src_ip"] == "10.20.0.11").sum())
    assert f"{n:,} flows\nof 10.20.0.11, all services" in band.get_label()
    stranger = today.assign(src_ip=today["src_ip"].replace("10.20.0.11", "10.9.9.9"))
    other = exfilml.plot_volumes(
        detector, stranger, local_ip="10.9.9.9", ax=Figure().subplots()
    )
    assert f"{len(baseline):,} flows\nof the site" in other.patches[0].get_label()


def test_one_flow_without_bytes_can_be_drawn(detector, today, ax):
    nothing = today.iloc[[0]].assign(src_bytes=0, dst_bytes=0)
    exfilml.plot_volumes(detector, nothing, ax=ax)
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    assert 10 / 1440 < high - low < 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"case": "nowhere"}, "no flow is of such a case"),
        ({"local_ip": "192.0.2.1"}, "no flow is of such a local host"),
        ({"case": "a", "local_ip": "b"}, "give one"),
    ],
)
def test_cases_and_hosts_that_are_not_there_are_named(detector, today, wrong, said, ax):
    with pytest.raises(OptionError, match=said):
        exfilml.plot_volumes(detector, today, **wrong, ax=ax)


def test_times_are_utc_whatever_the_users_zone(detector, today, ax):
    with mpl.rc_context({"timezone": "Pacific/Auckland"}):
        exfilml.plot_volumes(detector, today.iloc[500:], ax=ax)
        ax.figure.canvas.draw()
        labels = [t.get_text() for t in ax.get_xticklabels()]
    assert ax.get_xlabel() == "time (UTC)"
    first = today["start"].iloc[500]
    assert any(label.startswith(f"{first:%H}:") for label in labels)


@pytest.mark.parametrize("by", ["case", "flow"])
def test_scores_are_shares_and_the_threshold_is_the_rankings(detector, today, by, ax):
    exfilml.plot_scores(detector, today, by=by, ax=ax)
    areas = [p.get_data() for p in ax.patches]
    assert [float(a.values.sum()) for a in areas] == pytest.approx([1.0] * len(areas))
    legend = " ".join(t.get_text() for t in ax.get_legend().get_texts())
    cases = exfilml.rank_cases(detector, today)
    limit = cases.attrs["thresholds"]["payload"]["suspicion"]
    assert (f"alerts from {limit:.1f} bits" in legend) == (by == "case")
    if by == "case":
        assert ax.lines[0].get_xdata()[0] == limit
        leaving = len(cases) - cases.attrs["inside"]
        assert f"these {leaving:,} cases" in legend


def test_a_budget_moves_the_drawn_threshold(detector, today, ax):
    exfilml.plot_scores(detector, today, alerts_per_day=20, ax=ax)
    cases = exfilml.rank_cases(detector, today, alerts_per_day=20)
    limit = cases.attrs["thresholds"]["payload"]["suspicion"]
    assert ax.lines[0].get_xdata()[0] == limit


def test_home_networks_of_a_policy_count(detector, today, ax):
    """Names of cases are then those that a ranking with the policy gives."""
    policy = Policy.parse({"home": ["10.0.0.0/8", "203.0.113.0/24"]})
    cases = exfilml.rank_cases(detector, today, policy=policy)
    inside = cases[cases["place"] == "203.0.113.9"].iloc[0]
    assert inside["direction"] == "internal"
    exfilml.plot_volumes(detector, today, case=inside["case"], policy=policy, ax=ax)
    for plot in (exfilml.plot_scores, exfilml.plot_calibration):
        drawn = plot(detector, today, policy=policy, ax=Figure().subplots())
        legend = " ".join(t.get_text() for t in drawn.get_legend().get_texts())
        assert f"these {len(cases) - cases.attrs['inside']:,} cases" in legend


def test_rules_of_a_policy_move_what_is_drawn(detector, today, ax):
    policy = Policy.parse({"resolvers": ["10.20.0.53"]})
    exfilml.plot_scores(detector, today, policy=policy, ax=ax)
    plain = exfilml.plot_scores(detector, today, ax=Figure().subplots())
    assert ax.patches[2].get_data().values.tolist() != (
        plain.patches[2].get_data().values.tolist()
    )


def test_the_calibration_curve_counts_p_values(detector, ax):
    normal = office(600, seed=3, days=2, first_day="2026-03-16")
    exfilml.plot_calibration(detector, normal, by="flow", ax=ax)
    (line,) = [a for a in ax.lines if a.get_label().startswith("these")]
    p_values = exfilml.score_flows(detector, normal)["p_value"].to_numpy()
    for p, share in zip(line.get_xdata(), line.get_ydata(), strict=True):
        expected = (p_values <= p + 1e-12).mean()
        assert (np.isnan(share) and expected == 0) or share == expected


def test_the_band_of_chance_holds_what_it_says():
    """Nine times of ten, scores drawn as the block's stay inside."""
    rng = np.random.default_rng(0)
    n, m, rounds = 99, 150, 1500
    ranks = np.array([1, 5, 20, 50, 99])
    low, high = chance_band(n, m, ranks)
    inside = np.zeros(len(ranks))
    for _ in range(rounds):
        block, new = np.sort(rng.random(n))[::-1], rng.random(m)
        share = (new[:, None] >= block[ranks - 1]).mean(axis=0)
        inside += (share >= low) & (share <= high)
    assert (inside / rounds >= 0.88).all()
    assert (inside / rounds <= 0.99).all()


@pytest.mark.parametrize("plot", PLOTS[1:], ids=lambda p: p.__name__)
def test_options_that_are_none_are_named(plot, detector, today, ax):
    with pytest.raises(OptionError, match="expected one of case, flow"):
        plot(detector, today, by="host", ax=ax)
    with pytest.raises(OptionError, match="expected one of payload"):
        plot(detector, today, capability="volume", ax=ax)


def test_volumes_alone_are_drawn_where_nothing_else_was_seen(detector, ax):
    flows = office(300, seed=4, days=2, first_day="2026-03-16", payload=False)
    exfilml.plot_scores(detector, flows, ax=ax)
    assert ax.get_title() == "Suspicion of cases, from volumes alone"


def test_drift_draws_the_columns_that_moved_most(detector, ax):
    elsewhere = office(400, seed=5, days=2, first_day="2026-03-16", hosts=40)
    found = exfilml.drift(detector, elsewhere)
    assert found.plot(ax) is ax
    table = found.stability[found.stability["capability"] == "payload"]
    largest = table.sort_values("index", ascending=False).head(15)
    widths = sorted((p.get_width() for p in ax.patches), reverse=True)
    assert widths == largest["index"].tolist()
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names[-1] == largest["feature"].iloc[0]
    assert found.verdict in ax.get_title()
    with pytest.raises(OptionError, match="expected one of payload"):
        found.plot(ax, capability="smell")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a$b$c", r"a\$b\$c"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\x1b[2J", r"\x1b[2J"),
        ("x" * 10_000, "x" * 47 + "…"),
        ("\u4e2d\u6587", r"\u4e2d\u6587"),
        (None, "None"),
    ],
)
def test_text_is_drawn_as_it_stands(text, shown):
    assert drawable(text) == shown


@pytest.mark.parametrize(
    "name", ["$\\frac{", "<script>", "\u4e2d\u6587.example", "a" * 250, "$x$ $y"]
)
def test_hostile_names_are_drawn_without_a_warning(detector, today, name, ax):
    named = today.iloc[500:].assign(server_name=name)
    exfilml.plot_volumes(detector, named, ax=ax)
    ax.figure.canvas.draw()
