"""Which flows meet which indicators, whatever the time.

What a text of a flow meets is looked up once for each distinct text; codes carry it to
the flows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.names import Names
from exfilml.schema import are_addresses
from exfilml.triage._merge import Book, Lists
from exfilml.triage._ranges import addresses_of
from exfilml.triage._suffixes import endings

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES: Final = ("server_name", "src_domain", "dst_domain")
"""Columns of the flows table that hold host names."""

# Positions of texts, and the indicators that they meet.
_Pairs = tuple[Any, Any]


def meetings(book: Book, flows: pd.DataFrame) -> pd.DataFrame:
    """Return each flow and indicator that meet, once.

    Parameters
    ----------
    book
        Indicators.
    flows
        A validated flows table.

    Returns
    -------
    pandas.DataFrame
        ``row`` and ``indicator``, positions, in their order, and ``matched``, the
        first column of the flow that met it.
    """
    ports = {s: flows[f"{s}_port"].to_numpy(np.int64) for s in ("src", "dst")}
    found = [_nothing()]
    for side in ("src", "dst"):
        names = Names.of(flows[f"{side}_ip"])
        pairs = _by_address(book, _texts(names))
        found.append(_on(book, f"{side}_ip", names, pairs, ports[side]))
    for column in NAMES:
        names = Names.of(flows[column])
        pairs, asked = _by_name(book, _texts(names))
        port = asked[names.codes]
        port = np.where(port > 0, port, ports["dst"])
        found.append(_on(book, column, names, pairs, port))
    names = Names.of(flows["fingerprint"])
    pairs = _by_print(book, _texts(names))
    found.append(_on(book, "fingerprint", names, pairs, ports["dst"]))
    met = pd.concat(found, ignore_index=True)
    return met.drop_duplicates(["row", "indicator"]).sort_values(
        ["row", "indicator"], ignore_index=True
    )


def _by_address(book: Book, texts_: Any) -> _Pairs:
    """Pair distinct addresses with indicators."""
    addresses = addresses_of(texts_)
    pairs = [_no_pairs()]
    for at, keys, ranges, lists in zip(
        addresses.at,
        addresses.keys,
        book.ranges,
        book.in_range,
        strict=True,
    ):
        rows, networks = ranges.holding(keys)
        members, of = lists.expand(networks)
        pairs.append((at[rows[of]], members))
    return _united(pairs)


def _by_name(book: Book, texts_: Any) -> tuple[_Pairs, NDArray[np.int64]]:
    """Pair distinct host names with indicators; also return the ports they carry.

    A name can be an address: that which a proxy was asked for.
    """
    hosts, ports = _hosts(texts_)
    # No other text is an address, and asking takes longer than all the rest.
    maybe = pc.match_substring_regex(hosts, r":|[0-9]\z")
    literal = np.flatnonzero(maybe.to_numpy(zero_copy_only=False))
    some = hosts.take(pa.array(literal)).to_numpy(zero_copy_only=False)
    literal = literal[are_addresses(some)]
    text, indicator = _by_address(book, hosts.take(pa.array(literal)))
    known, lists = book.texts[0], book.of_text[0]
    at, found, is_below = endings(hosts, known)
    members, of = lists.expand(found)
    wanted = np.where(is_below[of], book.below[members], book.alone[members])
    named = (at[of][wanted], members[wanted])
    # The entry of a missing name comes last and has no port.
    return _united([(literal[text], indicator), named]), np.append(ports, 0)


def _by_print(book: Book, texts_: Any) -> _Pairs:
    known, lists = book.texts[1], book.of_text[1]
    found = pc.index_in(pc.utf8_lower(texts_), value_set=known)
    codes = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    at = np.flatnonzero(codes >= 0)
    members, of = lists.expand(codes[at])
    return at[of], members


def _on(
    book: Book, column: str, names: Names, pairs: _Pairs, port: NDArray[np.int64]
) -> pd.DataFrame:
    """Return the rows of flows that hold the texts of pairs."""
    text, indicator = pairs
    lists = Lists.of(text, indicator, len(names.texts))
    counts = np.diff(lists.starts)
    rows = np.flatnonzero(counts[names.codes] > 0)
    # Codes below 0 stand for the last text, which is missing and met by nothing.
    members, at = lists.expand(names.codes[rows] % len(names.texts))
    row = rows[at]
    wanted = book.port[members]
    right = (wanted == 0) | (wanted == port[row])
    met = {"row": row[right], "indicator": members[right], "matched": column}
    return pd.DataFrame(met)


def _nothing() -> pd.DataFrame:
    none = np.zeros(0, dtype=np.int64)
    return pd.DataFrame(
        {"row": none, "indicator": none, "matched": pd.array([], "str")}
    )


def _no_pairs() -> _Pairs:
    return np.zeros(0, np.int64), np.zeros(0, np.int64)


def _united(pairs: list[_Pairs]) -> _Pairs:
    texts_, indicators = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return texts_, indicators


def _texts(names: Names) -> Any:
    """Return the distinct texts of a column, without the missing one."""
    return pa.array(names.texts[:-1], pa.string())


_HOST: Final = r"^\[?(?P<host>[^\[\]]*?)\]?(?P<port>:[0-9]{0,5})?\z"


def _hosts(names: Any) -> tuple[Any, NDArray[np.int64]]:
    """Take names apart into hosts, in lower case, and ports, 0 for none."""
    plain = pc.utf8_trim(pc.utf8_lower(pc.utf8_trim_whitespace(names)), ".")
    # An address of version 6 without brackets carries no port.
    bare = pc.match_substring_regex(plain, r"^[^\[\]:]*:[^\[\]:]*:")
    parts = pc.extract_regex(plain, _HOST)
    is_apart = pc.and_(pc.is_valid(parts), pc.invert(bare))
    host = pc.if_else(is_apart, pc.struct_field(parts, "host"), plain)
    digits = pc.utf8_ltrim(pc.struct_field(parts, "port"), ":")
    has_port = pc.and_(is_apart, pc.not_equal(pc.fill_null(digits, ""), ""))
    port = pc.if_else(has_port, digits, "0").cast(pa.int64())
    return pc.utf8_rtrim(host, "."), port.to_numpy(zero_copy_only=False)
