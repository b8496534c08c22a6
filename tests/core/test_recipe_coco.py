"""recipes/coco_r50.yaml against the published recipe, key by key."""

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mtseg.core.params import Params, load
from mtseg.core.recipe import apply
from mtseg.report.page import flat
from mtseg.training.optimizer import optimizer, schedule
from tests import tiny
from tests.scenes import make_tasks

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "coco_r50.yaml"

CLASS_WEIGHT = 2.0  # MODEL.MASK_FORMER.CLASS_WEIGHT, in the loss and in the matcher's cost
# facebookresearch/Mask2Former, commit 161be514, configs/coco/instance-segmentation:
# Base-COCO-InstanceSegmentation.yaml, overridden by maskformer2_R50_bs16_50ep.yaml. {our key: (value, their key)}
PUBLISHED = {
    "model.backbone": ("resnet50", "MODEL.RESNETS.DEPTH: 50, STRIDE_IN_1X1: False"),
    "model.freeze_norm": (True, "MODEL.RESNETS.NORM, by detectron2's default FrozenBN; MODEL.BACKBONE.FREEZE_AT: 0"),
    "model.num_queries": (100, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"),
    "model.hidden_dim": (256, "MODEL.MASK_FORMER.HIDDEN_DIM, MODEL.SEM_SEG_HEAD.CONVS_DIM and MASK_DIM"),
    "model.num_heads": (8, "MODEL.MASK_FORMER.NHEADS"),
    "model.encoder_layers": (6, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS"),
    "model.encoder_feedforward_dim": (1024, "MSDeformAttnPixelDecoder.from_config: transformer_dim_feedforward"),
    "model.decoder_layers": (9, "MODEL.MASK_FORMER.DEC_LAYERS: 10, one of them for the loss on the learned queries"),
    "model.decoder_feedforward_dim": (2048, "MODEL.MASK_FORMER.DIM_FEEDFORWARD"),
    "input.size": (1024, "INPUT.IMAGE_SIZE"),
    "input.min_scale": (0.1, "INPUT.MIN_SCALE"),
    "input.max_scale": (2.0, "INPUT.MAX_SCALE"),
    "input.flip": (0.5, "INPUT.RANDOM_FLIP, by detectron2's default horizontal, at half of the images"),
    "input.workers": (4, "DATALOADER.NUM_WORKERS"),
    "solver.ims_per_batch": (16, "SOLVER.IMS_PER_BATCH"),
    "solver.accumulate": (1, "none there"),
    "solver.max_iter": (368750, "SOLVER.MAX_ITER"),
    "solver.schedule": ("steps", "SOLVER.LR_SCHEDULER_NAME, by detectron2's default WarmupMultiStepLR"),
    "solver.warmup": (0, "SOLVER.WARMUP_FACTOR: 1.0 over SOLVER.WARMUP_ITERS: 10"),
    "solver.weight_decay": (0.05, "SOLVER.WEIGHT_DECAY"),
    "solver.backbone_multiplier": (0.1, "SOLVER.BACKBONE_MULTIPLIER"),
    "solver.clip": (0.01, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE, CLIP_TYPE: full_model, NORM_TYPE: 2.0"),
    "solver.amp": (True, "SOLVER.AMP.ENABLED"),
    "solver.eval_period": (5000, "TEST.EVAL_PERIOD"),
    "loss.mask": (5.0, "MODEL.MASK_FORMER.MASK_WEIGHT"),
    "loss.dice": (5.0, "MODEL.MASK_FORMER.DICE_WEIGHT"),
    "loss.labels": (CLASS_WEIGHT, "MODEL.MASK_FORMER.CLASS_WEIGHT"),
    "loss.no_object": (0.1, "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT"),
    "loss.num_points": (12544, "MODEL.MASK_FORMER.TRAIN_NUM_POINTS"),
    "loss.oversample": (3.0, "MODEL.MASK_FORMER.OVERSAMPLE_RATIO"),
    "loss.importance": (0.75, "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO"),
    "test.detections": (100, "TEST.DETECTIONS_PER_IMAGE, by detectron2's default"),
    "test.max_dets": ((1, 10, 100), "COCO's own"),
    "test.ranking": ("main_quality", "MaskFormer.instance_inference: class probability x mask quality"),
}
BASE_LR = 1e-4  # SOLVER.BASE_LR
STEPS = (327778, 355092)  # SOLVER.STEPS
# of the user, or with a test of their own; so are the sections data and tasks
OWN = {
    *("model.weights", "filter.largest_component"),
    *("solver.base_lr", "solver.reference_lr", "solver.reference_batch"),
}


@pytest.fixture(scope="module")
def params(tmp_path_factory) -> Params:
    folder = tmp_path_factory.mktemp("recipe")
    path = Path(shutil.copy(ROOT / "params.yaml", folder))
    apply(RECIPE, params=path, raw=str(folder))
    return load(path)


@pytest.mark.parametrize("key", PUBLISHED)
def test_every_key_has_the_published_value(params, key):
    section, name = key.split(".")
    assert getattr(getattr(params, section), name) == PUBLISHED[key][0], PUBLISHED[key][1]


def test_the_recipe_sets_the_published_keys_and_no_others():
    """A value that the recipe leaves to params.yaml could change there."""
    keys = {key for key in flat(YAML(typ="safe").load(RECIPE)) if not key.startswith(("data.", "tasks."))}
    assert keys - OWN == PUBLISHED.keys() | {"solver.steps"}


def test_lr_and_its_steps_are_the_published_ones(params):
    solver = params.solver
    course = schedule(solver)

    def lr(step: int) -> float:
        """The learning rate of a training step."""
        return solver.lr * course(min(step / solver.max_iter, 1 - 1e-9)) * min(1.0, (step + 1) / max(solver.warmup, 1))

    for step, factor in [(0, 1), (STEPS[0] - 1, 1), (STEPS[0], 0.1), (STEPS[1] - 1, 0.1), (STEPS[1], 0.01)]:
        assert lr(step) == pytest.approx(BASE_LR * factor), step
    assert lr(solver.max_iter - 1) == pytest.approx(BASE_LR * 0.01)


def test_one_task_with_the_published_weights_and_no_class_weights(params):
    (task,) = params.tasks
    assert (task.loss_weight, task.match_weight, task.background) == (CLASS_WEIGHT, 1, True)
    assert task.classes == "auto" and task.class_weights is None and task.flip_pairs == ()


def test_norms_and_embeddings_do_not_decay(params):
    """SOLVER.WEIGHT_DECAY_NORM: 0.0 (detectron2's default) and WEIGHT_DECAY_EMBED: 0.0 (Mask2Former's)."""
    network = tiny.network(make_tasks(1))
    decays = {
        id(parameter): group["weight_decay"]
        for group in optimizer(network, params.solver).param_groups
        for parameter in group["params"]
    }
    assert decays[id(network.decoder.norm.weight)] == 0
    assert decays[id(network.decoder.query_feature)] == 0
    assert decays[id(network.decoder.mask_embed[0].weight)] == 0.05


def test_the_header_says_what_was_not_measured():
    header = RECIPE.read_text(encoding="utf-8").split("\ndata:")[0]
    for message in ("make repro RECIPE=coco_r50", "43.7 AP", "not measured here", "576 GPU hours", "issue 9"):
        assert message in header
