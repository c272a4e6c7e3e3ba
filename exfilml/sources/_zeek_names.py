"""What Zeek's other logs know about a connection: names, fingerprints, types.

They lie beside conn.log and name connections by the same ``uid``: ssl.log and quic.log
the server's name and JA3, JA4 (where the packages that add them run), http.log host,
user agent and the type of what was sent, dns.log the question, ssh.log HASSH, ftp.log
that it was FTP, smtp.log the recipient's domain (`_mail`) and the mail program,
files.log the type of uploads and the names of files, which ftp.log gives to what went
over data connections (by the file's ``fuid``). Rotated logs are joined by the rest of
their names (``ssl.10:00:00-11:00:00.log.gz``), and with the rotation before, because
a handshake is logged when it is seen and a connection when it ends. Only names of one
log and the rotation before it are held in memory, of each at most `MOST_ROWS` rows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from exfilml.sources._lines import BadLines, blocks
from exfilml.sources._mail import recipient_domains
from exfilml.sources._packed import open_plain, plain_head
from exfilml.sources._zeek_log import Wanted, fields_of, read_blocks

MOST_ROWS: Final = 5_000_000
TOO_MANY: Final = "whose names are too many"
UNREAD: Final = "with companion logs that could not be read in full"
_HEAD_BYTES: Final = 1 << 16
_PACKED: Final = re.compile(r"\.(gz|bz2|xz|zst)$")
_LIST: Final = pa.list_(pa.string())
_LISTS: Final = frozenset({"orig_mime_types", "orig_filenames", "rcptto"})
# The domain of mail that goes to nobody but the sender's own.
_ANY: Final = "any_domain"

# Log → its fields → columns of the flows table. The first log, and within it the first
# field, that knows a column fills it.
LOGS: Final[Mapping[str, Mapping[str, str]]] = {
    "smtp": {"mailfrom": "", "rcptto": "server_name", "user_agent": "user_agent"},
    "ssl": {"server_name": "server_name", "ja4": "fingerprint", "ja3": "fingerprint"},
    "quic": {"server_name": "server_name"},
    "http": {
        "host": "server_name",
        "user_agent": "user_agent",
        "orig_mime_types": "content_type",
        "orig_filenames": "src_declared",
    },
    "dns": {"query": "server_name"},
    "ssh": {"hassh": "fingerprint"},
    # Before files.log, for which it knows names.
    "ftp": {"fuid": "", "arg": ""},
    "files": {"mime_type": "content_type", "filename": "declared", "fuid": ""},
}
_APPS: Final = {
    "ssl": "TLS", "quic": "QUIC", "http": "HTTP", "dns": "DNS", "ssh": "SSH",
    "ftp": "FTP_CONTROL", "smtp": "SMTP",
}  # fmt: skip
_IDS: Final = ("uid", "conn_uids")


@dataclass(slots=True)
class Companions:
    """The logs beside one conn.log.

    Attributes
    ----------
    path
        Of the conn.log.
    losses
        What was lost of them, as pairs of a kind and a sentence.
    """

    path: Path
    losses: list[tuple[str, str]] = field(default_factory=list)
    _names: dict[str, pa.Table] | None = None
    # What ftp.log calls files: identifiers and names.
    _transfers: list[pa.Table] = field(default_factory=list)

    def enrich(self, columns: dict[str, Any]) -> None:
        """Fill columns of the flows table from what the other logs know."""
        if self._names is None:
            self._names = {
                kind: table for kind in LOGS if (table := self._read(kind)) is not None
            }
        if self._names:
            columns["app"] = columns["app"].cast(pa.string())
        for kind, table in self._names.items():
            rows = pc.index_in(columns["uid"], table.column("uid").combine_chunks())
            for name in table.column_names[1:]:
                known = table.column(name).combine_chunks().take(rows)
                columns[name] = (
                    pc.coalesce(columns[name], known) if name in columns else known
                )
            if kind in _APPS:
                seen = pc.if_else(
                    pc.is_valid(rows), _APPS[kind], pa.scalar(None, pa.string())
                )
                columns["app"] = pc.coalesce(columns["app"], seen)

    def _read(self, kind: str) -> pa.Table | None:
        """Read the logs of a kind that lie beside; one row for each connection."""
        parts: list[pa.Table] = []
        for path in beside(self.path, kind):
            parts += self._rows(path, kind)
        if not parts:
            return None
        table = pa.concat_tables(parts, promote_options="default")
        ours = [name for name in table.column_names if name != "uid"]
        table = table.filter(pc.is_valid(table.column("uid")))
        first = table.group_by("uid", use_threads=False).aggregate(
            [(name, "first") for name in ours]
        )
        table = first.rename_columns(
            [name.removesuffix("_first") for name in first.column_names]
        ).select(["uid", *ours])
        if _ANY not in ours:
            return table
        # Mail to others is told before mail to the sender's own.
        names = pc.coalesce(table.column("server_name"), table.column(_ANY))
        at = table.column_names.index("server_name")
        return table.set_column(at, "server_name", names).drop_columns([_ANY])

    def _rows(self, path: Path, kind: str) -> Iterator[pa.Table]:
        bad = BadLines()
        try:
            known = fields_of(plain_head(path, _HEAD_BYTES))
            identity = next((name for name in _IDS if name in known), None)
            if identity is None:
                return
            total = 0
            wanted = _wanted(kind, identity)
            with open_plain(path, lambda _: None) as plain:
                for records, _ in read_blocks(blocks(plain, bad), wanted, bad):
                    total += records.table.num_rows
                    if total > MOST_ROWS:
                        text = f"{path}: only {MOST_ROWS:,} rows are used for names"
                        self.losses.append((TOO_MANY, text))
                        return
                    if kind == "ftp":
                        self._transfers += _transfers(records.table)
                    yield _chosen(records.table, kind, identity, self._transfers)
        except OSError as error:
            text = f"{path}: cannot be read: {error.strerror or error}"
            self.losses.append((UNREAD, text))
            return
        for what in (plain.damage, str(bad)):
            if what:
                self.losses.append((UNREAD, f"{path}: {what}"))


def _wanted(kind: str, identity: str) -> Wanted:
    types = {name: _LIST if name in _LISTS else pa.string() for name in LOGS[kind]}
    if kind == "files":
        types["is_orig"] = pa.bool_()
    types[identity] = pa.string() if identity == "uid" else _LIST
    return Wanted(types, frozenset({identity}))


def _chosen(
    table: pa.Table, kind: str, identity: str, transfers: list[pa.Table]
) -> pa.Table:
    """Choose what goes to the flows table, under its names."""
    columns: dict[str, Any] = {"uid": _first(table.column(identity))}
    if kind == "files":
        found = pa.table(columns | _of_files(table, transfers))
        # Most files are certificates and pages that came in.
        told = (pc.is_valid(found.column(name)) for name in found.column_names[1:])
        return found.filter(functools.reduce(pc.or_, told))
    if kind == "smtp":
        columns |= _of_mail(table)
    for theirs, ours in LOGS[kind].items():
        if theirs not in table.column_names or not ours or theirs == "rcptto":
            continue
        values = table.column(theirs)
        if theirs in _LISTS:
            values = _first(values)
        elif theirs == "host":
            # A port is no part of the name.
            values = pc.replace_substring_regex(values, r":[0-9]+$", "")
        columns[ours] = (
            pc.coalesce(columns[ours], values) if ours in columns else values
        )
    return pa.table(columns)


def _text(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    return table.column(name).combine_chunks()


def _of_mail(table: pa.Table) -> dict[str, Any]:
    listed = _text(table, "rcptto").to_pylist()
    foreign, first = recipient_domains(
        _text(table, "mailfrom").to_pylist(),
        [None if text is None else text.split(",") for text in listed],
    )
    return {"server_name": foreign, _ANY: first}


def _base(paths: Any) -> Any:
    """Return what follows the last slash, as captures keep it."""
    return pc.utf8_lower(pc.replace_substring_regex(paths, r"^.*[/\\]", ""))


def _transfers(table: pa.Table) -> list[pa.Table]:
    names = _base(_text(table, "arg"))
    found = pa.table({"fuid": _text(table, "fuid"), "name": names})
    named = pc.and_(pc.is_valid(found.column("fuid")), pc.not_equal(names, ""))
    return [found.filter(pc.fill_null(named, False))]


def _of_files(table: pa.Table, transfers: list[pa.Table]) -> dict[str, Any]:
    """Give the type of what the initiator sent, and the names of files each way."""
    name = _base(_text(table, "filename"))
    if transfers:
        known = pa.concat_tables(transfers).combine_chunks()
        if known.num_rows:
            rows = pc.index_in(_text(table, "fuid"), known.column("fuid"))
            name = pc.coalesce(name, known.column("name").combine_chunks().take(rows))
    # Without the direction a file is taken for an upload.
    up = pa.repeat(pa.scalar(True), table.num_rows)
    if "is_orig" in table.column_names:
        sent = table.column("is_orig").combine_chunks()
        is_flag = pa.types.is_boolean(sent.type)
        up = pc.fill_null(sent if is_flag else pc.equal(sent, "T"), False)
    unsaid = pa.scalar(None, pa.string())
    return {
        "content_type": pc.if_else(up, _text(table, "mime_type"), unsaid),
        "src_declared": pc.if_else(up, name, unsaid),
        "dst_declared": pc.if_else(up, unsaid, name),
    }


def _first(listed: Any) -> Any:
    """Return the first of texts that are joined with commas."""
    first = pc.replace_substring_regex(listed, ",.*$", "")
    return pc.if_else(pc.equal(first, ""), pa.scalar(None, pa.string()), first)


def beside(path: Path, kind: str) -> list[Path]:
    """Find the logs of a kind that belong to a conn.log: its own, and the one before."""
    plain = _PACKED.sub("", path.name)
    if "conn" not in plain:
        return []
    before, _, after = plain.partition("conn")
    wanted = f"{before}{kind}{after}"
    pattern = re.compile(re.escape(before + kind) + r"[.:_\-0-9A-Za-z]*")
    try:
        names = sorted(p.name for p in path.parent.iterdir() if p.is_file())
    except OSError:
        return []
    logs = {_PACKED.sub("", name): name for name in names if pattern.fullmatch(name)}
    if wanted not in logs:
        # A copy that was named anew lies beside logs that were not.
        return [path.parent / f"{kind}.log"] if f"{kind}.log" in names else []
    ordered = sorted(logs)
    at = ordered.index(wanted)
    rotated = at > 0 and re.search(r"[0-9]", wanted[len(before + kind) :]) is not None
    earlier = [ordered[at - 1]] if rotated and _digits(ordered[at - 1], wanted) else []
    return [path.parent / logs[name] for name in [*earlier, wanted]]


def _digits(one: str, other: str) -> bool:
    """Say whether two names differ in numbers alone."""
    return re.sub(r"[0-9]+", "0", one) == re.sub(r"[0-9]+", "0", other)
