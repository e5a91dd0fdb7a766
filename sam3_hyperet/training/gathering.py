"""Results of all processes of a run, in each of them."""

from collections.abc import Callable
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from sam3_hyperet.errors import UserError

T = TypeVar("T")


class Stopped(Exception):
    """Work that processes share was ended by a signal to one of them; raised in all."""


def from_all(fabric: Fabric, action: Callable[[], T]) -> list[T]:
    """Results of an action that every process does at once, in the order of their ranks.

    A user error of one of them ends all, so that none waits for it: the first process raises it, the others leave
    without a word. Where the action of one raises Stopped, all do.
    """
    mine: T | UserError | OSError | Stopped
    try:
        mine = action()
    except (UserError, OSError, Stopped) as error:
        if fabric.world_size == 1:
            raise
        mine = error
    everyone: list[T | UserError | OSError | Stopped] = [mine] * fabric.world_size
    if fabric.world_size > 1:
        torch.distributed.all_gather_object(everyone, mine)
    for outcome in everyone:
        if isinstance(outcome, Stopped):
            raise outcome
        if isinstance(outcome, UserError | OSError):
            raise outcome if fabric.is_global_zero else SystemExit(1)
    return everyone  # type: ignore[return-value]


def from_first(fabric: Fabric, action: Callable[[], T]) -> T:
    """Result of an action of the first process, in all processes, however long it takes.

    Its user error ends the other processes, too, and without a word: the first one prints it.
    """
    outcome: T | UserError | OSError | None = None
    if fabric.is_global_zero:
        try:
            outcome = action()
        except (UserError, OSError) as error:
            outcome = error
    wait_for_all(fabric)  # a broadcast would wait for half an hour
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, UserError | OSError):
        raise outcome if fabric.is_global_zero else SystemExit(1)
    return outcome  # type: ignore[return-value]


def reduced(fabric: Fabric, values: Tensor, how: str) -> Tensor:
    """The sum ("sum"), largest ("max") or smallest ("min") of a tensor's values over all processes."""
    if fabric.world_size == 1:
        return values
    found = fabric.all_reduce(values, reduce_op=how)
    assert isinstance(found, Tensor)
    return found


def wait_for_all(fabric: Fabric) -> None:
    """Wait until all processes are here, however long that takes: NCCL's own barrier ends a run after half an hour."""
    with fabric.rank_zero_first():  # whose barrier has no limit of time
        pass
