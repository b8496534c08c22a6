"""The evaluator is tested before it judges (F16): random scenes, and COCO's AP once more, slowly and from the paper.

Everything here is written anew, on pixels and plain loops: no RLE, no library, nothing of the code under test but its
answers. Only the predictions' scores are taken as given.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mtseg.core.tables import Image
from mtseg.evaluation import analysis
from mtseg.evaluation.evidence import Evidence
from mtseg.evaluation.predictions import scores
from mtseg.evaluation.scores import evaluate
from tests.scenes import SIZE, box_instance, make_tasks, predict, predict_all

TASKS = pytest.mark.parametrize("count", [1, 3, 4])
SEEDS = pytest.mark.parametrize("seed", range(3))
RANKING = "product_quality"
MAX_DETS = (1, 4, 10)
THRESHOLDS, RECALLS = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)  # COCO's, to the last bit


def random_scene(tasks, seed):
    """Pictures of up to seven boxes, overlapping, some labels missing, some crowds; the first picture is empty."""
    rng = np.random.default_rng(seed)
    images = []
    for image_id in range(1, 8):
        instances = []
        for _ in range(rng.integers(2, 8) if image_id > 1 else 0):
            x, y, width, height = (int(v) for v in (*rng.integers(0, 40, 2), *rng.integers(8, 24, 2)))
            labels = {task.name: int(rng.integers(task.num_classes)) for task in tasks}
            labels |= {task.name: None for task in tasks[1:] if rng.random() < 0.2}
            instances.append(box_instance((x, y, width, height), labels, crowd=rng.random() < 0.1))
        images.append(Image(image_id, f"{image_id}.jpg", SIZE, SIZE, tuple(instances)))
    return images


def random_predictions(images, tasks, seed):
    """Objects moved, relabelled, dropped and found twice, objects that are not there, second classes of a query."""
    rng = np.random.default_rng(seed + 100)
    predictions = []
    for image in images:
        seen = [box_instance((30, 30, 12, 12), {task.name: 0 for task in tasks})]
        seen += [instance for instance in image.instances for _ in range(rng.integers(0, 3))]
        for query, instance in enumerate(seen):
            wrong = {t.name: int(rng.integers(t.num_classes)) for t in tasks if rng.random() < 0.3}
            options = {"shift": int(rng.integers(-5, 6)), "quality": rng.random(), "strength": rng.uniform(0.5, 6)}
            predictions.append(predict(instance, tasks, image_id=image.id, query=query, **options, **wrong))
            if rng.random() < 0.3:
                second = (predictions[-1].labels[tasks[0].name] + 1) % tasks[0].num_classes
                predictions.append(replace(predictions[-1], labels=predictions[-1].labels | {tasks[0].name: second}))
    return predictions


@cache
def pixels(box):
    """The set of pixels of a box, cut at the picture's edge."""
    x, y, width, height = map(int, box)
    return {(i, j) for i in range(max(x, 0), min(x + width, SIZE)) for j in range(max(y, 0), min(y + height, SIZE))}


@cache
def overlap_of(found, true):
    """Of two boxes, IoU and the share of the first inside the second."""
    both = len(pixels(found) & pixels(true))
    return both / len(pixels(found) | pixels(true)), both / len(pixels(found))


def slow_ap(images, predictions, tasks, names, thresholds=THRESHOLDS):
    """COCO's AP, in percent, of categories that are the tuples of these tasks' labels.

    A ground truth with a label missing is, like a crowd, neither hit nor miss, and that for any category.
    """
    values = scores(predictions, tasks)[RANKING].tolist()
    ranked = [predictions[n] for n in sorted(range(len(predictions)), key=lambda n: -values[n])]
    if tasks[0].name not in names:  # the best of each query alone
        ranked = [
            p for n, p in enumerate(ranked) if (p.image_id, p.query) not in {(q.image_id, q.query) for q in ranked[:n]}
        ]
    category = {id(p): tuple(p.labels[name] for name in names) for p in ranked}
    truths = [(image.id, i, tuple(i.labels[name] for name in names)) for image in images for i in image.instances]
    real = {label for _, i, label in truths if not i.crowd and None not in label}
    found = []
    for wanted in sorted(real):
        own, kept = [p for p in ranked if category[id(p)] == wanted], {}
        own = [p for p in own if kept.setdefault(p.image_id, []).append(p) or len(kept[p.image_id]) <= max(MAX_DETS)]
        objects = [t for t in truths if t[2] == wanted and not t[1].crowd]
        vague = [t for t in truths if None in t[2] or (t[1].crowd and t[2] == wanted)]
        for threshold in thresholds:
            verdicts, free = [], list(objects)
            for p in own:
                best, overlap = None, threshold
                for truth in free:
                    share, _ = overlap_of(p.bbox, truth[1].bbox)
                    if truth[0] == p.image_id and share >= overlap:
                        best, overlap = truth, share
                if best:
                    free.remove(best)
                    verdicts.append(True)
                elif not any(t[0] == p.image_id and overlap_of(p.bbox, t[1].bbox)[1] >= threshold for t in vague):
                    verdicts.append(False)
            curve = [
                (sum(verdicts[: n + 1]) / len(objects), sum(verdicts[: n + 1]) / (n + 1)) for n in range(len(verdicts))
            ]
            at = [max([p for r, p in curve if r >= recall], default=0) for recall in RECALLS]
            found.append(100 * sum(at) / 101)
    return sum(found) / len(found) if found else None


