"""The page: what it says, that nothing on it runs, and that bad input is bearable."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from cases import case, incident, triage
from hypothesis import given, settings
from hypothesis import strategies as st
from sites import office, theft

import exfilml
from exfilml.exceptions import OutputError, ReportError
from exfilml.report.page import _wording, report
from exfilml.report.page._explained import explain_rows, usual_upload
from exfilml.report.page._pictures import uploads
from exfilml.triage.case import Answer, Fact, Step

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</script><script>alert(1)</script>",
    "</style><style>*{display:none}</style>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% for x in y %}",
    "--><!--",
    "&lt;b&gt;&#60;i&#62;",
    "\u202egnp.exe",
    "a\x00b\x1b[2J\r\n",
    "مثال.إختبار",
    "דוגמה.טעסט",
    "例え.テスト",
    "उदाहरण.परीक्षा",
    "🏴‍☠️.example",
    "\ud800half",
    "x" * 10_000 + ".example",
)


class Read(HTMLParser):
    """What a browser would make of a page: elements, attributes and text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.parts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):  # noqa: D102
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):  # noqa: D102
        self.parts.append(data)

    @property
    def text(self):
        """All text, its spaces as one."""
        return " ".join(" ".join(self.parts).split())


@pytest.fixture(scope="module")
def site():
    """A detector, a day with a theft, and its ranking."""
    detector = exfilml.Detector(n_estimators=50, random_state=0).fit(office(600))
    day = office(200, seed=1, days=2, first_day="2026-03-09")
    day = pd.concat([day, theft(day)], ignore_index=True)
    return detector, day, exfilml.rank_cases(detector, day)


@pytest.fixture(scope="module")
def drawn(site):
    """The page of the ranking."""
    detector, day, ranking = site
    return Read(html(ranking, detector=detector, flows=day))


def html(*given, **more):
    return report.RankingReport(*given, **more).html()


def hostile_case(text, **more):
    """A case in which whatever can come from outside is `text`."""
    fact = Fact("fact", text, {"n": 1}, (), text)
    asked = [
        Answer(name, text, answer, (fact,) * 6)
        for name, answer in (("external_port", "yes"), (text, text))
    ]
    # No flows table can hold half a character; a row of a ranking can.
    held = text.encode(errors="replace").decode()
    built = case(
        {"server_name": held, "user_agent": held, "process": held, "app": held},
        {"src_port": 50124, "content_type": held, "src_declared": held},
        against=(fact,),
        scope=(fact,),
        next_steps=(Step(text, text),),
        asset={text: text, "owner": text},
        intel=pd.DataFrame({held: [held], "n": [1]}),
        history=pd.DataFrame({"place": [held], "seen": [pd.NaT]}),
        **more,
    )
    row = {**built.row, "reasons": f"{text}; {text}", "place": text, "case": text}
    return replace(built, row=row, indicators=tuple(asked), incident=text)


def test_a_plain_ranking_says_who_sent_what_where_and_why(site, drawn):
    detector, day, ranking = site
    text = drawn.text
    first = ranking.iloc[0]
    for said in (first["local_ip"], first["place"], f"{first['suspicion']:.1f}"):
        assert said in text
    for reason in first["reasons"].split("; "):
        assert reason in text
    assert f"{len(day):,} flows" in text
    assert f"{len(ranking):,} cases" in text
    assert "the model's budget: 5 a day" in text
    first_learned, last_learned = detector.window_
    assert f"{first_learned:%Y-%m-%d %H:%M} to {last_learned:%Y-%m-%d %H:%M}" in text
    assert "before the first flow" in text
    assert "10.0.0.0/8" in text
    hosts = set(ranking["local_ip"])
    known = hosts & set(office(600)["src_ip"])
    assert f"knows {len(known)} of {len(hosts)} hosts and " in text


