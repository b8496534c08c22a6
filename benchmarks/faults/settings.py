"""Faults of params.yaml. Those that the check alone finds are cases of tests/checks/test_labels.py."""

from __future__ import annotations

from benchmarks.faults.case import SEPARATE, Fault
from benchmarks.faults.healthy import MOBILE

FAULTS = (
    Fault("the lr of another batch size", failure="lr_for_batch", causes=("lr_for_batch",),
          changes={"solver.base_lr": 8e-3, "solver.ims_per_batch": 4}),
    Fault("reference lr 100 times too high: the rule agrees", causes=("lr_too_high",),
          changes={"solver.reference_lr": 4e-1}),
    Fault("reference lr 100 times too low: the rule agrees", failure="lr_for_batch", causes=("lr_too_low",),
          changes={"solver.reference_lr": 4e-5}),
    Fault("25 steps", causes=("too_few_steps",),
          changes={"solver.max_iter": 25, "solver.eval_period": 25, "solver.warmup": 2}),
    Fault("400 steps from random weights, one task not learnt by then", tasks=("colour", "fill"),
          causes=("too_few_steps", "lr_too_low"), changes=MOBILE | {"solver.max_iter": 400}),
    Fault("one query", failure="query_count", causes=("queries_too_few",), changes={"model.num_queries": 1}),
    Fault("maxDets 1 and one detection per image", failure="query_count", since="predict",
          causes=("detections_too_few", "queries_saturated"),
          changes={"test.detections": 1, "test.max_dets": [1]}),
    Fault("the main task's loss weight is 0", failure="zero_loss_weight", causes=("loss_muted",),
          changes={"tasks.shape.loss_weight": 0.0}),
    Fault("a task's match weight is 0", failure="task_untrained_in_matching", causes=("task_untrained_in_matching",),
          changes={"tasks.fill.match_weight": 0.0}),
    Fault("the filter's min_area is 200 pixels", since="evaluate", causes=("filter_too_strict",),
          changes={"filter.min_area": 200}),
    Fault("ranked by the sum of logits, separate heads", failure="ranking", since="evaluate", causes=("ranking",),
          changes={**SEPARATE, "test.ranking": "sum"}),
)  # fmt: skip
