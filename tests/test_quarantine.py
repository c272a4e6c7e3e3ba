"""`clean_baseline`: a theft in the baseline is kept out, calibration is not touched."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sites import office, theft

from exfilml import Detector, clean_baseline, rank_cases, save_model
from exfilml.exceptions import (
    BaselineError,
    BaselineWarning,
    CalibrationWarning,
    FlowsError,
    OptionError,
)
from exfilml.quarantine import clean_stream
from exfilml.ranking import CASE_COLUMNS

TEMPLATE = Detector(random_state=0, n_estimators=20)
CALIBRATION_FROM = 0.7


def shown(flows, at, **changes):
    """A theft that starts when the flow at a share of the baseline does."""
    start = flows["start"].iloc[int(at * len(flows))]
    return theft(flows, **changes).assign(start=start)


@pytest.fixture(scope="module")
def normal():
    return office(1500, days=8)


@pytest.fixture(scope="module")
def poisoned(normal):
    """A baseline with one theft of five flows, in its second fifth."""
    flows = [
        shown(normal, 0.3, up=2_000_000).assign(src_port=4000 + k) for k in range(5)
    ]
    return pd.concat([normal, *flows], ignore_index=True)


def clean(flows, detector=TEMPLATE, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BaselineWarning)
        return clean_baseline(detector, flows, **options)


def test_a_theft_in_the_baseline_is_quarantined_first(poisoned, normal):
    cleaned = clean(poisoned)
    assert set(range(len(normal), len(poisoned))) <= set(cleaned.quarantined.index)
    case = cleaned.cases.iloc[0]
    assert (case["place"], case["flows"]) == ("203.0.113.9", 5)
    assert list(cleaned.cases.columns) == list(CASE_COLUMNS)


def test_a_model_of_the_cleaned_baseline_sees_the_theft_again(poisoned, normal):
    again = shown(office(300, first_day="2026-03-16"), 0.5, up=2_000_000)
    dirty = Detector(random_state=0, n_estimators=20).fit(poisoned)
    cleaned = clean(poisoned).detector
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        before, after = (rank_cases(d, again) for d in (dirty, cleaned))
    assert after["suspicion"].iloc[0] > before["suspicion"].iloc[0] + 2
    assert "never seen from 10.20.0.12" in after["reasons"].iloc[0]


def test_the_calibration_block_is_never_touched(normal):
    """Not even where the theft lies in it; no flow of the last 30 % goes."""
    late = [
        shown(normal, 0.9, up=2_000_000).assign(src_port=4000 + k) for k in range(5)
    ]
    flows = pd.concat([normal, *late], ignore_index=True)
    cleaned = clean(flows)
    ordered = flows.sort_values("start", kind="stable").index
    calibration = ordered[round(CALIBRATION_FROM * len(flows)) :]
    assert not set(calibration) & set(cleaned.quarantined.index)
    assert cleaned.left_in["place"].iloc[0] == "203.0.113.9"
    assert cleaned.left_in["alert"].all()
    # And the block of the new detector begins no earlier than the old one did.
    block = len(cleaned.kept) - round(CALIBRATION_FROM * len(cleaned.kept))
    assert block <= len(calibration)


def test_what_began_in_the_baseline_and_went_on_is_a_habit(normal):
    """A new place that is used every day from the middle on stays; used once it goes."""
    strict = Detector(random_state=0, n_estimators=20, alerts_per_day=1)
    for until, goes in ((0.42, True), (0.99, False)):
        habit = [
            shown(normal, at, up=200_000).assign(src_port=4000 + k)
            for k, at in enumerate(np.linspace(0.4, until, 24))
        ]
        flows = pd.concat([normal, *habit], ignore_index=True)
        cleaned = clean(flows, strict, most=0.05)
        assert (cleaned.quarantined["dst_ip"] == "203.0.113.9").any() == goes


@pytest.mark.parametrize("most", [0.002, 0.005, 0.01, 0.05])
def test_no_more_is_quarantined_than_allowed_and_it_is_said(poisoned, most):
    cleaned = clean(poisoned, most=most)
    assert len(cleaned.quarantined) <= most * len(poisoned)
    together = pd.concat([cleaned.kept, cleaned.quarantined]).sort_index()
    assert together.index.equals(poisoned.index)
    assert cleaned.detector.n_flows_ == len(cleaned.kept)
    if most == 0.002:
        with pytest.warns(BaselineWarning, match="more cases of the baseline look"):
            clean_baseline(TEMPLATE, poisoned, most=most)


def test_row_order_and_index_do_not_matter(poisoned):
    mixed = poisoned.sample(frac=1, random_state=1)
    named = mixed.set_index(pd.Index([f"row {i}" for i in mixed.index], dtype=object))
    expected = {f"row {i}" for i in clean(poisoned).quarantined.index}
    assert set(clean(named).quarantined.index) == expected


def test_neither_input_is_changed(poisoned):
    before = poisoned.copy(deep=True)
    clean(poisoned)
    pd.testing.assert_frame_equal(poisoned, before)
    assert not hasattr(TEMPLATE, "learned_")


def test_too_few_flows_are_refused():
    with pytest.raises(BaselineError, match=r"has 100 flows, too few to judge"):
        clean_baseline(TEMPLATE, office(100))


@pytest.mark.parametrize("most", [0, -0.1, 0.3, float("nan"), "some", None])
def test_a_bad_limit_is_named(normal, most):
    with pytest.raises(OptionError, match="most: got"):
        clean_baseline(TEMPLATE, normal, most=most)


def test_a_foreign_table_is_refused():
    with pytest.raises(FlowsError):
        clean_baseline(TEMPLATE, pd.DataFrame({"x": [1]}))


# --- months, and updates ------------------------------------------------------------


def hours(flows):
    """Tables of an hour each, in order of time, as often as they are asked for."""
    ordered = flows.sort_values("start", kind="stable")
    return lambda: (t for _, t in ordered.groupby(ordered["start"].dt.floor("h")))


def stream(detector, flows, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BaselineWarning)
        return clean_stream(detector, hours(flows), len(flows), **options)


def model_bytes(detector, path):
    save_model(detector, path)
    return path.read_bytes()


@pytest.mark.parametrize("n_rows", [250_000, pytest.param(200, marks=pytest.mark.slow)])
def test_a_stream_is_cleaned_as_a_table_is(poisoned, tmp_path, monkeypatch, n_rows):
    """However it is cut: the same cases go, and the same model comes of the rest."""
    monkeypatch.setattr("exfilml.chunks.CHUNK", n_rows)
    expected = clean(poisoned)
    actual = stream(TEMPLATE, poisoned)
    assert (actual.n_flows, actual.n_kept) == (len(poisoned), len(expected.kept))
    assert actual.cases["case"].tolist() == expected.cases["case"].tolist()
    assert actual.left_in["case"].tolist() == expected.left_in["case"].tolist()
    assert actual.quarantined["start"].tolist() == sorted(expected.quarantined["start"])
    assert model_bytes(actual.detector, tmp_path / "a") == model_bytes(
        expected.detector, tmp_path / "b"
    )


@pytest.fixture(scope="module")
def known(normal):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Detector(random_state=0, n_estimators=20).fit(normal)


def later_flows(*extra):
    flows = office(1500, days=8, first_day="2026-03-16", seed=2)
    return pd.concat([flows, *(e(flows) for e in extra)], ignore_index=True)


def once(flows):
    """A theft of five flows in the second fifth."""
    return pd.concat(
        [shown(flows, 0.3, up=2_000_000).assign(src_port=4000 + k) for k in range(5)]
    )


def test_an_update_leaves_a_theft_out_and_goes_on_to_see_it(known, tmp_path):
    flows = later_flows(once)
    before = model_bytes(known, tmp_path / "m")
    cleaned = stream(known, flows, update=True)
    assert model_bytes(known, tmp_path / "m") == before
    first = cleaned.cases.iloc[0]
    assert (first["place"], first["flows"]) == ("203.0.113.9", 5)
    assert cleaned.detector.n_flows_ == known.n_flows_ + cleaned.n_kept
    again = shown(office(300, first_day="2026-03-26"), 0.5, up=2_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dirty = stream(known, flows, update=True, most=1e-9).detector
        bits = [
            rank_cases(d, again)["suspicion"].iloc[0] for d in (dirty, cleaned.detector)
        ]
    assert bits[1] > bits[0] + 2


def test_what_is_new_in_an_update_and_goes_on_is_learned(known):
    def habit(flows):
        return pd.concat(
            [
                shown(flows, at, up=200_000).assign(src_port=4000 + k)
                for k, at in enumerate(np.linspace(0.1, 0.99, 24))
            ]
        )

    cleaned = stream(known, later_flows(habit), update=True, most=0.05)
    assert "203.0.113.9" not in set(cleaned.quarantined["dst_ip"])


def test_an_update_of_too_few_flows_is_refused(known):
    flows = office(100, first_day="2026-03-16")
    with pytest.raises(BaselineError, match=r"The update has 100 flows, too few"):
        stream(known, flows, update=True)