@pytest.mark.parametrize(
    "fit",
    [None, "all", {}, {"hosts": 3}, {"hosts": "x", "new_hosts": 1}, {"hosts": None}],
)
def test_a_triage_that_does_not_say_what_was_known_is_drawn(fit):
    """A stored triage may be of an earlier version, or of another hand."""
    assert "of these flows" not in Read(html(triage(case(), fit=fit))).text


def test_a_triage_says_how_much_the_model_knew():
    fit = {"hosts": 1_029, "new_hosts": 5, "services": 22, "new_services": 3}
    text = Read(html(triage(case(), fit=fit))).text
    assert "knows 1,024 of 1,029 hosts and 19 of 22 services of these flows" in text


def test_what_could_not_be_seen_is_counted(site, drawn):
    """The figures are those of the ranking's column, counted by pandas."""
    ranking = site[2]
    text = drawn.text
    for part in ("process", "payload inside tls"):
        parts = ranking["not_visible"].str.split(", ").explode()
        n = int((parts == part).sum())
        n = f"all {n:,} cases" if n == len(ranking) else f"{n:,} of {len(ranking):,}"
        assert f"{part} {n}" in text


def test_bits_of_the_families_are_those_of_explain(site):
    detector, day, ranking = site
    shown = explain_rows(detector, day, ranking.head(10), None)
    by_family = detector.explain(day).T.groupby(level="family").sum().T
    worst = exfilml.score_flows(detector, day)["suspicion"]
    for found in shown:
        lead = worst.loc[found.flows.index].idxmax()
        for family, bits in by_family.loc[lead].items():
            assert found.contributions[family] == pytest.approx(bits, abs=1e-9)


def test_flows_behind_a_row_are_those_of_its_case(site):
    detector, day, ranking = site
    shown = explain_rows(detector, day, ranking, None)
    for name, found in [*zip(ranking["case"], shown, strict=True)][::9]:
        theirs = exfilml.flows_of_case(detector, day, name)
        assert sorted(found.flows.index) == sorted(theirs.index)


def test_the_band_holds_as_many_baseline_flows_as_it_says(site):
    """Nine tenths of the uploads that the level saw lie in the band."""
    detector, *_ = site
    baseline = office(600)
    host = baseline["src_ip"].value_counts().index[0]
    theirs = baseline[(baseline["src_ip"] == host) & (baseline["dst_port"] == 443)]
    usual = usual_upload(detector.known_, host, "https")
    assert usual.flows == len(theirs)
    inside = theirs["src_bytes"].between(0.85 * usual.low, 1.15 * usual.high)
    assert inside.mean() >= 0.88
    assert usual_upload(detector.known_, "10.99.9.9", "https").whose == (
        "any host to https"
    )
    assert usual_upload(detector.known_, "10.99.9.9", "tcp/9999").whose == (
        "any host to any service"
    )


def test_a_flow_ranking_is_told_as_flows(site):
    detector, day, _ = site
    ranking = exfilml.rank_flows(detector, day, top=5)
    text = Read(html(ranking, detector=detector, flows=day)).text
    assert "Flows, the most suspicious first" in text
    assert f"5 of {len(day):,} flows are shown" in text


def test_a_triage_is_told_with_its_answers():
    one, two = case(level="incident"), case(name="00c0ffee18", rank=2)
    fact = Fact("against.test", "a backup runs at that hour", source="assets")
    one = case(level="incident", against=(fact,), next_steps=(Step("Look", "ls -l"),))
    given = triage(one, two, incidents=(incident(one, two),), intel=12)
    read = Read(html(given))
    for answer in (*one.indicators, *one.questions):
        assert answer.question in read.text
        for fact in answer.facts:
            assert fact.text in read.text
    for said in (
        *("a backup runs at that hour", "ls -l", "T1048.001", "Incident i00c0ffee17"),
        *("threat intelligence: 12 entries", "assets: not given"),
        *("a test asks for it", "5,261,000 bytes from one host".replace("61", "00")),
    ):
        assert said in read.text
    links = {value for _, name, value in read.attributes if name == "href"}
    assert "https://attack.mitre.org/techniques/T1048/001" in links
    assert "#case-00c0ffee17" in links


