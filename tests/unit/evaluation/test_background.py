"""Work on threads: in order, bounded, in inference mode, and no error is lost."""

from __future__ import annotations

import threading

import pytest
import torch

from sam3_hyperet.evaluation.background import background


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_each_line_is_done_in_order(threads):
    done = {"a": [], "b": []}
    with background(threads) as line_of:
        lines = {name: line_of(3) for name in done}
        for k in range(50):
            for name, line in lines.items():
                line.put(done[name].append, k)
        lines["a"].wait()
        assert done["a"] == list(range(50))
    assert done["b"] == list(range(50))


@pytest.mark.parametrize("threads", [0, 1])
def test_work_is_in_inference_mode(threads):
    modes = []
    with background(threads) as line_of:
        line_of(1).put(lambda: modes.append((torch.is_inference_mode_enabled(), threading.current_thread())))
    ((mode, thread),) = modes
    assert mode
    assert (thread is threading.main_thread()) == (threads == 0)


def test_no_more_than_allowed_is_pending():
    gate, started = threading.Event(), []
    with background(1) as line_of:
        line = line_of(2)
        for k in range(2):
            line.put(lambda k=k: (started.append(k), gate.wait(10)))
        third = threading.Thread(target=line.put, args=(started.append, 2))
        third.start()
        third.join(0.2)
        assert third.is_alive()  # it waits for room
        gate.set()
        third.join(10)
    assert started == [0, 1, 2]


def test_an_error_comes_out_and_stops_the_rest():
    done = []

    def fail():
        raise ValueError("broken mask")

    with background(1) as line_of:
        line = line_of(1)
        line.put(fail)
        with pytest.raises(ValueError, match="broken mask"):
            line.put(done.append, 1)
    assert done == []
    with pytest.raises(ValueError, match="broken mask"), background(1) as line_of:
        line_of(5).put(fail)  # nobody waits for it but the end
