"""From a study's CSV to verdicts: what is refused, what is counted, and what is concluded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from study_results import TRUE, made_up_plan, made_up_rows, write_study

from sam3_hyperet.ablation.analysis import analyse
from sam3_hyperet.ablation.results import Setting, read_results
from sam3_hyperet.ablation.rows import write_rows
from sam3_hyperet.ablation.table import answers, arms_table, bases_table, differences_table
from sam3_hyperet.errors import DataError

SCENES = Setting("scenes", "all")


@pytest.fixture(scope="module")
def plan():
    return made_up_plan()


@pytest.fixture(scope="module")
def rows(plan):
    return made_up_rows(plan)


@pytest.fixture(scope="module")
def analysis(plan, tmp_path_factory):
    return analyse(read_results(write_study(tmp_path_factory.mktemp("study") / "runs.csv", plan), plan), plan)


def results_of(rows, plan, folder):
    write_rows(folder / "runs.csv", rows)
    return read_results(folder / "runs.csv", plan)


def changed(rows, place, **cells):
    return [{**row, **cells} if k == place else row for k, row in enumerate(rows)]


def test_true_differences_are_found(analysis):
    found = {one.arm: one for one in analysis.differences[SCENES]}
    for arm, one in found.items():
        low, high = one.pairs.interval
        assert low <= TRUE[arm] <= high
        assert (one.pairs.n, one.bases.test.n) == (15, 3)
    assert found["lorentz"].over_pairs.different
    assert not found["lorentz"].over_pairs.equivalent
    assert found["mobius"].over_pairs.equivalent
    assert not found["mobius"].over_pairs.different


def test_p_is_adjusted_over_all_settings(analysis):
    every = [one for found in analysis.differences.values() for one in found]
    assert analysis.tests == len(every) == 8
    assert min(one.over_pairs.p for one in every) == pytest.approx(8 * min(one.pairs.p for one in every))
    assert all(one.over_pairs.p >= one.pairs.p for one in every)


def test_settings_without_a_run_count_in_the_adjustment(analysis, plan, rows, tmp_path):
    """So that p does not grow while a study does."""
    scenes = [row for row in rows if row["data"] == "scenes"]
    half = analyse(results_of(scenes, plan, tmp_path), plan)
    assert list(half.differences) == [SCENES]
    assert half.tests == 8
    first = min(half.differences[SCENES], key=lambda one: one.pairs.p)
    assert first.over_pairs.p == pytest.approx(8 * first.pairs.p)
    assert "over all 8 comparisons of the plan" in answers(half)


def test_arms_that_learn_nothing_are_called_so(rows, plan, tmp_path):
    """Their equivalence is a fact, and says nothing."""
    wanted = [row for row in rows if row["data"] == "scenes"]
    small = [{**row, "gain": f"{0.001 + 0.00001 * k:.6f}"} for k, row in enumerate(wanted)]
    assert (
        answers(analyse(results_of(small, plan, tmp_path), plan)).count(", and neither gains as much as .02") == 2 * 4
    )  # on pairs, on bases
    assert "neither gains" not in answers(analyse(results_of(wanted, plan, tmp_path), plan))


def test_an_arm_is_the_mean_of_its_runs(analysis, rows):
    gains = [float(row["gain"]) for row in rows if (row["arm"], row["data"]) == ("lora", "scenes")]
    arm = next(arm for arm in analysis.arms[SCENES] if arm.name == "lora")
    assert arm.means["gain"][0] == pytest.approx(sum(gains) / 15)
    assert (arm.n, arm.dial, sorted(arm.gains)) == (15, 0.75, ["first", "second", "third"])
    assert "optim.lr=0.004 |" in arms_table(analysis)


def test_runs_without_a_partner_are_named(plan, rows, tmp_path):
    kept = [row for row in rows if (row["arm"], row["base"], row["seed"]) != ("lorentz", "second", "4")]
    one = analyse(results_of(kept, plan, tmp_path), plan)
    assert one.differences[SCENES][0].single == ("euclidean: second/seed 4",)
    assert one.differences[SCENES][0].pairs.n == 14
    assert "1 run without a partner (euclidean: second/seed 4)" in differences_table(one)


def test_a_comparison_without_pairs_counts_as_a_test(plan, rows, tmp_path):
    kept = [row for row in rows if row["arm"] != "lora" or row["seed"] == "0"]
    kept = [row for row in kept if row["arm"] != "gyro"]
    found = analyse(results_of(kept, plan, tmp_path), plan)
    by_arm = {one.arm: one for one in found.differences[SCENES]}
    assert (by_arm["gyro"].pairs.n, by_arm["gyro"].over_pairs.p, found.tests) == (0, 1.0, 8)
    assert "gyro − euclidean on scenes: no pair yet" in answers(found)
    assert "lora − euclidean on scenes: undecided with 3 pairs; about" in answers(found)
    for text in (arms_table(found), differences_table(found), bases_table(found)):
        assert "nan" not in text


def test_one_pair_on_one_base(plan, rows, tmp_path):
    kept = [row for row in rows if (row["base"], row["seed"]) == ("first", "0")]
    found = analyse(results_of(kept, plan, tmp_path), plan)
    assert "one pair, which cannot be tested" in answers(found)
    assert "With 1 base nothing is known of further ones" in bases_table(found)
    assert "nan" not in arms_table(found) + differences_table(found) + bases_table(found)


def test_what_does_not_belong_is_left_out_and_counted(plan, rows, tmp_path):
    mixed = [*rows, {**rows[0], "plan": "other"}, {**rows[1], "arm": "old"}, {**rows[1], "base": "fourth"}]
    mixed = changed([*mixed, {**rows[1], "images": "20"}], 0, version="0.2.0")
    found = results_of(mixed, plan, tmp_path)
    assert sum(map(len, found.runs.values())) == len(rows)
    left_out, versions = found.notes
    for what in ("1 row of the arm 'old'", "1 row of the base 'fourth'", "with 20 images", "1 row of other plans"):
        assert what in left_out
    assert versions == "made by 2 versions of the code: 0.1.0, 0.2.0"
    assert "Made by 2 versions of the code" in answers(analyse(found, plan))
    assert "Of the plan's 150 runs, 150 are in." in answers(analyse(found, plan))
    few = replace(plan, seeds=(0, 7))
    assert "Of the plan's 60 runs, 30 are in, and 120 with seeds that it does not name." in answers(analyse(found, few))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"gain": ""}, "row made_up/scenes/first/lorentz/0/all: gain is ''; expected a number; remove the row"),
        ({"lost@1": "inf"}, "lost@1 is 'inf'"),
        ({"gain": "much"}, "gain is 'much'"),
        ({"geometry": "gyro"}, "arm 'lorentz': geometry is 'gyro' in row made_up/scenes/first/lorentz/0/all"),
        ({"parameters": "7"}, "arm 'lorentz': parameters is '7'"),
        ({"held_out@base": "0.3"}, "held_out of the base 'first' on scenes is 0.05 in one row and 0.3 in another"),
    ],
)
def test_rows_that_cannot_be_are_refused(plan, rows, tmp_path, cells, message):
    with pytest.raises(DataError, match=message.replace("(", r"\(")) as error:
        results_of(changed(rows, 0, **cells), plan, tmp_path)
    assert "runs.csv" in str(error.value)


def test_other_files_are_refused(plan, rows, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_results(tmp_path / "none.csv", plan)
    with pytest.raises(DataError, match="rows of made_up; expected finished runs of the plan 'another'"):
        results_of(rows, replace(plan, name="another"), tmp_path)
    without = [{name: value for name, value in row.items() if name != "gain@1"} for row in rows]
    with pytest.raises(DataError, match="no column 'gain@1'"):
        results_of(without, plan, tmp_path)


def test_a_metric_that_was_not_measured_leaves_a_gap(plan, rows, tmp_path):
    gaps = [{**row, "absent": ""} if row["arm"] == "lora" else {**row, "peak_gib": ""} for row in rows]
    table = arms_table(analyse(results_of(gaps, plan, tmp_path), plan))
    lora = next(line for line in table.splitlines() if line.startswith("| lora"))
    assert " | – | +.1" in lora
    assert "nan" not in table


def test_arms_are_not_compared_across_two_makings_of_a_base(plan, rows, tmp_path):
    """A second machine has made a base by its recipe once more, for some of the runs."""
    made = [{**row, "weights": row["base"]} for row in rows]
    other = [row["base"] == "third" and (row["seed"] == "4" or row["arm"] == "lorentz") for row in made]
    results = results_of(
        [
            {**row, "weights": "again" if is_other else row["weights"]}
            for row, is_other in zip(made, other, strict=True)
        ],
        plan,
        tmp_path,
    )
    assert "the base 'third' of scenes has 2 sets of weights, which count as bases of their own" in results.notes
    found = {one.arm: one for one in analyse(results, plan).differences[SCENES]}
    assert list(found["mobius"].bases.means) == ["first", "second", "third again", "third third"]
    assert found["mobius"].pairs.n == 15
    assert found["lorentz"].pairs.n == 11  # of the third base, the other makings' seed 4 alone
    assert len(found["lorentz"].single) == 8


def test_runs_that_end_as_the_base_are_no_evidence_of_equality(rows, plan, tmp_path):
    alike = ("euclidean", "mobius")
    still = [{**row, "dial": "0.0", "gain": "0.0", "lost": "0.0"} if row["arm"] in alike else row for row in rows]
    found = analyse(results_of(still, plan, tmp_path), plan)
    (one,) = [one for one in found.differences[SCENES] if (one.arm, one.reference) == ("mobius", "euclidean")]
    assert one.unadapted == one.pairs.n == 15
    (row,) = [line for line in differences_table(found).splitlines() if line.startswith("| mobius − euclidean")][:1]
    assert row.endswith("| none: every run ended at dial 0, as the base itself |")
    assert "equivalent" not in row


def test_pairs_that_are_the_base_are_counted(rows, plan, tmp_path):
    first = [row["seed"] == "0" and row["arm"] in ("euclidean", "mobius") for row in rows]
    some = [{**row, "dial": "0.0"} if still else row for row, still in zip(rows, first, strict=True)]
    assert "3 of 15 pairs are the base itself" in differences_table(analyse(results_of(some, plan, tmp_path), plan))


def test_equivalence_has_to_hold_without_pairs_that_are_the_base(rows, plan, tmp_path):
    """Twelve pairs of 0 leave a mean within the margin, and three that are far from it say nothing of equality."""

    apart = {"first": -0.02, "second": 0.0, "third": 0.02}

    def comparison(dial):
        some = []
        for row in rows:
            is_first, shift = row["seed"] == "0", apart[row["base"]] if row["arm"] == "mobius" else 0.0
            values = {"gain": str(0.1 + shift * is_first), "dial": "1.0" if is_first else dial}
            some.append(row | values if row["arm"] in ("euclidean", "mobius") else row)
        found = analyse(results_of(some, plan, tmp_path), plan).differences[SCENES]
        return next(one for one in found if (one.arm, one.reference) == ("mobius", "euclidean"))

    trained, base = comparison("1.0"), comparison("0.0")
    assert (trained.unadapted, base.unadapted) == (0, 12)
    assert trained.pairs.mean == base.pairs.mean
    assert trained.pairs.p == base.pairs.p
    assert trained.pairs.equivalence.p < 0.001 < 0.05 < base.pairs.equivalence.p
