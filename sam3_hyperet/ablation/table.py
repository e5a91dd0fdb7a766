"""Tables and sentences of an analysis, in Markdown."""

import math
from collections.abc import Iterable, Sequence
from statistics import median

from sam3_hyperet.ablation.analysis import ALPHA, Analysis, Arm, Difference, Verdict
from sam3_hyperet.ablation.plan import GAIN, LOST, World
from sam3_hyperet.ablation.power import pairs_for_difference, pairs_for_equivalence
from sam3_hyperet.ablation.results import BASE, UNDIALLED
from sam3_hyperet.ablation.statistics import effective_pairs
from sam3_hyperet.report.tables import MISSING, between, number, signed
from sam3_hyperet.report.text_tables import markdown_text
from sam3_hyperet.wording import count_of

_UNADAPTED = "none: every run ended at dial 0, as the base itself"
_LEAST = 0.001  # smaller p are written as that


def verdict_lines(analysis: Analysis) -> list[str]:
    """A line for each comparison: verdict, difference, interval, n, p; then what p is, and what was left out."""
    lines = []
    for setting, differences in analysis.differences.items():
        for one in differences:
            found = f"{one.name} on {setting.name}: {verdict(one, analysis.plan.margin)}"
            if one.pairs.n > 1:
                found += f", {_mean(one.pairs.mean, one.pairs.interval)}; {_counts(one)}, {_p(one.over_pairs)}"
                found += f"; further bases: {_on_bases(one, analysis.plan.margin)}"
            lines.append(found)
    meaning = ["Differences are of the gain, with 95 % intervals."] if lines else []
    return [*lines, *meaning, _adjusted(analysis), _complete(analysis), *_notes(analysis)]


def answers(analysis: Analysis) -> str:
    """The lines of the verdicts as a list, and those behind them as text."""
    lines = [markdown_text(line) for line in verdict_lines(analysis)]
    count = sum(map(len, analysis.differences.values()))
    return _joined([*(f"- {line}" for line in lines[:count]), "", " ".join(lines[count:])])


def arms_table(analysis: Analysis, warnings: Sequence[str] = ()) -> str:
    """A table for each setting: gain, loss, other metrics and costs by arm; then warnings of how arms were tuned."""
    parts = []
    for setting, arms in analysis.arms.items():
        world = analysis.plan.data[setting.data]
        of_base = {name: _over_arms(arms, name + BASE) for name in world.metrics}
        cells = [_arm_cells(arm, world) for arm in arms]
        heads = list(dict.fromkeys(head for row in cells for head in row))
        cells.insert(0, {"arm": "base", **{name: number(of_base[name], 3) for name in _others(world)}})
        rows = [[row.get(head, MISSING) for head in heads] for row in cells]
        has = " and ".join(f"{number(of_base[name], 3)} {name}" for name in (world.gain, world.lost) if name)
        count = len({base for arm in arms for base in arm.gains})
        note = f"Before adaptation: {has}, mean of {count_of(count, 'base')}."
        parts += [
            f"**{markdown_text(setting.name)}**",
            "",
            *_table(heads, rows, texts=1),
            "",
            markdown_text(note),
            "",
        ]
    note = "Means of n runs at the dial that was chosen on the tuning images (its median). Intervals of arms take all "
    note += "runs as one sample and hold the differences between bases: compare arms by the differences of pairs."
    return _joined([*parts, note, *map(markdown_text, (*_notes(analysis), *map(_sentence, warnings)))])


def differences_table(analysis: Analysis) -> str:
    """A table for each setting: the tests of all comparisons over their pairs."""
    margin = short(analysis.plan.margin)
    heads = ["comparison", "pairs", "difference of gain, 95 %", "p", "p, Holm", f"p, beyond ±{margin}", "same, Holm"]
    heads += ["dz", "difference of lost, 95 %", "verdict"]
    parts = []
    for setting, differences in analysis.differences.items():
        lossless = analysis.plan.data[setting.data].lost is None
        rows = []
        for one in differences:
            test, adjusted = one.pairs, one.over_pairs
            lost = MISSING if lossless else _mean(one.lost[0], one.lost[1:])
            p = [_probability(value) for value in (test.p, adjusted.p, test.equivalence.p, adjusted.p_equivalent)]
            if not test.n:
                p = [MISSING] * 4
            cells = [one.name, str(test.n), _mean(test.mean, test.interval), *p, number(test.effect_size), lost]
            rows.append([*cells, verdict(one, analysis.plan.margin)])
        parts += [f"**{markdown_text(setting.name)}**", "", *_table(heads, rows, texts=1, last=1), ""]
    note = f"p: sign flips of pairs. p beyond ±{margin}: two one-sided t-tests; small means equivalent"
    unadapted = any(one.unadapted for found in analysis.differences.values() for one in found)
    note += "; where it is larger, without pairs that are the base itself. " if unadapted else ". "
    note += f"{_adjusted(analysis)} {_planned(analysis)}"
    return _joined([*parts, note.strip(), *map(markdown_text, (*_notes(analysis), *_singles(analysis)))])


