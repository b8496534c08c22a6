"""Parse the labels of an annotation into one class per task.

The first rule that applies is used:
1. With `data.mapping`, the whole label is looked up in the mapping.
2. With a single task, or if the label has a comma and no `attributes` name a further task, the label is a flat string:
   its parts are the classes in the order of the tasks. `-` means unlabelled.
3. Otherwise the whole label is the main class. The further classes are read from (the first that names a task counts)
   - `attributes`, {task: class}: null or `-` means unlabelled; keys that are not tasks are ignored;
   - `flags`, {name: true}: the name is `task=class`, `task:class`, or a class that is listed by exactly one further
     task (not possible with `auto`); a flag named as a task is its class, `true` or `false`; flags that are false
     and other names are ignored.
If no rule gives a class for a task, the record is invalid: labels are never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtseg.core import yaml
from mtseg.core.errors import UserError, quoted
from mtseg.core.names import COMMAS, are_twins, clean, control, difference, unscrambled
from mtseg.core.params import Task
from mtseg.data.raw import MEGAPIXELS, BadRecord

NO_LABEL = "-"
EQUALS = re.compile("[=:＝：]")  # between task and class in a flag, also full-width
# of LabelMe and its tools: regions, not objects
RESERVED = ("__background__", "__ignore__", "__unknown__", "__unlabeled__", "_background_", "_ignore_", "_unknown_")
Labels = dict[str, str | None]


@dataclass(frozen=True)
class Vocabulary:
    """What to read. classes: valid classes of each task, None if any is valid. categories: the mapping, if there is
    one. ignored_shapes: kinds of shapes to leave out, as the annotation tool names them, e.g. "point". max_megapixels:
    of an image."""

    classes: dict[str, tuple[str, ...] | None]
    categories: dict[str, Labels | None] | None = None
    ignored_shapes: tuple[str, ...] = ()
    max_megapixels: float = MEGAPIXELS

    def labels(self, label: Any, attributes: Any = None, flags: Any = None) -> Labels | None:
        """Labels of one object; None if the mapping excludes it. Raises BadRecord."""
        if not isinstance(label, str) or not clean(label):
            raise BadRecord("no label", f"label is {quoted(label)}, expected text")
        label = _named(label, "label")
        if self.categories is not None:
            if (key := _key(label)) not in self.categories:
                fix = "add it, with null to leave such objects out"
                raise BadRecord(
                    "unknown label", f"label {quoted(label)} is not in data.mapping{_twin(key, self.categories)}: {fix}"
                )
            return self.categories[key]
        main = next(iter(self.classes))
        explicit = self._from_attributes(attributes)
        if len(self.classes) == 1 or (COMMAS.search(label) and not explicit):
            labels = self._flat(label)
        else:
            labels = {main: label} | self._from_flags(flags) | explicit
            if missing := [task for task in self.classes if task not in labels]:
                entry = ", ".join(f"{task}: {labels.get(task, 'CLASS')}" for task in self.classes)
                expected = f"expected '{','.join(self.classes)}', attributes, or an entry in data.mapping such as "
                expected += f"{label!r}: {{{entry}}}"
                given = f" (its attributes are {', '.join(map(str, attributes))})" if attributes else ""
                raise BadRecord(
                    "missing label", f"label {quoted(label)} has no {', '.join(missing)}{given}; {expected}"
                )
        if labels[main] in (None, NO_LABEL):
            raise BadRecord("missing label", f"label {quoted(label)}: the main task {main} must have a label")
        return {task: self._checked(task, name, label) for task, name in labels.items()}

    def _flat(self, label: str) -> Labels:
        parts = [part.strip() for part in COMMAS.split(label)]
        if len(parts) != len(self.classes):
            message = (
                f"label {quoted(label)} has {len(parts)} parts, expected {len(self.classes)}: {','.join(self.classes)}"
            )
            hint = "; class names with a comma require data.mapping" if len(parts) > 1 else ""
            raise BadRecord("missing label", message + hint)
        return dict(zip(self.classes, parts, strict=True))

    def _from_attributes(self, attributes: Any) -> Labels:
        if not isinstance(attributes, dict):
            return {}
        named = {clean(str(name)): value for name, value in attributes.items()}
        return {task: named[task] for task in list(self.classes)[1:] if task in named}

    def _from_flags(self, flags: Any) -> Labels:
        labels: Labels = {}
        further = list(self.classes)[1:]
        flags = {clean(name): on for name, on in flags.items()} if isinstance(flags, dict) else {}
        checkboxes = {task: str(flags[task]).lower() for task in further if isinstance(flags.get(task), bool)}
        for flag in (name for name, on in flags.items() if on is True and name not in checkboxes):
            task, _, name = (part.strip() for part in EQUALS.sub("=", flag, count=1).partition("="))
            if task in further:
                found = [(task, name)]
            else:
                found = [(task, flag) for task in further if flag in (self.classes[task] or ())]
            if len(found) > 1:
                raise BadRecord(
                    "ambiguous flag", f"flag {quoted(flag)} is a class of {', '.join(task for task, _ in found)}"
                )
            for task, name in found:
                if labels.setdefault(task, name) != name:
                    raise BadRecord(
                        "ambiguous flag", f"flags give both {quoted(labels[task])} and {quoted(name)} for {task}"
                    )
        return checkboxes | labels

    def _checked(self, task: str, name: Any, label: str) -> str | None:
        if name is None or name == NO_LABEL:
            return None
        if not isinstance(name, str) or not clean(name):
            raise BadRecord(
                "missing label", f"label {quoted(label)}: {task} is {quoted(name)}, expected a class, or '-' for none"
            )
        name = _named(name, f"label {quoted(label)}: {task}")
        known = self.classes[task]
        if known is None and name.casefold() in RESERVED:
            raise BadRecord(
                "reserved label",
                f"label {quoted(name)} is an annotation tool's name for a region that is no object: leave it out by "
                "null in data.mapping, or list it in the task's classes",
            )
        if known is not None and name not in known:
            valid = ", ".join(known)
            message = f"label {quoted(label)}: {task} has no class {quoted(name)}{_twin(name, known)}, valid: {valid}"
            raise BadRecord("unknown class", message)
        return name


def _named(name: str, what: str) -> str:
    """The clean name. Raises BadRecord if it has a control character."""
    likely, name = unscrambled(name), clean(name)
    if found := control(name):
        fix = f"it is likely {quoted(likely)}, escaped or read in another encoding" if likely else "correct it"
        raise BadRecord("control character", f"{what} {quoted(name)} has the control character {found}: {fix}")
    return name


def vocabulary(tasks: Sequence[Task], mapping: Path | None) -> Vocabulary:
    """The valid labels: each task's classes (those of the mapping if they are `auto`), and the mapping.

    A mapping is a YAML file: `categories: {flat label: {task: class or null}, other label: null}`, where null excludes
    the object, and optionally a list of classes for each task name. Raises UserError.
    """
    classes = {task.name: None if task.classes == "auto" else tuple(task.classes) for task in tasks}
    if mapping is None:
        return Vocabulary(classes)
    raw = _read(mapping)
    for task, listed in classes.items():
        if task in raw and listed is None:
            if not isinstance(raw[task], list) or not all(isinstance(name, str) for name in raw[task]):
                raise UserError(f"{mapping}: '{task}' must be a list of class names, got {quoted(raw[task])}")
            classes[task] = tuple(map(clean, raw[task]))
            if len({*classes[task]}) < len(classes[task]):
                raise UserError(f"{mapping}: '{task}' lists a class twice: {', '.join(sorted(classes[task]))}")
    categories: dict[str, Labels | None] = {}
    for flat, entry in raw["categories"].items():
        labels = _category(f"{mapping}: {flat}", entry, classes)
        if categories.setdefault(_key(flat), labels) != labels:
            raise UserError(f"{mapping}: {flat}: the same label, but for blanks or commas, has another entry: {labels}")
    return Vocabulary(classes, categories)


def _twin(name: str, known: Iterable[str]) -> str:
    """For a message: the known name that looks nearly the same, and what distinguishes it."""
    if (likely := unscrambled(name)) in {*known}:
        return f" (likely {quoted(likely)}, escaped or read in another encoding)"
    twin = next((other for other in known if are_twins(name, other)), None)
    return f" (unlike {quoted(twin)}: {difference(name, twin)})" if twin else ""


def _key(label: str) -> str:
    """A label as it is looked up in the mapping: with plain commas, and no blanks around them."""
    return ",".join(part.strip() for part in COMMAS.split(clean(label)))


def _read(mapping: Path) -> dict[str, Any]:
    try:
        raw = yaml.read(mapping, "base")  # all scalars as text: 01 and true are names as they stand
    except OSError as error:
        raise UserError(f"{mapping} (data.mapping) cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{mapping} (data.mapping) {error}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("categories"), dict):
        raise UserError(f"{mapping} (data.mapping) has no section 'categories:' with 'flat label: {{task: class}}'")
    return raw


def _category(where: str, entry: Any, classes: Mapping[str, tuple[str, ...] | None]) -> Labels | None:
    if is_null(entry):
        return None
    if not isinstance(entry, dict) or not set(classes) <= set(entry):
        raise UserError(f"{where}: expected null or a class for each of {', '.join(classes)}, got {quoted(entry)}")
    labels: Labels = {}
    for task, known in classes.items():
        name = labels[task] = None if is_null(entry[task]) else entry[task]
        if name is None and task != next(iter(classes)):
            continue
        labels[task] = clean(name) if isinstance(name, str) else name
        if isinstance(name, str) and (found := control(labels[task])):
            raise UserError(f"{where}: {task} is {quoted(name)}, which has the control character {found}")
        if not labels[task] or (known is not None and labels[task] not in known):
            valid = f", valid: {', '.join(known)}" if known else ""
            raise UserError(f"{where}: {task} has no class {quoted(name)}{valid}")
    return labels


def is_null(value: Any) -> bool:
    """YAML's null, of a file whose scalars were all read as text."""
    return value in (None, "", "null", "Null", "NULL", "~")
