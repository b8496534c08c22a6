"""What the analysis and the intervals rest on: overlaps, labels and matches, each made once.

N: predictions, as `predictions.places` orders them, so that nothing hangs on their order in a file. G: ground truths,
pictures by id, instances in order. S: pictures by id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtseg.core.params import Ranking, Task
from mtseg.core.tables import Image, Prediction
from mtseg.evaluation.average_precision import EVERY, combined, first_of_query, labels_found, labels_true
from mtseg.evaluation.label_errors import Labels
from mtseg.evaluation.matching import HIT, check
from mtseg.evaluation.overlaps import Matches, Overlaps, match
from mtseg.evaluation.predictions import places
from mtseg.evaluation.predictions import scores as every_score


@dataclass(frozen=True)
class Evidence:
    """Predictions beside their pictures, matched in every way that is asked about.

    places: int [N], of the predictions in the file. ranked: what every ranking makes of them, [N] each. labels,
    matches: by task; of each query the best prediction alone, of the main task the best of each class. whatever:
    matches at IoU 0.5 of masks alone, the best of each query. jointly: matches of all labels as one. most: predictions
    that count in a picture and category.
    """

    images: Sequence[Image]
    predictions: Sequence[Prediction]
    places: np.ndarray
    tasks: Sequence[Task]
    overlaps: Overlaps
    ranked: Mapping[Ranking, np.ndarray]
    labels: Mapping[str, Labels]
    matches: Mapping[str, Matches]
    whatever: Matches
    jointly: Matches
    most: int
    ranking: Ranking

    @classmethod
    def of(
        cls,
        images: Sequence[Image],
        predictions: Sequence[Prediction],
        *,
        tasks: Sequence[Task],
        ranking: Ranking,
        max_dets: Sequence[int],
    ) -> Evidence:
        """Raises UserError on predictions for pictures that are not among `images`."""
        check(images, predictions)
        order = places(predictions, tasks)
        predictions = [predictions[place] for place in order]
        overlaps = Overlaps.of(images, predictions)
        ranked = every_score(predictions, tasks)
        scores = ranked[ranking]
        first, once = first_of_query(predictions, scores), first_of_query(predictions, scores, tasks[0])
        labels = {task.name: _labels(images, predictions, task) for task in tasks}
        most = max(max_dets)
        matches = {
            task.name: match(
                overlaps,
                labels[task.name].true,
                labels[task.name].found,
                scores,
                categories=task.num_classes,
                most=most,
                kept=once if task is tasks[0] else first,
            )
            for task in tasks
        }
        no_class = np.zeros(len(overlaps.crowd), dtype=int), np.zeros(len(predictions), dtype=int)
        everything = {"categories": 1, "most": len(predictions), "kept": first, "thresholds": np.array([HIT])}
        return cls(
            images=images,
            predictions=predictions,
            places=order,
            tasks=tasks,
            overlaps=overlaps,
            ranked=ranked,
            labels=labels,
            matches=matches,
            whatever=match(overlaps, *no_class, scores, **everything),
            jointly=_joint(labels, tasks, overlaps, scores, most),
            most=most,
            ranking=ranking,
        )

    def jointly_right(self, task: Task) -> Matches:
        """All labels as one, had every matched prediction this task's label right."""
        true, hit = self.labels[task.name].true, self.whatever.hit[0]
        rows = np.flatnonzero(hit >= 0)
        rows = rows[true[hit[rows]] != EVERY]
        found = self.labels[task.name].found.copy()
        found[rows] = true[hit[rows]]
        labels = {**self.labels, task.name: replace(self.labels[task.name], found=found)}
        return _joint(labels, self.tasks, self.overlaps, self.scores, self.most)

    @property
    def scores(self) -> np.ndarray:
        """[N], of the ranking."""
        return self.ranked[self.ranking]

    @property
    def pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """The picture of each prediction, int [N], and of each ground truth, int [G]."""
        return self.overlaps.found_picture, self.overlaps.true_picture


def _joint(labels: Mapping[str, Labels], tasks, overlaps: Overlaps, scores: np.ndarray, most: int) -> Matches:
    own = [labels[task.name] for task in tasks]
    true, found = (np.column_stack(columns) for columns in ([o.true for o in own], [o.found for o in own]))
    true, found, names = combined(true, found, tasks)
    return match(overlaps, true, found, scores, categories=len(names), most=most)


def _labels(images: Sequence[Image], predictions: Sequence[Prediction], task: Task) -> Labels:
    """The probabilities leave the no-object slot out: they are asked of objects, which are there."""
    logits = np.array([p.logits[task.name] for p in predictions], dtype=np.float64).reshape(-1, task.num_outputs)
    logits = logits[:, : task.num_classes]
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    true, found = labels_true(images, task), labels_found(predictions, task)
    return Labels(task.name, task.classes, true, found, probabilities)
