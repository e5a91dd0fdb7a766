"""Label maps as people have them: preparing, training and evaluating see the same in each."""

from __future__ import annotations

import pytest
from map_cases import MAPS, write_maps
from thrice import verdicts

from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import read_split
from sam3_hyperet.errors import DataError


@pytest.mark.parametrize("kind", MAPS)
def test_label_maps_mean_the_same_to_preparing_training_and_evaluating(tmp_path, kind):
    case = MAPS[kind]
    data = DataOptions(**write_maps(tmp_path / "shop", case))
    found = verdicts(data)
    if case.refused:
        for said in found:
            assert isinstance(said, str), said
            with pytest.raises(DataError, match=case.refused):
                raise DataError(said)
        return
    assert found == [[case.regions, case.regions]] * 3
    images = read_split(data, "train").images
    assert (images.dropped, images.adjusted) == case.counts
    with pytest.raises(DataError, match=case.note):
        raise DataError(" ".join(data_notes(images)))