def bases_table(analysis: Analysis) -> str:
    """A table for each setting: the same differences as they say something of further bases."""
    heads = ["comparison", "bases", "mean by base", "same sign", "mean over bases, 95 % (t)", "bootstrap, 95 %"]
    heads += ["variance between bases", "pairs are worth", "verdict on further bases"]
    parts = []
    for setting, differences in analysis.differences.items():
        rows = []
        for one in differences:
            bases, n = one.bases, len(one.bases.means)
            worth = effective_pairs(one.pairs.n, n, bases.between)
            means = " / ".join(signed(mean) for mean in bases.means.values()) or MISSING
            cells = [one.name, str(n), means, f"{bases.agreeing} of {n}", _mean(bases.test.mean, bases.test.interval)]
            cells += [_interval(bases.bootstrap), _share(bases.between), _whole(worth)]
            rows.append([*cells, _on_bases(one, analysis.plan.margin)])
        parts += [f"**{markdown_text(setting.name)}**", "", *_table(heads, rows, texts=1, last=1), ""]
    return _joined([*parts, _of_bases(analysis)])


def verdict(one: Difference, margin: float) -> str:
    """The verdict over pairs in words."""
    if one.pairs.n < 2:
        return "no pair yet" if not one.pairs.n else "one pair, which cannot be tested"
    if one.unadapted == one.pairs.n:
        return _UNADAPTED
    undecided = f"undecided with {one.pairs.n} pairs"
    if not one.unadapted:  # whose zeros say nothing of how many pairs it takes
        undecided += f"; {'more than 100,000' if one.needed is None else f'about {one.needed:,}'} would do"
    text = _decided(one, one.over_pairs, one.pairs.mean, margin) or undecided
    are = "is" if one.unadapted == 1 else "are"
    return f"{text}; {one.unadapted} of {one.pairs.n} pairs {are} the base itself" if one.unadapted else text


def short(x: float) -> str:
    """A margin or a level without closing zeros, as .02."""
    return number(x, 3).rstrip("0")


def _decided(one: Difference, found: Verdict, mean: float, margin: float) -> str | None:
    within = f"within ±{short(margin)}"
    if found.equivalent and max(map(abs, one.gains)) < margin:  # which says next to nothing
        within += f", and neither gains as much as {short(margin)}"
    if found.different:
        return f"{'higher' if mean > 0 else 'lower'}{f', but {within}' if found.equivalent else ''}"
    return f"equivalent {within}" if found.equivalent else None


def _on_bases(one: Difference, margin: float) -> str:
    if one.bases.test.n < 2:
        return "unknown from one base" if one.bases.test.n else "no pair yet"
    if one.unadapted == one.pairs.n:
        return _UNADAPTED
    return _decided(one, one.over_bases, one.bases.test.mean, margin) or f"undecided with {one.bases.test.n} bases"


def _of_bases(analysis: Analysis) -> str:
    """What so few bases can say at all."""
    count = max((one.bases.test.n for found in analysis.differences.values() for one in found), default=0)
    text = "Seeds of one base are not independent of each other. Here each base counts once, by the mean of its pairs."
    if count < 2:
        return f"{text} With {count_of(count, 'base')} nothing is known of further ones."
    text += (
        f" With {count} bases the t-interval has {count_of(count - 1, 'degree')} of freedom and is wide; the bootstrap "
    )
    text += "(bases, then seeds) is too narrow where bases differ; and no exact test of "
    return f"{text}signs could fall below p = {number(2 / 2**count, 3).rstrip('0')}."


def _others(world: World) -> list[str]:
    """Metrics beside what is gained and lost."""
    return [name for name in world.metrics if name not in (world.gain, world.lost)]


