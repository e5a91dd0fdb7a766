"""What results say: arms one by one, and the comparisons of a plan with a verdict each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from sam3_hyperet.ablation.plan import GAIN, LOST, Plan
from sam3_hyperet.ablation.power import pairs_for_decision
from sam3_hyperet.ablation.results import Result, Results, Setting
from sam3_hyperet.ablation.statistics import MeanTest, OverBases, base_test, holm, mean_interval, pair_test

ALPHA = 0.05


@dataclass(frozen=True)
class Arm:
    """The runs of an arm in a setting.

    Attributes:
        means: mean, low and high of each column of `Result.values`: the 95 % t-interval takes all runs as one sample.
        dial: the median.
        tuned: the options that the trials have chosen for the arm, or ""; "or" between those of different runs.
        gains: of the runs, by base.
    """

    name: str
    n: int
    means: Mapping[str, tuple[float, float, float]]
    dial: float
    tuned: str
    gains: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Verdict:
    """The p of a difference and of equivalence within the margin, both adjusted by Holm over the plan."""

    p: float = 1.0
    p_equivalent: float = 1.0

    @property
    def different(self) -> bool:
        return self.p < ALPHA

    @property
    def equivalent(self) -> bool:
        return self.p_equivalent < ALPHA


@dataclass(frozen=True)
class Difference:
    """The gain of an arm less that of a reference, over the pairs that both have.

    Attributes:
        over_pairs, over_bases: verdicts on further seeds of these bases, and on further bases.
        lost: mean, low and high of the difference of what is lost.
        single: runs that one of the two has and the other has not.
        gains: mean gains of the two over the pairs.
        unadapted: pairs of which both runs ended at dial 0: they are equal for they are the base, so that equivalence
            has to hold without them, too.
        needed: pairs with which a decision has 80 % power if mean and spread stay as they are; None for more than
            100,000, where fewer than two pairs say nothing of the spread, and where pairs are the base itself.
    """

    arm: str
    reference: str
    pairs: MeanTest
    bases: OverBases
    lost: tuple[float, float, float]
    single: tuple[str, ...]
    gains: tuple[float, float]
    unadapted: int = 0
    over_pairs: Verdict = Verdict()
    over_bases: Verdict = Verdict()
    needed: int | None = None

    @property
    def name(self) -> str:
        return f"{self.arm} − {self.reference}"


@dataclass(frozen=True)
class Analysis:
    """Arms and differences of a plan by setting; `notes` say what was left out.

    planned: runs of the plan that are in; others: runs with seeds that it does not name. tests: comparisons over which
    p is adjusted, those of all settings together.
    """

    plan: Plan
    planned: int
    others: int
    arms: Mapping[Setting, tuple[Arm, ...]]
    differences: Mapping[Setting, Sequence[Difference]]
    tests: int
    notes: tuple[str, ...]


def analyse(results: Results, plan: Plan) -> Analysis:
    """Summarise a plan's arms, and test its comparisons in each setting.

    A comparison without a pair counts in Holm's adjustment with p = 1, and so do those of a setting without a run.
    """
    raw = [
        (setting, _difference(runs, arm, reference, plan.margin))
        for setting, runs in results.runs.items()
        for arm, reference in plan.comparisons
    ]
    tests = [(one.pairs.p, one.pairs.equivalence.p, one.bases.test.p, one.bases.test.equivalence.p) for _, one in raw]
    tests += [(1.0,) * 4] * ((results.planned - len(results.runs)) * len(plan.comparisons))
    adjusted = list(zip(*(holm(column).tolist() for column in zip(*tests, strict=True)), strict=True))
    differences: dict[Setting, list[Difference]] = {setting: [] for setting in results.runs}
    for (setting, one), p in zip(raw, adjusted[: len(raw)], strict=True):
        needed = _needed(one, plan.margin, len(tests))
        judged = replace(one, over_pairs=Verdict(*p[:2]), over_bases=Verdict(*p[2:]), needed=needed)
        differences[setting].append(judged)
    arms = {
        setting: tuple(_arm(name, found) for name in plan.arms if (found := [run for run in runs if run.arm == name]))
        for setting, runs in results.runs.items()
    }
    seeds = [run.seed in map(str, plan.seeds) for runs in results.runs.values() for run in runs]
    return Analysis(plan, sum(seeds), len(seeds) - sum(seeds), arms, differences, len(tests), results.notes)


def _arm(name: str, runs: Sequence[Result]) -> Arm:
    columns = {
        column: [run.values[column] for run in runs if not math.isnan(run.values[column])] for column in runs[0].values
    }
    means = {column: mean_interval(values) for column, values in columns.items()}
    gains = {
        base: tuple(run.values[GAIN] for run in runs if run.base == base)
        for base in dict.fromkeys(run.base for run in runs)
    }
    return Arm(
        name,
        len(runs),
        means,
        median(columns["dial"] or [math.nan]),
        " or ".join(dict.fromkeys(run.tuned for run in runs)),
        gains,
    )


def _difference(runs: Sequence[Result], arm: str, reference: str, margin: float) -> Difference:
    ours, theirs = ({run.pair: run.values for run in runs if run.arm == name} for name in (arm, reference))
    both = [pair for pair in ours if pair in theirs]
    single = [(arm, pair) for pair in ours if pair not in theirs] + [
        (reference, pair) for pair in theirs if pair not in ours
    ]
    adapted = [pair for pair in both if not ours[pair]["dial"] == theirs[pair]["dial"] == 0.0]

    def less(column: str, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [round(ours[pair][column] - theirs[pair][column], 6) for pair in pairs]

    def over_bases(pairs: Sequence[tuple[str, str]]) -> OverBases:
        return base_test(less(GAIN, pairs), [base for base, _ in pairs], margin, ALPHA)

    of_pairs, of_bases = pair_test(less(GAIN, both), margin, ALPHA), over_bases(both)
    if len(adapted) < len(both):
        of_pairs = _adapted_too(of_pairs, pair_test(less(GAIN, adapted), margin, ALPHA))
        of_bases = replace(of_bases, test=_adapted_too(of_bases.test, over_bases(adapted).test))
    return Difference(
        arm,
        reference,
        of_pairs,
        of_bases,
        mean_interval(less(LOST, both)),
        tuple(f"{name}: {base}/seed {seed}" for name, (base, seed) in single),
        (math.nan, math.nan) if not both else (_mean_gain(ours, both), _mean_gain(theirs, both)),
        len(both) - len(adapted),
    )


def _adapted_too(every: MeanTest, adapted: MeanTest) -> MeanTest:
    """The test of all pairs, whose equivalence has to hold for those that are not the base itself as well."""
    ours, theirs = every.equivalence, adapted.equivalence
    return replace(every, equivalence=ours if ours.p >= theirs.p else replace(theirs, interval=ours.interval))


def _mean_gain(runs: Mapping[tuple[str, str], Mapping[str, float]], pairs: Sequence[tuple[str, str]]) -> float:
    return math.fsum(runs[pair][GAIN] for pair in pairs) / len(pairs)


def _needed(one: Difference, margin: float, tests: int) -> int | None:
    """Pairs for a decision at the strictest level of Holm's steps, none of which is the base itself."""
    if one.pairs.n < 2 or one.unadapted:
        return None
    return pairs_for_decision(one.pairs.mean, one.pairs.sd, margin, ALPHA / tests)
