"""Gates by prompt: how much of each site's adjustment the prompts of every level get."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from sam3_hyperet.report.figures.plots import PAGE, Plot, new_axes, to_svg

_MOST = 2.0  # of a gate


@dataclass(frozen=True)
class PromptGates:
    """The gates of a model's prompts, by prompt and site; `levels` has the granularity of each prompt."""

    gates: Mapping[str, Mapping[str, float]]
    levels: Mapping[str, str]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites with a gate."""
        return tuple(next(iter(self.gates.values())))

    def rows(self) -> list[tuple[str, str, tuple[float, ...]]]:
        """Prompt, level and gates of each prompt, by falling mean of its gates."""
        rows = [(prompt, self.levels[prompt], tuple(own.values())) for prompt, own in self.gates.items()]
        return sorted(rows, key=lambda row: -sum(row[2]))


def gate_plots(found: PromptGates) -> list[Plot]:
    """A plot for each site: a dot for each prompt, a row for each level, the means as lines."""
    levels = sorted(set(found.levels.values()))
    note = (
        "A dot is a prompt, a bar the mean. At 1 (dashed) the prompt gets the adjustment as without a gate, at 0 none."
    )
    return [Plot(site, _strips(found, site, levels), note=note) for site in found.sites]


def _strips(found: PromptGates, site: str, levels: Sequence[str]) -> Markup:
    figure, axes = new_axes("gate", height=0.75 + 0.35 * len(levels), grid="x")
    for place, level in enumerate(levels):
        gates = np.array([own[site] for prompt, own in found.gates.items() if found.levels[prompt] == level])
        axes.plot(gates, np.full(len(gates), place), "o", markersize=4, alpha=0.45, color=PAGE["adapted"])
        axes.vlines(gates.mean(), place - 0.3, place + 0.3, color=PAGE["ink"], linewidth=1.6)
    axes.axvline(1.0, color=PAGE["muted"], linewidth=1, linestyle=(0, (3, 3)))
    axes.set(xlim=(0, _MOST), ylim=(len(levels) - 0.5, -0.5))
    axes.set_yticks(range(len(levels)), levels, parse_math=False)
    return to_svg(figure)
