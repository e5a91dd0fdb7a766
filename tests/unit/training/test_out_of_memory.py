"""A step that runs out of memory is repeated with less of it, and is the step that it would have been."""

from __future__ import annotations

import itertools
import logging
import pickle
from pathlib import Path

import pytest
import short_of_memory
import torch
from fitted_runs import equal
from forked_tools import run_forked
from short_of_memory import SmallCard, begun, taken

from sam3_hyperet.training.step import OutOfMemory, Passes

PICTURE = [("car", [(10, 10, 60, 60)]), ("sky", [(0, 0, 128, 30)]), ("tree", []), ("house", [(5, 50, 60, 120)])]
OTHER = [("car", [(70, 10, 120, 60)]), ("dog", [])]


def test_the_step_is_repeated_with_half_the_prompts(another, make_batch, caplog):
    batches = [make_batch(PICTURE, OTHER)]
    model = another()
    stages = begun(model)
    card = SmallCard(model, 2, late=True)
    passes = Passes(repeats=True)
    with caplog.at_level(logging.WARNING):
        repeated = taken(stages, batches, passes)
    assert (passes, passes.repeated) == (Passes(2), 2)
    assert [prompts for prompts, _ in card.passes] == [6, 3, 2, 2, 2]
    assert "out of memory with train.prompts_at_once=0" in caplog.text
    assert repeated[1]["train/out_of_memory"] == 2
    large = another()
    SmallCard(large, 99)
    as_planned, whole = taken(begun(large), batches, Passes(2)), taken(begun(another()), batches, None)
    for name, value in as_planned[0].items():
        assert torch.equal(repeated[0][name], value), name
    assert all(torch.equal(a, b) for a, b in zip(repeated[2], as_planned[2], strict=True))
    assert torch.equal(repeated[3], as_planned[3])
    for name in ("loss", "loss_matched"):
        assert float(repeated[0][name]) == pytest.approx(float(whole[0][name]), rel=2e-6)


def test_smaller_passes_come_last_where_the_loss_compares_their_prompts(make_batch, caplog):
    """The contrastive loss has the prompts of a pass as negatives: of one prompt it is 0."""
    batches, passes, taken_ = [make_batch(PICTURE)], Passes(repeats=True, contrasts=True), []
    with caplog.at_level(logging.WARNING):
        while passes.shrink(batches):
            taken_.append((passes.prompts_at_once, passes.checkpoint_activations, caplog.text.count("another loss")))
    assert taken_ == [(0, True, 0), (2, True, 1), (1, True, 2)]
    assert passes.state_dict().keys() == {"prompts_at_once", "checkpoint_activations", "repeated"}


def test_then_activations_are_recomputed_then_it_is_an_error(another, make_batch):
    batches = [make_batch(PICTURE[:2])]
    model = another()
    card = SmallCard(model, 0.5)
    passes = Passes(repeats=True)
    taken(begun(model), batches, passes)
    assert passes == Passes(1, True)
    assert card.passes == [(2, False), (1, False), (1, True), (1, True)]
    restored = Passes(repeats=True)
    restored.load_state_dict(passes.state_dict())
    assert (restored, restored.repeated, restored.repeats) == (passes, 2, True)
    hopeless = another()
    SmallCard(hopeless, 0.1)
    with pytest.raises(OutOfMemory, match=r"train\.checkpoint_activations=true .CUDA out of memory.; use a smaller"):
        taken(begun(hopeless), batches, passes)


def test_with_memory_off_it_is_an_error_with_the_remedy(another, make_batch):
    model = another()
    SmallCard(model, 1)
    with pytest.raises(OutOfMemory, match=r"expected train\.memory=auto, train\.prompts_at_once=1"):
        taken(begun(model), [make_batch(PICTURE[:2])], Passes())


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call.",
    ],
)
def test_libraries_that_run_out_count_as_well(another, make_batch, message):
    model = another()
    SmallCard(model, 1, error=RuntimeError(message))
    passes = Passes(repeats=True)
    taken(begun(model), [make_batch(PICTURE[:2])], passes)
    assert passes == Passes(1)
    hopeless = another()
    SmallCard(hopeless, 0.1, error=RuntimeError(message))
    with pytest.raises(OutOfMemory) as error:
        taken(begun(hopeless), [make_batch(PICTURE[:2])], passes)
    assert f"({message.splitlines()[0]}); use a smaller" in str(error.value)


def test_another_error_is_none_of_memory(another, make_batch):
    model = another()
    SmallCard(model, 1, error=RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        taken(begun(model), [make_batch(PICTURE[:2])], Passes(repeats=True))


def test_a_process_that_runs_out_alone_keeps_no_other_waiting(another, make_batch, tmp_path):
    """In processes forked from one that has run no backward pass, after which it could not."""
    parts = [make_batch(PICTURE), make_batch(OTHER, seed=1)]
    file = tmp_path / "parts"
    file.write_bytes(pickle.dumps(parts))
    run = run_forked(Path(short_of_memory.__file__), [file], tmp_path / "logs", strict=False)
    assert run.returncode == 0, run.stderr[-3000:]
    terms, _, adapters, _ = taken(begun(another()), parts, None)
    after = torch.cat([adapter.flatten() for adapter in adapters])
    for found in pickle.loads(file.read_bytes()).values():
        assert [one[:2] for one in found] == [(1, 1)] * 2  # both go on with it
        assert found[0][3] == found[1][3]
        assert found[0][2] == pytest.approx(float(terms["loss"]), rel=2e-6)
        same = torch.tensor(found[0][3]).isclose(after, atol=1e-6)
        assert same.float().mean() > 0.999  # AdamW's first step is the gradient's sign: of one near 0, rounding decides


def test_a_resumed_run_keeps_its_smaller_passes(start):
    options = {"max_steps": 3, "save_every": 2, "memory": "auto"}
    whole, first, second = start(), start(), start()
    cards = [SmallCard(run.model, 1) for run in (whole, first, second)]
    whole.fit(**options)
    original = first.batches
    first.batches = lambda step: itertools.islice(original(step), 2)  # and then the run is killed
    with pytest.raises(StopIteration):
        first.fit(**options)
    second.folder = first.folder
    second.fit(resume=first.folder / "state.pt", **options)
    assert [prompts for prompts, _ in cards[1].passes] == [2, 1, 1, 1, 1]
    assert [prompts for prompts, _ in cards[2].passes] == [1, 1]
    assert equal(second.adapters(), whole.adapters())
    assert [line["train/out_of_memory"] for line in second.lines()] == [1.0] * 3
