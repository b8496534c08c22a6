"""What the labels of found objects are taken for, background included."""

from __future__ import annotations

import numpy as np

from mtseg.core.params import Task
from mtseg.core.tables import UNLABELLED
from mtseg.evaluation.ap.evaluation import Evaluation
from mtseg.evaluation.ap.matching import HIT


def confusion(evaluation: Evaluation, task: Task, min_score: float) -> np.ndarray:
    """int [classes + 1, classes + 1]: rows truth, columns predicted; the last of both is background.

    Objects that no prediction of at least `min_score` matches are predicted as background; such predictions that match
    none are background taken for something. An object without a label of the task and what lies on it count nowhere, as
    with crowds.
    """
    given, matches, classes = evaluation.candidates, evaluation.class_agnostic, task.num_classes
    true, found = evaluation.images.instances.labels[task.name], evaluation.predictions.labels[task.name]
    taken = np.zeros(len(found), dtype=bool)
    taken[matches.scored] = True
    taken &= evaluation.scores >= min_score
    unlabelled = (true[given.instance] == UNLABELLED) & (given.inside >= HIT)
    on_unlabelled = np.zeros(len(found), dtype=bool)
    on_unlabelled[given.prediction[unlabelled]] = True

    objects = matches.objects & (true != UNLABELLED)
    matched = taken & (matches.hit[0] >= 0)
    hit = matches.hit[0][matched]
    labelled = objects[hit]
    missed = objects.copy()
    missed[hit] = False
    alone = taken & ~matched & ~matches.ignored[0] & ~on_unlabelled

    rows = np.concatenate([true[hit[labelled]], true[missed], np.full(alone.sum(), classes)])
    columns = np.concatenate([found[matched][labelled], np.full(missed.sum(), classes), found[alone]])
    matrix = np.zeros((classes + 1, classes + 1), dtype=int)
    np.add.at(matrix, (rows, columns), 1)
    return matrix
