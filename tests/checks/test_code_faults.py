"""Every fault that the benchmark injects into the code before training is reported by a check, on a tiny network.

`python -m benchmarks.faults` shows the same on whole pipelines.
"""

from __future__ import annotations

import itertools

import pytest

from benchmarks.faults import combinations, inputs, postprocessing, reports, training
from mtseg.checks import batches, known_answers, mapper, network, step
from tests import tiny
from tests.scenes import make_tasks

ELSEWHERE = (
    # reported by mtseg/checks/combinations.py, which test_combinations.py tests
    "combinations seen: every other is lost", "combinations seen: two tasks exchanged",
    # with pretrained weights, see test_network.py
    "pixels divided by 1 instead of the deviation", "the backbone is initialised again after its weights were loaded",
    "pixels from 0 to 255 normalised by mean and deviation of those from 0 to 1",
    # an exception, which network.check reports
    "an image without objects fails in training",
    # seen after a training alone
    "the lr stays where the warm-up begins", "every step is trained on the same batch",
    "the norms are left in training mode at prediction",
)  # fmt: skip
LATE = [
    fault
    for module in (postprocessing, *reports.ROUNDS)
    for fault in module.FAULTS
    if fault.code and fault.since == "convert"
]
OF_LOADER = [
    fault
    for fault in LATE
    if "overtrained" in fault.causes or any(cause.startswith("mapper_") for cause in fault.causes)
]
LOADED = [fault for fault in (*inputs.FAULTS, *OF_LOADER) if fault.since == "convert"]
BUILT = [
    fault
    for fault in (*training.FAULTS, *combinations.FAULTS, *(fault for fault in LATE if fault not in OF_LOADER))
    if fault.since == "convert" and fault.causes and fault.name not in ELSEWHERE
]


@pytest.mark.parametrize("fault", LOADED, ids=lambda fault: fault.name)
def test_a_fault_between_file_and_network_is_named(fault):
    tasks = make_tasks(len(fault.tasks))
    if "side" in fault.tasks:
        tasks = (*tasks[:3], tasks[3].model_copy(update={"flip_pairs": (("left", "right"),)}))
    if "level" in fault.tasks:
        tasks = (*tasks[:3], tasks[3].model_copy(update={"classes": ("upper", "lower")}))
    given = tiny.params(input={"size": 128}).input
    with fault.code():
        found = mapper.check(tasks, input=given) or batches.check(tasks, input=given)
    assert found and {finding.cause for finding in found} <= set(fault.causes)


@pytest.mark.parametrize("fault", BUILT, ids=lambda fault: fault.name)
def test_a_fault_of_the_network_its_losses_or_the_optimiser_is_named(fault):
    combined = fault.changes.get("model.unseen_combinations", 1) < 1
    tasks = tuple(
        task.model_copy(update={"loss_weight": fault.changes.get(f"tasks.{task.name}.loss_weight", 1.0)})
        for task in make_tasks(3, background=not combined)
    )
    tasks = (tasks[0], tasks[2], tasks[1])  # the first two have as many classes
    seen = list(itertools.product(*(range(task.num_classes) for task in tasks))) if combined else []
    batch = [tiny.example(tasks, 3, seed=seed) for seed in (1, 2)]
    params = tiny.params()
    with fault.code():
        given = tiny.network(tasks, seen=seen, model={"unseen_combinations": 0.01 if combined else 1.0})
        found = list(network.heads(given)) or known_answers.check(given)
        found = found or list(network.dependence(given, batch)) or step.check(given, batch, solver=params.solver)
    assert found and {finding.cause for finding in found} <= set(fault.causes)
