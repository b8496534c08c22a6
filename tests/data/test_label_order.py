"""Labels in another order make new classes with `classes: auto`: they are reported, and shared classes are not."""

import pytest

from mtseg.data import label_order
from tests.data import folders
from tests.data.folders import shape, tasks

RIGHT = ["door,front", "door,rear", "wheel,front", "wheel,rear"]


def found(*labels):
    names = ["part", "side", "state"][: labels[0].count(",") + 1]
    given = [
        (
            f"{number}.png",
            {task: None if name == "-" else name for task, name in zip(names, label.split(","), strict=True)},
        )
        for number, label in enumerate(labels)
    ]
    return label_order.warnings(names, "part", given)


@pytest.mark.parametrize(
    "labels, words",
    [
        ([*RIGHT * 5, "front,door"], "1 of 21, such as 'front' and 'door' (20.png)"),
        ([*RIGHT * 5, "front,hood"], "1 of 21, such as 'front' and 'hood' (20.png)"),
        (["door,front", "front,door", "wheel,rear", "rear,wheel"], ": 2 of 4, such as"),
        (["door,front,new", "door,rear,old", "door,new,rear", "wheel,rear,new"], "tasks 'side' and 'state'"),
    ],
)
def test_labels_in_another_order_are_reported(labels, words):
    (line,) = found(*labels)
    assert "may be in another order" in line and words in line


@pytest.mark.parametrize(
    "labels",
    [
        RIGHT,
        ["door,-", "front,-", "-,front"],
        ["car,red,red", "car,red,blue", "bus,blue,red"],  # colours of roof and body
        ["door,none,none", "door,left,none", "wheel,none,dirty"],
        ["door,dent,none", "door,none,dent", "door,scratch,none"],
        ["door,none,dirty", "door,left,none"],
    ],
)
def test_classes_of_several_tasks_are_not(labels):
    assert found(*labels) == []


def test_convert_prints_it_unless_the_classes_are_listed(tmp_path, capsys):
    for number, label in enumerate([*RIGHT, "front,door"]):
        folders.labelme(tmp_path / "raw", str(number), shape(label))
    folders.converted(tmp_path / "raw", tasks(part="auto", side="auto"))
    assert "may be in another order" in " ".join(capsys.readouterr().out.split())
    classes = ["door", "front", "rear", "wheel"]
    folders.converted(tmp_path / "raw", tasks(part=classes, side=classes))
    assert "another order" not in capsys.readouterr().out
