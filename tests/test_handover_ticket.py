"""The ticket in Markdown: what it says, and that no text in it acts."""

from __future__ import annotations

import re

import cases
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_handover import HOSTILE, PLACE, full, plain, triage

from exfilml.export import printable
from exfilml.handover import to_text
from exfilml.handover._markdown import code, fenced, table, text
from exfilml.triage.case import Fact, Step

# Beginnings of everything that Markdown knows, and what ends it.
ACTIVE = (
    *HOSTILE,
    "[a](http://203.0.113.9)",
    "![a](http://203.0.113.9/x.png)",
    "<http://203.0.113.9>",
    "<!-- ",
    "<script>alert(1)</script>",
    "&lt;b&gt; &#60;",
    "```\n# no\n```",
    "````",
    "`a`` b`",
    "a@b @@ `@` @",
    "a | b \\| c \\\\| d |",
    "| --- | --- |",
    "# head #",
    "- item",
    "1. item",
    "> quote",
    "---",
    "===",
    "    indented",
    "*a* _b_ **c** __d__ ~~e~~ $f$",
    "[a]: http://203.0.113.9",
    "[^1] [x] ",
    "\\",
    " ",
    "a  ",
    "www.example.net https://example.net mailto:a@example.net",
    "\u2028# no\u2029# no",
)
PIECES = st.sampled_from([*"`|\\[]()<>#*_-+=!&~@:\n\r\t ", *ACTIVE])
TEXTS = st.one_of(
    st.sampled_from(ACTIVE),
    st.lists(PIECES, min_size=1, max_size=8).map("".join),
    st.text(min_size=1, max_size=30),
)


def parsers():
    """Give parsers of CommonMark with tables, which take HTML and which do not."""
    return [
        MarkdownIt("commonmark", {"html": html}).enable(["table", "strikethrough"])
        for html in (True, False)
    ]


def shape(tokens):
    """Return what a document is made of, without what its texts say."""
    # An @ stands in a code span of its own.
    said = {"text", "code_inline", "text_special"}
    return [
        (
            token.type,
            token.tag,
            [
                (c.type, c.attrGet("href"))
                for c in token.children or ()
                if c.type not in said
            ],
        )
        for token in tokens
    ]


def said(tokens):
    """Return the text of each line, cell or paragraph."""
    return [
        "".join(c.content for c in token.children)
        for token in tokens
        if token.type == "inline"
    ]


@settings(max_examples=20, deadline=None)
@given(given=TEXTS)
@example(given="`@` a@@b ``")
def test_no_text_acts(given):
    """Whatever was sent, the ticket has the parts that it has of plain words."""
    hostile = to_text(triage(full(text=given)), "markdown", digests={given: "0" * 64})
    calm = to_text(triage(full(text="as seen")), "markdown", digests={"a": "0" * 64})
    for parser in parsers():
        tokens = parser.parse(hostile)
        assert shape(tokens) == shape(parser.parse(calm))
        shown = said(tokens)
        told = printable(given)
        # The last of a line; spaces at its end are no text.
        assert f"T1999 Not yet known here: {told}".rstrip() in shown
        assert f"Step 2: {told}".rstrip() in shown
        if told.strip():
            assert told.replace("|", "\\x7c") in shown  # the name's cell


@settings(max_examples=150, deadline=None)
@given(given=TEXTS)
def test_text_and_code_show_what_was_given(given):
    for parser in parsers():
        for shown in (text(given), code(given)):
            inline = parser.parseInline(f"a {shown} b")[0]
            kinds = {child.type for child in inline.children}
            assert kinds <= {"text", "code_inline", "text_special"}
        (line,) = said(parser.parse(f"a {text(given)} b"))
        assert line == f"a {printable(given)} b"
        cells = said(parser.parse(table(["n", "m"], [[text(given), code(given)]])))
        assert cells[:2] == ["n", "m"]
        # Spaces at the ends of a cell are no text.
        assert cells[2] == printable(given).strip()
        if printable(given).strip():
            assert cells[3] == printable(given).replace("|", "\\x7c")


@settings(max_examples=100, deadline=None)
@given(given=TEXTS)
def test_nothing_ends_a_block_of_code(given):
    for parser in parsers():
        tokens = parser.parse(fenced(given) + "\n\nafter")
        assert [t.type for t in tokens] == [
            *("fence", "paragraph_open", "inline", "paragraph_close")
        ]
        lines = [printable(line) for line in given.split("\n")]
        assert tokens[0].content == "\n".join(lines) + "\n"


def test_what_others_make_links_of_is_none():
    """GitHub links schemes, www and mail addresses, and calls people by an @."""
    shown = text("see http://a.example www.b.example a@c.example mailto:d @all")
    assert re.search(r"(?<!\\)://|www\.|mailto:", shown) is None
    assert re.findall("[^`]@|@[^`]", shown) == []


