"""Validation while a run trains: the losses and, by a score from outside, the evaluation's metrics."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities import move_data_to_device
from torch import nn
from torch.distributed.fsdp import FSDPModule

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.losses.grounding import MATCHED, Counts, count_targets
from sam3_hyperet.modeling.inject import adapters_disabled
from sam3_hyperet.training.choice import LOSS, Rule
from sam3_hyperet.training.gathering import Stopped, from_all
from sam3_hyperet.training.stages import Stages
from sam3_hyperet.training.step import KeptPrecision, Passes

Metrics = Mapping[str, float]
Score = Callable[[Metrics | None], Metrics]
"""Metrics of the model as it is, beside those of the base; given None, those of the base itself."""

_MAIN = ("segm/AP", "fused/mIoU", "presence/accuracy_absent")


@dataclass(frozen=True)
class Validation:
    """What a run is validated on.

    Attributes:
        batches: makes an iterator over the batches of which the losses are taken, the same ones every time, on the CPU:
            a process moves those alone that it computes.
        score: called in all processes at once, it returns the same metrics in each; None for the losses alone.
        stop: whether this process has got a signal to end: nothing more is measured then, in any process.
    """

    batches: Callable[[], Iterator[host.BatchedDatapoint]]
    score: Score | None = None
    stop: Callable[[], bool] = bool

    def measure(
        self, fabric: Fabric, stages: Stages, passes: Passes, together: int, base: Metrics | None
    ) -> dict[str, float]:
        """Every loss term and metric of the model as it is, equal in all processes, and the `seconds` it took.

        The losses are without dropout and with the same random draws every time; training goes on with its own.
        together: so many batches count as one, as in a step.
        base: what was measured of the base; None to measure that, with the adapters switched off.
        Raises ConfigError where there is no batch, Stopped after a signal, and what reading the images raises.
        """
        started = time.perf_counter()
        with _own_draws(fabric.device):
            with adapters_disabled(stages.model) if base is None else nullcontext():  # they may be a warm start's
                found = validation_losses(fabric, stages, self.batches(), passes, together, self.stop)
            found |= self.score(base) if self.score else {}
        return {**found, "seconds": time.perf_counter() - started}


def shown(found: Metrics, base: Metrics, rule: Rule) -> str:
    """Values that a rule may name, as a line for people: what the rule names beside the base, and the main ones."""
    parts = []
    for name in dict.fromkeys([LOSS, *rule.metrics, *_MAIN]):
        if math.isfinite(found.get(name, math.nan)):
            before = f" (base {base[name]:.3g})" if name in base and name in rule.metrics else ""
            parts.append(f"{name} {found[name]:.3g}{before}")
    return "  ".join(parts)


def judged(found: Metrics) -> dict[str, float]:
    """The values that a rule may name: `loss` is the one of the matched queries, for the sum of all terms misleads."""
    return {**{key: value for key, value in found.items() if key != "seconds"}, LOSS: found[MATCHED]}


@torch.no_grad()
def validation_losses(
    fabric: Fabric,
    stages: Stages,
    batches: Iterator[host.BatchedDatapoint],
    passes: Passes,
    together: int,
    stop: Callable[[], bool] = bool,
) -> dict[str, float]:
    """Mean of every loss term over the batches, of which the processes compute a part each, in the passes of a step.

    together, stop: as for `Validation`. Raises Stopped where `stop` was true between two batches.
    """
    module: nn.Module = stages.module
    if any(isinstance(part, FSDPModule) for part in module.modules()):
        share, stop = (0, 1), bool  # all processes gather the parameters of each pass: none may leave
    else:
        share = (fabric.global_rank, fabric.world_size)
        module = stages.module.module  # without the wrapper, which would wait for processes that have no batch left
    stages.model.eval()
    stages.model.training = True  # the root's flag alone: SAM 3 then returns what its losses need

    def own_terms() -> list[tuple[int, dict[str, float]]]:
        terms: list[tuple[int, dict[str, float]]] = []
        for counts, own in _own_of_steps(batches, together, *share):
            for number, batch in own:
                if stop():
                    raise Stopped
                _seed(number, fabric.device)
                sums: dict[str, float] = {}
                for part in passes.split([move_data_to_device(batch, fabric.device)]):
                    with fabric.autocast():
                        of_part = module(KeptPrecision(part), counts)
                    values = torch.stack([term.float() for term in of_part.values()]).tolist()  # waits once
                    sums = {key: sums.get(key, 0.0) + value for key, value in zip(of_part, values, strict=True)}
                terms.append((number, sums))
        return terms

    everyone = dict(one for own in from_all(fabric, own_terms) for one in own)
    if not everyone:
        raise ConfigError("train.validate_every is set, but there is no tuning image; expected data.tune_images from 1")
    steps = math.ceil(len(everyone) / together)
    of_batches = [everyone[number] for number in sorted(everyone)]
    return {key: math.fsum(terms[key] for terms in of_batches) / steps for key in of_batches[0]}


def _own_of_steps(
    batches: Iterator[host.BatchedDatapoint], together: int, rank: int, world: int
) -> Iterator[tuple[Counts, list[tuple[int, host.BatchedDatapoint]]]]:
    """Counts of each `together` batches, and those of them that this process computes, with their numbers.

    No other batch is kept: together they are the images of a step of all processes.
    """
    for first in itertools.count(step=together):
        counts, own = [], []
        for number, batch in enumerate(itertools.islice(batches, together), first):
            counts.append(count_targets([batch]))
            if number % world == rank:
                own.append((number, batch))
        if not counts:
            return
        yield Counts(*map(sum, zip(*counts, strict=True))), own


@contextmanager
def _own_draws(device: torch.device) -> Iterator[None]:
    """Context whose random draws leave the generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _seed(number: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