def slow_accuracy(images, predictions, tasks, name):
    """Share of labels, in percent, that are right where the best prediction of a query is on an object, IoU >= 0.5."""
    values, right = scores(predictions, tasks)[RANKING].tolist(), []
    for image in images:
        free, queries = [i for i in image.instances if not i.crowd], set()
        for n in sorted(range(len(predictions)), key=lambda n: -values[n]):
            p = predictions[n]
            if p.image_id != image.id or p.query in queries:
                continue
            queries.add(p.query)
            near = max(free, key=lambda i, p=p: overlap_of(p.bbox, i.bbox)[0], default=None)
            if near and overlap_of(p.bbox, near.bbox)[0] >= 0.5:
                free.remove(near)
                right += [near.labels[name] == p.labels[name]] if near.labels[name] is not None else []
    return 100 * sum(right) / len(right)


def judged(images, predictions, tasks):
    """Every AP that anything reports of these predictions, and what it must be: name -> (reported, slow)."""
    options = {"tasks": tasks, "ranking": RANKING, "max_dets": MAX_DETS}
    metrics, _ = evaluate(images, predictions, **options)
    report = analysis.report(Evidence.of(images, predictions, **options))
    every = tuple(task.name for task in tasks)
    main, joint = slow_ap(images, predictions, tasks, every[:1]), slow_ap(images, predictions, tasks, every)
    pairs = {
        "segm": (metrics["segm"]["AP"], main),
        "segm50": (metrics["segm"]["AP50"], slow_ap(images, predictions, tasks, every[:1], THRESHOLDS[:1])),
        "joint": (metrics["joint"]["AP"], joint),
        "analysed joint": (report["joint"]["ap"], joint),
    }
    for name in every:
        pairs[name] = metrics["tasks"][name]["AP"], slow_ap(images, predictions, tasks, (name,))
        half = report["tasks"][name]["errors"]["ap50"]
        pairs[f"{name} errors"] = half, slow_ap(images, predictions, tasks, (name,), THRESHOLDS[:1])
    return pairs


@TASKS
@SEEDS
def test_f16_every_ap_is_that_of_a_slow_and_independent_evaluator(count, seed):
    tasks = make_tasks(count)
    images = random_scene(tasks, seed)
    predictions = random_predictions(images, tasks, seed)
    pairs = judged(images, predictions, tasks)
    metrics, _ = evaluate(images, predictions, tasks=tasks, ranking=RANKING, max_dets=MAX_DETS)
    for name, reported in metrics["tasks"].items():
        pairs[f"{name} accuracy"] = reported["accuracy"], slow_accuracy(images, predictions, tasks, name)
    for name, (reported, slow) in pairs.items():
        assert reported == pytest.approx(slow, abs=2e-3), name
        assert 0 < slow < 95 or "accuracy" in name, f"{name}: too easy to tell anything"


@TASKS
@SEEDS
def test_f16_ground_truth_as_predictions_scores_100(count, seed):
    tasks = make_tasks(count)
    images = random_scene(tasks, seed)
    perfect = [replace(p, query=q) for q, p in enumerate(predict_all(apart(images), tasks))]
    metrics, _ = evaluate(apart(images), perfect, tasks=tasks, ranking=RANKING, max_dets=MAX_DETS)
    for found in (metrics["segm"], metrics["bbox"], metrics["joint"], *metrics["tasks"].values()):
        assert {value for key, value in found.items() if key not in ("AR1", "AR4")} == {100.0}
    for name, (reported, slow) in judged(apart(images), perfect, tasks).items():
        assert reported == pytest.approx(100, abs=1e-3) == slow, name


def apart(images):
    """Without crowds, and of objects that share pixels the first alone: greedy matching then has no choice to make."""
    kept = []
    for image in images:
        own = []
        for instance in image.instances:
            if not instance.crowd and not any(pixels(instance.bbox) & pixels(other.bbox) for other in own):
                own.append(instance)
        kept.append(replace(image, instances=tuple(own)))
    return kept


