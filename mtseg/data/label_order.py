"""Find labels in another order: with `classes: auto`, `front,door` in place of `door,front` makes new classes.

Each pair of tasks is a graph: the classes of both are its nodes, and the pairs that objects have are its edges. If a
class is in both tasks, and the nodes can still be divided in two sides so that every object has one class of each, one
order of the labels explains all objects, and those in the other order are reported. Tasks that share their classes, as
the colours of roof and body, have objects that contradict such a division: red and red.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import combinations

from mtseg.core.errors import quoted
from mtseg.data.labels import Labels

Pair = tuple[str, str]


def warnings(tasks: Sequence[str], main: str, objects: Iterable[tuple[str, Labels]]) -> list[str]:
    """A line for each two of the tasks. main: the main task. objects: image and labels of each."""
    found: Counter[tuple[str | None, ...]] = Counter()
    examples: dict[tuple[str | None, ...], str] = {}
    for image, labels in objects:
        names = tuple(labels[task] for task in tasks)
        found[names] += 1
        examples.setdefault(names, image)
    lines = []
    for first, second in combinations(range(len(tasks)), 2):
        pairs: Counter[Pair] = Counter()
        images: dict[Pair, str] = {}
        for names, count in found.items():
            pair = names[first], names[second]
            if None not in pair:
                pairs[pair] += count
                images.setdefault(pair, examples[names])
        if turned := _turned(pairs, main=tasks[first] == main):
            example, count = min(turned, key=pairs.__getitem__), sum(pairs[pair] for pair in turned)
            lines.append(
                f"labels of tasks '{tasks[first]}' and '{tasks[second]}' may be in another order in some objects "
                f"(correct them, or list the classes in params.yaml): {count} of {pairs.total()}, such as "
                f"{' and '.join(map(quoted, example))} ({images[example]})"
            )
    return lines


def _turned(pairs: Counter[Pair], *, main: bool) -> set[Pair]:
    """The pairs in the rarer order; none if no class is in both tasks, or if one order does not explain all pairs."""
    others: dict[str, set[str]] = {}
    for one, other in pairs:
        others.setdefault(one, set()).add(other)
        others.setdefault(other, set()).add(one)
    shared = {one for one, _ in pairs} & {other for _, other in pairs}
    turned: set[Pair] = set()
    sides: dict[str, bool] = {}
    for start in sorted(shared):
        if start in sides:
            continue
        part, queue = {start: True}, deque([start])
        while queue:
            name = queue.popleft()
            for other in others[name]:
                if other not in part:
                    part[other] = not part[name]
                    queue.append(other)
                elif part[other] == part[name]:
                    return set()
        sides |= part
        own = [pair for pair in pairs if pair[0] in part]
        orders = [{pair for pair in own if part[pair[0]] is side} for side in (True, False)]
        if not all(orders):
            continue
        # of further tasks, the classes of a side prove an order only if they are several: `none` may be in both
        if main or min(Counter(part.values()).values()) > 1:
            turned |= min(orders, key=lambda order: sum(pairs[pair] for pair in order))
    return turned
