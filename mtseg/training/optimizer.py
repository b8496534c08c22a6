"""Optimiser and schedule of Mask2Former (arXiv 2112.01527, section 4; `build_optimizer` of its official code)."""

from __future__ import annotations

import torch
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler, ParamScheduler

from mtseg.core.params import Solver
from mtseg.model.mask2former import Mask2Former

NO_DECAY = {  # part of the network -> its parameters without weight decay, besides norms
    "backbone": ("relative_position_bias_table",),
    "decoder": ("query_feature", "query_position", "level_embed"),
}


def optimizer(network: Mask2Former, solver: Solver) -> torch.optim.AdamW:
    """AdamW. The lr of the backbone is multiplied by `backbone_multiplier`. Weight decay as in the official code: not
    for norms, the decoder's embeddings and Swin's position biases, but for the pixel decoder's level embedding.

    The head of a task of loss weight 0 is set not to require gradients: weight decay would change it, and its zero
    gradients would change the last bits of the norm that gradients are clipped by.
    """
    for task in network.tasks:
        network.decoder.heads[f"head_{task.name}"].requires_grad_(task.loss_weight > 0)
    groups = []
    for name, part in network.named_children():
        lr = solver.lr * (solver.backbone_multiplier if name == "backbone" else 1.0)
        groups += get_default_optimizer_params(
            part, base_lr=lr, weight_decay=solver.weight_decay, weight_decay_norm=0.0,
            overrides={parameter: {"weight_decay": 0.0} for parameter in NO_DECAY.get(name, ())},
        )  # fmt: skip
    for group in groups:
        group["initial_lr"] = group["lr"]
    # fused: a third of the time on a CPU; on CUDA the scaler of float16 would wait for the device without it
    return torch.optim.AdamW(groups, lr=solver.lr, weight_decay=solver.weight_decay, fused=True)


def schedule(solver: Solver) -> ParamScheduler:
    """The schedule: from the fraction of training done, 0 to 1, to the factor of the lr."""
    if solver.schedule == "cosine" or not solver.max_iter:
        return CosineParamScheduler(1.0, 0.0)
    values = [0.1**i for i in range(len(solver.steps) + 1)]
    milestones = [round(share * solver.max_iter) for share in solver.steps]
    return MultiStepParamScheduler(values, milestones=milestones, num_updates=solver.max_iter)
