"""Text that cannot end the place it stands in: comments, quoted strings.

Server names, and sentences that hold them, come from whoever sent the packets. What
is drafted for other programs is ASCII on one line: all else is escaped first.
"""

from __future__ import annotations

import re
from typing import Final

from exfilml.export import printable

LONGEST: Final = 600
# A backslash before the end of a line would join the next one to it.
_LAST: Final = re.compile(r"\\$")


def plain(text: str, longest: int = LONGEST) -> str:
    r"""Return one line of printable ASCII.

    >>> plain("a\nb\u202e\u00e9")
    'a\\nb\\u202e\\xe9'
    """
    line = printable(text).encode("ascii", "backslashreplace").decode("ascii")
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def commented(lines: list[str]) -> str:
    """Return lines as comments that begin with a hash."""
    return "".join(
        _LAST.sub(r"\\ .", f"# {plain(line)}".rstrip()) + "\n" for line in lines
    )


def quoted_yaml(text: str) -> str:
    r"""Return a text in double quotes as YAML has them (YAML 1.2.2, section 7.3.1).

    >>> quoted_yaml('say "no": #1\n')
    '"say \\"no\\": #1\\\\n"'
    """
    line = plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{line}"'


def quoted_rule(text: str) -> str:
    r"""Return a text in double quotes as rules of Suricata have them.

    Escaped are the semicolon, the quote and the backslash
    (https://docs.suricata.io/en/latest/rules/meta.html#msg-message).

    >>> quoted_rule('a; "b"')
    '"a\\; \\"b\\""'
    """
    line = re.sub(r'([\\";])', r"\\\1", plain(text))
    return f'"{line}"'
