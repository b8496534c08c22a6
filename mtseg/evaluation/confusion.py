"""Confusion matrix of a task's labels, with background."""

from __future__ import annotations

import numpy as np

from mtseg.core.params import Task
from mtseg.core.tables import UNLABELLED
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import HIT


def confusion(evaluation: Evaluation, task: Task, min_score: float) -> np.ndarray:
    """int [classes + 1, classes + 1]: rows true, columns predicted; the last row and column are background.

    Predictions with a score of at least `min_score` are counted at their class-agnostic matches. An object without a
    match is predicted as background; a prediction without a match has background as the true class. Crowds, objects
    without a label of the task, and predictions on either are not counted.
    """
    candidates, matches, classes = evaluation.candidates, evaluation.class_agnostic, task.num_classes
    true, predicted = evaluation.images.instances.labels[task.name], evaluation.predictions.labels[task.name]
    taken = matches.takes_part & (evaluation.scores >= min_score)
    unlabelled = (true[candidates.instance] == UNLABELLED) & (candidates.inside >= HIT)
    on_unlabelled = np.zeros(len(predicted), dtype=bool)
    on_unlabelled[candidates.prediction[unlabelled]] = True

    objects = matches.objects & (true != UNLABELLED)
    hit = matches.first_hit
    matched = taken & (hit >= 0)
    hit = hit[matched]
    labelled = objects[hit]
    missed = objects.copy()
    missed[hit] = False
    alone = taken & ~matched & ~matches.first_ignored & ~on_unlabelled

    rows = np.concatenate([true[hit[labelled]], true[missed], np.full(alone.sum(), classes)])
    columns = np.concatenate([predicted[matched][labelled], np.full(missed.sum(), classes), predicted[alone]])
    matrix = np.zeros((classes + 1, classes + 1), dtype=int)
    np.add.at(matrix, (rows, columns), 1)
    return matrix