def _arm_cells(arm: Arm, world: World) -> dict[str, str]:
    """An arm's cells by the head of their column."""
    mean = {name: values[0] for name, values in arm.means.items()}
    cells = {"arm": arm.name, "parameters": _whole(mean["parameters"]), "dial": number(arm.dial)}
    cells[f"gain in {world.gain}, 95 %"] = _mean(mean[GAIN], arm.means[GAIN][1:])
    if world.lost:
        cells[f"lost of {world.lost}"] = signed(mean[LOST])
    cells |= {name: number(mean[name], 3) for name in _others(world)}
    cells["gain at dial 1"] = signed(mean[GAIN + UNDIALLED])
    if world.lost:
        cells["lost at dial 1"] = signed(mean[LOST + UNDIALLED])
    memory = mean["peak_gib"]
    cells["training, s"] = _whole(mean["train_seconds"])
    cells |= {"GiB": MISSING if math.isnan(memory) else f"{memory:.1f}", "n": str(arm.n)}
    return {**cells, "tuned": arm.tuned} if arm.tuned else cells


def _over_arms(arms: Iterable[Arm], column: str) -> float:
    found = [(arm.n, arm.means[column][0]) for arm in arms if not math.isnan(arm.means[column][0])]
    return sum(n * mean for n, mean in found) / sum(n for n, _ in found) if found else math.nan


def _adjusted(analysis: Analysis) -> str:
    if not analysis.tests:
        return "The plan compares no arms."
    if analysis.tests == 1:
        return f"The plan has one comparison, so p is not adjusted; a verdict needs p < {short(ALPHA)}."
    every = count_of(analysis.tests, "comparison")
    return f"p is adjusted by Holm over all {every} of the plan; a verdict needs p < {short(ALPHA)}."


def _complete(analysis: Analysis) -> str:
    plan = analysis.plan
    bases = sum(len(world.bases) for world in plan.data.values())
    every = len(plan.arms) * len(plan.seeds) * len(plan.images) * bases
    others = f", and {analysis.others} with seeds that it does not name" if analysis.others else ""
    return f"Of the plan's {count_of(every, 'run')}, {analysis.planned} are in{others}."


def _planned(analysis: Analysis) -> str:
    """Pairs that a decision takes with the spread that was found."""
    spreads = [one.pairs.sd for found in analysis.differences.values() for one in found if one.pairs.sd > 0]
    if not spreads:
        return ""
    sd, margin = median(spreads), analysis.plan.margin
    alpha = ALPHA / analysis.tests
    find, show = pairs_for_difference(sd, margin, alpha), pairs_for_equivalence(sd, margin, alpha)
    step = " at the first of Holm's steps" if analysis.tests > 1 else ""
    spread = f"Pairs differ with a standard deviation of {number(sd, 3)} (median)."
    difference = f"With 80 % power{step}, a difference of {short(margin)} takes {_pairs(find)} to find"
    return f"{spread} {difference}, and no difference {_pairs(show)} to be shown equivalent."


def _pairs(n: int | None) -> str:
    return "more than 100,000 pairs" if n is None else f"{n:,} pairs"


def _notes(analysis: Analysis) -> list[str]:
    return [_sentence(note) for note in analysis.notes]


def _sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:]}."


def _singles(analysis: Analysis) -> list[str]:
    lines = []
    for setting, differences in analysis.differences.items():
        for one in differences:
            if count := len(one.single):
                named = ", ".join(one.single[:4]) + (", …" if count > 4 else "")
                lines.append(f"{setting.name}, {one.name}: {count_of(count, 'run')} without a partner ({named}).")
    return lines


def _counts(one: Difference) -> str:
    return f"{count_of(one.pairs.n, 'pair')} on {count_of(one.bases.test.n, 'base')}"


def _p(found: Verdict) -> str:
    name, p = ("p", found.p) if found.different or not found.equivalent else ("p of equivalence", found.p_equivalent)
    text = _probability(p)
    return f"{name} {text}" if text.startswith("<") else f"{name} = {text}"


def _probability(p: float) -> str:
    return f"< {number(_LEAST, 3)}" if p < _LEAST else number(p, 3)


def _mean(mean: float, interval: Sequence[float]) -> str:
    text = _interval(interval)
    return signed(mean) if text == MISSING else f"{signed(mean)} ({text})"


def _interval(interval: Sequence[float]) -> str:
    low, high = interval
    return MISSING if math.isnan(low) else between((low, high))


def _share(fraction: float) -> str:
    return MISSING if math.isnan(fraction) else f"{100 * fraction:.0f} %"


def _whole(x: float) -> str:
    return MISSING if math.isnan(x) else f"{x:,.0f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 0, last: int = 0) -> list[str]:
    """A pipe table whose first `texts` and `last` columns are left-aligned, all others right-aligned."""
    rule = ["---"] * texts + ["---:"] * (len(heads) - texts - last) + ["---"] * last
    head, *body = ([markdown_text(cell) for cell in row] for row in (heads, *rows))
    return [f"| {' | '.join(line)} |" for line in (head, rule, *body)]


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(lines).strip()
