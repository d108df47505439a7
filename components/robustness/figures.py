"""Draw the curves of a stress test as one SVG."""

from __future__ import annotations

import io

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from medmark.components.base.figures import BLUE, GRAY, RED, STYLE
from medmark.components.robustness.attacks import Attack

COLUMNS = 4
KINDS = {
    "model": "on the model",
    "queries": "on what it is asked",
    "data": "on its training data",
    "pipeline": "on all it sees",
}
LINES = (
    ("wsr", RED, "-", "marked images taken for the target"),
    ("clean_rate", RED, ":", "clean images taken for the target"),
    ("accuracy", BLUE, "-", "accuracy"),
)


def stress_curves(table: pd.DataFrame, attacks: tuple[Attack, ...]) -> bytes:
    """Draws target rates and accuracy against the strength of each attack, weak at the left, as SVG.

    Lines are means over the marked models, the shade spans them; the first point, at "none", is no attack.

    Args:
        table: see :func:`medmark.components.robustness.stress.stress`.
        attacks: those in the table, in the order of the panels.
    """
    none = table[table.attack == "none"]
    rows = -(-len(attacks) // COLUMNS)
    with mpl.rc_context(STYLE | {"font.size": 8, "axes.titlesize": 8.5}):
        figure = Figure(figsize=(10.4, 2.1 * rows + 0.4), layout="constrained")
        axes = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True).ravel()
        for axis, attack in zip(axes, attacks, strict=False):
            of_attack = table[(table.attack == attack.name) & (table.kind == attack.kind)]
            parts = [none] + [of_attack[of_attack.strength == x] for x in attack.strengths]
            x = range(len(parts))
            for column, color, style, label in LINES:
                values = [100 * part[column] for part in parts]
                axis.plot(x, [v.mean() for v in values], style, color=color, marker="o", ms=3, lw=1.3, label=label)
                axis.fill_between(
                    x, [v.min() for v in values], [v.max() for v in values], color=color, alpha=0.13, lw=0
                )
            axis.set_title(
                f"{attack.name.capitalize() if attack.name.islower() else attack.name}\n{KINDS[attack.kind]}"
            )
            axis.set(xlabel=attack.label, ylim=(-3, 103), xticks=list(x))
            axis.set_xticklabels(["none", *(f"{s:g}" for s in attack.strengths)])
            axis.grid(axis="y", color=GRAY, alpha=0.2, lw=0.6)
        for axis in axes[len(attacks) :]:
            axis.set_axis_off()
        for axis in axes[::COLUMNS]:
            axis.set_ylabel("%")
        if attacks:
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LINES))
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
        return stream.getvalue()
