"""Containment drafts: read by the programs they are for, and never of what others need."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import ipaddress
import json
import random
import re
import shutil
import ssl
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import cases
import dpkt
import pandas as pd
import pytest
import suricata.update.rule
import yaml
from captures import ACK, PSH, SYN, ethernet, ip4, udp, write_pcap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sigma.backends.test import TextQueryTestBackend
from sigma.collection import SigmaCollection
from sigma.validation import SigmaValidator
from sigma.validators.core import validators

import exfilml
from exfilml.containment import Drafts
from exfilml.containment._suricata import FIRST_SID, LAST_SID, _sid
from exfilml.containment._texts import commented, plain, quoted_rule, quoted_yaml
from exfilml.domains import registered_domain
from exfilml.exceptions import FlowsError, OptionError, OutputError, PolicyError
from exfilml.triage.case import Fact, Technique

AT = "2026-03-05T08:00:00Z"
ADDRESS = "198.51.100.23"
has_suricata = pytest.mark.skipif(
    shutil.which("suricata") is None, reason="suricata is not installed"
)


def can_nft():
    """Say whether nft works in a network namespace of its own."""
    if shutil.which("nft") is None or shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        ["unshare", "-n", "nft", "list", "ruleset"], capture_output=True, check=False
    )
    return tried.returncode == 0


has_nft = pytest.mark.skipif(not can_nft(), reason="nft needs root and nftables")


def draft(*flows, at=AT, expires=None, policy=None, home=None, **more):
    """Draft for one case of some flows."""
    triage = cases.triage(cases.case(*flows, **more))
    return exfilml.draft_containment(
        triage, at=at, expires=expires, policy=policy, home=home
    )


def text_of(drafts, suffix):
    """Return the one text with a suffix, or ""."""
    found = [text for name, text in drafts.files.items() if name.endswith(suffix)]
    assert len(found) <= 1
    return found[0] if found else ""


def rules_of(drafts):
    """Read rules with the library that OISF keeps for them."""
    lines = text_of(drafts, ".rules").splitlines()
    found = [
        suricata.update.rule.parse(line) for line in lines if not line.startswith("#")
    ]
    assert None not in found
    return found


def options_of(rule):
    """Take a rule apart at its semicolons that are not escaped, apart from ours."""
    inside = rule["raw"].partition("(")[2].rpartition(")")[0]
    parts = re.split(r"(?<!\\)(?:\\\\)*;", inside)
    return [part.strip() for part in parts if part.strip()]


def sigma_of(drafts):
    """Read rules with pySigma, which refuses what is none."""
    collection = SigmaCollection.from_yaml(text_of(drafts, ".yml"))
    assert collection.errors == []
    return collection.rules


def zeek_of(drafts):
    """Read entries strictly as Zeek documents the format, row by row."""
    text = text_of(drafts, ".intel")
    if not text:
        return []
    assert text.endswith("\n")
    lines = text[:-1].split("\n")
    head = [n for n, line in enumerate(lines) if line.startswith("#fields\t")]
    assert len(head) == 1
    assert all(line.startswith("# ") for line in lines[: head[0]])
    fields = lines[head[0]].split("\t")[1:]
    assert fields[:3] == ["indicator", "indicator_type", "meta.source"]
    rows = []
    for line in lines[head[0] + 1 :]:
        assert line.isascii()
        assert line.isprintable() or "\t" in line
        cells = line.split("\t")
        assert len(cells) == len(fields)
        assert all(cells)
        row = dict(zip(fields, cells, strict=True))
        assert row["indicator_type"] in {"Intel::ADDR", "Intel::DOMAIN"}
        assert row["meta.do_notice"] == "T"
        rows.append(row)
    return rows


def blocked(drafts):
    """Return the addresses of a table of nftables, and check what else it holds."""
    text = text_of(drafts, ".nft")
    if not text:
        return set()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    found = re.findall(r"^ {12}(\S+) timeout \d+s,?$", body, flags=re.MULTILINE)
    rest = re.sub(r"^ {12}(\S+) timeout \d+s,?\n", "", body, flags=re.MULTILINE)
    rest = re.sub(r" {8}elements = \{\n {8}\}\n", "", rest)
    name = re.match(r"table inet (exfilml_\w+)\n", rest)[1]
    assert rest == NFT.format(name=name, until=re.search(r"time >= (\d+)", rest)[1])
    assert len(set(found)) == len(found)
    return set(found)


NFT = """\
table inet {name}
delete table inet {name}
table inet {name} {{
    set remote4 {{
        type ipv4_addr
        flags timeout
    }}
    set remote6 {{
        type ipv6_addr
        flags timeout
    }}
    chain remote {{
        meta time >= {until} return
        ip daddr @remote4 counter drop
        ip saddr @remote4 counter drop
        ip6 daddr @remote6 counter drop
        ip6 saddr @remote6 counter drop
    }}
    chain input {{
        type filter hook input priority -10; policy accept;
        jump remote
    }}
    chain forward {{
        type filter hook forward priority -10; policy accept;
        jump remote
    }}
    chain output {{
        type filter hook output priority -10; policy accept;
        jump remote
    }}
}}"""


def watched(drafts):
    rows = list(csv.DictReader(drafts.files["watch_list.csv"].splitlines()))
    return {row["indicator"] for row in rows}


def left_out(drafts):
    table = drafts.left_out
    return dict(zip(table["about"], table["reason"], strict=True))


# What is drafted.


def test_a_case_with_an_address_of_its_own_is_drafted_in_every_language():
    drafts = draft({}, {"dst_ip": "2001:db8::5", "src_bytes": 1000})
    name = "00c0ffee17"
    assert set(drafts.files) == {
        *(f"{name}.{s}" for s in ("rules", "nft", "intel", "yml")),
        "watch_list.csv",
        "REVIEW.txt",
    }
    both = {ADDRESS, "2001:db8::5"}
    assert blocked(drafts) == both
    assert watched(drafts) == both
    assert {row["indicator"] for row in zeek_of(drafts)} == both
    (firewall,) = sigma_of(drafts)
    query = TextQueryTestBackend().convert_rule(firewall)
    # The backend of pySigma's tests escapes colons.
    both = f'dst_ip in ("{ADDRESS}", "2001\\:db8\\:\\:5")'
    assert query == [f"({both}) and dst_port=8443"]
    by_address, opaque = rules_of(drafts)
    assert by_address["dest_addr"] == f"[{ADDRESS},2001:db8::5]"
    assert (by_address["proto"], by_address["dest_port"]) == ("tcp", "8443")
    assert opaque["source_addr"] == "[10.20.0.17]"
    assert "app-layer-protocol:failed" in options_of(opaque)
    assert {rule["action"] for rule in (by_address, opaque)} == {"alert"}


def test_every_draft_says_what_it_is_of_which_case_and_until_when():
    drafts = draft({"server_name": "drop.evil.example"}, expires="2026-03-12T00:00:00Z")
    for name, text in drafts.files.items():
        assert "2026-03-12T00:00:00" in text, name
        assert "00c0ffee17" in text, name
        if name.endswith((".rules", ".nft", ".intel", ".yml")):
            assert text.startswith("# DRAFT for review. exfilml applied nothing")
            assert "decided T2" in text
            assert "# For others: " in text
    for rule in rules_of(drafts):
        assert "expires_at 2026_03_12" in rule["metadata"]
        assert "exfilml_case 00c0ffee17" in rule["metadata"]
        assert "mitre_technique_id T1048.001" in rule["metadata"]
    for rule in sigma_of(drafts):
        assert "2026-03-12" in rule.description
        assert rule.status.name == "EXPERIMENTAL"
    for row in zeek_of(drafts):
        assert "case 00c0ffee17" in row["meta.desc"]
        assert "expires 2026-03-12T00:00:00Z" in row["meta.desc"]


def test_a_name_that_was_asked_for_is_met_whole_and_a_tunnel_with_all_below():
    asked = rules_of(draft({"server_name": "Drop.Evil.example"}))
    by_name = [rule for rule in asked if "content:" in rule["raw"]]
    assert [rule["proto"] for rule in by_name] == ["dns", "tls", "http"]
    for rule in by_name:
        assert 'content:"drop.evil.example"' in options_of(rule)
        assert f"bsize:{len('drop.evil.example')}" in options_of(rule)
    tunnel = {
        "dst_ip": "10.20.0.53",
        "dst_port": 53,
        "protocol": 17,
        "server_name": "6f2a9c.t.evil.example",
    }
    drafts = draft(tunnel)
    dns = next(rule for rule in rules_of(drafts) if rule["proto"] == "dns")
    assert options_of(dns)[1:6] == [
        *("dns.query", "dotprefix", 'content:".evil.example"', "nocase", "endswith")
    ]
    assert watched(drafts) == {"evil.example"}
    assert blocked(drafts) == set()
    assert "10.20.0.53" not in text_of(drafts, ".rules")
    query = TextQueryTestBackend().convert_rule(sigma_of(drafts)[0])
    assert query == ['query in ("evil.example", "*.evil.example")']


def test_a_resolver_outside_that_was_asked_for_names_is_not_blocked():
    tunnel = {
        "dst_ip": "8.8.8.8",
        "dst_port": 53,
        "protocol": 17,
        "server_name": "a.evil.example",
    }
    drafts = draft(tunnel)
    assert blocked(drafts) == set()
    assert watched(drafts) == {"evil.example"}
    assert "the name is the target" in left_out(drafts)["8.8.8.8"]
    # Raw bytes to port 53 name nothing: the address is all there is.
    assert blocked(draft({**tunnel, "server_name": None})) == {"8.8.8.8"}


def test_what_went_through_a_proxy_never_blocks_the_proxy():
    through = {
        "dst_ip": "203.0.113.80",
        "dst_port": 3128,
        "via": "proxy 203.0.113.80",
        "server_name": "drop.evil.example:443",
    }
    drafts = draft(through)
    assert blocked(drafts) == set()
    assert watched(drafts) == {"drop.evil.example"}
    assert "203.0.113.80" not in text_of(drafts, ".rules")
    assert "proxy" in left_out(drafts)["203.0.113.80"]
    # An address that was asked for is a place like any other.
    drafts = draft({**through, "server_name": "192.0.2.77"})
    assert blocked(drafts) == {"192.0.2.77"}


def test_mail_is_stopped_at_the_relay_and_no_web_rule_is_made_of_its_domain():
    mail = {"dst_ip": "10.20.0.25", "dst_port": 25, "server_name": "evil.example"}
    drafts = draft(mail)
    kinds = {rule["proto"] for rule in rules_of(drafts) if "content:" in rule["raw"]}
    assert kinds == {"dns"}
    assert blocked(drafts) == set()
    assert "mail relay" in left_out(drafts)["mail"]


def test_icmp_and_protocols_without_ports():
    icmp = {"dst_port": 0, "src_port": 0, "protocol": 1}
    (rule,) = rules_of(draft(icmp))
    assert (rule["proto"], rule["dest_port"]) == ("icmp", "any")
    (rule,) = rules_of(draft({**icmp, "protocol": 47}))
    assert rule["proto"] == "ip"
    assert "ip_proto:47" in options_of(rule)
    (firewall,) = sigma_of(draft(icmp))
    assert TextQueryTestBackend().convert_rule(firewall) == [f'dst_ip="{ADDRESS}"']


def test_a_remote_side_that_opened_the_connection_is_the_source():
    drafts = draft(
        {"src_ip": ADDRESS, "dst_ip": "10.20.0.17", "dst_port": 22, "src_port": 40000}
    )
    (rule,) = rules_of(drafts)
    assert rule["source_addr"] == f"[{ADDRESS}]"
    assert rule["dest_port"] == "22"
    (firewall,) = sigma_of(drafts)
    query = TextQueryTestBackend().convert_rule(firewall)
    assert query == [f'src_ip="{ADDRESS}" and dst_port=22']
    assert blocked(drafts) == {ADDRESS}


def test_cases_to_close_or_to_watch_get_the_watch_list_only():
    for level in ("close", "watch"):
        drafts = draft(level=level)
        assert set(drafts.files) == {"watch_list.csv", "REVIEW.txt"}
        assert watched(drafts) == {ADDRESS}
        assert f"decided {level}" in left_out(drafts)["rules"]
    for level in ("L1", "T2", "incident"):
        assert blocked(draft(level=level)) == {ADDRESS}


def test_many_ports_and_addresses_and_names_stay_bounded_and_the_rest_is_told():
    flows = [
        {
            "dst_ip": f"198.51.100.{n}",
            "dst_port": 9000 + n,
            "src_bytes": 1000 + n,
            "server_name": f"n{n}.evil.example",
        }
        for n in range(100)
    ]
    drafts = draft(*flows)
    largest = {f"198.51.100.{n}" for n in range(36, 100)}
    assert blocked(drafts) == largest
    assert left_out(drafts)["36 more"].startswith("of 100 destinations")
    assert watched(drafts) == largest | {"evil.example"}
    assert {r["dest_port"] for r in rules_of(drafts)} == {"any"}


# What is refused.


@pytest.mark.parametrize(
    ("remote", "why"),
    [
        ("10.9.9.9", "site's own"),
        ("192.168.7.7", "site's own"),
        ("224.0.0.251", "special use"),
        ("127.0.0.1", "special use"),
        ("0.0.0.0", "special use"),
        ("255.255.255.255", "special use"),
        ("100.64.3.3", "special use"),
        ("ff02::fb", "special use"),
        ("::", "special use"),
        ("fd00::7", "site's own"),
        ("::ffff:10.1.1.1", "site's own"),
        ("203.0.113.53", "resolver"),
        ("203.0.113.81", "proxy"),
        ("203.0.113.25", "relay"),
        ("203.0.113.1", "site's own"),
    ],
)
def test_own_and_special_addresses_are_in_no_draft(remote, why):
    policy = exfilml.Policy.parse(
        {
            "resolvers": ["203.0.113.53"],
            "proxies": ["203.0.113.80/30"],
            "mail_relays": ["203.0.113.25"],
            "nat": ["203.0.113.1"],
        }
    )
    drafts = draft({"dst_ip": remote}, policy=policy)
    assert blocked(drafts) == set()
    assert watched(drafts) == set()
    assert zeek_of(drafts) == []
    for rule in rules_of(drafts):
        assert rule["dest_addr"] == "any"
    told = left_out(drafts)
    assert any(why in reason for reason in told.values()), told


def known(others, *, new=True):
    return Fact(
        "destination.new" if new else "destination.known",
        "who else",
        {"hosts_of_the_site": others + (not new), "new_to_host": new},
    )


@pytest.mark.parametrize(
    ("flow", "more", "why"),
    [
        ({}, {"against": (known(41, new=False),)}, "41 other hosts of the site"),
        ({}, {"against": (known(5),)}, "5 other hosts of the site"),
        ({"app": "TLS.AmazonAWS"}, {}, "AmazonAWS"),
        ({"app": "Cloudflare"}, {}, "Cloudflare"),
        ({"server_name": "bucket.s3.amazonaws.com"}, {}, "Public Suffix List"),
        (
            {"server_name": "files.example"},
            {"techniques": (Technique("T1567.002", "To Cloud Storage", "so"),)},
            "T1567.002",
        ),
        (
            {},
            {
                "history": pd.DataFrame(
                    {
                        "by": ["host_place", "place"],
                        "hosts": pd.array([0, 12], "Int64"),
                        "flows": [0, 40],
                    }
                )
            },
            "12 other hosts of the site",
        ),
    ],
)
def test_what_others_need_is_never_blocked_and_alerts_name_the_host(flow, more, why):
    drafts = draft(flow, **more)
    assert blocked(drafts) == set()
    assert ADDRESS not in watched(drafts)
    assert ADDRESS not in {row["indicator"] for row in zeek_of(drafts)}
    assert why in left_out(drafts)[ADDRESS]
    by_address = next(r for r in rules_of(drafts) if ADDRESS in r["dest_addr"])
    assert by_address["source_addr"] == "[10.20.0.17]"
    assert "alert only" in by_address["msg"]
    firewall = next(r for r in sigma_of(drafts) if r.logsource.category == "firewall")
    (query,) = TextQueryTestBackend().convert_rule(firewall)
    assert 'src_ip="10.20.0.17"' in query


def test_few_others_are_told_and_the_tenant_of_a_host_keeps_its_name():
    drafts = draft(against=(known(3),))
    assert blocked(drafts) == {ADDRESS}
    assert "For others: 3 other hosts of the site used the place" in text_of(
        drafts, ".nft"
    )
    usual = dataclasses.replace(
        known(0, new=False),
        numbers={
            **known(0, new=False).numbers,
            "flows_of_host": 31.0,
            "days_of_host": 9,
        },
    )
    told = "the case's own host used it in 31 flows on 9 days of the baseline"
    assert told in text_of(draft(against=(usual,)), ".nft")
    assert "not known" in text_of(draft(), ".nft")
    assert "no other host of the site" in text_of(draft(against=(known(0),)), ".nft")
    assert watched(draft({"server_name": "thief.github.io"})) == {"thief.github.io"}
    # The suffix itself is everyone's.
    drafts = draft({"server_name": "github.io"})
    assert watched(drafts) == set()
    assert "hosts the sites of others" in left_out(drafts)["github.io"]


def flows_of(*rows):
    """A flows table of what differs from the flow that all cases begin with."""
    return exfilml.validate_flows(pd.DataFrame([{**cases.FLOW, **row} for row in rows]))


def drafted(triage, *rows, **more):
    """Draft with all flows: those of the cases, and others."""
    own = [case.flows[cases.FLOW.keys()].to_dict("records") for case in triage]
    flows = flows_of(*(row for part in own for row in part), *rows)
    return exfilml.draft_containment(triage, flows=flows, at=AT, **more)


def test_an_address_where_others_reach_other_names_is_shared():
    """As with a CDN: the place is new to all, its address is not."""
    triage = cases.triage(cases.case({"server_name": "drop.evil.example"}))
    other = {"src_ip": "10.20.0.44", "server_name": "www.school.example"}
    drafts = drafted(triage, other)
    assert blocked(drafts) == set()
    assert watched(drafts) == {"drop.evil.example"}
    told = left_out(drafts)[ADDRESS]
    assert told == "shared: 1 other host reaches another place there"
    # Nobody else, the same host, another address, or a remote side that scans.
    for row in (
        {},
        {"server_name": "www.school.example"},
        {**other, "dst_ip": "198.51.100.24"},
        {"src_ip": ADDRESS, "dst_ip": "10.20.0.44", "dst_port": 22},
    ):
        drafts = drafted(triage, row)
        assert blocked(drafts) == {ADDRESS}, row
        assert "; 0 other hosts used its addresses" in text_of(drafts, ".nft")
    assert "was not asked" in text_of(draft(), ".nft")


def test_an_address_of_many_hosts_is_shared_unless_they_are_victims_too():
    hosts = [f"10.20.0.{n}" for n in range(100, 105)]
    one = cases.triage(cases.case())
    assert blocked(drafted(one, *({"src_ip": host} for host in hosts[:4]))) == {ADDRESS}
    drafts = drafted(one, *({"src_ip": host} for host in hosts))
    assert blocked(drafts) == set()
    assert left_out(drafts)[ADDRESS] == "shared: 5 other hosts use it"
    victims = [cases.case({"src_ip": h}, name=f"v{n}") for n, h in enumerate(hosts)]
    drafts = drafted(cases.triage(cases.case(), *victims), case="00c0ffee17")
    assert blocked(drafts) == {ADDRESS}
    assert {name.partition(".")[0] for name in drafts.files} == {
        *("00c0ffee17", "watch_list", "REVIEW")
    }


def test_what_the_policy_approves_is_not_blocked_while_it_does():
    approval = {
        "network": "198.51.100.0/24",
        "service": "ssh",
        "payload": "ssh",
        "max_upload_per_day": "6 GB",
        "reason": "nightly backup",
        "owner": "dev team",
        "expires": pd.Timestamp("2026-03-05").date(),
    }
    policy = exfilml.Policy.parse({"approve": [approval]})
    drafts = draft(policy=policy)
    assert blocked(drafts) == set()
    assert "nightly backup" in left_out(drafts)[ADDRESS]
    assert blocked(draft(policy=policy, at="2026-03-06T00:00:00Z")) == {ADDRESS}
    del approval["network"]
    policy = exfilml.Policy.parse({"approve": [{**approval, "place": "evil.example"}]})
    drafts = draft({"server_name": "a.evil.example"}, policy=policy)
    assert (blocked(drafts), watched(drafts)) == (set(), set())


def test_what_one_case_knows_to_be_shared_holds_for_all():
    triage = cases.triage(
        cases.case(name="aaaa", against=(known(9),)), cases.case(name="bbbb")
    )
    drafts = exfilml.draft_containment(triage)
    assert not [name for name in drafts.files if name.endswith(".nft")]
    assert watched(drafts) == set()


@pytest.mark.parametrize(
    "name",
    [
        'evil.example"; sid:1; #',
        "evil.example\nalert ip any any -> any any (sid:2;)",
        "evil.example } table inet x {",
        "evil.example\tIntel::ADDR",
        "=cmd|' /C calc'!A0.example",
        "a b.example",
        "*.example",
        "com",
        "co.uk",
        "localhost",
        "printer.local",
        "srv.corp",
        "1.0.0.127.in-addr.arpa",
        "-a-.example",
        f"{'a' * 64}.example",
        ".".join(["a" * 60] * 5) + ".example",
        "\u202eelpmaxe.live",
        "evil.example\\",
        "fe80::1%}; drop",
    ],
)
def test_names_that_are_none_are_left_out_and_told(name):
    drafts = draft({"server_name": name})
    assert watched(drafts) == {ADDRESS}
    assert blocked(drafts) == {ADDRESS}
    assert len(rules_of(drafts)) == 2
    assert len(sigma_of(drafts)) == 1
    assert len(zeek_of(drafts)) == 1
    assert len(drafts.left_out) == 1
    for text in drafts.files.values():
        assert text.isascii()


def test_names_that_are_none_are_counted_where_there_are_many():
    drafts = draft(*({"server_name": f"n {n}"} for n in range(50)))
    assert left_out(drafts)["30 more that were asked for"] == "no host names (RFC 1123)"
    assert len(drafts.left_out) == 21


def test_the_zone_of_an_address_is_no_part_of_it():
    """Python takes any text after a percent sign for one."""
    drafts = draft({"server_name": '2001:db8::7%"; sid:7; } drop'})
    assert blocked(drafts) == watched(drafts) == {ADDRESS, "2001:db8::7"}
    assert all("sid:7" not in text for text in drafts.files.values())


def test_a_last_label_may_end_in_a_digit():
    drafts = draft({"server_name": "evil.x1"})
    assert {row["indicator_type"] for row in zeek_of(drafts)} == {
        *("Intel::ADDR", "Intel::DOMAIN")
    }


def test_international_names_stand_as_packets_carry_them():
    assert watched(draft({"server_name": "bücher.example"})) == {
        ADDRESS,
        "xn--bcher-kva.example",
    }


# The programs they are for.


def run_suricata(*arguments):
    return subprocess.run(
        ["suricata", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def check_with_suricata(text, folder):
    """Let Suricata test rules; it says what it does not understand."""
    path = folder / "draft.rules"
    path.write_text(text)
    done = run_suricata("-T", "-S", path, "-l", folder)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert not re.search(r"^[EW]: ", told, flags=re.MULTILINE), told


EVERY_KIND = (
    {},
    {"dst_ip": "2001:db8::5", "src_ip": "fd00::1", "dst_port": 9999},
    {"protocol": 17, "dst_port": 53, "src_bytes": 900},
    {"protocol": 17, "dst_port": 53, "server_name": "x.t.evil.example"},
    {"server_name": "drop.evil.example"},
    {"server_name": "evil.example", "dst_port": 25},
    {"protocol": 1, "dst_port": 0, "src_port": 0},
    {"protocol": 58, "dst_port": 0, "src_port": 0, "dst_ip": "2001:db8::6"},
    {"protocol": 132, "dst_port": 80},
    {"src_ip": "198.51.100.99", "dst_ip": "10.20.0.17", "dst_port": 22},
)


@has_suricata
def test_suricata_takes_every_kind_of_rule(tmp_path):
    texts = [text_of(draft(*EVERY_KIND), ".rules")]
    # Next to them, as a site that loads all drafts would have it.
    texts += [text_of(draft(flow, name=f"c{n}"), ".rules")
              for n, flow in enumerate(EVERY_KIND)]  # fmt: skip
    texts.append(text_of(draft({}, name="sh", against=(known(50),)), ".rules"))
    check_with_suricata("".join(texts), tmp_path)


def talk(client, server, sport, dport, data, answer=b"", word=b""):
    """A conversation over TCP, as packets; `word` answers each segment."""
    seq, ack = 1000, 5000
    packets = []

    def send(back, flags, payload=b""):
        nonlocal seq, ack
        ports = (dport, sport) if back else (sport, dport)
        numbers = (ack, seq) if back else (seq, ack)
        head = struct.pack(">HHIIBBHHH", *ports, *numbers, 5 << 4, flags, 8192, 0, 0)
        ends = (server, client) if back else (client, server)
        packets.append(ethernet(ip4(*ends, 6, head + payload)))
        moved = len(payload) + bool(flags & SYN)
        seq, ack = (seq, ack + moved) if back else (seq + moved, ack)

    send(back=False, flags=SYN)
    send(back=True, flags=SYN | ACK)
    send(back=False, flags=ACK)
    for at in range(0, len(data), 1400):
        send(back=False, flags=PSH | ACK, payload=data[at : at + 1400])
        send(back=True, flags=PSH | ACK, payload=word)
    if answer:
        send(back=True, flags=PSH | ACK, payload=answer)
        send(back=False, flags=ACK)
    return packets


def client_hello(name):
    """What OpenSSL sends first to a server of that name."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    side = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    return outgoing.read()


