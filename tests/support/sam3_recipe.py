"""Numbers of SAM 3's published recipe, for its own classes to be made of.

They are those of facebookresearch/sam3, sam3/train/configs/roboflow_v100/roboflow_v100_full_ft_100_images.yaml.
"""

from typing import Any

import hydra
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
