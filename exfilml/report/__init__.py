"""What people look at: pictures, rich display in notebooks, explanations.

Lower rooms know no HTML. Where IPython runs, `register` teaches it to show their
objects with `exfilml.show`; nothing of them is loaded for that.
"""

from __future__ import annotations

import sys
from typing import Final

# By module and name, so that none is imported before it is shown.
SHOWN: Final = (
    ("exfilml.detector", "Detector"),
    ("exfilml.evaluation", "Evaluation"),
    ("exfilml.drift", "Drift"),
    ("exfilml.blindspots", "Blindspots"),
    ("exfilml.triage.case", "Triage"),
    ("exfilml.triage.case", "Case"),
)

# Shells that know; a user may well teach them otherwise.
_taught: list[object] = []


def register() -> bool:
    """Have IPython, if it runs, show the library's objects as HTML; say whether so."""
    ipython = sys.modules.get("IPython")
    # The module may still be loading.
    find = getattr(ipython, "get_ipython", None)
    shell = None if find is None else find()
    formatter = getattr(shell, "display_formatter", None)
    if formatter is None:
        return False
    if any(shell is other for other in _taught):
        return True
    _taught.append(shell)
    for module, name in SHOWN:
        formatter.formatters["text/html"].for_type_by_name(module, name, _as_html)
    return True


def _as_html(thing: object) -> str:
    from exfilml.report.display import show

    return show(thing)._repr_html_()
