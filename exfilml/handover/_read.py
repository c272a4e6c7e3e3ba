"""A triage from its file: read, checked, and only then built.

The file is JSON of the format ``exfilml-triage-1``, as `Triage.to_dict` gives it. It
may have lain anywhere since, so everything that the formats build on is checked, and an
error names the place: ``cases[3].decision.level``.

One file because it is the shape of `exfilml.triage.case`, read back.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from exfilml.exceptions import FlowsError, TriageFileError
from exfilml.handover._node import DamagedError, Node
from exfilml.handover._told import whole
from exfilml.schema import validate_flows
from exfilml.triage.case import (
    FORMAT,
    LEVELS,
    NO,
    NOT_VISIBLE,
    YES,
    Answer,
    Case,
    Decision,
    Fact,
    Incident,
    Rule,
    Step,
    Technique,
    Triage,
)

# Python keeps JSON in about ten times the space of its text.
LARGEST_FILE: Final = 512 << 20
_FAMILY: Final = FORMAT.rpartition("-")[0]
_TECHNIQUE: Final = re.compile(r"T\d{4}(\.\d{3})?", re.ASCII)


def read_triage(path: str | os.PathLike[str]) -> Triage:
    """Read a triage that `exfilml.handover.write` wrote as JSON.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Triage
        As it was written. Its flows are a flows table, in which what a case does not
        tell of is missing.

    Raises
    ------
    TriageFileError
        If the file cannot be read, is no triage, is damaged, or was written by a newer
        version.
    """
    data = _load(Path(path))
    form = data.get("format") if isinstance(data, dict) else None
    if form != FORMAT:
        newer = isinstance(form, str) and form.startswith(f"{_FAMILY}-")
        raise TriageFileError(
            f"{path}: format {form!r} is of another version of exfilml, expected "
            f"{FORMAT!r}; read it with the version that wrote it, or newer."
            if newer
            else f"{path}: no triage, expected JSON with format {FORMAT!r}, as "
            "exfilml triage --format json writes it."
        )
    try:
        return _triage(Node(data, ""))
    except DamagedError as error:
        raise TriageFileError(
            f"{path}: damaged: {error}. Write the triage anew."
        ) from error


def _load(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise TriageFileError(f"{path}: is no regular file.")
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TriageFileError(f"{path}: cannot be read: {reason}.") from error
    if len(content) > LARGEST_FILE:
        raise TriageFileError(
            f"{path}: more than {LARGEST_FILE >> 20} MiB; write fewer cases (--top)."
        )
    try:
        return whole(json.loads(content, parse_constant=_refuse))
    except (ValueError, RecursionError) as error:
        raise TriageFileError(
            f"{path}: no JSON: {error}; expected a triage of format {FORMAT!r}, whole."
        ) from error


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no value of JSON")


def _triage(data: Node) -> Triage:
    return Triage(
        cases=tuple(_case(case) for case in data["cases"].items()),
        incidents=tuple(
            Incident(
                name=one["name"].text(),
                cases=tuple(name.text() for name in one["cases"].items()),
                links=_facts(one["links"]),
                scope=_facts(one["scope"]),
            )
            for one in data["incidents"].items()
        ),
        about={n: _ABOUT.get(n, Node.scalar)(v) for n, v in data["about"].named()},
    )


def _case(data: Node) -> Case:
    decision = data["decision"]
    row = {n: _ROW.get(n, Node.scalar)(v) for n, v in data.named() if n not in _PARTS}
    for name in _ROW:
        if name not in row:
            data[name]  # Says where it is missing.
    if row["last_seen"] < row["first_seen"]:
        raise data["last_seen"].fail("a time that is not before first_seen")
    return Case(
        row=row,
        flows=_flows(data["flow_table"]),
        contributions={n: v.number() for n, v in data["contributions"].named()},
        indicators=_answers(data["indicators"]),
        questions=_answers(data["questions"]),
        against=_facts(data["against"]),
        decision=Decision(
            decision["level"].one_of(*LEVELS),
            tuple(_rule(rule) for rule in decision["rules"].some()),
        ),
        techniques=tuple(
            Technique(
                one["id"].match(_TECHNIQUE, "a technique such as T1048.001"),
                one["name"].text(),
                one["reason"].text(),
            )
            for one in data["techniques"].items()
        ),
        asset={n: _ASSET.get(n, Node.scalar)(v) for n, v in data["asset"].named()},
        intel=_table(data["intel"], _MATCH),
        history=_table(data["history"], {}, labels=False),
        scope=_facts(data["scope"]),
        incident=data["incident"].text(),
        next_steps=tuple(
            Step(one["text"].text(), one["command"].text())
            for one in data["next_steps"].items()
        ),
    )


def _rule(data: Node) -> Rule:
    return Rule(
        data["name"].text(),
        data["effect"].text(),
        data["level"].one_of(*LEVELS),
        data["text"].text(),
    )


def _answers(data: Node) -> tuple[Answer, ...]:
    return tuple(
        Answer(
            one["name"].text(),
            one["question"].text(),
            one["answer"].one_of(YES, NO, NOT_VISIBLE),
            _facts(one["facts"]),
        )
        for one in data.items()
    )


def _facts(data: Node) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            one["name"].text(),
            one["text"].text(),
            {name: value.scalar() for name, value in one["numbers"].named()},
            tuple(label.scalar() for label in one["flows"].items()),
            one["source"].text(),
        )
        for one in data.items()
    )


def _table(
    data: Node, kinds: dict[str, Callable[[Node], Any]], *, labels: bool = True
) -> pd.DataFrame:
    """Return a table of what the records say, labelled by their flows."""
    rows = []
    for one in data.items():
        # Columns that the formats build on are there, if only with nothing in them.
        for name in kinds:
            one[name]
        rows.append({n: kinds.get(n, Node.scalar)(v) for n, v in one.named()})
    index = [row.pop("flow", None) for row in rows] if labels else None
    columns = list(dict.fromkeys(name for row in rows for name in row))
    values = {n: pd.Series([r.get(n) for r in rows], dtype=object) for n in columns}
    table = pd.DataFrame(values)
    if index is not None:
        table.index = pd.Index(index, tupleize_cols=False)
    return table


def _flows(data: Node) -> pd.DataFrame:
    table = _table(data, _FLOW)
    if not len(table):
        raise data.fail("at least one flow")
    table["start"] = pd.DatetimeIndex(table["start"]).as_unit("us")
    oriented = {n: t for n, t in _ORIENTED.items() if n in table}
    table = table.astype(oriented).infer_objects()
    # Bytes are told as up and down, which is who sent them.
    ends = ["src_bytes", "dst_bytes"]
    sent = table[["up_bytes", "down_bytes"]].fillna(0).to_numpy(dtype="int64")
    mine = (table["local_ip"] == table["src_ip"]).to_numpy(dtype=bool)[:, None]
    table[ends] = np.where(mine, sent, sent[:, ::-1])
    try:
        checked = validate_flows(table)
    except FlowsError as error:
        problem = " ".join(str(error).split())
        raise DamagedError(f"{data.where}: {problem}") from error
    # As the flows of any case, with all columns of a flows table.
    return checked


def _maybe(kind: Callable[[Node], Any]) -> Callable[[Node], Any]:
    return lambda value: kind(value) if value.is_there else None


def _bytes(value: Node) -> float:
    # Sums of a case can exceed what one flow may have; 5.0 stays 5.0.
    value.whole(1 << 62)
    return value.number()


# What a case's flows have beside the columns of the flows table.
_ORIENTED: Final = {
    **dict.fromkeys(("local_ip", "remote_ip", "place", "service", "direction"), "str"),
    "suspicion": "float64",
    "concealed": "boolean",
}
_TEXT: Final = _maybe(Node.text)
_PARTS: Final = frozenset(
    {"decision", "indicators", "questions", "against", "contributions", "techniques"}
) | {"asset", "intel", "history", "scope", "incident", "next_steps", "flow_table"}
_ROW: Final[dict[str, Callable[[Node], Any]]] = {
    "rank": lambda value: value.whole(1 << 62),
    "suspicion": _maybe(Node.number),
    "p_value": _maybe(Node.number),
    "alert": Node.flag,
    "case": Node.text,
    "local_ip": Node.address,
    "place": _TEXT,
    "direction": _TEXT,
    "src_ip": Node.address,
    "dst_ip": Node.address,
    "dst_port": _maybe(lambda value: value.whole(65535)),
    "protocol": lambda value: value.whole(255),
    "app": _TEXT,
    "server_name": _TEXT,
    "flows": lambda value: value.whole(1 << 62),
    "first_seen": Node.time,
    "last_seen": Node.time,
    "up_bytes": _maybe(_bytes),
    "down_bytes": _maybe(_bytes),
    "not_visible": _TEXT,
    "reasons": _TEXT,
}
_ABOUT: Final[dict[str, Callable[[Node], Any]]] = {
    **dict.fromkeys(("first", "last", "made"), _maybe(Node.time)),
    **dict.fromkeys(("baseline_first", "baseline_last"), _maybe(Node.time)),
    "version": _TEXT,
}
_ASSET: Final[dict[str, Callable[[Node], Any]]] = {
    "known": _maybe(Node.flag),
    **dict.fromkeys(("by", "entry", "hostname", "owner", "department"), _TEXT),
    **dict.fromkeys(("role", "criticality", "inherited", "source"), _TEXT),
}
_MATCH: Final[dict[str, Callable[[Node], Any]]] = {
    **dict.fromkeys(("indicator", "kind", "matched", "value", "source"), _TEXT),
    **dict.fromkeys(("tlp", "reference", "description"), _TEXT),
    "confidence": _maybe(Node.number),
    "port": _maybe(lambda value: value.whole(65535)),
    "valid_from": _maybe(Node.time),
    "valid_until": _maybe(Node.time),
}
_FLOW: Final[dict[str, Callable[[Node], Any]]] = {
    "start": Node.time,
    "duration_s": _maybe(Node.number),
    "src_ip": Node.address,
    "dst_ip": Node.address,
    "local_ip": Node.address,
    "remote_ip": Node.address,
    "src_port": lambda value: value.whole(65535),
    "dst_port": lambda value: value.whole(65535),
    "protocol": lambda value: value.whole(255),
    **dict.fromkeys(("app", "server_name", "fingerprint", "user_agent"), _TEXT),
    **dict.fromkeys(("uid", "place", "service", "direction"), _TEXT),
    **dict.fromkeys(("via", "process", "src_domain", "dst_domain"), _TEXT),
    **dict.fromkeys(("up_bytes", "down_bytes", "hidden_bytes"), _maybe(_bytes)),
    "suspicion": _maybe(Node.number),
    "concealed": _maybe(Node.flag),
}
