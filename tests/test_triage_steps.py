"""Next steps: few, in the right order, and safe to copy."""

import shlex

import click
import numpy as np
import pandas as pd
import pytest
from cases import case

from exfilml.cli import app
from exfilml.triage._steps import MOST_STEPS, next_steps
from exfilml.triage.case import LEVELS, NO, NOT_VISIBLE, Answer, Case, Fact

AGAINST = (Fact("destination.known", "used for weeks"),)


def steps(*flows, signs=None, **more):
    built = case(*flows, **more)
    if signs is not None:
        facts = built.answer("encryption_signs").facts
        answers = (Answer("encryption_signs", "?", signs, facts),)
        built = Case(**{**vars(built), "indicators": answers})
    return next_steps(built)


def commands(found):
    return [shlex.split(step.command)[1:] for step in found if step.command]


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_has_a_few_steps(level):
    found = steps(level=level, against=AGAINST)
    assert 1 <= len(found) <= MOST_STEPS
    assert len({step.text for step in found}) == len(found)


def test_what_is_urgent_comes_first():
    assert "--drafts" in steps(level="incident")[0].command
    assert "find the process" in steps(level="T2")[0].text
    assert "owner" in steps(level="L1")[0].text
    assert commands(steps(level="close"))[0][:3] == ["feedback", "00c0ffee17", "false"]


def test_the_packets_step_names_the_case_and_the_filter():
    (step,) = [s for s in steps(level="T2") if " carve " in s.command]
    assert step.command == "exfilml carve 00c0ffee17 CAPTURE --out 00c0ffee17.pcap"
    assert "ip.addr == 10.20.0.17 && ip.addr == 198.51.100.23" in step.text
    six = steps({"dst_ip": "2001:db8::1"}, level="T2")
    assert any("ipv6.addr == 2001:db8::1" in s.text for s in six)
    many = steps({}, {"dst_ip": "203.0.113.1"}, level="T2")
    assert not any("ip.addr" in s.text for s in many)


def test_what_was_not_visible_asks_for_packets_and_no_keys():
    found = steps(level="T2", signs=NOT_VISIBLE)
    assert any("if they were captured" in s.text for s in found)
    assert not any(" decrypt " in s.command for s in found)
    assert any(" decrypt " in s.command for s in steps(level="T2"))
    assert not any(" carve " in s.command for s in steps(level="L1", signs=NO))


def test_a_process_that_is_known_is_named():
    known = steps({"process": "rclone"}, level="T2")[0]
    assert "rclone" in known.text
    assert not known.command
    assert "--host-events" in steps(level="T2")[0].command


def test_owners_are_asked_and_unknown_hosts_traced():
    def asked(asset):
        (step,) = [s for s in steps(level="L1", asset=asset) if "and why" in s.text]
        return step.text

    assert asked({"known": True, "owner": "Ana"}).startswith(
        "Ask Ana, who owns 10.20.0.17"
    )
    unknown = asked({"known": False, "owner": np.nan})
    assert "in none of the asset files" in unknown
    assert "10.20.0.0/24" in unknown
    assert "--assets" in asked({})


def test_a_history_that_was_asked_is_not_asked_again():
    table = pd.DataFrame({"by": ["place"], "flows": [0]})
    assert ["history", "similar"] in [
        c[:2] for c in commands(steps(level="L1", history=table))
    ]
    assert ["history", "query"] in [c[:2] for c in commands(steps(level="L1"))]


def test_approval_is_for_what_something_argues_for():
    def drafts(**more):
        return any("suppress" in s.command for s in steps(level="watch", **more))

    assert drafts(against=AGAINST)
    assert not drafts()
    assert not drafts(against=(Fact("policy.approved", "approved"),))


@pytest.mark.parametrize(
    "name",
    [
        "a;rm -rf $(HOME).example",
        "`id`.example",
        "--history=/etc",
        "a'b\"c.example",
        "a\nb.example",
    ],
)
@pytest.mark.parametrize("level", LEVELS)
def test_hostile_names_stay_one_argument(name, level):
    built = case(level=level, against=AGAINST)
    built.row["place"] = name
    found = next_steps(built)
    for words in commands(found):
        assert "\n" not in " ".join(words)
        for word in words:
            assert word == f"--place={name}" or name not in word
    for step in found:
        assert "\n" not in step.command


@pytest.mark.parametrize("level", LEVELS)
def test_commands_are_those_of_the_command_line(level):
    for asset in ({}, {"known": False}):
        for step in steps(level=level, against=AGAINST, asset=asset):
            words = shlex.split(step.command)[1:]
            if not words:
                continue
            command, *rest = words
            found = app.commands[command]
            if isinstance(found, click.Group):
                name = rest[0] if rest[0] in found.commands else "judge"
                found = found.commands[name]
            options = {o for param in found.params for o in param.opts}
            given = {word.partition("=")[0] for word in rest if word.startswith("--")}
            assert given <= options, step.command