def query(name):
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\x01\0\x01"


def alerts(rules, frames, folder):
    """Let Suricata read packets; return the messages of its alerts by source."""
    (folder / "draft.rules").write_text(rules)
    write_pcap(folder / "t.pcap", ((1.7e9 + n / 100, f) for n, f in enumerate(frames)))
    done = run_suricata(
        *("-r", folder / "t.pcap", "-S", folder / "draft.rules", "-l", folder),
        *("-k", "none", "--runmode", "single"),
    )
    assert done.returncode == 0, done.stderr
    lines = (folder / "eve.json").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return {
        (e["src_ip"], e["alert"]["signature"].partition(": ")[2])
        for e in events
        if e["event_type"] == "alert"
    }


@has_suricata
def test_suricata_alerts_on_the_case_and_on_nothing_beside_it(tmp_path):
    drafts = draft(
        {},
        {"dst_port": 443, "server_name": "drop.evil.example", "src_bytes": 100},
        {
            "dst_ip": "10.20.0.53",
            "dst_port": 53,
            "protocol": 17,
            "server_name": "q.tunnel.example",
            "concealed": False,
        },
    )
    random.seed(7)
    raw = random.randbytes(20_000)
    web = b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 2\r\n\r\nhi"
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    host, other, site = "10.20.0.17", "10.20.0.44", "192.0.2.1"
    frames = [
        # The case again, and the same bytes to where nobody has been.
        *talk(other, ADDRESS, 4001, 8443, raw, word=raw[:50]),
        *talk(host, site, 4002, 8443, raw, word=raw[:50]),
        # Its names, from anyone.
        *talk(other, site, 4003, 443, client_hello("drop.evil.example")),
        *talk(other, site, 4004, 80, web % b"Drop.Evil.Example", ok),
        ethernet(
            ip4(other, "10.20.0.53", 17, udp(5000, 53, query("z9.tunnel.example")))
        ),
        # Neighbours: names that only end alike, another port, another host.
        *talk(other, site, 4005, 443, client_hello("notdrop.evil.example")),
        *talk(other, site, 4006, 80, web % b"www.drop.evil.example", ok),
        ethernet(
            ip4(other, "10.20.0.53", 17, udp(5001, 53, query("nottunnel.example")))
        ),
        *talk(other, ADDRESS, 4007, 22, b"SSH-2.0-OpenSSH_9.6\r\n"),
        *talk(other, site, 4008, 8443, raw, word=raw[:50]),
        *talk(host, site, 4009, 8443, client_hello("www.example.org")),
    ]
    assert alerts(text_of(drafts, ".rules"), frames, tmp_path) == {
        (other, f"tcp/8443 with {ADDRESS}"),
        (host, f"no known protocol on tcp/8443 from {host} (alert only)"),
        (other, "drop.evil.example asked for (tls.sni)"),
        (other, "drop.evil.example asked for (http.host)"),
        (other, "tunnel.example asked for (dns.query)"),
    }


