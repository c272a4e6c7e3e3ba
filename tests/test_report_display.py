"""What a notebook shows: complete, escaped, without scripts, never cut silently."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import Piece
from sites import office, theft

import exfilml
from exfilml.exceptions import OptionError


@pytest.fixture(scope="module")
def detector():
    return exfilml.Detector(random_state=0, n_estimators=30).fit(office(1500))


@pytest.fixture(scope="module")
def today():
    normal = office(500, seed=1, days=2, first_day="2026-03-09")
    drip = pd.concat([theft(normal, up=30_000, dst_port=4444)] * 20)
    return pd.concat([normal, theft(normal), drip], ignore_index=True)


@pytest.fixture(scope="module")
def cases(detector, today):
    return exfilml.rank_cases(detector, today)


def page(thing, **options):
    return Piece(exfilml.show(thing, **options)._repr_html_())


def test_a_ranking_shows_its_facts_and_all_reasons(cases):
    shown = page(cases, rows=5)
    for row in cases.head(5).to_dict("records"):
        assert row["local_ip"] in shown.text
        assert row["place"] in shown.text
        assert f"{row['suspicion']:.1f}" in shown.text
        for reason in (
            row["reasons"].removeprefix(f"{row['flows']} flows; ").split("; ")
        ):
            assert reason.removeprefix("worst flow: ") in shown.text
    assert shown.text.count("alert ") >= cases["alert"].head(5).sum()
    assert f"the first 5 rows of {len(cases):,} are shown" in shown.text
    limit = cases.attrs["thresholds"]["payload"]["suspicion"]
    assert f"a case alerts from {limit:.1f} bits on" in shown.text


def test_a_ranking_stays_a_table(cases):
    before = cases.copy()
    exfilml.show(cases)
    pd.testing.assert_frame_equal(before, cases)
    assert type(cases) is pd.DataFrame


def test_tooltips_give_a_line_to_each_family(cases):
    worst = cases["reasons"].iloc[0].removeprefix("20 flows; ")
    lines = page(cases, rows=1).tips[0].split("\n")
    parts = worst.removeprefix("worst flow: ").split("; ")
    assert [line[:40] for line in lines if line != "20 flows"] == [
        part[:40] for part in parts
    ]


def test_flows_are_shown_too(detector, today):
    ranking = exfilml.rank_flows(detector, today)
    shown = page(ranking)
    assert f"{len(today):,} flows ranked" in shown.text
    assert "tcp/8443" in shown.text
    assert repr(exfilml.show(ranking, rows=2)).count("\n") == 2


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_are_shown_as_they_are(detector, today, rows):
    ranking = exfilml.rank_cases(detector, today.iloc[:rows])
    text = page(ranking).text
    assert ("No cases are ranked" in text) == (rows == 0)
    assert "are shown" not in text


def test_many_rows_are_cut_with_a_notice(cases):
    many = pd.concat([cases] * (100_000 // len(cases) + 1), ignore_index=True)
    many = many.head(100_000)
    begin = time.perf_counter()
    html = exfilml.show(many)._repr_html_()
    assert time.perf_counter() - begin < 2.0
    assert len(html) < 100_000
    assert "the first 20 rows of 100,000 are shown" in Piece(html).text


def test_missing_values_are_shown_as_missing(cases):
    gone = cases.head(3).copy()
    gone["first_seen"] = pd.Series(
        pd.NaT, index=gone.index, dtype="datetime64[us, UTC]"
    )
    gone["suspicion"] = np.nan
    gone["dst_port"] = pd.array([pd.NA] * 3, dtype="Int64")
    for name in ("place", "app", "reasons", "local_ip"):
        gone[name] = pd.Series(pd.NA, index=gone.index, dtype="str")
    text = page(gone).text
    assert "?" in text
    assert "nan" not in text.lower()
    assert "nat" not in text.lower()
    assert "many ports" in text


HOSTILE = (
    "<script>alert(1)</script>",
    '"onerror="alert(1)',
    "'><img src=x onerror=alert(1)>",
    "&lt;b&gt;&#60;script&#62;",
    "javascript:alert(1)",
    "--></style><style>*{display:none}",
    "\u202egpj.exe\u2066",
    "\x1b]8;;http://x\x07",
    "\ud800",
    "x" * 10_000,
    "\u202e" * 10_000,
    "<" * 10_000,
    "\u05d0\u05d1\u05d2.example",
    "]]><![CDATA[",
    "{{7*7}}",
)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_shown_and_does_nothing(cases, text):
    hostile = cases.head(2).astype(object)
    for name in ("place", "app", "local_ip", "server_name", "case", "not_visible"):
        hostile[name] = pd.Series([text] * 2, dtype=object)
    hostile["reasons"] = pd.Series([f"{text}; sent to {text}"] * 2, dtype=object)
    html = exfilml.show(hostile)._repr_html_()
    shown = Piece(html)
    assert len(html) < 60_000
    assert not set(html) & {"\u202e", "\u2066", "\x1b", "\ud800", "\x07"}
    if text.isascii() and text.isprintable() and len(text) < 60:
        assert text in " ".join(shown.texts)
    repr(exfilml.show(hostile)).encode()


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=80), reasons=st.text(max_size=80))
def test_no_text_breaks_a_page(text, reasons):
    table = pd.DataFrame(
        {"rank": [1], "suspicion": [3.0], "place": [text], "reasons": [reasons]}
    )
    shown = exfilml.show(table)
    Piece(shown._repr_html_())
    shown.text.encode()


def test_names_from_packets_arrive_escaped(detector, today):
    """From the flows table to the page, not only from a ranking."""
    evil = '<img src=x onerror="alert(1)">.example'
    flows = today.copy()
    flows["server_name"] = flows["server_name"].where(flows["dst_port"] != 8443, evil)
    ranking = exfilml.rank_flows(detector, flows)
    html = exfilml.show(ranking)._repr_html_()
    assert "<img" not in html
    Piece(html)
    Piece(exfilml.explain(detector, flows, ranking.index[:3])._repr_html_())


def test_a_card_says_what_was_learned(detector):
    text = page(detector).text
    assert (
        f"{detector.n_flows_:,} flows of {detector.known_.n_hosts} local hosts" in text
    )
    assert f"{detector.window_[0]:%Y-%m-%d %H:%M}" in text
    assert "10.0.0.0/8" in text
    assert "5 cases a day" in text
    for name, n in detector.shown_.items():
        assert name in text
        assert f"{n:,}" in text
    for learned in detector.learned_.values():
        for feature in learned.features.features:
            assert feature.name in text


def test_a_card_says_where_a_budget_is_beyond_the_calibration(detector):
    import copy

    small = copy.copy(detector)
    small.alerts_per_day = 0.001
    text = page(small).text
    days = detector.learned_["volume"].cases.days_needed(0.001)
    assert days > 100
    assert "too short for this budget" in text


def test_a_model_that_is_not_fitted_says_so():
    assert "not fitted yet" in page(exfilml.Detector(home=["<b>"])).text


@pytest.fixture(scope="module")
def triage(detector, today):
    return exfilml.triage_cases(detector, today)


def test_a_triage_shows_whom_each_case_goes_to_and_why(triage):
    shown = page(triage, rows=3)
    assert "the first 3 are shown" in shown.text
    assert f"{len(triage):,} cases answered for" in shown.text
    for case in triage.cases[:3]:
        assert case.decision.text in shown.text
        for answer in (*case.indicators, *case.questions):
            assert answer.facts[0].text in shown.text
        for fact in case.against:
            assert fact.text in shown.text
    assert repr(exfilml.show(triage, rows=3)).count("\n") == 3


def test_a_case_is_shown_whole(triage):
    case = triage[0]
    text = page(case).text
    assert case.name in text
    assert case.row["place"] in text
    for family, bits in case.contributions.items():
        assert abs(bits) < 0.05 or f"{family} {bits:+.1f}" in text
    for technique in case.techniques:
        assert technique.id in text


def test_no_cases_are_said_to_be_none(detector, today):
    assert (
        "No cases to answer for"
        in page(exfilml.triage_cases(detector, today.iloc[:0])).text
    )


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_in_a_case_does_nothing(triage, text):
    from dataclasses import replace

    from exfilml.triage.case import Fact, Step, Technique

    fact = Fact("x", f"sent to {text}")
    case = triage[0]
    hostile = replace(
        case,
        row={**case.row, "place": text, "local_ip": text, "case": text},
        indicators=tuple(replace(a, facts=(fact,) * 30) for a in case.indicators),
        against=(fact,) * 30,
        scope=(fact,),
        techniques=(Technique("T0", text, text),),
        asset={"owner": text},
        next_steps=(Step(text, text),),
        incident=text,
        intel=pd.DataFrame({"indicator": pd.Series([text], dtype=object)}),
        history=pd.DataFrame({"days": [3], "first": [pd.NaT], "share": [np.nan]}),
    )
    for thing in (hostile, replace(triage, cases=(hostile,) * 3)):
        html = exfilml.show(thing)._repr_html_()
        Piece(html)
        assert not set(html) & {"\u202e", "\u2066", "\x1b", "\ud800", "\x07"}
        repr(exfilml.show(thing)).encode()


def test_results_are_shown_as_their_sentences(detector, today):
    later = office(300, seed=5, days=2, first_day="2026-03-16")
    found = exfilml.drift(detector, later)
    text = page(found).text
    for line in found.lines():
        assert " ".join(line.split())[:60] in text
    assert found.stability["feature"].iloc[0] in text


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (42, "got int, expected a ranking"),
        (pd.DataFrame({"rank": [1]}), "no column suspicion, reasons"),
        (None, "got NoneType"),
    ],
)
def test_what_cannot_be_shown_is_named(thing, said):
    with pytest.raises(OptionError, match=said):
        exfilml.show(thing)


@pytest.mark.parametrize("rows", [0, -1, 2001, 1.5, True, "10"])
def test_an_impossible_number_of_rows_is_refused(cases, rows):
    with pytest.raises(OptionError, match="expected a number, 1 to 2,000"):
        exfilml.show(cases, rows=rows)


def test_notebooks_show_a_card_in_place_of_parameters():
    """IPython learns it with the first name that is used, and keeps the user's own."""
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import exfilml
html = shell.display_formatter.formatters["text/html"]
assert not html.deferred_printers
detector = exfilml.Detector()
data, _ = shell.display_formatter.format(detector)
print("not fitted yet" in data["text/html"], "sk-" in data["text/html"])
html.for_type(exfilml.Detector, lambda d: "mine")
exfilml.rank_cases
print(shell.display_formatter.format(detector)[0]["text/html"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["True False", "mine"]


def test_without_ipython_nothing_is_registered():
    code = (
        "import sys, exfilml; exfilml.State; "
        "print('IPython' in sys.modules, 'exfilml.report' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False False"