@pytest.mark.parametrize("text", HOSTILE, ids=[repr(t[:12]) for t in HOSTILE])
def test_hostile_text_is_text(text):
    """No element, no attribute and no link comes from a name; the name is shown."""
    plain = Read(html(triage(hostile_case("plain"))))
    read = Read(html(triage(hostile_case(text)), title=text))
    assert read.tags.count("script") == read.tags.count("style") == 1
    extra = set(read.tags) - set(plain.tags)
    assert extra <= {"bdi"}
    without = [t for t in read.tags if t != "bdi"]
    # A case of which no name can be made into a link has none.
    assert abs(len(without) - len([t for t in plain.tags if t != "bdi"])) <= 4
    for tag, name, value in read.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name != "style"
        if name in {"href", "src"}:
            assert re.match(r"#|data:,$|https://attack\.mitre\.org/", value), value
    shown = _wording.name(text, 64)
    assert " ".join(shown.split()) in read.text


def test_text_that_reorders_is_shown_as_an_escape_or_isolated():
    read = html(triage(hostile_case("\u202egnp.exe")))
    assert "\u202e" not in read
    assert r"\u202egnp.exe" in Read(read).text
    assert "<bdi>دليل.مثال</bdi>" in html(triage(hostile_case("دليل.مثال")))


def test_absurdly_long_text_is_cut_with_a_count():
    text = "y" * 10_000 + ".evil.example"
    drawn = html(triage(hostile_case(text)))
    assert len(drawn) < 200_000
    assert "(10,013 characters)" in drawn
    assert drawn.count(".evil.example") > 5


def test_the_policy_allows_this_style_and_script_and_nothing_else():
    drawn = html(triage(case()))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', drawn)
    policy = policy.replace("&#39;", "'")
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", drawn, flags=re.DOTALL)
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    # Before anything that it should hold for.
    assert drawn.index("Content-Security-Policy") < drawn.index("<style>")


def test_nothing_is_loaded_from_anywhere(drawn):
    assert not {"img", "iframe", "object", "embed", "video", "audio"} & set(drawn.tags)
    assert not [v for _, name, v in drawn.attributes if name in {"src", "srcset"}]


@given(text=st.text(max_size=80))
@settings(max_examples=40, deadline=None)
def test_any_text_leaves_the_page_whole(text):
    read = Read(html(triage(hostile_case(text)), title=text))
    assert read.tags.count("script") == 1
    assert not [n for _, n, _ in read.attributes if n.startswith("on") or n == "style"]


@given(text=st.text(max_size=200), most=st.integers(10, 100))
@settings(max_examples=100, deadline=None)
def test_isolated_text_reads_as_it_was(text, most):
    """Escaping, isolating and cutting lose nothing but what the count says."""
    shown = _wording.name(text, 10_000)
    assert "".join(Read(str(_wording.isolated(shown))).parts) == shown
    cut = _wording.cut(text, most)
    assert cut == text or f"({len(text):,} characters)" in cut


def test_an_empty_ranking_says_what_was_checked(site):
    detector, day, ranking = site
    nothing = exfilml.rank_cases(detector, day.iloc[:0])
    text = Read(html(nothing, detector=detector, flows=day.iloc[:0])).text
    assert "Nothing was ranked: no flows were read." in text
    assert "That is no all-clear." in text
    text = Read(html(ranking.iloc[:0], detector=detector, flows=day)).text
    assert f"{len(day):,} flows were read and none is ranked here." in text
    assert "No case to show." in Read(html(triage(flows=7))).text


def test_one_case_is_told_in_the_singular():
    text = Read(html(triage(case()))).text
    assert "1 alert 1 case" in text
    assert "1 of 1 case" in text


