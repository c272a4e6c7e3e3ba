"""What Suricata's events other than flow know of a flow, until it ends.

Of flows that did not end yet, the last `MOST_NAMED` are remembered.

A ``fileinfo`` event has the sender of the file for its source, whoever opened the
connection (Suricata's output-json-file.c writes the direction of the file), and so the
name belongs to that side, in the column that captures fill with what is declared. For
a POST without a name Suricata gives the path that was asked for, which is no name of
what was sent. ``ftp_data`` events name what a data connection carried and not which
way: to the side that sent more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._mail import recipient_domains

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
HTTP_FIELDS: Final = (
    *("hostname", "http_user_agent", "http_content_type", "http_method", "url"),
)
_KINDS: Final = pa.array(
    ["tls", "quic", "http", "dns", "ssh", "anomaly", "fileinfo", "ftp_data", "smtp"]
)
# The domain of mail that goes to nobody but the sender's own, and what FTP carried.
_ASIDE: Final = ("any_domain", "transfer")


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
        self._files: pa.Table | None = None

    def learn(self, table: pa.Table) -> None:
        """Take names from a block's events, to which flows refer later."""
        kind = table.column("event_type")
        told = pc.and_(pc.is_in(kind, _KINDS), pc.is_valid(table.column("flow_id")))
        table = table.filter(told)
        if not table.num_rows:
            return
        columns = {"flow_id": table.column("flow_id")}
        foreign, anyone = _mail(table)
        for name, places in _NAMES.items():
            values = [field_of(table, *place) for place in places]
            if name == "server_name":
                queries = field_of(table, "dns", "queries")
                values += [_first_question(queries), foreign]
            columns[name] = pc.coalesce(*values)
        columns["any_domain"] = anyone
        columns["transfer"] = _base(field_of(table, "ftp_data", "filename"))
        self._known = _first_of(self._known, pa.table(columns), "flow_id")
        files = _files(table)
        if files.num_rows:
            self._files = _first_of(self._files, files, "sender")

    def of(self, flow_id: Any, flows: Mapping[str, Any]) -> dict[str, Any]:
        """Return the names of flows, and forget those."""
        n = len(flow_id)
        names = {name: pa.nulls(n, _TEXT) for name in _NAMES}
        if self._known is None or not n:
            return names
        rows = pc.index_in(flow_id, self._known.column("flow_id").combine_chunks())
        known = {
            name: self._known.column(name).combine_chunks().take(rows)
            for name in (*_NAMES, *_ASIDE)
        }
        names = {name: known[name] for name in _NAMES}
        names["server_name"] = pc.coalesce(names["server_name"], known["any_domain"])
        self._known = _still_open(self._known, flow_id)
        up = pc.greater_equal(flows["src_bytes"], flows["dst_bytes"])
        unsaid = pa.scalar(None, _TEXT)
        transfer = known["transfer"]
        names["src_declared"] = pc.if_else(up, transfer, unsaid)
        names["dst_declared"] = pc.if_else(up, unsaid, transfer)
        if self._files is not None:
            senders = self._files.column("sender").combine_chunks()
            for way in ("src", "dst"):
                sender = _sender(flow_id, flows[f"{way}_ip"], flows[f"{way}_port"])
                at = pc.index_in(sender, senders)
                name = self._files.column("name").combine_chunks().take(at)
                column = f"{way}_declared"
                names[column] = pc.coalesce(name, names[column])
            self._files = _still_open(self._files, flow_id)
        return names


def _first_of(before: pa.Table | None, table: pa.Table, key: str) -> pa.Table:
    """Return the first value that each key has in each column, the last keys alone."""
    parts = [table] if before is None else [before, table]
    names = [name for name in table.column_names if name != key]
    first = pa.concat_tables(parts).group_by(key, use_threads=False)
    known = first.aggregate([(name, "first") for name in names])
    known = known.rename_columns(
        [name.removesuffix("_first") for name in known.column_names]
    ).select([key, *names])
    return known.slice(max(0, known.num_rows - MOST_NAMED)).combine_chunks()


def _still_open(table: pa.Table, flow_id: Any) -> pa.Table:
    ended = pc.is_in(table.column("flow_id"), flow_id)
    return table.filter(pc.invert(ended)).combine_chunks()


def _sender(flow_id: Any, address: Any, port: Any) -> Any:
    """Name the side of a flow that sends."""
    texts = (values.cast(_TEXT) for values in (flow_id, address, port))
    return pc.binary_join_element_wise(*texts, " ")


def _base(paths: Any) -> Any:
    """Return what follows the last slash, as captures keep it."""
    plain = pc.replace_substring_regex(paths, r"[?#].*$", "")
    base = pc.utf8_lower(pc.replace_substring_regex(plain, r"^.*[/\\]", ""))
    return pc.if_else(pc.equal(base, ""), pa.scalar(None, _TEXT), base)


def _mail(table: pa.Table) -> tuple[Any, Any]:
    """Give the domains that mail goes to."""
    recipients = field_of(table, "smtp", "rcpt_to")
    if recipients.null_count == len(recipients):
        return pa.nulls(len(recipients), _TEXT), pa.nulls(len(recipients), _TEXT)
    senders = field_of(table, "smtp", "mail_from")
    return recipient_domains(senders.to_pylist(), recipients.to_pylist())


def _files(table: pa.Table) -> pa.Table:
    """Give the files that events name, with who sent them."""
    table = table.filter(pc.is_valid(field_of(table, "fileinfo", "filename")))
    name = field_of(table, "fileinfo", "filename")
    posted = pc.equal(field_of(table, "http", "http_method"), "POST")
    asked = pc.replace_substring_regex(field_of(table, "http", "url"), r"\?.*$", "")
    script = pc.and_(posted, pc.equal(name, asked))
    name = pc.if_else(pc.fill_null(script, False), pa.scalar(None, _TEXT), _base(name))
    flow_id = field_of(table, "flow_id")
    port = pc.fill_null(field_of(table, "src_port"), 0)
    sender = _sender(flow_id, field_of(table, "src_ip"), port)
    files = pa.table({"sender": sender, "flow_id": flow_id, "name": name})
    return files.filter(pc.and_(pc.is_valid(sender), pc.is_valid(name)))


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
