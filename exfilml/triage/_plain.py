"""Plain lists: one indicator a line.

Comments begin with ``#``, ``;`` or ``//``, also after an indicator and a space (as in
the DROP lists of Spamhaus). Lines of a hosts file (``0.0.0.0 name``) and of Adblock
filters (``||name^``) name a domain.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from exfilml.triage._claims import SCHEMA, same
from exfilml.triage._texts import Text

# RE2: no line of these can be an indicator of its own.
_COMMENT: Final = r"^(#|;|//|!).*|\s+(#|;|//).*"
_HOSTS: Final = r"^(0\.0\.0\.0|127\.0\.0\.1|::1?)\s+"
_ADBLOCK: Final = r"^\|\|([^/^$|]+)\^?(\$.*)?$"


def read(text: Text) -> pa.Table:
    """Return the claims of a list."""
    lines = pc.utf8_trim_whitespace(pa.array(text.text.split("\n"), pa.string()))
    lines = pc.replace_substring_regex(lines, _COMMENT, "")
    lines = pc.replace_substring_regex(lines, _HOSTS, "")
    if "||" in text.text:
        lines = pc.replace_substring_regex(lines, _ADBLOCK, r"\1")
    lines = pc.utf8_trim(pc.utf8_trim_whitespace(lines), "\"',")
    lines = lines.filter(pc.not_equal(lines, ""))
    columns = {
        name: same(None, len(lines), SCHEMA.field(name).type) for name in SCHEMA.names
    }
    columns["text"] = lines
    columns["source"] = same(text.name, len(lines), pa.string())
    return pa.table(columns, schema=SCHEMA)
