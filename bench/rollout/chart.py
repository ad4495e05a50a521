"""The rollout benchmark's chart: how rollouts end, and what looking again and again does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.rollout.runs import ALPHA, MANN_WHITNEY, Z_TEST, Looked, RolloutOutcome
from features.rollout_messages import RolloutPhase

# Colours that people with any colour vision tell apart: M. Okabe, K. Ito, "Color Universal Design".
_COLORS = {
    RolloutPhase.PROMOTED: "#009E73",
    RolloutPhase.ROLLED_BACK: "#D55E00",
    MANN_WHITNEY: "#CC79A7",
    Z_TEST: "#0072B2",
}
_TESTS = {MANN_WHITNEY: "Mann-Whitney", Z_TEST: "z-test"}
_SIZE, _DPI = (10.0, 4.2), 150


def draw(
    outcomes: Mapping[str, Sequence[RolloutOutcome]], looked: Sequence[Looked], path: Path
) -> None:
    """Write the chart, as SVG, PNG or PDF by the ending of its name."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _ends(left, outcomes)
    _alarms(right, looked)
    for axes in (left, right):
        axes.grid(color="#E4E4E4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)


def _ends(axes: Axes, outcomes: Mapping[str, Sequence[RolloutOutcome]]) -> None:
    """Each rollout: how long it took, by what its version earns."""
    drawn = set()
    for at, ended in enumerate(outcomes.values()):
        hours = np.array([one.ticks for one in ended])
        beside = at + np.linspace(-0.3, 0.3, len(ended))
        for phase in (RolloutPhase.PROMOTED, RolloutPhase.ROLLED_BACK):
            mine = np.array([one.phase is phase for one in ended])
            label = None if phase in drawn or not mine.any() else phase.replace("_", " ")
            drawn |= {phase} if label else set()
            axes.plot(
                beside[mine], hours[mine], ".", color=_COLORS[phase], markersize=4, label=label
            )
    axes.set_xticks(range(len(outcomes)), [f"{float(name):+.0%}" for name in outcomes])
    axes.set_yscale("log")
    for write_ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        write_ticks("{x:g}")
    axes.set_xlabel("reward of the candidate beside the baseline")
    axes.set_ylabel("hours until the end")


def _alarms(axes: Axes, looked: Sequence[Looked]) -> None:
    """How many have raised a false alarm by each hour."""
    for name, color in ((MANN_WHITNEY, _COLORS[MANN_WHITNEY]), (Z_TEST, _COLORS[Z_TEST])):
        ever = np.array([np.maximum.accumulate(one.found[name]) for one in looked]).mean(0)
        label = f"{_TESTS[name]}, looked at every hour"
        axes.plot(np.arange(1, len(ever) + 1), 100 * ever, color=color, label=label)
    axes.axhline(100 * ALPHA, color="#7A7A7A", linewidth=0.8, linestyle="--")
    axes.set_xlabel("hours; the candidate is as good as the baseline")
    axes.set_ylabel("share of rollouts with a false alarm, %")
