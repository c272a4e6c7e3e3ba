"""Pictures of what a detector makes of flows: volumes, scores, calibration.

A result that an analysis returns draws itself (`Evaluation.plot`, `Blindspots.plot`,
`Drift.plot`, `Explanation.plot`); what is drawn from a detector and flows is a function
here. All take ``ax=None`` and return the Axes (`exfilml.drawing`).
"""

from __future__ import annotations

from exfilml.report._plots_scores import plot_calibration, plot_scores
from exfilml.report._plots_volumes import plot_volumes

__all__ = ["plot_calibration", "plot_scores", "plot_volumes"]
