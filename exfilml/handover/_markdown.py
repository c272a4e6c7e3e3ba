r"""Text of any origin in Markdown: what it says is shown, and never acted upon.

Source: CommonMark 0.31.2, https://spec.commonmark.org/0.31.2/: any ASCII punctuation
may be escaped (2.4), a code span ends with as many backticks as it began with (6.1), a
fence with at least as many (4.5). GitHub's tables and automatic links:
https://github.github.com/gfm/.

>>> text("<b> [here](http://203.0.113.9)")
'\\<b\\> \\[here\\](http\\://203.0.113.9)'
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from exfilml.export import printable

# Parentheses mean nothing where no bracket stands before them.
_ACTIVE: Final = re.compile(r"[\\`*_{}\[\]<>#|~!&$^]")
# What GitHub makes a link of without being asked: schemes, www and mail addresses.
_LINKED: Final = re.compile(
    r":(?=//)|(?<=www)\.|(?<=mailto):|(?<=xmpp):", re.IGNORECASE
)
_AT: Final = re.compile("@+")
_TICKS: Final = re.compile("`+")


def text(given: str) -> str:
    """Return text that stands in a line, after something that is no white space."""
    escaped = _ACTIVE.sub(r"\\\g<0>", printable(given))
    # An @ in a code span calls nobody and is no mail address.
    return _AT.sub(r"`\g<0>`", _LINKED.sub(r"\\\g<0>", escaped))


def code(given: object) -> str:
    """Return a value as a code span, also in a table."""
    # A table takes the backslash away before the span is read, other places do not.
    told = printable(str(given)).replace("|", "\\x7c")
    longest = max(map(len, _TICKS.findall(told)), default=0)
    fence = "`" * (longest + 1)
    # A space at each end is taken away again, unless there is nothing else.
    pad = " " if told[:1] in {"`", " "} or told[-1:] in {"`", " "} else ""
    return f"{fence}{pad}{told}{pad}{fence}" if told.strip() else "—"


def fenced(given: str, language: str = "sh") -> str:
    """Return a block of code; of lines that could end it, none does."""
    told = "\n".join(printable(line) for line in given.split("\n"))
    longest = max(map(len, _TICKS.findall(told)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{told}\n{fence}"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    names = list(header)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def bullets(items: Iterable[str]) -> str:
    """Return a list of items that are Markdown already and begin with text."""
    return "\n".join(f"- {item}" for item in items)


def link(label: str, address: str) -> str:
    """Return a link to an address of ours."""
    return f"[{text(label)}](<{quote(address, safe=':/')}>)"
