"""The triage itself, to be read again by `exfilml.read_triage`; or a line a case."""

from __future__ import annotations

import json

from exfilml.handover._told import Given, json_line, whole
from exfilml.triage.case import Triage


def text(triage: Triage, _given: Given) -> str:
    """Return the whole triage."""
    return json.dumps(whole(triage.to_dict()), allow_nan=False, indent=1) + "\n"


def lines(triage: Triage, _given: Given) -> str:
    """Return one line for each case."""
    return "".join(json_line(case.to_dict()) + "\n" for case in triage)
