"""The command line: outputs that parse, one line for each mistake, exit status."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from sites import office, theft

from exfilml import cli
from exfilml.cli import _assess, _rank
from exfilml.persistence import load_state
from exfilml.ranking import CASE_COLUMNS, FLOW_COLUMNS
from exfilml.sources import _pool, _process, write_flows

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A baseline, a test day with a theft, and a model, as files."""
    folder = tmp_path_factory.mktemp("site")
    write_flows(office(600), folder / "baseline.parquet")
    day = office(300, seed=1, days=2, first_day="2026-03-09")
    hostile = theft(day).assign(server_name="=cmd|'/c calc'!A1.\x1b[31mevil.example")
    day = pd.concat([day, theft(day, dst_port=4444), hostile], ignore_index=True)
    write_flows(day, folder / "today.parquet")
    arguments = [str(folder / "baseline.parquet"), "--model", str(folder / "m.exfilml")]
    assert cli.run(["train", *arguments]) == 0
    typo = '[[approve]]\nplace = "vault.example"\nonwer = "lab"\n'
    (folder / "typo.toml").write_text(typo)
    return folder


@pytest.fixture
def run(capfd):
    """Run the command line; give exit status, standard output and error."""

    def run(*arguments):
        status = cli.run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return run


def test_train_says_what_it_learned_from(site, run):
    status, out, err = run(
        "train", site / "baseline.parquet", "--model", site / "n.exfilml", "--seed", 3
    )
    assert (status, out) == (0, "")
    assert "600 flows of 10 local hosts" in err
    assert (site / "n.exfilml").exists()


def test_rank_shows_the_theft_first(site, run):
    status, out, err = run(
        "rank", site / "today.parquet", "--model", site / "m.exfilml"
    )
    assert status == 0
    first = out.splitlines()[1]
    assert "ALERT" in first
    assert "302 flows read" in err


def test_train_shows_what_it_quarantines(site, run):
    """The theft is listed, and the model trained without it sees it again."""
    normal = office(800, days=8)
    poison = theft(normal, up=2_000_000).assign(start=normal["start"].iloc[300])
    both = pd.concat([normal, poison], ignore_index=True)
    write_flows(both, site / "poisoned.parquet")
    status, out, err = run(
        "train",
        site / "poisoned.parquet",
        "--model",
        site / "q.exfilml",
        "--quarantine",
    )
    assert status == 0
    quarantined, left_in = out.split("Left in, because")
    assert "203.0.113.9" in quarantined.splitlines()[3]
    assert "203.0.113.9" not in left_in
    assert "of 801 flows are quarantined" in err
    status, out, _ = run("rank", site / "today.parquet", "--model", site / "q.exfilml")
    assert status == 0
    assert "never seen from 10.20.0.12" in out


def test_train_with_too_few_flows_to_quarantine_says_so(site, run):
    write_flows(office(100), site / "few.parquet")
    status, out, err = run(
        "train", site / "few.parquet", "--model", site / "f.exfilml", "--quarantine"
    )
    assert (status, out) == (2, "")
    assert "too few to judge a part of it" in err
    assert not (site / "f.exfilml").exists()


def test_drift_gives_a_verdict(site, run):
    status, out, _ = run("drift", site / "m.exfilml", site / "today.parquet")
    assert status == 0
    assert out.splitlines()[0].startswith("verdict: ")
    assert "hosts never seen: 0 of 10" in out
    assert "\x1b[31m" not in out
    status, out, _ = run("drift", site / "m.exfilml", site / "today.parquet", "--json")
    assert status == 0
    assert json.loads(out)["n_flows"] == 302


def test_drift_without_flows_says_what_is_missing(site, run):
    write_flows(office(50).iloc[:0], site / "none.parquet")
    status, out, err = run("drift", site / "m.exfilml", site / "none.parquet")
    assert (status, out) == (2, "")
    assert "no flows to compare" in err


def test_rank_remembers_what_a_state_file_keeps(site, run, tmp_path):
    """Written after the first run; a second run over the same flows is warned of."""
    base = ("rank", site / "today.parquet", "--model", site / "m.exfilml")
    memory = ("--state", tmp_path / "memory")
    status, _, err = run(*base, *memory)
    assert status == 0
    assert "sums over 14 d reach back to 2026-03-09 00:" in err
    assert "UTC only" in err
    assert "(--state)" not in err
    first = (tmp_path / "memory").read_bytes()
    status, _, err = run(*base, *memory)
    assert status == 0
    assert "what is given twice counts twice" in err
    assert (tmp_path / "memory").read_bytes() != first
    (tmp_path / "memory").write_bytes(b"nothing")
    status, out, err = run(*base, *memory)
    assert (status, out) == (2, "")
    assert "memory: not a state (7 bytes): it is no zip of arrays. Expected" in err


