"""Reports for tests: one with every part and hostile names, and one of three models."""

import numpy as np
from metric_keys import keyed
from plotted_runs import history, shift

from sam3_hyperet.evaluation.dial import DialFront
from sam3_hyperet.masks import rectangle
from sam3_hyperet.report.content import Report
from sam3_hyperet.report.description import ModelDescription
from sam3_hyperet.report.figures.category_plots import TreeConfusion
from sam3_hyperet.report.figures.gate_plots import PromptGates
from sam3_hyperet.report.figures.images import Detection, Example, SemanticExample
from sam3_hyperet.report.figures.radius_maps import RadiusMap
from sam3_hyperet.report.figures.score_plots import PrecisionRecall, RiskCoverage
from sam3_hyperet.report.tables import METRICS
from sam3_hyperet.training.choice import Rule

HOSTILE = "<script>alert('x')</script>\"&"


def metrics(scope="scenes/group", base=0.01, adapted=0.34, key="segm/AP", interval=None):
    """A metric of the base and of the adapted model, with the interval of the difference."""
    found = {f"base/{scope}/{key}": base, f"{scope}/{key}": adapted}
    if interval:
        found |= {f"difference/{scope}/{key}/low": interval[0], f"difference/{scope}/{key}/high": interval[1]}
    return found


def full():
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mask = rectangle((10, 10, 40, 40), 64, 64)
    labels = np.zeros((64, 64), np.uint8)
    detections = {"base": (Detection(mask, 0.3),), HOSTILE: (Detection(mask, 0.8),)}
    example = Example(picture, HOSTILE, "part", (mask,), detections, caption=HOSTILE)
    gain = f"a$b${HOSTILE.replace('<', '').replace('>', '')}"
    values = {0.0: {gain: 0.1, "k": 0.7}, 0.5: {gain: 0.3, "k": 0.69}, 1.0: {gain: 0.4, "k": 0.5}}
    rule = Rule.parse(f"max {gain} where k >= base-0.02")
    return Report(
        title=HOSTILE,
        metrics=keyed(
            {
                **metrics(),
                **metrics(key=f"segm/AP/{HOSTILE}"),
                "difference/scenes/group/segm/AP/low": 0.28,
                "difference/scenes/group/segm/AP/high": 0.37,
                HOSTILE: 1.5,
                "params/added": 8192,
                "x/segm/AP": -1,
            }
        ),
        history=[*history(), {"step": 41, f"train/loss_{HOSTILE}": 1.0, f"radius/{HOSTILE}/mean": 1.0}],
        protocol={HOSTILE: HOSTILE},
        config=f"name: {HOSTILE}",
        versions={"torch": HOSTILE},
        examples=[example],
        facts={"adapter": HOSTILE, "written": HOSTILE},
        semantic_examples=[SemanticExample(picture, labels, {"base": labels, "adapted": labels + 255}, (HOSTILE,))],
        radius=[shift(HOSTILE)],
        gained=[example],
        radius_maps=[RadiusMap(picture, HOSTILE, np.full((4, 4), 0.2), np.eye(4))],
        precision_recall=[PrecisionRecall(HOSTILE, 0.5, np.linspace(1, 0, 101), HOSTILE)],
        risk_coverage=[RiskCoverage(HOSTILE, HOSTILE, np.linspace(0, 1, 9), np.linspace(0, 0.5, 9))],
        confusion=TreeConfusion((HOSTILE, "dog"), (HOSTILE, HOSTILE), {HOSTILE: np.eye(2)}),
        instances={HOSTILE: 7},
        dropped={HOSTILE: 3},
        notes=[HOSTILE],
        front=DialFront(rule, values[0.0], values, HOSTILE, 0.5),
        gates=PromptGates({HOSTILE: {HOSTILE: 1.25}, "$a$": {HOSTILE: 0.5}}, {HOSTILE: HOSTILE, "$a$": "$part$"}),
    )


def three_models():
    """A comparison of three adapted models on ten groups of categories, each metric with its intervals."""
    names, groups = ("euclidean", "lorentz", "lora_of_rank_16"), [f"group_{k}" for k in range(10)]
    found = {f"{name}/params/added": 12483 for name in names}
    for metric in METRICS:
        for k, group in enumerate(groups):
            key = f"scenes/{group}/{metric.key}"
            found[f"base/{key}"] = 0.3 + k / 50
            for m, name in enumerate(names):
                found[f"{name}/{key}"] = 0.3 + k / 50 + (m + k) / 50
                found |= {f"difference/{name}/{key}/low": 0.001, f"difference/{name}/{key}/high": 0.2}
                for earlier in names[:m]:
                    found |= {
                        f"between/{name}/{earlier}/{key}{end}": x
                        for end, x in (("", 0.02), ("/low", -0.01), ("/high", 0.05))
                    }
    mask = rectangle((10, 10, 40, 40), 64, 64)
    picture = np.full((64, 64, 3), 120, np.uint8)
    detections = {name: (Detection(mask, 0.4 + 0.1 * m),) for m, name in enumerate(("base", *names))}
    example = Example(picture, "window", "part", (mask,), detections, caption="F1 of the image .20 → .60")
    described = [
        ModelDescription(
            name,
            "scheme B (encoder_layer) + prompt",
            "lorentz with c = 0.01",
            "dense, a gate per prompt",
            "12,483 added, 0.27 % of the base",
            "1,200 steps",
            "",
        )
        for name in names
    ]
    return Report(
        title="three models",
        metrics=keyed(found, names),
        history=history(),
        protocol={"data": "scenes, val split, 120 of 120 images"},
        config="name: three",
        versions={"torch": "2"},
        models=names,
        facts={"base": "tiny_levels, tiny_scenes_levels.safetensors of the package", "written": "2026-11-27 06:52 UTC"},
        described=described,
        gained=[example] * 3,
        lost=[example] * 3,
        examples=[example] * 6,
    )
