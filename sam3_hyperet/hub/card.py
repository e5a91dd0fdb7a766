"""The model card of an adapter, written from its file and its run: metadata that the hub checks, and a page."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.hub.adapter_info import AdapterInfo
from sam3_hyperet.hub.card_metadata import OFFICIAL, SAM_LICENSE, CardOptions, card_metadata, measured_split
from sam3_hyperet.hub.card_tables import (
    card_rows,
    dial_table,
    metric_table,
    shown,
    untested_rows,
    worse_rows,
)
from sam3_hyperet.hub.run_info import RunInfo, measured_dial
from sam3_hyperet.report.percentages import percent
from sam3_hyperet.report.tables import ABSENT, UNMOVED, Row, number
from sam3_hyperet.report.text_tables import markdown_text
from sam3_hyperet.version import __version__
from sam3_hyperet.wording import count_of, is_plain_name

_HYPERET = """\
@inproceedings{peng2025hyperet,
  title     = {{HyperET}: Efficient Training in Hyperbolic Space for Multi-modal Large Language Models},
  author    = {Peng, Zelin and Xu, Zhengqin and Liu, Qingyang and Yang, Xiaokang and Shen, Wei},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2025},
  note      = {arXiv:2510.20322}
}"""
_SAM3 = """\
@article{carion2025sam3,
  title   = {{SAM 3}: Segment Anything with Concepts},
  author  = {Carion, Nicolas and others},
  journal = {arXiv:2511.16719},
  year    = {2025}
}"""


def card_text(repository: str, adapter: AdapterInfo, run: RunInfo, options: CardOptions) -> str:
    """The card: YAML metadata, then Markdown. Raises ConfigError where the metadata is not what the hub takes."""
    from huggingface_hub import ModelCard

    found = [row for metrics in (run.metrics, *options.evaluations) for row in card_rows(metrics)]
    text = f"---\n{card_metadata(repository, adapter, run, options).to_yaml()}\n---\n\n"
    text += "\n\n".join(_sections(repository, adapter, run, options, found)) + "\n"
    try:  # as the hub's own library reads it: YAML that is a mapping, results in the form of a model index
        ModelCard(text, ignore_metadata_errors=False)
    except ValueError as error:
        raise ConfigError(f"{repository}: the card's metadata is not valid ({' '.join(str(error).split())})") from error
    return text


def _sections(
    repository: str, adapter: AdapterInfo, run: RunInfo, options: CardOptions, found: Sequence[Row]
) -> Iterable[str]:
    added = run.metrics.get("params/added_ratio")
    ratio = f" ({100 * added:.2g} % of the base)" if isinstance(added, float) else ""
    trained = f", trained on {shown(run.trained_on)}" if run.trained_on else ""
    size = f"{adapter.parameters:,} parameters{ratio}"
    yield f"# {markdown_text(repository.rpartition('/')[2])}"
    if adapter.encoder:
        what = f"An adapter of {size} for a frozen vision encoder{trained}. It changes the features of the encoder"
    else:
        what = f"An adapter of {size} for a frozen SAM 3{trained}. It changes the "
        what += "granularity at which the model segments what noun phrases name"
    numbers = "; the numbers are those of `metrics.json`" if run.metrics else ""
    yield f"{what}, by {_method(adapter)}. Written by sam3_hyperet {__version__} from its files{numbers}."
    if options.note:
        yield options.note.strip()
    yield "## How to load it"
    yield _usage(repository, adapter, run, options)
    yield "## The adapter"
    yield _pairs(adapter_facts(adapter))
    yield "## The base"
    yield _base(adapter, run, options)
    if run.config:
        yield "## Training"
        yield _pairs(training_facts(run))
    yield "## Evaluation"
    yield from _evaluation(adapter, run, options, found)
    yield "## Dial and gate"
    yield _dial_and_gate(adapter, [run.metrics, *options.evaluations])
    yield "## Intended use and limits"
    yield _limits(adapter, run, found)
    yield "## Citation"
    yield "\n".join(["```bibtex", _HYPERET, *([] if adapter.encoder else [_SAM3]), "```"])


def _method(adapter: AdapterInfo) -> str:
    """How the adapter works, as far as its kind and geometry say."""
    paper = "[HyperET](https://arxiv.org/abs/2510.20322)"
    if adapter.config.adapter != "hyperet":
        return f"{adapter.config.adapter}, a control for {paper}"
    if adapter.config.geometry == "euclidean":
        return f"Euclidean adjustments of its features, a control for {paper}"
    return f"adjustments of its features in hyperbolic space ({paper})"


def adapter_facts(adapter: AdapterInfo) -> dict[str, str]:
    """What an adapter is, for people."""
    config = adapter.config
    gates = f", {count_of(adapter.gates, 'gate')} by the prompt" if adapter.gates else ""
    facts = {
        "scheme": adapter.scheme
        if not adapter.encoder
        else f"other encoder: {count_of(len(adapter.encoder), 'module')}",
        "structure and geometry": adapter.geometry,
        "parameters": f"{adapter.parameters:,} in {count_of(len(adapter.shapes), 'tensor')}{gates}",
        "dial": f"{adapter.dial:g}",
        "base": f"{adapter.base_name + ', of the package; ' if adapter.base_name else ''}fingerprint {adapter.base}",
        "written by": f"sam3_hyperet {adapter.version}",
    }
    if config.residual is not None:
        facts["residual"] = f"{config.residual:g}{', learnt' if config.learn_residual else ''}"
    return facts


def training_facts(run: RunInfo) -> dict[str, str]:
    """How a run trained, for people; only what its files say."""
    groups, metrics = run.of("data", "groups") or {}, run.metrics
    named = {name: ", ".join(map(str, members)) for name, members in groups.items() if isinstance(members, list)}
    stage, splits = run.of("stage", "number"), run.of("data", "splits") or {}
    counts = [f"{name} {count:,}" for name, count in splits.items() if isinstance(count, int)]
    facts = {
        "data": run.trained_on,
        "concepts": "; ".join(f"{name}: {members}" for name, members in named.items()) or None,
        "images": ", ".join(counts) or None,
        "images at most, a split": run.of("data", "limit") or None,
        "training images drawn": run.of("data", "train_images") or None,
        "shots": run.of("data", "shots") or None,
        "stage": f"{stage} (adapters only)" if stage == 1 else stage,
        "steps": metrics.get("train/steps", run.of("train", "max_steps")),
        "best step": metrics.get("train/best_step"),
        "chosen by": run.of("train", "best"),
        "images a step": _images_a_step(run),
        "learning rate": run.of("optim", "lr"),
        "precision": run.of("train", "precision"),
        "resolution": run.of("model", "resolution"),
        "seed": run.config.get("seed"),
        "begun with": run.config.get("init_adapter"),
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()) or None,
    }
    return {name: str(fact) for name, fact in facts.items() if fact is not None}


def _images_a_step(run: RunInfo) -> int | None:
    counts = [run.of("train", key, 1) for key in ("accumulate", "devices", "nodes")]
    batch = run.of("train", "batch_size")
    return math.prod([batch, *counts]) if all(isinstance(one, int) for one in (batch, *counts)) else None


def _usage(repository: str, adapter: AdapterInfo, run: RunInfo, options: CardOptions) -> str:
    if adapter.encoder:
        call = f'hy.load_adapter(encoder, "hub:{repository}")  # the encoder that it was trained on'
        return f"```python\nimport sam3_hyperet as hy\n\n{call}\n```"
    name, base = adapter.base_name or run.of("model", "name", "large"), options.base_model
    checkpoint = base if base in OFFICIAL else run.of("model", "checkpoint") or (base and "sam3.pt") or OFFICIAL[0]
    given = {} if adapter.base_name else {"checkpoint": checkpoint}
    if resolution := run.of("model", "resolution"):
        given["resolution"] = resolution
    arguments = "".join(f", {key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items())
    of_shell = "".join(f" model.{key}={value}" for key, value in given.items())
    of_base = f"  # the weights of {base}" if base and checkpoint != base and not adapter.base_name else ""
    prompts = shlex.quote(f"prompts={','.join(_plain_prompts(run) or ('wheel', 'window'))}")
    return f"""```python
import sam3_hyperet as hy

model = hy.build_model("{name}"{arguments}){of_base}
hy.load_adapter(model, "hub:{repository}")  # add @ and a commit to keep to this version
# hy.set_dial(model, 0.5) is half of what was learnt, 0 the base, 1 the adapter as trained; this file: {adapter.dial:g}
```

    sam3-hyperet predict adapter=hub:{repository} model={name}{of_shell} images=photos {prompts}"""


def _plain_prompts(run: RunInfo) -> list[str]:
    """Two names of the data that the run was scored on, of those that a shell takes between commas."""
    data = run.metrics.get("data")
    names = data.get("prompts", []) if isinstance(data, Mapping) else []
    return [name for name in names if isinstance(name, str) and is_plain_name(name) and name != "null"][:2]


def _base(adapter: AdapterInfo, run: RunInfo, options: CardOptions) -> str:
    if adapter.base_name:
        named = (
            f"The model `{adapter.base_name}` that comes with sam3_hyperet, under Apache-2.0: SAM 3's classes at small"
        )
        named += " width, trained from scratch on drawn scenes; nothing in it comes from Meta's weights."
    elif adapter.encoder:
        named = f"A vision encoder, adjusted in {count_of(len(adapter.encoder), 'module')}. Its own licence holds."
    else:
        base = options.base_model or run.base
        of_file = f"`{base}`" if base else "weights that the file does not name"
        named = (
            f"SAM 3, {of_file}, under Meta's [SAM License]({SAM_LICENSE['license_link']}), which is gated on the hub"
        )
        named += " and holds for what is made of these weights. The base is not part of this repository."
    print_ = f"Its fingerprint is `{adapter.base}`; `load_adapter` refuses any other base."
    return f"{named} {print_}"


def _evaluation(adapter: AdapterInfo, run: RunInfo, options: CardOptions, found: Sequence[Row]) -> Iterable[str]:
    if not found:
        yield "No evaluation came with this adapter: nothing is known of how well it does."
        return
    data = run.of("data", "name")
    images = next((v for k, v in run.metrics.items() if k in (f"{data}/images", f"base/{data}/images")), None)
    facts = {
        "split": measured_split(run.metrics),
        "images": f"{images:g}" if isinstance(images, int | float) else None,
        "detections an image and category that AP ranks, at most": run.of("protocol", "max_dets"),
        "masks from": run.of("protocol", "mask_threshold"),
        "draws of the bootstrap": run.of("protocol", "bootstrap"),
        "boxes as prompts": run.of("protocol", "exemplars") or None,
        "tiles": run.metrics.get("tiles"),
        "precision": run.metrics.get("precision"),
    }
    said = "; ".join(f"{name} {fact}" for name, fact in facts.items() if fact is not None)
    further = f", and {count_of(len(options.evaluations), 'further evaluation')}" if options.evaluations else ""
    yield (
        f"Base and adapted model side by side on the same images and prompts{further}: {markdown_text(said)}. "
        "Intervals are of the difference, over images; they say nothing of other seeds or other data."
    )
    measured = {dial for metrics in (run.metrics, *options.evaluations) if (dial := measured_dial(metrics)) is not None}
    if others := ", ".join(f"{dial:g}" for dial in sorted(measured - {adapter.dial})):
        yield f"**The file is at dial {adapter.dial:g}; numbers of this table were measured at dial {others}.**"
    yield metric_table(found)
    yield "### What got worse"
    yield from _worse(found)
    lost = {k: v for k, v in run.metrics.items() if "/forgetting/" in k and isinstance(v, float) and v > 0}
    if lost:
        told = [f"{key.partition('/forgetting/')[2]} {number(x, 3)}" for key, x in sorted(lost.items())]
        yield f"Lost on concepts that were not trained on: {markdown_text(', '.join(told))}."
    if not lost and not options.evaluations:
        yield "What becomes of concepts and data sets outside these tables was not measured."


def _worse(found: Sequence[Row]) -> Iterable[str]:
    """What got worse: by its interval, and by its value where there is none."""
    worse, untested = worse_rows(found), untested_rows(found)
    is_tested = any(row.cells[0].interval for row in found)
    if worse:
        yield metric_table(worse)
    elif is_tested:
        yield "No row above is worse by more than its interval."
    if untested:
        yield "Worse, without an interval that tells whether by chance:"
        yield metric_table(untested)
    elif not is_tested:
        is_compared = any(row.cells[0].difference is not None for row in found)
        none = f"No row above is worse by {UNMOVED:g} or more; no intervals were made."
        yield none if is_compared else "Nothing above is compared with the base."


def _dial_and_gate(adapter: AdapterInfo, evaluations: Iterable[Mapping[str, Any]]) -> str:
    text = (
        f"The file is at dial {adapter.dial:g}. The dial scales what the adapter adds: 0 is the base to the last bit, "
        "1 the adapter as trained, and what lies between needs no training."
    )
    if adapter.gates:
        text += f" {count_of(adapter.gates, 'gate')} let each prompt have more or less of it."
    tables = [table for metrics in evaluations if (table := dial_table(metrics))]
    return "\n\n".join([text, *tables] if tables else [f"{text} The metrics along it were not measured."])


def _limits(adapter: AdapterInfo, run: RunInfo, found: Sequence[Row]) -> str:
    use = (
        "Finding and segmenting in images what noun phrases name, for concepts and images like those of the data above."
    )
    lines = ["Features of images like those that it was trained on." if adapter.encoder else use]
    absent = [
        (row, 1.0 - row.base, 1.0 - row.cells[0].value)
        for row in found
        if row.metric.key == ABSENT and row.base is not None and row.cells[0].value is not None
    ]
    if absent:
        row, base, adapted = max(absent, key=lambda one: one[2] - one[1])
        lines.append(
            f"False alarms: of prompts for what an image does not show, the base answers {percent(base)} and the "
            f"adapted model {percent(adapted)} ({markdown_text(row.label)}, where it got worst)."
        )
    if run.of("data", "format") == "scenes":
        lines.append("Trained and measured on drawn scenes: a demonstration, of no use on photographs.")
    lines.append("One run with one seed, unless said otherwise. Biases of the base and of the data are inherited.")
    lines.append("Not examined for medical, legal, surveillance or safety-critical use.")
    return "\n".join(f"- {line}" for line in lines)


def _pairs(facts: Mapping[str, str]) -> str:
    lines = [f"| {markdown_text(name)} | {shown(fact)} |" for name, fact in facts.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])