def remembering(site, run, folder, *options, source="today.parquet", model="m"):
    """Rank with a state file in a folder."""
    return run(
        *("rank", site / source, "--model", site / f"{model}.exfilml"),
        *("--state", folder / "memory", *options),
    )


@pytest.fixture
def retrained(site):
    arguments = [str(site / "baseline.parquet"), "--model", str(site / "new.exfilml")]
    write_flows(office(580), site / "baseline.parquet")
    assert cli.run(["train", *arguments]) == 0
    write_flows(office(600), site / "baseline.parquet")


@pytest.mark.usefixtures("retrained")
def test_a_state_of_another_model_is_refused_before_the_work(site, run, tmp_path):
    status, _, err = remembering(site, run, tmp_path)
    assert status == 0
    assert "memory: a new state, no earlier run is known" in err
    before = (tmp_path / "memory").read_bytes()
    (site / "damaged.pcap").write_bytes(b"no capture")
    status, out, err = remembering(
        site, run, tmp_path, source="damaged.pcap", model="new"
    )
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert "memory: this state (2026-03-09T00:" in line
    assert "was begun with another model, expected one of the model given" in line
    assert "--adopt-state" in line
    assert (tmp_path / "memory").read_bytes() == before
    assert not list(tmp_path.glob(".exfilml*"))


@pytest.mark.usefixtures("retrained")
def test_a_state_of_an_earlier_model_can_be_taken_over(site, run, tmp_path):
    assert remembering(site, run, tmp_path)[0] == 0
    status, _, err = remembering(site, run, tmp_path, "--adopt-state", model="new")
    assert status == 0
    assert "what is given twice counts twice" in err
    assert remembering(site, run, tmp_path, model="new")[0] == 0
    assert remembering(site, run, tmp_path, model="m")[0] == 2


def test_there_must_be_a_state_to_take_over(site, run, tmp_path):
    status, out, err = remembering(site, run, tmp_path, "--adopt-state")
    assert (status, out) == (2, "")
    assert "memory: does not exist, expected the state to take over" in err
    base = ("rank", site / "today.parquet", "--model", site / "m.exfilml")
    status, out, err = run(*base, "--adopt-state")
    assert (status, out) == (2, "")
    assert "--adopt-state needs --state" in err


def test_flows_of_another_site_leave_a_state_as_it_was(site, run, tmp_path):
    assert remembering(site, run, tmp_path)[0] == 0
    before = (tmp_path / "memory").read_bytes()
    foreign = office(300, seed=2, days=1, first_day="2026-03-11")
    foreign["src_ip"] = foreign["src_ip"].str.replace("10.20.", "10.77.")
    write_flows(foreign, site / "foreign.parquet")
    status, out, err = remembering(site, run, tmp_path, source="foreign.parquet")
    assert status == 0
    assert len(out.splitlines()) > 20
    assert "do not follow what the state knew" in err
    assert "memory: left as it was; give --state another file for these flows" in err
    assert (tmp_path / "memory").read_bytes() == before


def test_runs_that_share_a_state_do_not_lose_each_others_flows(
    site, run, tmp_path, monkeypatch
):
    """The second to end says so, and leaves what the first has written."""
    read = _rank.read
    assert remembering(site, run, tmp_path)[0] == 0

    def slow(source, *, quiet):
        monkeypatch.setattr(_rank, "read", read)
        assert remembering(site, run, tmp_path)[0] == 0
        return read(source, quiet=quiet)

    monkeypatch.setattr(_rank, "read", slow)
    status, out, err = remembering(site, run, tmp_path)
    assert status == 2
    assert "ALERT" in out
    assert "memory: another run has written it meanwhile" in err
    once = tmp_path / "once"
    once.mkdir()
    for _ in range(2):
        assert remembering(site, run, once)[0] == 0
    assert (tmp_path / "memory").read_bytes() == (once / "memory").read_bytes()


def test_a_link_to_a_state_stays_one(site, run, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "memory").symlink_to(tmp_path / "real" / "memory")
    for _ in range(2):
        assert remembering(site, run, tmp_path)[0] == 0
    assert (tmp_path / "memory").is_symlink()
    assert load_state(tmp_path / "real" / "memory").n_rows > 0


