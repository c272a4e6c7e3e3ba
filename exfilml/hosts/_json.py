"""JSON records of a log: one a line, or one array of all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, Final

from exfilml.exceptions import SourceError
from exfilml.sources._lines import BadLines, Block, shown

# An array is one value: it has to fit into memory.
LARGEST_ARRAY: Final = 256 << 20


def records(
    blocks: Iterator[Block], bad: BadLines
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a log, and the number of the line that each stands on.

    Of an array that is not one record a line, the number in the array instead.

    Raises
    ------
    SourceError
        If an array is larger than `LARGEST_ARRAY`.
    """
    first = next(blocks, None)
    if first is None:
        return
    every = itertools.chain([first], blocks)
    if first.data.lstrip().startswith(b"["):
        yield from _of_array(every, bad)
        return
    for block in every:
        for line, data in enumerate(block.data.split(b"\n"), block.first):
            if not data.strip():
                continue
            bad.lines += 1
            try:
                record = json.loads(data.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                yield line, record
            else:
                bad.add(line, f"no JSON object: {shown(data)}")


def _of_array(
    blocks: Iterator[Block], bad: BadLines
) -> Iterator[tuple[int, dict[str, Any]]]:
    parts, size = [], 0
    for block in blocks:
        parts.append(block.data)
        size += len(block.data)
        if size > LARGEST_ARRAY:
            raise SourceError(
                f"one JSON array of more than {LARGEST_ARRAY >> 20} MiB; write one "
                "record a line instead, as `jq -c '.[]'` does."
            )
    try:
        array = json.loads(b"".join(parts).decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        bad.lines += 1
        bad.add(1, f"no JSON array: {str(error)[:60]}")
        return
    for at, record in enumerate(array, 1):
        bad.lines += 1
        if isinstance(record, dict):
            yield at, record
        else:
            bad.add(at, f"no JSON object: {shown(json.dumps(record))}")
