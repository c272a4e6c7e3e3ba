"""Find data theft over an alternative protocol (MITRE ATT&CK T1048.001).

Names are imported when they are first used: ``import exfilml`` alone loads no
pandas, scikit-learn, numba or nfstream. Where IPython runs, it learns to show the
library's objects then (`exfilml.report`).
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from exfilml.blindspots import blindspots as blindspots
    from exfilml.carve import carve_packets as carve_packets
    from exfilml.carve import describe_streams as describe_streams
    from exfilml.carve import find_opaque as find_opaque
    from exfilml.carve import follow_streams as follow_streams
    from exfilml.carve import packet_filters as packet_filters
    from exfilml.carve import write_streams as write_streams
    from exfilml.containment import draft_containment as draft_containment
    from exfilml.detector import Detector as Detector
    from exfilml.drift import drift as drift
    from exfilml.evaluation import evaluate as evaluate
    from exfilml.feedback import Feedback as Feedback
    from exfilml.feedback import rerank as rerank
    from exfilml.forest import BaselineForest as BaselineForest
    from exfilml.handover import read_triage as read_triage
    from exfilml.history import History as History
    from exfilml.hosts import add_processes as add_processes
    from exfilml.hosts import case_context as case_context
    from exfilml.hosts import read_host_events as read_host_events
    from exfilml.inject import Transfer as Transfer
    from exfilml.inject import inject as inject
    from exfilml.persistence import load_model as load_model
    from exfilml.persistence import load_state as load_state
    from exfilml.persistence import save_model as save_model
    from exfilml.persistence import save_state as save_state
    from exfilml.policy import Policy as Policy
    from exfilml.quarantine import clean_baseline as clean_baseline
    from exfilml.ranking import flows_of_case as flows_of_case
    from exfilml.ranking import rank_cases as rank_cases
    from exfilml.ranking import rank_flows as rank_flows
    from exfilml.ranking import score_flows as score_flows
    from exfilml.report.display import show as show
    from exfilml.report.explanation import explain as explain
    from exfilml.report.page.report import RankingReport as RankingReport
    from exfilml.report.plots import plot_calibration as plot_calibration
    from exfilml.report.plots import plot_scores as plot_scores
    from exfilml.report.plots import plot_volumes as plot_volumes
    from exfilml.schema import apply_labels as apply_labels
    from exfilml.schema import duplicate_flows as duplicate_flows
    from exfilml.schema import validate_flows as validate_flows
    from exfilml.sources import iter_flows as iter_flows
    from exfilml.sources import read_flows as read_flows
    from exfilml.sources import read_labels as read_labels
    from exfilml.sources import write_flows as write_flows
    from exfilml.state import State as State
    from exfilml.triage.assets import Assets as Assets
    from exfilml.triage.assets import read_assets as read_assets
    from exfilml.triage.decrypt import try_keys as try_keys
    from exfilml.triage.intel import Intel as Intel
    from exfilml.triage.intel import read_intel as read_intel
    from exfilml.triage.playbook import triage_cases as triage_cases

_HOME = {
    "Assets": "triage.assets",
    "BaselineForest": "forest",
    "Detector": "detector",
    "Feedback": "feedback",
    "History": "history",
    "Intel": "triage.intel",
    "Policy": "policy",
    "RankingReport": "report.page.report",
    "State": "state",
    "Transfer": "inject",
    "add_processes": "hosts",
    "apply_labels": "schema",
    "blindspots": "blindspots",
    "carve_packets": "carve",
    "case_context": "hosts",
    "clean_baseline": "quarantine",
    "describe_streams": "carve",
    "draft_containment": "containment",
    "drift": "drift",
    "duplicate_flows": "schema",
    "evaluate": "evaluation",
    "explain": "report.explanation",
    "find_opaque": "carve",
    "flows_of_case": "ranking",
    "follow_streams": "carve",
    "inject": "inject",
    "iter_flows": "sources",
    "load_model": "persistence",
    "load_state": "persistence",
    "packet_filters": "carve",
    "plot_calibration": "report.plots",
    "plot_scores": "report.plots",
    "plot_volumes": "report.plots",
    "rank_cases": "ranking",
    "rank_flows": "ranking",
    "read_assets": "triage.assets",
    "read_flows": "sources",
    "read_host_events": "hosts",
    "read_intel": "triage.intel",
    "read_labels": "sources",
    "read_triage": "handover",
    "rerank": "feedback",
    "save_model": "persistence",
    "save_state": "persistence",
    "score_flows": "ranking",
    "show": "report.display",
    "triage_cases": "triage.playbook",
    "try_keys": "triage.decrypt",
    "validate_flows": "schema",
    "write_flows": "sources",
    "write_streams": "carve",
}

__all__ = [
    "Assets",
    "BaselineForest",
    "Detector",
    "Feedback",
    "History",
    "Intel",
    "Policy",
    "RankingReport",
    "State",
    "Transfer",
    "add_processes",
    "apply_labels",
    "blindspots",
    "carve_packets",
    "case_context",
    "clean_baseline",
    "describe_streams",
    "draft_containment",
    "drift",
    "duplicate_flows",
    "evaluate",
    "explain",
    "find_opaque",
    "flows_of_case",
    "follow_streams",
    "inject",
    "iter_flows",
    "load_model",
    "load_state",
    "packet_filters",
    "plot_calibration",
    "plot_scores",
    "plot_volumes",
    "rank_cases",
    "rank_flows",
    "read_assets",
    "read_flows",
    "read_host_events",
    "read_intel",
    "read_labels",
    "read_triage",
    "rerank",
    "save_model",
    "save_state",
    "score_flows",
    "show",
    "triage_cases",
    "try_keys",
    "validate_flows",
    "write_flows",
    "write_streams",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        if "IPython" in sys.modules:
            importlib.import_module("exfilml.report").register()
        value = getattr(importlib.import_module(f"exfilml.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'exfilml' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _FrontDoor(ModuleType):
    """The package, where a room does not hide the function that has its name.

    Importing ``exfilml.inject`` would otherwise put the module in the place of
    `exfilml.inject`, the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _FrontDoor