def test_missing_times_are_said_to_be_unknown(site):
    _, _, ranking = site
    gone = ranking.head(3).assign(first_seen=pd.NaT, last_seen=pd.NaT)
    text = Read(html(gone)).text
    assert "times are not known" in text
    assert "unknown" in text
    one = case()
    row = {**one.row, "first_seen": None, "last_seen": pd.NaT}
    timeless = replace(one, row=row, flows=one.flows.assign(start=pd.NaT))
    given = triage(timeless, first=None, last=None)
    assert "time unknown" in Read(html(given)).text


@pytest.mark.parametrize("value", [float("nan"), None, pd.NA, float("inf"), "many"])
def test_numbers_that_are_none_are_no_error(site, value):
    _, _, ranking = site
    odd = ranking.head(2).astype(object)
    for column in ("suspicion", "p_value", "up_bytes", "dst_port", "protocol"):
        odd.loc[0, column] = value
    assert "?" in Read(html(odd)).text


def test_many_cases_are_cut_with_a_notice(site):
    _, _, ranking = site
    many = pd.concat([ranking] * (100_000 // len(ranking) + 1), ignore_index=True)
    many = many.head(100_000).assign(rank=range(1, 100_001))
    many.attrs = {"total": 100_000, "alerted": 3}
    drawn = html(many)
    assert len(drawn.encode()) < 3_000_000
    assert "1,000 of 100,000 cases are shown" in drawn
    assert "99,000 less suspicious ones are left out" in drawn


def test_the_cases_come_before_the_incidents():
    one, two = case(), case(name="00c0ffee18", rank=2)
    drawn = html(triage(one, two, incidents=(incident(one, two),)))
    assert drawn.index('id="cases"') < drawn.index('id="h-incidents"')
    assert '<a href="#h-incidents">1 incident</a> below' in drawn


def test_many_flows_are_drawn_as_the_largest_of_each_interval():
    start = pd.Timestamp("2026-03-04", tz="UTC")
    many = case().flows.iloc[np.zeros(5000, dtype=int)].reset_index(drop=True)
    many = many.assign(
        start=start + pd.to_timedelta(range(5000), unit="min"), up_bytes=1000
    )
    many.loc[2500, "up_bytes"] = 10**9
    drawn = uploads(many, None)
    assert drawn["thinned"] <= 91
    assert min(float(dot["y"]) for dot in drawn["dots"]) == pytest.approx(
        min(float(p.split(",")[1]) for p in drawn["total"].split()), abs=1
    )
    assert drawn["caption"].startswith("5,000 flows, 1.0 GB up within 3.5 days")


def test_what_is_no_ranking_is_refused():
    with pytest.raises(ReportError, match="got list"):
        report.RankingReport([1, 2])
    with pytest.raises(ReportError, match="columns missing: suspicion"):
        report.RankingReport(pd.DataFrame({"a": [1]}))


def test_write_gives_the_page_or_nothing(tmp_path):
    report = exfilml.RankingReport(triage(case()))
    report.write(tmp_path / "cases.html")
    written = (tmp_path / "cases.html").read_text(encoding="utf-8")
    assert written == report.html()
    with pytest.raises(OutputError, match="cannot be written"):
        report.write(tmp_path / "no" / "cases.html")
    assert [p.name for p in tmp_path.iterdir()] == ["cases.html"]


def test_notebooks_show_the_page_in_a_frame_of_its_own():
    drawn = exfilml.RankingReport(triage(hostile_case('"></iframe>')))._repr_html_()
    read = Read(drawn)
    assert read.tags == ["iframe"]
    attributes = {name: value for _, name, value in read.attributes}
    assert attributes["srcdoc"].startswith("<!doctype html>")
    assert "allow-same-origin" not in attributes["sandbox"]


def test_flows_that_were_not_ranked_leave_the_page_without_pictures(site):
    """Rows of other flows, another policy or another model are told as they are."""
    detector, day, ranking = site
    renamed = ranking.assign(case=[f"x{i}" for i in range(len(ranking))])
    drawn = html(renamed, detector=detector, flows=day)
    assert '<svg class="plot"' not in drawn
    assert ranking["reasons"][0].split("; ")[0] in Read(drawn).text