def in_namespace(script, *arguments):
    """Run a script in a network namespace of its own, where nothing else is."""
    return subprocess.run(
        ["unshare", "-n", "sh", "-ec", script, "sh", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@has_nft
def test_nftables_takes_the_table_twice_and_gives_it_back(tmp_path):
    drafts = draft(*EVERY_KIND, at=pd.Timestamp.now(tz="UTC").isoformat())
    drafts.write(tmp_path)
    path = tmp_path / "00c0ffee17.nft"
    done = in_namespace(
        'nft -c -f "$1"; nft -f "$1"; nft -f "$1"; nft -j list ruleset; '
        "nft delete table inet exfilml_00c0ffee17; nft list ruleset",
        path,
    )
    assert done.returncode == 0, done.stderr
    listed, _, after = done.stdout.partition("\n")
    assert after == ""
    things = json.loads(listed)["nftables"]
    held = {
        element["elem"]["val"]: element["elem"]["timeout"]
        for thing in things
        for element in thing.get("set", {}).get("elem", [])
    }
    assert set(held) == blocked(drafts)
    assert set(held.values()) == {14 * 86400}


SEND = """
import socket, sys
found = []
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (address, 9))
        found.append("sent")
    except PermissionError:
        found.append("dropped")
print(*found)
"""


@has_nft
def test_nftables_drops_what_goes_there_until_it_expires(tmp_path):
    def sent(at, expires):
        drafts = draft({}, {"dst_ip": "2001:db8::5"}, at=at, expires=expires)
        drafts.write(tmp_path)
        ends = [ADDRESS, "2001:db8::5", "198.51.100.24", "2001:db8::6"]
        done = in_namespace(
            "ip link set lo up; "
            f"for a in {' '.join(ends)}; do ip addr add $a dev lo nodad; done; "
            'nft -f "$1"; "$2" -c "$3" ' + " ".join(ends),
            *(tmp_path / "00c0ffee17.nft", sys.executable, SEND),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    now = pd.Timestamp.now(tz="UTC")
    kept = ["dropped", "dropped", "sent", "sent"]
    assert sent(now.isoformat(), None) == kept
    # Loaded after its end, whatever the timeouts say, it drops nothing.
    old = now - pd.Timedelta(days=20)
    assert sent(old.isoformat(), None) == ["sent"] * 4


def test_sigma_rules_pass_the_validators_of_pysigma_and_have_lasting_ids():
    drafts = draft(*EVERY_KIND)
    rules = sigma_of(drafts)
    assert [rule.logsource.category for rule in rules] == [
        *("firewall", "firewall", "dns", "proxy")
    ]
    # What asks the network for lists of techniques cannot run here.
    offline = {
        name: check
        for name, check in validators.items()
        if not re.search("attack|atlas|d3_?fend|mitre|cve|tag", name)
    }
    validator = SigmaValidator(offline.values())
    issues = [
        issue
        for issue in validator.validate_rules(iter(rules))
        if issue.severity.name != "LOW"
    ]
    assert issues == []
    again = sigma_of(draft(*EVERY_KIND, at="2026-04-01T00:00:00Z"))
    assert [rule.id for rule in again] == [rule.id for rule in rules]
    assert len({rule.id for rule in rules}) == len(rules)
    other = sigma_of(draft(*EVERY_KIND, name="beef"))
    assert not {rule.id for rule in other} & {rule.id for rule in rules}
    for rule in rules:
        assert [str(tag) for tag in rule.tags] == [
            *("attack.exfiltration", "attack.t1048.001")
        ]


def test_arguments_against_are_the_false_positives_of_sigma():
    hostile = 'known: "x"\n- |{evil}: *a &b \\ \u2028 é'
    drafts = draft(against=(Fact("a", hostile), Fact("b", "seen for weeks")))
    (rule,) = sigma_of(drafts)
    assert rule.falsepositives == [plain(hostile), "seen for weeks"]


def test_the_watch_list_is_read_as_threat_intelligence(tmp_path):
    drafts = draft(
        {"server_name": "drop.evil.example"}, {"dst_ip": "2001:db8::5"}, level="watch"
    )
    drafts.write(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        intel = exfilml.read_intel(tmp_path / "watch_list.csv")
    table = intel.indicators.set_index("indicator").sort_index()
    assert table.index.tolist() == [ADDRESS, "2001:db8::5", "drop.evil.example"]
    assert set(table["reference"]) == {"00c0ffee17"}
    assert set(table["valid_until"]) == {pd.Timestamp("2026-03-19T08:00:00Z")}
    assert table["description"].str.startswith("decided watch: ").all()
    flows = cases.case({}, {"dst_ip": "192.0.2.9"}).flows
    assert intel.match(flows)["indicator"].tolist() == [ADDRESS]
    late = flows.assign(start=pd.Timestamp("2026-03-20T00:00:00Z"))
    assert len(intel.match(late)) == 0


# Hostile text, whatever it is.

TEXT = st.one_of(
    st.text(max_size=60),
    st.text(
        st.sampled_from(list("\";\\{}#|\n\r\t()[]'`$&*?: .-=a\u2028\x85\x00")),
        max_size=40,
    ),
    st.sampled_from(
        [
            'x";)\nalert ip any any -> any any (msg:"y"; sid:3;',
            "x\ntable inet filter { chain input { policy drop; } }",
            "evil.example\t-\t-\n8.8.8.8\tIntel::ADDR",
            "--- \nkey: [",
            "2001:db8::7%} drop; #",
        ]
    ),
)
NAME = st.one_of(
    TEXT,
    st.from_regex(
        r"[a-z0-9_]{1,8}(\.[a-z0-9-]{1,8}){0,3}\.(example|com|io)", fullmatch=True
    ),
)


def may_stand_for(text):
    """Return what a text may become at most, by the standards alone."""
    text = text.strip().lower()
    found = set()
    for bare in (text, re.sub(r":[0-9]{1,5}$", "", text)):
        with contextlib.suppress(ValueError):
            found.add(str(ipaddress.ip_address(bare.strip("[]").split("%")[0])))
        with contextlib.suppress(UnicodeError):
            name = bare.removesuffix(".").encode("idna").decode()
            found |= {name} if is_name(name) else set()
        name = bare.removesuffix(".")
        found |= {name} if is_name(name) else set()
    return found


def is_name(text):
    """Say, by the standard alone, whether a text can be a host name."""
    labels = text.split(".")
    return len(labels) > 1 and all(
        re.fullmatch(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?", part) and len(part) < 64
        for part in labels
    )


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    names=st.lists(NAME, min_size=1, max_size=4),
    said=TEXT,
    port=st.integers(0, 65535),
    protocol=st.sampled_from([1, 6, 17, 47]),
    level=st.sampled_from(["L1", "T2", "incident"]),
)
def test_drafts_hold_exactly_what_is_meant_whatever_names_say(
    names, said, port, protocol, level
):
    """No text of a packet adds, ends or changes a rule in any of the languages."""
    flows = [
        {
            "server_name": name,
            "app": said or None,
            "dst_port": port,
            "protocol": protocol,
        }
        for name in names
    ]
    built = cases.case(*flows, level=level, against=(Fact("a", said),))
    drafts = exfilml.draft_containment(cases.triage(built), at=AT)
    meant = {value for text in names for value in may_stand_for(text)}
    meant |= {registered_domain(value) or value for value in meant}
    rules = rules_of(drafts)
    contents = set()
    for rule in rules:
        options = options_of(rule)
        assert sum(o.startswith("sid:") for o in options) == 1
        assert rule["action"] == "alert"
        ends = rule["dest_addr"].strip("[]").split(",")
        assert set(ends) <= {"any", ADDRESS} | meant
        for option in options:
            if option.startswith("content:"):
                contents.add(json.loads(option.removeprefix("content:")).strip("."))
    assert contents <= meant
    assert blocked(drafts) <= {ADDRESS} | meant
    assert {row["indicator"] for row in zeek_of(drafts)} <= meant | {ADDRESS}
    assert watched(drafts) <= meant | {ADDRESS}
    # Nothing that is meant is lost either: below .example nothing is shared.
    good = [name for name in names if name.endswith(".example") and is_name(name)]
    for name in good:
        assert {name, registered_domain(name)} & contents, name
    assert len(sigma_of(drafts)) <= 6
    for rule in sigma_of(drafts):
        (text,) = TextQueryTestBackend().convert_rule(rule)
        assert text.isascii()
    for document in yaml.safe_load_all(text_of(drafts, ".yml")):
        assert list(document)[:4] == ["title", "id", "status", "description"]
        assert document["falsepositives"] == [plain(said)]
    for text in drafts.files.values():
        assert text.isascii()
        assert all(c in {"\t", "\n"} or c.isprintable() for c in text)


@has_suricata
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batch=st.lists(st.tuples(NAME, TEXT), min_size=12, max_size=12))
def test_suricata_takes_rules_whatever_names_say(tmp_path, batch):
    found = [
        cases.case({"server_name": name}, name=f"c{n}", against=(Fact("a", said),))
        for n, (name, said) in enumerate(batch)
    ]
    drafts = exfilml.draft_containment(cases.triage(*found), at=AT)
    texts = [t for name, t in drafts.files.items() if name.endswith(".rules")]
    check_with_suricata("".join(texts), tmp_path)


@has_nft
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=NAME, said=TEXT)
def test_nftables_takes_tables_whatever_names_say(tmp_path, name, said):
    flow = {"server_name": name}
    decision = cases.case(level="T2").decision
    rule = decision.rules[0]
    decision = type(decision)("T2", (type(rule)("r", "at least", "T2", said),))
    built = cases.case(flow, decision=decision)
    exfilml.draft_containment(cases.triage(built)).write(tmp_path)
    done = in_namespace('nft -c -f "$1"', tmp_path / "00c0ffee17.nft")
    assert done.returncode == 0, done.stderr


@given(text=TEXT)
def test_texts_stay_inside_their_quotes(text):
    assert yaml.safe_load(quoted_yaml(text)) == plain(text)
    line = f"alert ip any any -> any any (msg:{quoted_rule(text)}; sid:1;)"
    rule = suricata.update.rule.parse(line)
    assert (rule["sid"], len(options_of(rule))) == (1, 2)
    comment = commented([text, "b"])
    assert comment.count("\n") == 2
    assert not comment.split("\n")[0].endswith("\\")


# The sample of the lab.


@pytest.mark.slow
def test_drafts_of_the_sample_meet_its_cases_and_block_no_bystander(
    sample_model, tmp_path
):
    """Counted from the packets themselves, with dpkt and Suricata."""
    root = Path(__file__).parent.parent
    pcap = root / "datasets" / "sample" / "test.pcap"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exfilml.exceptions.ExfilmlWarning)
        detector = exfilml.load_model(sample_model)
        flows = exfilml.read_flows(pcap)
        triage = exfilml.triage_cases(detector, flows)
    drafts = exfilml.draft_containment(triage, flows=flows, home=detector.home_)
    talkers = {}
    with pcap.open("rb") as file:
        for _, frame in dpkt.pcap.UniversalReader(file):
            packet = dpkt.ethernet.Ethernet(frame).data
            if isinstance(packet, dpkt.ip.IP):
                ends = [str(ipaddress.ip_address(x)) for x in (packet.src, packet.dst)]
                for one, other in (ends, ends[::-1]):
                    talkers.setdefault(one, set()).add(other)
    suspects = {}
    for case in triage:
        if case.decision.level in {"L1", "T2", "incident"}:
            for remote in case.flows["remote_ip"].unique():
                suspects.setdefault(remote, set()).add(case.row["local_ip"])
    tables = {name: text for name, text in drafts.files.items() if name[-4:] == ".nft"}
    assert len(tables) >= 10
    for text in tables.values():
        for address in blocked(Drafts({"x.nft": text}, drafts.left_out)):
            assert len(talkers[address] - suspects[address]) < 5, address
    assert any(
        "another place" in r or "other places" in r for r in left_out(drafts).values()
    )
    if shutil.which("suricata") is None:
        return
    (tmp_path / "all.rules").write_text(
        "".join(text for name, text in drafts.files.items() if name[-6:] == ".rules")
    )
    done = run_suricata(
        *("-r", pcap, "-S", tmp_path / "all.rules", "-l", tmp_path, "-k", "none")
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "eve.json").read_text().splitlines()
    alerted = {
        event["alert"]["metadata"]["exfilml_case"][0]
        for event in map(json.loads, lines)
        if event["event_type"] == "alert"
    }
    assert alerted == {name[:-6] for name in drafts.files if name[-6:] == ".rules"}


# Ids, times, files.


def test_signature_ids_are_local_stable_and_never_twice():
    one = cases.case()
    many = cases.triage(
        *(
            dataclasses.replace(one, row={**one.row, "case": f"{n:010x}"})
            for n in range(60)
        )
    )
    drafts = exfilml.draft_containment(many, at=AT)
    texts = [t for name, t in drafts.files.items() if name.endswith(".rules")]
    sids = [int(s) for s in re.findall(r"sid:(\d+);", "".join(texts))]
    assert len(sids) == 120
    assert len(set(sids)) == 120
    assert min(sids) >= 1_100_000
    assert max(sids) <= 1_999_999
    alone = exfilml.draft_containment(many[7], at="2026-03-09T00:00:00Z")
    (text,) = [t for name, t in alone.files.items() if name.endswith(".rules")]
    assert set(map(int, re.findall(r"sid:(\d+);", text))) == set(sids[14:16])
    assert set(re.findall(r"rev:(\d+);", text)) == {"20260309"}


def test_of_two_rules_with_the_same_id_the_second_takes_the_next():
    taken = set()
    first = _sid("a", "b", taken)
    assert _sid("a", "b", taken) == first + 1
    assert _sid("a", "b", set(range(FIRST_SID, LAST_SID))) == LAST_SID


def test_drafts_of_a_triage_end_two_weeks_after_it_and_of_a_case_two_weeks_from_now():
    triage = cases.triage(cases.case(), made=pd.Timestamp("2026-03-10T00:00:00Z"))
    assert "expires 2026-03-24T00:00:00Z" in text_of(
        exfilml.draft_containment(triage), ".nft"
    )
    before = time.time()
    text = text_of(exfilml.draft_containment(cases.case()), ".nft")
    until = int(re.search(r"meta time >= (\d+)", text)[1])
    assert before - 1 <= until - 14 * 86400 <= time.time()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expires": "soon"}, "expires: got 'soon'"),
        ({"expires": "2026-03-01T00:00:00Z"}, "expected up to 366 days"),
        ({"expires": "2099-01-01T00:00:00Z"}, "expected up to 366 days"),
        ({"expires": pd.Timedelta(0)}, "expected up to 366 days"),
        ({"at": "noon"}, "at: got 'noon'"),
        ({"home": "10.0.0.0/99"}, "home network"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    triage = cases.triage(cases.case())
    with pytest.raises(OptionError, match=re.escape(message)):
        exfilml.draft_containment(triage, **{"at": AT, **options})


def test_what_is_no_triage_is_refused():
    with pytest.raises(OptionError, match="expected what exfilml"):
        exfilml.draft_containment([])
    with pytest.raises(OptionError, match="no name of a case"):
        exfilml.draft_containment(cases.case(name="../../etc/cron.d/x"))
    with pytest.raises(OptionError, match="case 'x': none of the 1 cases"):
        exfilml.draft_containment(cases.case(), case="x")
    with pytest.raises(FlowsError):
        exfilml.draft_containment(cases.case(), flows=pd.DataFrame({"a": [1]}))
    with pytest.raises(PolicyError):
        exfilml.draft_containment(cases.case(), policy="/nowhere/policy.toml")


def test_a_triage_without_cases_gives_an_empty_watch_list():
    drafts = exfilml.draft_containment(cases.triage())
    assert set(drafts.files) == {"watch_list.csv", "REVIEW.txt"}
    assert watched(drafts) == set()
    assert len(drafts.left_out) == 0


def test_drafts_are_written_whole_into_a_new_folder_or_not_at_all(tmp_path):
    drafts = draft()
    paths = drafts.write(tmp_path / "a" / "b")
    assert {path.name for path in paths} == set(drafts.files)
    for path in paths:
        assert path.read_text() == drafts.files[path.name]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="no folder for drafts"):
        drafts.write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_input_is_not_changed():
    triage = cases.triage(cases.case(*EVERY_KIND))
    before = json.dumps(triage.to_dict())
    exfilml.draft_containment(triage)
    assert json.dumps(triage.to_dict()) == before