@pytest.mark.parametrize(("shift", "thresholds"), [(0, 10), (1, 9), (2, 7), (4, 4), (6, 1), (7, 0)])
@TASKS
def test_f16_shifted_by_k_pixels_as_computed_by_hand(count, shift, thresholds):
    """20 x 20 moved by k: IoU (20 - k) / (20 + k), which is 19/21 = .905, 18/22 = .818, .667, .538, .481."""
    tasks = make_tasks(count)
    images = grid(tasks)
    found = predict_all(images, tasks, shift=shift)
    for name, (reported, slow) in judged(images, found, tasks).items():
        expected = 100 * (shift < 7) if name.endswith(("50", "errors")) else 10 * thresholds
        assert reported == pytest.approx(expected, abs=1e-3) and slow == pytest.approx(expected), name
    evidence = Evidence.of(images, found, tasks=tasks, ranking=RANKING, max_dets=MAX_DETS)
    cost = analysis.report(evidence)["tasks"]["shape"]["errors"]["cost"]
    assert cost["localisation"] == (100 if shift == 7 else 0)


def grid(tasks, pictures=4):
    """Four boxes of 20 x 20 in every picture, the labels of all tasks running through the classes."""
    places = [(2, 2), (34, 2), (2, 34), (34, 34)]
    return [
        Image(
            image_id,
            f"{image_id}.jpg",
            SIZE,
            SIZE,
            tuple(
                box_instance((x, y, 20, 20), {task.name: (image_id + n) % task.num_classes for task in tasks})
                for n, (x, y) in enumerate(places)
            ),
        )
        for image_id in range(1, pictures + 1)
    ]


@TASKS
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_f16_dropped_in_y_percent_as_computed_by_hand(count, share):
    """Of 16 objects of one combination of labels, 4 or 8 are not found: precision is 1 up to that recall."""
    tasks = make_tasks(count)
    labels = {task.name: 1 for task in tasks}
    images = [replace(i, instances=tuple(replace(o, labels=labels) for o in i.instances)) for i in grid(tasks)]
    found = predict_all(images, tasks)[int(16 * share) :]
    expected = 100 * (int(100 * (1 - share)) + 1) / 101
    for name, (reported, slow) in judged(images, found, tasks).items():
        assert reported == pytest.approx(expected, abs=1e-3) and slow == pytest.approx(expected), name
    evidence = Evidence.of(images, found, tasks=tasks, ranking=RANKING, max_dets=MAX_DETS)
    errors = analysis.report(evidence)["joint"]["errors"]
    assert errors["counts"]["missed"] == 16 * share and errors["cost"]["missed"] == pytest.approx(
        100 - expected, abs=2e-3
    )


@TASKS
def test_f16_duplicates_cost_as_computed_by_hand(count):
    """Of one combination, every object found twice: precision is 1 if the duplicates rank last, else falls to 1/2."""
    tasks = make_tasks(count)
    labels = {task.name: 0 for task in tasks}
    images = [replace(i, instances=tuple(replace(o, labels=labels) for o in i.instances)) for i in grid(tasks)]
    sure = predict_all(images, tasks)
    again = [replace(p, query=10 + p.query, mask_quality=0.1) for p in sure]
    for name, (reported, slow) in judged(images, sure + again, tasks).items():
        assert reported == pytest.approx(100, abs=1e-3) == slow, name
    in_turn = [replace(p, mask_quality=0.9 - 0.01 * n + d) for n, p in enumerate(sure) for d in (0, -0.005)]
    in_turn = [replace(p, query=query) for query, p in enumerate(in_turn)]
    expected = 100 / 101 * sum(max(n / (2 * n - 1) for n in range(max(1, -(-16 * r // 100)), 17)) for r in range(101))
    for name, (reported, slow) in judged(images, in_turn, tasks).items():
        assert reported == pytest.approx(expected, abs=1e-3) and slow == pytest.approx(expected), name


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("wrong", [4, 8])
def test_f16_relabelled_in_x_percent_as_computed_by_hand(count, wrong):
    """Of 16 objects of one combination, 4 or 8 get another class of a task: that task and the joint AP suffer."""
    tasks = make_tasks(count)
    labels = {task.name: 0 for task in tasks}
    images = [replace(i, instances=tuple(replace(o, labels=labels) for o in i.instances)) for i in grid(tasks)]
    found = predict_all(images, tasks)
    found = [replace(p, labels=p.labels | {"fill": 1}) if n < wrong else p for n, p in enumerate(found)]
    expected = 100 * (int(100 * (16 - wrong) / 16) + 1) / 101
    for name, (reported, slow) in judged(images, found, tasks).items():
        worth = expected if "fill" in name or "joint" in name else 100
        assert reported == pytest.approx(worth, abs=1e-3) and slow == pytest.approx(worth), name
    metrics, _ = evaluate(images, found, tasks=tasks, ranking=RANKING, max_dets=MAX_DETS)
    assert metrics["tasks"]["fill"]["accuracy"] == 100 - 100 * wrong / 16
    report = analysis.report(Evidence.of(images, found, tasks=tasks, ranking=RANKING, max_dets=MAX_DETS))
    cost = report["joint"]["label_cost"]
    assert cost.pop("fill") == pytest.approx(100 - expected, abs=2e-3) and set(cost.values()) == {0.0}
    confusion = np.array(report["tasks"]["fill"]["confusion"]["matrix"])
    assert confusion[0, 0] == 16 - wrong and confusion[0, 1] == wrong and confusion.sum() == 16
