"""Numbers of SAM 3's published recipe, for its own classes to be made of.

They are those of facebookresearch/sam3, sam3/train/configs/roboflow_v100/roboflow_v100_full_ft_100_images.yaml.
"""

from typing import Any

import hydra
from omegaconf import OmegaConf
from torch import nn

_LOSSES = "sam3.train.loss.loss_fns"
LOSS: dict[str, Any] = {  # "Loss to be used for training in case of segmentation"
    "_target_": "sam3.train.loss.sam3_loss.Sam3LossWrapper",
    "o2m_weight": 2.0,
    "o2m_matcher": {
        "_target_": "sam3.train.matcher.BinaryOneToManyMatcher",
        "alpha": 0.3,
        "threshold": 0.4,
        "topk": 4,
    },
    "matcher": {
        "_target_": "sam3.train.matcher.BinaryHungarianMatcherV2",
        "focal": True,
        "cost_class": 2.0,
        "cost_bbox": 5.0,
        "cost_giou": 2.0,
        "alpha": 0.25,
        "gamma": 2,
        "stable": False,
    },
    "use_o2m_matcher_on_o2m_aux": False,
    "loss_fns_find": [
        {"_target_": f"{_LOSSES}.Boxes", "weight_dict": {"loss_bbox": 5.0, "loss_giou": 2.0}},
        {
            "_target_": f"{_LOSSES}.IABCEMdetr",
            "weak_loss": False,
            "weight_dict": {"loss_ce": 20.0, "presence_loss": 20.0},
            "pos_weight": 10.0,
            "alpha": 0.25,
            "gamma": 2,
            "use_presence": True,
            "pos_focal": False,
            "pad_n_queries": 200,
            "pad_scale_pos": 1.0,
        },
        {
            "_target_": f"{_LOSSES}.Masks",
            "focal_alpha": 0.25,
            "focal_gamma": 2.0,
            "weight_dict": {"loss_mask": 200.0, "loss_dice": 10.0},
            "compute_aux": False,
        },
    ],
    "loss_fn_semantic_seg": {
        "_target_": f"{_LOSSES}.SemanticSegCriterion",
        "presence_head": True,
        "presence_loss": False,
        "focal": True,
        "focal_alpha": 0.6,
        "focal_gamma": 2.0,
        "downsample": False,
        "weight_dict": {"loss_semantic_seg": 20.0, "loss_semantic_presence": 1.0, "loss_semantic_dice": 30.0},
    },
    "scale_by_find_batch_size": True,
}


def published_loss(queries: int) -> nn.Module:
    """SAM 3's loss of one process, for a model of so many queries."""
    loss: Any = hydra.utils.instantiate({**LOSS, "normalization": "local"}, _convert_="all")
    loss.loss_fns_find[1].pad_n_queries = queries
    return loss


class Constant:
    """A schedule that stays at its value, as fvcore's, which SAM 3 names in its place."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, where: float) -> float:
        return self.value


_ALL_STEPS = {"timescale": 20, "warmup_steps": 20, "cooldown_steps": 20}
RATES = {"": 8e-5, "backbone.vision_backbone.*": 2.5e-5, "backbone.language_backbone.*": 5e-6}
CLIP_NORM = 0.1


def published_optimizer(model: nn.Module) -> tuple[dict[str, float], dict[str, float]]:
    """Peak learning rate and weight decay of each parameter, by its name, as SAM 3 constructs its optimizer."""
    from sam3.train.optim.optimizer import construct_optimizer

    schedule = {"_target_": "sam3.train.optim.schedulers.InverseSquareRootParamScheduler", **_ALL_STEPS}
    decay = "sam3_recipe.Constant"
    options = {
        "lr": [
            {"scheduler": {**schedule, "base_lr": rate}, **({"param_names": [pattern]} if pattern else {})}
            for pattern, rate in RATES.items()
        ],
        "weight_decay": [
            {"scheduler": {"_target_": decay, "value": 0.1}},
            {
                "scheduler": {"_target_": decay, "value": 0.0},
                "param_names": ["*bias*"],
                "module_cls_names": ["torch.nn.LayerNorm"],
            },
        ],
    }
    by_layer = {
        "_target_": "sam3.train.optim.optimizer.layer_decay_param_modifier",
        "_partial_": True,
        "layer_decay_value": 0.9,
        "apply_to": "backbone.vision_backbone.trunk",
        "overrides": [{"pattern": "*pos_embed*", "value": 1.0}],
    }
    made = construct_optimizer(
        model,
        OmegaConf.create({"_target_": "torch.optim.AdamW"}),
        OmegaConf.create(options),
        OmegaConf.create([by_layer]),
    )
    made.step_schedulers(20 / 1000, step=20)  # the end of the warm-up
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = made.optimizer.param_groups
    of = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    return {name: lr for name, (lr, _) in of.items()}, {name: wd for name, (_, wd) in of.items()}
