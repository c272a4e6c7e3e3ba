"""What Suricata's events other than flow know of a flow, until it ends.

Of flows that did not end yet, the last `MOST_NAMED` are remembered.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

MOST_NAMED: Final = 2_000_000
_TEXT: Final = pa.string()
_COUNT: Final = pa.int64()
# Column → where it stands, in order of preference.
_NAMES: Final = {
    "server_name": (
        ("tls", "sni"), ("quic", "sni"), ("http", "hostname"), ("dns", "rrname"),
    ),
    "fingerprint": (
        ("tls", "ja4"), ("tls", "ja3", "hash"), ("quic", "ja4"), ("quic", "ja3", "hash"),
        ("ssh", "client", "hassh", "hash"),
    ),
    "user_agent": (("http", "http_user_agent"),),
    "content_type": (("http", "http_content_type"),),
    "anomaly": (("anomaly", "event"),),
}  # fmt: skip
_KINDS: Final = pa.array(["tls", "quic", "http", "dns", "ssh", "anomaly"])


def field_of(table: pa.Table, *names: str) -> Any:
    """Return a field, or a field within fields."""
    values = table.column(names[0])
    for name in names[1:]:
        values = pc.struct_field(values, name)
    return values.combine_chunks()


class EventNames:
    """What other events said about flows that have not ended yet."""

    def __init__(self) -> None:
        self._known: pa.Table | None = None

    def learn(self, table: pa.Table) -> None:
        """Take names from a block's events, to which flows refer later."""
        kind = table.column("event_type")
        told = pc.and_(pc.is_in(kind, _KINDS), pc.is_valid(table.column("flow_id")))
        table = table.filter(told)
        if not table.num_rows:
            return
        columns = {"flow_id": table.column("flow_id")}
        for name, places in _NAMES.items():
            values = [field_of(table, *place) for place in places]
            if name == "server_name":
                queries = field_of(table, "dns", "queries")
                values.append(_first_question(queries))
            columns[name] = pc.coalesce(*values)
        parts = (
            [pa.table(columns)]
            if self._known is None
            else [self._known, pa.table(columns)]
        )
        first = pa.concat_tables(parts).group_by("flow_id", use_threads=False)
        known = first.aggregate([(name, "first") for name in _NAMES])
        known = known.rename_columns(
            [name.removesuffix("_first") for name in known.column_names]
        ).select(["flow_id", *_NAMES])
        self._known = known.slice(max(0, known.num_rows - MOST_NAMED)).combine_chunks()

    def of(self, flow_id: Any) -> dict[str, Any]:
        """Return the names of flows, and forget those."""
        n = len(flow_id)
        if self._known is None or not n:
            return {name: pa.nulls(n, _TEXT) for name in _NAMES}
        rows = pc.index_in(flow_id, self._known.column("flow_id").combine_chunks())
        names = {
            name: self._known.column(name).combine_chunks().take(rows)
            for name in _NAMES
        }
        open_ = pc.invert(pc.is_in(self._known.column("flow_id"), flow_id))
        self._known = self._known.filter(open_).combine_chunks()
        return names


def _first_question(queries: Any) -> Any:
    """Return the first name that each list of questions asks for."""
    count = pc.fill_null(pc.list_value_length(queries), 0)
    some = pc.greater(count, 0)
    starts = queries.filter(some)
    first = (
        pc.struct_field(pc.list_element(starts, 0), "rrname") if len(starts) else None
    )
    if first is None:
        return pa.nulls(len(queries), _TEXT)
    # Rows with questions, in order, and missing elsewhere.
    place = pc.if_else(some, pc.subtract(pc.cumulative_sum(some.cast(_COUNT)), 1), None)
    return first.take(place)