def test_the_ticket_says_what_an_analyst_decides_by():
    case = cases.case(
        {"server_name": PLACE},
        {"src_port": 50124, "src_bytes": 1_000},
        against=(Fact("backup.known", "a backup that ran for weeks"),),
        asset={"known": True, "hostname": "pc17", "owner": "Ann", "department": "HR"},
        next_steps=(Step("Keep the packets.", "exfilml carve 00c0ffee17 a.pcap"),),
    )
    ticket = to_text(
        triage(case), "markdown", tlp="amber", digests={"day.pcap": "ab" * 32}
    )
    for line in (
        "# Case 00c0ffee17: 10.20.0.17 to example.net",
        "- **Handling:** TLP:AMBER",
        "- **Decision:** **T2**",
        "- **Sent:** 5,201,000 IP bytes",
        "- **at least T2** by `built by hand`: a test asks for it",
        "- **not visible**: Any match of threat intelligence?",
        "  - because no indicators were given",
        "- `backup.known`: a backup that ran for weeks",
        "- **Department:** HR",
        "```sh\nexfilml carve 00c0ffee17 a.pcap\n```",
        "- **Host:** `pc17`",
        "- **Period:** 2026-03-04 22:10:00 UTC to 2026-03-04 22:10:12 UTC",
        "- **Data paths:** `tcp/8443` outbound (2 flows)",
        "- **Not visible:** process; Any match of threat intelligence?",
        f"- **Integrity:** `day.pcap` SHA-256 `{'ab' * 32}`",
        "- **From the first flow to this triage:** 9.8 hours",
    ):
        assert line in ticket
    assert "[T1048.001](<https://attack.mitre.org/techniques/T1048/001>)" in ticket


def test_cases_come_before_incidents_and_an_overview_before_both():
    one, two = full(name="00c0ffee17"), full(name="00c0ffee18")
    headings = [
        line
        for line in to_text(triage(one, two), "markdown").split("\n")
        if line[:2] == "# "
    ]
    assert headings == [
        "# 2 cases",
        "# Case 00c0ffee17: 10.20.0.17 to example.net",
        "# Case 00c0ffee18: 10.20.0.17 to example.net",
        "# Incident i00c0ffee17",
    ]
    alone = to_text(triage(one), "markdown")
    assert alone.startswith("# Case 00c0ffee17")


def test_the_overview_is_a_row_for_each_case():
    one, two = full(name="00c0ffee17"), full(name="00c0ffee18")
    (parser, _) = parsers()
    cells = said(parser.parse(to_text(triage(one, two), "markdown")))
    at = cells.index("Incident") + 1
    assert [cells[at], cells[at + 8]] == ["00c0ffee17", "00c0ffee18"]
    assert cells[at + 1] == one.decision.level
    assert cells[at + 3] == str(one.row["local_ip"])
    assert cells[at + 4] == str(one.row["place"])


def test_the_table_of_flows_is_that_of_the_flows():
    flows = [{"src_port": 1024 + n, "src_bytes": 100 * n + 1} for n in range(5)]
    case = cases.case(*flows)
    (parser, _) = parsers()
    cells = said(parser.parse(to_text(cases.triage(case), "markdown")))
    at = cells.index("Flow") + 1
    rows = [cells[at + 9 * n : at + 9 * (n + 1)] for n in range(5)]
    assert [int(row[5].replace(",", "")) for row in rows] == [
        flow["src_bytes"] for flow in flows
    ]
    assert [row[1] for row in rows] == [f"10.20.0.17:{1024 + n}" for n in range(5)]


def test_what_is_not_known_is_said_to_be():
    ticket = to_text(cases.triage(plain()), "markdown")
    for line in (
        "The assets given do not name this host, or none were given.",
        "No indicator was met, or none was given.",
        "Nothing is known, or no history was given.",
        "No technique was named.",
        "No step was named.",
        "Nothing that was visible argues against it.",
        "- **Owner:** not known",
        "- **Integrity:** no digest of the captures or logs was given",
    ):
        assert line in ticket
    assert "`10.20.0.17`" in ticket
    assert ":0`" not in ticket


@pytest.mark.parametrize("known", [False, True])
def test_a_host_that_no_asset_names_is_said_so(known):
    nothing = dict.fromkeys(("owner", "hostname"), pd.NA)
    case = cases.case({}, asset={"known": known, **nothing, "source": "cmdb.csv"})
    ticket = to_text(cases.triage(case), "markdown")
    assert ("do not name this host" in ticket) is not known
    assert ("**Said by:** cmdb.csv" in ticket) is known


def test_an_empty_triage_is_a_ticket_that_says_so():
    assert to_text(cases.triage(), "markdown") == "No case was handed over.\n"