def test_a_state_is_kept_although_the_reader_closes_early(site, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "exfilml", "rank", str(site / "today.parquet")]
        + ["--model", str(site / "m.exfilml"), "--state", str(tmp_path / "memory")]
        + ["--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert load_state(tmp_path / "memory").n_rows > 0


def test_nothing_from_a_packet_reaches_the_terminal_unescaped(site, run):
    _, out, _ = run("rank", site / "today.parquet", "--model", site / "m.exfilml")
    assert "\x1b[31m" not in out


@pytest.mark.parametrize(
    ("by", "columns"), [("flow", FLOW_COLUMNS), ("case", CASE_COLUMNS)]
)
def test_every_format_parses_to_the_same_rows(site, run, by, columns):
    base = ("rank", site / "today.parquet", "--model", site / "m.exfilml", "--by", by)
    csv, js, lines = (run(*base, "--format", f)[1] for f in ("csv", "json", "jsonl"))
    from_csv = pd.read_csv(io.StringIO(csv))
    from_json = json.loads(js)
    from_lines = [json.loads(line) for line in lines.splitlines()]
    assert tuple(from_csv.columns) == columns == tuple(from_json[0])
    assert from_json == from_lines
    assert from_csv["case"].tolist() == [row["case"] for row in from_json]
    assert from_csv["rank"].tolist() == [row["rank"] for row in from_json]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_out_writes_a_file_and_nothing_to_stdout(site, run, tmp_path, suffix):
    out_file = tmp_path / f"cases.{suffix}"
    status, out, _ = run(
        "rank", site / "today.parquet", "--model", site / "m.exfilml", "--out", out_file
    )
    assert (status, out) == (0, "")
    assert out_file.stat().st_size > 1000
    assert [p.name for p in tmp_path.iterdir()] == [out_file.name]


def test_formulas_in_csv_are_disarmed(site, run):
    _, out, _ = run(
        *("rank", site / "today.parquet", "--model", site / "m.exfilml"),
        *("--format", "csv"),
    )
    table = pd.read_csv(io.StringIO(out))
    names = table["server_name"].dropna()
    assert names.str.startswith("'=cmd").any()
    assert not names.str.startswith("=").any()


def test_top_and_budget_and_rate(site, run):
    base = ("rank", site / "today.parquet", "--model", site / "m.exfilml")
    _, out, _ = run(*base, "--format", "json", "--top", 3)
    assert len(json.loads(out)) == 3
    _, few, _ = run(*base, "--format", "json", "--alerts-per-day", 1)
    _, many, _ = run(*base, "--format", "json", "--alerts-per-day", 100)
    assert sum(r["alert"] for r in json.loads(few)) < sum(
        r["alert"] for r in json.loads(many)
    )
    assert run(*base, "--fdr", 0.2)[0] == 0


def test_home_networks_can_be_overridden(site, run):
    base = ("rank", site / "today.parquet", "--model", site / "m.exfilml")
    _, out, _ = run(*base, "--format", "json", "--home", "203.0.113.0/24", "--top", 400)
    assert {r["direction"] for r in json.loads(out)} >= {"inbound", "external"}


POLICY = """
home = "10.20.0.0/16"
resolvers = "10.20.0.53"

[[approve]]
network = "203.0.113.0/24"
service = "tcp/8443"
payload = "opaque"
max_upload_per_day = "{most}"
reason = "test upload\\u001b[31m"
owner = "lab"
expires = 2027-01-01
"""


def test_a_policy_approves_and_what_it_did_is_counted(site, run, tmp_path):
    base = ("rank", site / "today.parquet", "--model", site / "m.exfilml")
    policy = tmp_path / "office.toml"
    policy.write_text(POLICY.format(most="10 MB"))
    status, out, err = run(*base, "--policy", policy, "--top", 1000)
    assert status == 0
    assert "\x1b[31m" not in out + err
    assert "approved: test upload\\x1b[31m (lab, until" in " ".join(out.split())
    counted = next(x for x in err.splitlines() if x.startswith("policy: "))
    assert "cases approved: 1, of them above the threshold: 1; re-armed: 0;" in counted
    assert "cases that break a rule: DNS " in counted
    policy.write_text(POLICY.format(most="1 MB"))
    _, out, err = run(*base, "--policy", policy)
    assert "approval re-armed (test upload" in out
    assert "above the threshold: 0; re-armed: 1 (upload 1);" in err


def test_evaluate_and_blindspots_tell_what_an_approval_hides(
    site, run, tmp_path, monkeypatch
):
    policy, labels = tmp_path / "office.toml", tmp_path / "labels.csv"
    policy.write_text(POLICY.format(most="10 MB"))
    labels.write_text(
        "src_ip,src_port,dst_ip,dst_port,protocol,start,end,label,scenario\n"
        "10.20.0.12,,203.0.113.9,8443,6,,,exfil,burst\n"
        "10.20.0.12,,203.0.113.9,4444,6,,,exfil,odd port\n"
    )
    base = (site / "today.parquet", "--model", site / "m.exfilml", "-q")
    status, out, _ = run("evaluate", *base, "--labels", labels, "--policy", policy)
    assert status == 0
    assert "hidden by an approval: 1 of 2 scenarios: burst (approved: test" in out
    assert "\x1b[31m" not in out
    judged = run("evaluate", *base, "--labels", labels, "--policy", policy, "--json")
    assert json.loads(judged[1])["suppressed_true"] == 1
    everything = POLICY.format(most="10 MB").replace('service = "tcp/8443"', "")
    policy.write_text(everything.replace("203.0.113.0/24", "0.0.0.0/0"))
    monkeypatch.setattr(_assess, "FEWEST_TRIALS", 1)
    status, out, _ = run("blindspots", *base, "--trials", 1, "--policy", policy)
    assert status == 0
    assert "hidden by approvals, seeing payload: " in out
    assert "* an approval keeps uploads quiet that would alert" in out


def test_home_networks_of_the_option_come_before_the_policys(site, run, tmp_path):
    base = ("rank", site / "today.parquet", "--model", site / "m.exfilml")
    policy = tmp_path / "office.toml"
    policy.write_text('home = "203.0.113.0/24"')
    directions = [
        {r["direction"] for r in json.loads(run(*base, "--format", "json", *o)[1])}
        for o in (("--policy", policy), ("--policy", policy, "--home", "10.0.0.0/8"))
    ]
    assert directions == [{"external", "inbound"}, {"outbound"}]


def test_train_takes_the_home_networks_of_a_policy(site, run, tmp_path):
    policy, model = tmp_path / "office.toml", tmp_path / "m.exfilml"
    policy.write_text('home = "10.20.0.0/24"')
    base = ("train", site / "baseline.parquet", "--model", model, "--policy", policy)
    for options, home in (
        ((), "10.20.0.0/24"),
        (("--home", "10.0.0.0/8"), "10.0.0.0/8"),
    ):
        assert run(*base, *options)[0] == 0
        assert json.loads(run("inspect", model, "--json")[1])["home"] == [home]


def test_inspect_shows_the_card(site, run):
    status, out, _ = run("inspect", site / "m.exfilml")
    assert status == 0
    assert "600 flows of 10 local hosts" in out
    _, out, _ = run("inspect", site / "m.exfilml", "--json")
    assert json.loads(out)["flows"] == 600


def test_the_shipped_model_is_used_without_one(site, run):
    status, out, err = run("rank", site / "today.parquet", "--top", 3)
    assert status == 0
    assert "shipped model" in err
    assert len(out.splitlines()) > 4


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("rank", "nowhere.pcap"), ["nowhere.pcap"]),
        (("rank", "{today}", "--model", "nowhere.exfilml"), ["nowhere.exfilml"]),
        (("rank", "{today}", "--model", "{today}"), ["no exfilml model file"]),
        (("rank", "{today}", "--out", "x.docx"), [".csv"]),
        (("rank", "{today}", "--out", "no/such/folder/x.csv"), ["does not exist"]),
        (("rank", "{today}", "--model", "{model}", "--top", "0"), ["top"]),
        (("rank", "{today}", "--model", "{model}", "--fdr", "2"), ["between 0 and 1"]),
        (("rank", "{today}", "--model", "{model}", "--home", "moon"), ["moon"]),
        (
            ("rank", "{today}", "--model", "{model}", "--fdr", ".1")
            + ("--alerts-per-day", "3"),
            ["give one"],
        ),
        (("rank", "{today}", "--policy", "no.toml"), ["no.toml", "cannot be read"]),
        (("rank", "{today}", "--policy", "{today}"), ["not a TOML file: no text"]),
        (("rank", "{today}", "--model", "{model}", "--state", "."), ["is a folder"]),
        (
            ("rank", "{today}", "--model", "{model}", "--state", "{typo}"),
            ["typo.toml: not a state", "expected a file", "another name"],
        ),
        (("evaluate", "{today}", "--labels", "{typo}"), ["no labels file, columns"]),
        (
            ("evaluate", "{today}", "--labels", "{today}", "--policy", "{typo}"),
            ["typo.toml, [[approve]] number 1: unknown key 'onwer'"],
        ),
        (
            ("blindspots", "{today}", "--policy", "{typo}"),
            ["typo.toml, [[approve]] number 1: unknown key 'onwer'"],
        ),
        (("drift", "{typo}", "{today}"), ["no exfilml model file", "train SOURCE"]),
        (
            ("rank", "{today}", "--policy", "{typo}"),
            ["typo.toml, [[approve]] number 1: unknown key 'onwer'", "mean 'owner'"],
        ),
        (("train", "{today}", "--model", "no/such/m.exfilml"), ["does not exist"]),
        (("flows", "{today}", "--out", "x.txt"), ["x.txt"]),
        (("inspect", "nowhere.exfilml"), ["nowhere.exfilml"]),
    ],
)
def test_each_mistake_gives_one_line_and_status_2(site, run, arguments, texts):
    places = {"today": site / "today.parquet", "model": site / "m.exfilml"}
    places["typo"] = site / "typo.toml"
    status, out, err = run(*(a.format(**places) for a in arguments))
    assert (status, out) == (2, "")
    lines = [x for x in err.splitlines() if not x.startswith("no --model given")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    for text in texts:
        assert text.lower() in err.lower()


@pytest.mark.parametrize(
    "arguments",
    [
        ("flows", "{t}", "--out", "{t}"),
        ("flows", "{folder}", "--out", "{t}"),
        ("flows", "{m}", "{link}", "--out", "{t}"),
        ("train", "{t}", "--model", "{t}"),
        ("train", "{t}", "--model", "{folder}/../{name}/t.parquet"),
        ("train", "{t}", "--model", "{p}", "--policy", "{p}"),
        ("rank", "{t}", "--model", "{m}", "--out", "{t}"),
        ("rank", "{t}", "--model", "{m}", "--state", "{t}"),
        ("rank", "{t}", "--model", "{m}", "--state", "{m}"),
        ("rank", "{t}", "--model", "{m}", "--out", "{new}", "--state", "{new}"),
        ("evaluate", "{t}", "--model", "{m}", "--labels", "{plot}", "--plot", "{plot}"),
        ("blindspots", "{t}", "--model", "{plot}", "--plot", "{plot}"),
    ],
)
def test_no_input_is_overwritten(site, run, tmp_path, arguments):
    """Under any of its names, as a file, in a folder, or as another option's file."""
    pytest.importorskip("matplotlib")
    places = {"folder": tmp_path, "name": tmp_path.name}
    for short, file in (("t", "t.parquet"), ("m", "m.exfilml"), ("plot", "x.png")):
        places[short] = tmp_path / file
        source = "today.parquet" if short == "t" else "m.exfilml"
        places[short].write_bytes((site / source).read_bytes())
    places |= {"p": tmp_path / "p.toml", "new": tmp_path / "new.csv"}
    places["p"].write_text("")
    places["link"] = tmp_path / "link"
    places["link"].symlink_to(places["t"])
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    status, out, err = run(*(a.format(**places) for a in arguments))
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "is another file of this command" in err
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_earlier_output_in_the_folder_may_be_written_again(site, run, tmp_path):
    (tmp_path / "today.parquet").write_bytes((site / "today.parquet").read_bytes())
    for _ in range(2):
        asked = ("rank", tmp_path, "--model", site / "m.exfilml")
        assert run(*asked, "--out", tmp_path / "cases.csv")[0] == 0


@pytest.mark.parametrize(
    "arguments", [(), ("rank",), ("nosuch",), ("rank", "--nosuch")]
)
def test_wrong_usage_shows_usage_and_status_2(run, arguments):
    status, out, err = run(*arguments)
    assert status == 2
    assert "Usage: exfilml" in out + err


@pytest.mark.parametrize("arguments", [("--help",), ("rank", "-h"), ("--version",)])
def test_help_and_version(run, arguments):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert "exfilml" in out


def test_help_is_quick():
    """Under 0.4 s of processor time, the best of five: a busy machine only adds."""
    times = []
    for _ in range(5):
        begin = os.times()
        subprocess.run(
            [sys.executable, "-m", "exfilml", "--help"], check=True, capture_output=True
        )
        end = os.times()
        times.append(end.children_user - begin.children_user)
    assert min(times) < 0.4


def test_ctrl_c_leaves_no_output_and_says_so(site, tmp_path):
    """An interrupt in the middle of training writes no model, nor half of one."""
    big = tmp_path / "big.parquet"
    write_flows(office(400_000), big)
    process = subprocess.Popen(
        [sys.executable, "-m", "exfilml", "train", str(big)]
        + ["--model", str(tmp_path / "m.exfilml"), "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    if process.returncode == 0:
        pytest.skip("the machine was faster than the interrupt")
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted" in err
    assert [p.name for p in tmp_path.iterdir()] == ["big.parquet"]


def test_a_reader_that_closes_early_is_no_error(site):
    process = subprocess.Popen(
        [sys.executable, "-m", "exfilml", "rank", str(site / "today.parquet")]
        + ["--model", str(site / "m.exfilml"), "--format", "jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=300) in (0, 1)
    assert "Traceback" not in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_place_is_named(site, run, tmp_path):
    tmp_path.chmod(0o500)
    status, _, err = run(
        "rank", site / "today.parquet", "--out", tmp_path / "cases.csv"
    )
    assert status == 2
    assert "may not be written to" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_stdout_is_one_line(site):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "exfilml", "inspect", str(site / "m.exfilml")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the output cannot be written")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_does_not_break_the_run(site, closed):
    done = subprocess.run(
        f'"{sys.executable}" -m exfilml rank "{site}/today.parquet" '
        f'--model "{site}/m.exfilml" --out "{site}/closed.csv" {closed}',
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (site / "closed.csv").stat().st_size > 1000


def test_doctor_says_what_is_missing_and_how_to_get_it(run, monkeypatch, site):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("exfilml.cli._doctor.find_spec", lambda _: None)
    status, out, _ = run("doctor", "--model", str(site / "m.exfilml"))
    assert status == 0
    assert "not installed (apt install nfdump): reads nfdump's own files" in out
    assert "not installed (pip install 'exfilml[netflow]')" in out
    assert "says whether it still fits" in out


def test_the_first_use_says_why_it_takes_so_long(site, run, monkeypatch):
    monkeypatch.setattr("exfilml._jit.is_first_use", lambda: True)
    arguments = ["rank", site / "today.parquet", "--model", site / "m.exfilml"]
    assert "code is compiled, for a minute or two" in run(*arguments)[2]
    assert "compiled" not in run(*arguments, "--quiet")[2]


def test_colours_can_be_turned_off(site):
    """As https://no-color.org asks, also on a terminal."""
    import pty

    shown = {}
    for value in ("", "1"):
        mine, theirs = pty.openpty()
        subprocess.run(
            [sys.executable, "-m", "exfilml", "rank", str(site / "today.parquet")]
            + ["--model", str(site / "m.exfilml"), "--top", "1", "-q"],
            env=os.environ | {"NO_COLOR": value},
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        shown[value] = os.read(mine, 100_000)
        os.close(mine)
        os.close(theirs)
    # What colorama, where it is installed, writes at exit resets and sets nothing.
    styled = [re.search(rb"\x1b\[[1-9]", text) is not None for text in shown.values()]
    assert styled == [True, False]


def test_doctor_says_which_loop_reads_captures_and_why(run, monkeypatch):
    """Asked of the very worker that would read them."""
    status, out, err = run("doctor")
    assert (status, err) == (0, "")
    facts = dict(line.split(":", 1) for line in out.splitlines())
    assert facts["packet loop"].strip() == "compiled"
    assert facts["nfstream"].strip() == version("nfstream")
    assert "free" in facts["temporary files"]
    code = (
        "from exfilml.sources import _engine_abi as abi\n"
        "abi.TESTED = ('6.5.4',)\n"
        "from exfilml.sources._worker import main; main()"
    )
    monkeypatch.setattr(_process, "COMMAND", (sys.executable, "-c", code))
    _, out, _ = run("doctor")
    assert "NFStream's own, several times slower: NFStream 6.6.0 was not tested" in out
    monkeypatch.setattr(
        _process, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)")
    )
    status, out, err = run("doctor")
    assert (status, out) == (2, "")
    assert "error: captures cannot be read here: a test capture" in err
    _pool.RESERVE.clear()
