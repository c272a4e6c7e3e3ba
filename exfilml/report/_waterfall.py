"""An explanation as it is shown: a waterfall of bits, drawn or in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from exfilml.drawing import BLUE, GREY, RED, axes_for, drawable
from exfilml.exceptions import OptionError
from exfilml.export import printable
from exfilml.features import human_bytes
from exfilml.report._html import bar, name, page, rows_of, tip, told

if TYPE_CHECKING:
    from collections.abc import Hashable

    from matplotlib.axes import Axes

# Flows that are displayed; the table has them all.
MOST_SHOWN: Final = 10
# Families that add or take less than this are drawn together.
LEAST_DRAWN_BITS: Final = 0.05
LONGEST_SENTENCE: Final = 600
DRAWN_SENTENCE: Final = 92


@dataclass(frozen=True)
class Explanation:
    """The suspicion of some flows, split over the evidence.

    Attributes
    ----------
    flows
        A row for each flow, index as in the flows table: ``suspicion``, ``p_value``
        and ``alert`` as in `exfilml.rank_flows`, ``case`` and ``case_suspicion``,
        ``start local_ip place service up_bytes down_bytes``, and ``reasons``.
    table
        A row for each flow and column of evidence: ``number`` (0, 1 … in the order
        asked for), ``flow`` (its index), ``family``, ``feature``, ``bits`` (they add up to the flow's suspicion), ``evidence`` (the
        column's value, NaN where it cannot be judged), ``unit``, ``reason`` (what the
        column has to say of the flow), ``definition``. The
        strongest columns of a flow come first. Rules of a policy that the flow breaks are a row
        of their own.
    families
        A row for each flow and family, the strongest first: ``number flow family
        bits reason``, the reason being the family's in `exfilml.rank_flows`, ``""`` where
        it is not worth telling.
    """

    flows: pd.DataFrame
    table: pd.DataFrame
    families: pd.DataFrame

    def plot(self, ax: Axes | None = None, *, flow: Hashable = None) -> Axes:
        """Draw a waterfall: what each family adds, until the suspicion is reached.

        Parameters
        ----------
        ax
            Where to draw; `None` for a new figure.
        flow
            Index of one of the flows; `None` for the first.

        Raises
        ------
        OptionError
            If there is no such flow.
        """
        at = 0 if flow is None else self._at(flow)
        label, about = self.flows.index[at], self.flows.iloc[at]
        rows = self._families_of(at)
        small = rows["bits"].abs() < LEAST_DRAWN_BITS
        drawn = [
            (row["family"], row["bits"], row["reason"])
            for row in rows[~small].to_dict("records")
        ]
        rest = float(rows.loc[small, "bits"].sum())
        if abs(rest) >= LEAST_DRAWN_BITS:
            drawn.append(("others", rest, ""))
        ax = axes_for(ax, (7.4, 1.6 + 0.52 * len(drawn)))
        total = float(about["suspicion"])
        reached = 0.0
        for y, (_, bits, reason) in enumerate(drawn):
            ax.barh(
                y + 0.14,
                bits,
                left=reached,
                height=0.42,
                color=RED if bits > 0 else BLUE,
            )
            ax.plot(
                [reached + bits] * 2, [y + 0.35, y + 1.0], color=GREY, linewidth=0.8
            )
            reached += bits
            ax.annotate(
                f"{bits:+.1f}",
                (max(reached, reached - bits), y + 0.14),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
            ax.text(
                0.006,
                y - 0.26,
                drawable(reason, DRAWN_SENTENCE),
                fontsize=7,
                va="center",
                transform=ax.get_yaxis_transform(),
                bbox={"facecolor": ax.get_facecolor(), "pad": 0.5, "linewidth": 0},
            )
        last = len(drawn)
        ax.barh(last + 0.14, total, height=0.42, color="black")
        ax.annotate(
            f"{total:.1f} bits",
            (max(total, 0.0), last + 0.14),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        ax.set_yticks(
            np.arange(last + 1) + 0.14, [*(f for f, _, _ in drawn), "suspicion"]
        )
        ax.set_ylim(last + 0.6, -0.55)
        ends = np.cumsum([0.0, *(bits for _, bits, _ in drawn)])
        low, high = float(min(ends.min(), 0.0)), float(max(ends.max(), 1.0))
        ax.set_xlim(low, low + (high - low) * 1.14)
        place, host = drawable(about["place"], 36), drawable(about["local_ip"], 36)
        ax.set(
            xlabel="suspicion (bits)",
            title=f"{host} → {place}, {drawable(about['service'])} (flow {drawable(label)})",
        )
        ax.title.set_fontsize(10)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        return ax

    def _at(self, flow: Hashable) -> int:
        at = self.flows.index.get_indexer_for(pd.Index([flow]))
        if at[0] < 0:
            raise OptionError(
                f"flow={printable(repr(flow)[:60])}: is not one of the flows that were "
                "explained."
            )
        return int(at[0])

    def _families_of(self, at: int) -> pd.DataFrame:
        return self.families[self.families["number"] == at]

    def _repr_html_(self) -> str:
        pieces = [self._piece(at) for at in range(min(len(self.flows), MOST_SHOWN))]
        if len(self.flows) > MOST_SHOWN:
            pieces.append(
                f"<p>The first {MOST_SHOWN} of {len(self.flows):,} flows are shown; "
                "<code>.table</code> has them all.</p>"
            )
        return page(*pieces)

    def _piece(self, at: int) -> str:
        about, rows = self.flows.iloc[at], self._families_of(at)
        ends = np.cumsum([0.0, *rows["bits"]])
        low = float(min(ends.min(), 0.0))
        scale = max(float(ends.max()) - low, 1e-9)
        columns = self.table[self.table["number"] == at]
        cells, silent = [], {}
        for row, before, after in zip(
            rows.to_dict("records"), ends[:-1], ends[1:], strict=True
        ):
            if abs(row["bits"]) < LEAST_DRAWN_BITS and not row["reason"]:
                silent[row["family"]] = row["bits"]
                continue
            mine = columns[columns["family"] == row["family"]]
            tips = [
                f"{c['feature']}: {c['bits']:+.1f} bits"
                for c in mine.to_dict("records")
                if abs(c["bits"]) >= LEAST_DRAWN_BITS
            ]
            begin = (min(before, after) - low) / scale
            drawn = bar(abs(after - before) / scale, begin=begin, alert=row["bits"] > 0)
            cells.append(
                [
                    told(row["family"]),
                    f"<span{tip(tips)}>{drawn}</span>",
                    f"{row['bits']:+.1f}",
                    f'<div class="w">{told(row["reason"], LONGEST_SENTENCE)}</div>',
                ]
            )
        if silent:
            rest = sum(silent.values())
            cells.append(["others", "", f"{rest:+.1f}", told(", ".join(silent))])
        cells.append(
            [
                "<strong>suspicion</strong>",
                bar((max(about["suspicion"], 0.0)) / scale, begin=-low / scale),
                f"<strong>{about['suspicion']:.1f}</strong>",
                told(_calibrated(about), LONGEST_SENTENCE),
            ]
        )
        start = about["start"]
        seen = "?" if pd.isna(start) else f"{start:%Y-%m-%d %H:%M} UTC"
        caption = (
            f"Flow {told(self.flows.index[at])}: {name(about['local_ip'])} → "
            f"{name(about['place'])}, {told(about['service'])}, {seen}, "
            f"{human_bytes(about['up_bytes'])} up, "
            f"{human_bytes(about['down_bytes'])} down"
        )
        return rows_of(cells, ("family", "adds up", "#bits", "because"), caption)

    def __repr__(self) -> str:
        lines = [
            f"flow {printable(str(label))}: {about['suspicion']:.1f} bits, "
            f"{printable(str(about['local_ip']))} → {printable(str(about['place']))}: "
            f"{printable(about['reasons'])}"
            for label, about in self.flows.head(MOST_SHOWN).iterrows()
        ]
        if len(self.flows) > MOST_SHOWN:
            lines.append(f"… and {len(self.flows) - MOST_SHOWN:,} other flows")
        return "\n".join(lines)


def _calibrated(about: pd.Series) -> str:
    alert = "alerts" if about["alert"] else "raises no alert"
    return (
        f"p-value {about['p_value']:.2g} among flows; its case {about['case']} has "
        f"{about['case_suspicion']:.1f} bits among cases and {alert}"
    )
