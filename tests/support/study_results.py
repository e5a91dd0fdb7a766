"""A made-up study: a plan, and the CSV of its runs, whose true differences are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sam3_hyperet.ablation.plan import Plan, World
from sam3_hyperet.ablation.rows import ALL_IMAGES, write_rows

TRUE = {"lorentz": 0.03, "euclidean": 0.0, "mobius": 0.001, "lora": -0.05, "gyro": 0.008}


def made_up_plan(worlds: tuple[str, ...] = ("scenes", "camvid"), **changes: object) -> Plan:
    """Worlds with three bases each, five arms, five seeds, four comparisons."""
    bases = {name: {} for name in ("first", "second", "third")}
    scenes = World(
        "held_out",
        {"held_out": "held_out/segm/AP", "known": "known/segm/AP", "absent": "presence/accuracy_absent"},
        "known",
        {},
        bases,
    )
    photographs = World("groups", {"groups": "mIoU"}, None, {}, bases)
    pairs = tuple((arm, "euclidean") for arm in TRUE if arm != "euclidean")
    settings = {
        "data": {name: {"scenes": scenes, "camvid": photographs}[name] for name in worlds},
        "arms": {arm: {} for arm in TRUE},
        "seeds": tuple(range(5)),
        "comparisons": pairs,
    }
    return Plan(**{"name": "made_up", "question": "does it help?", **settings, **changes})


def made_up_rows(plan: Plan, spread: float = 0.008) -> list[dict[str, str]]:
    """A row for each run of a plan, from a generator of its own for each."""
    rows = []
    for number, (data, images, base, seed) in enumerate(_pairs(plan)):
        shared = np.random.default_rng(number).normal(0.25 - 0.03 * list(plan.data[data].bases).index(base), 0.02)
        for place, arm in enumerate(plan.arms):
            noise = np.random.default_rng([number, place]).normal(0, spread, 4)
            row = _row(plan, data, base, arm, seed, shared + TRUE[arm] + noise[0], noise)
            rows.append({**row, "images": str(images) if images else ALL_IMAGES})
    return rows


def _pairs(plan: Plan) -> list[tuple[str, int, str, int]]:
    return [
        (data, images, base, seed)
        for data, world in plan.data.items()
        for images in plan.images
        for base in world.bases
        for seed in plan.seeds
    ]


def write_study(path: Path, plan: Plan) -> Path:
    """The CSV of a plan's made-up runs."""
    write_rows(path, made_up_rows(plan))
    return path


def _row(plan: Plan, data: str, base: str, arm: str, seed: int, gain: float, noise: np.ndarray) -> dict[str, str]:
    world = plan.data[data]
    lost = 0.012 + noise[1] if world.lost else 0.0
    values = {"gain": gain, "lost": lost, "gain@1": gain + 0.02, "lost@1": 0.06 + noise[2] if world.lost else 0.0}
    for name in world.metrics:
        of_base = {world.gain: 0.05, world.lost: 0.71}.get(name, 0.96)
        value = {world.gain: of_base + gain, world.lost: of_base - lost}.get(name, of_base - 0.02)
        values |= {name: value, f"{name}@base": of_base, f"{name}@1": value}
    cells = {name: repr(round(float(value), 6)) for name, value in values.items()}
    setup = {
        "adapter": "hyperet",
        "sites": "encoder_layer prompt",
        "geometry": arm,
        "structure": "dense",
        "gate": "none",
    }
    setup |= {"tuned": "optim.lr=0.004", "parameters": "12288", "steps": "560", "best_step": "448"}
    cost = {"train_seconds": "93.2", "seconds": "140.5", "peak_gib": "2.31", "version": "0.1.0", "date": "2026-11-27"}
    key = {"plan": plan.name, "data": data, "base": base, "arm": arm, "seed": str(seed)}
    dial = [0.5, 0.75, 1.0][seed % 3]
    return {**key, **setup, "dial": repr(dial), **cells, **cost, "identity": "0"}
