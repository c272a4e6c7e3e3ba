"""Lines of Squid's access.log, native or like a web server's, as Arrow columns.

Fields are known by their places, those that are added to a format by their labels
(`LABELS`), which are read from the end of the line: what stands before may come from
whoever was asked, as the content type does.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._lines import BadLines, Block, shown
from exfilml.sources._requests import known, whole_numbers

LABELS: Final = ("up", "port", "proxy", "server", "sni", "agent")
_TEXT: Final = pa.string()
_SECONDS: Final = r"^[0-9]{1,11}\.[0-9]{1,6}$"
_ELAPSED: Final = r"^-?[0-9]{1,12}$"
_AGENT: Final = r'"(?P<agent>(?:[^"\\]|\\.)*)" [A-Z_]+:[A-Z_0-9]+ '
_FIELDS: Final = 10


def read_lines(block: Block, bad: BadLines) -> pa.Table:
    """Take the lines of a block apart; count those that are none of Squid's."""
    texts = pa.array(block.data.decode("utf-8", "replace").split("\n"), _TEXT)
    texts = pc.ascii_trim_whitespace(texts)
    lines = pa.array(np.arange(block.first, block.first + len(texts)))
    full = pc.not_equal(texts, "")
    texts, lines = texts.filter(full), lines.filter(full)
    bad.lines += len(texts)
    counted = pc.match_substring(texts, " up=")
    _count_bad(texts, lines, pc.invert(counted), "without up=%>st", bad)
    texts, lines = texts.filter(counted), lines.filter(counted)
    native = pc.match_substring_regex(texts, r"^[0-9]{1,11}\.[0-9]{1,6} ")
    quoted = pc.and_not(pc.greater(pc.count_substring(texts, '"'), 1), native)
    tables = [
        _native(texts.filter(pc.invert(quoted)), lines.filter(pc.invert(quoted)), bad),
        _like_httpd(texts.filter(quoted), lines.filter(quoted), bad),
    ]
    return pa.concat_tables(tables).combine_chunks()


def _count_bad(texts: Any, lines: Any, wrong: Any, reason: str, bad: BadLines) -> None:
    count = pc.sum(wrong).as_py() or 0
    if count:
        at = pc.index(wrong, value=True).as_py()
        bad.add(lines[at].as_py(), f"{reason}: {shown(texts[at].as_py())}", count)


class _Words:
    """Words of each line, counted from its beginning or its end."""

    def __init__(self, texts: Any) -> None:
        split = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(texts))
        self.count = pc.list_value_length(split).to_numpy()
        self._flat = split.flatten()
        self._ends = np.cumsum(self.count)

    def __getitem__(self, at: int) -> Any:
        place = self._ends + (at - self.count if at >= 0 else at)
        there = (at < self.count) if at >= 0 else (-at <= self.count)
        return self._flat.take(pa.array(place, mask=~there))

    def labelled(self) -> dict[str, Any]:
        """Read labelled words from the end backwards, to the first that has no label.

        What stands before can come from whoever was asked, labels and all.
        """
        found = {label: pa.nulls(len(self.count), _TEXT) for label in LABELS}
        pattern = f"^({'|'.join(LABELS)})="
        still = pa.repeat(pa.scalar(True), len(self.count))
        for back in range(1, len(LABELS) + 1):
            word = self[-back]
            is_label = pc.fill_null(pc.match_substring_regex(word, pattern), False)
            still = pc.and_(still, is_label)
            if not pc.any(still).as_py():
                break
            for label, before in found.items():
                mine = pc.and_(still, pc.starts_with(word, f"{label}="))
                if not pc.any(mine).as_py():
                    continue
                value = pc.utf8_slice_codeunits(word, len(label) + 1)
                value = pc.if_else(mine, value, pa.scalar(None, _TEXT))
                found[label] = pc.coalesce(before, value)
        return {label: known(values) for label, values in found.items()}


def _native(texts: Any, lines: Any, bad: BadLines) -> pa.Table:
    words = _Words(texts)
    short = pa.array(words.count <= _FIELDS)
    _count_bad(texts, lines, short, f"fewer than {_FIELDS + 1} fields", bad)
    time, elapsed = words[0], words[1]
    end = _decimal(time, _SECONDS, 1e6)
    lasted = _decimal(elapsed, _ELAPSED, 1e3)
    return _records(
        words.labelled(),
        {
            "end": end,
            "start": pc.subtract(end, pc.max_element_wise(lasted, 0)),
            "client": words[2],
            "result": words[3],
            "down": whole_numbers(words[4]),
            "method": words[5],
            "url": words[6],
            "server": pc.replace_substring_regex(words[8], "^[^/]*/", ""),
            "type": known(pc.replace_substring_regex(words[9], ";.*$", "")),
            "line": lines,
        },
    ).filter(pc.invert(short))


def _decimal(texts: Any, pattern: str, factor: float) -> Any:
    right = pc.match_substring_regex(texts, pattern)
    numbers = pc.if_else(right, texts, pa.scalar(None, _TEXT)).cast(pa.float64())
    return pc.round(pc.multiply(numbers, factor)).cast(pa.int64())


def _like_httpd(texts: Any, lines: Any, bad: BadLines) -> pa.Table:
    split = pc.split_pattern(texts, '"')
    count = pc.list_value_length(split).to_numpy()
    flat, ends = split.flatten(), np.cumsum(count)

    def part(place: Any) -> Any:
        return flat.take(pa.array(place))

    begins = ends - count
    ending = part(ends - 1)
    asked = _Words(part(begins + 1))
    said = _Words(part(begins + 2))
    stamps = pc.struct_field(
        pc.extract_regex(part(begins), r"\[(?P<at>[^\]]+)\]"), "at"
    )
    read = pd.to_datetime(
        pd.Series(stamps.to_pylist(), dtype="str"),
        errors="coerce",
        format="%d/%b/%Y:%H:%M:%S %z",
        utc=True,
    )
    end = pa.array(read.dt.as_unit("us"), pa.timestamp("us", "UTC")).cast(pa.int64())
    result = pc.struct_field(
        pc.extract_regex(ending, r"(?:^| )(?P<how>[A-Z_]+):[A-Z_0-9]+ "), "how"
    )
    agents = pc.struct_field(pc.extract_regex(texts, _AGENT), "agent")
    odd = pc.is_null(end)
    _count_bad(texts, lines, odd, "a time that is none", bad)
    return _records(
        _Words(ending).labelled(),
        {
            "end": end,
            "start": end,
            "client": _Words(part(begins))[0],
            "result": result,
            "down": pc.coalesce(whole_numbers(said[1]), 0),
            "method": asked[0],
            "url": asked[1],
            "server": pa.nulls(len(texts), _TEXT),
            "type": pa.nulls(len(texts), _TEXT),
            "agent": pc.replace_substring(known(agents), '\\"', '"'),
            "line": lines,
        },
    ).filter(pc.invert(odd))


def _records(labels: dict[str, Any], columns: dict[str, Any]) -> pa.Table:
    agents = labels["agent"].dictionary_encode()
    plain = pa.array([unquote(text) for text in agents.dictionary.to_pylist()], _TEXT)
    agent = plain.take(agents.indices)
    columns |= {
        "agent": pc.coalesce(columns.get("agent", agent), agent),
        "up": whole_numbers(labels["up"]),
        "client_port": whole_numbers(labels["port"]),
        "proxy": labels["proxy"],
        "sni": labels["sni"],
        "server": pc.coalesce(labels["server"], columns["server"]),
    }
    return pa.table({name: columns[name] for name in sorted(columns)})
