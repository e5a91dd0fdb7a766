from dataclasses import replace

from example_reports import three_models

from sam3_hyperet.report.description import alone


def test_models_that_differ_in_one_thing_alone_are_named():
    one, other, third = three_models().described
    assert alone([one, replace(other, geometry="euclidean")]) == (
        "In one of these alone differ lorentz and euclidean (geometry)."
    )
    assert alone([one, replace(other, geometry="", structure="")]).startswith("No two of these")
    far = replace(third, adapter="lora", geometry="")
    assert alone([one, replace(other, structure="diagonal"), far]) == (
        "In one of these alone differ lorentz and euclidean (structure)."
    )
