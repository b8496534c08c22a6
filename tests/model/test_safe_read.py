"""Weights files of any origin: code in them is never executed, and unreadable files give one line."""

import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mtseg.core.errors import UserError
from mtseg.model.safe_read import read


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class HostileStorage(Hostile):
    """A storage as PyTorch pickles it: the unpickler of the outer file unpickles its bytes too."""

    def __reduce__(self):
        torch.save(Hostile(self.path), self.path.with_suffix(".bytes"), _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (self.path.with_suffix(".bytes").read_bytes(),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pth_is_refused_and_runs_nothing(zipped, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.zeros(1), "x": Hostile(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"weights.pth is refused: it wants to call \w+\.mkdir; only tensors"):
        read(path)
    assert not (tmp_path / "ran").exists()


def test_a_pth_made_to_fill_the_memory_is_refused(tmp_path):
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "plain.pth")
    with ZipFile(tmp_path / "plain.pth") as source, ZipFile(tmp_path / "small.pth", "w", ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    assert read(tmp_path / "plain.pth")["w"].shape == (10**6,)
    with pytest.raises(UserError, match="small.pth is refused"):
        read(tmp_path / "small.pth")


@pytest.mark.parametrize("hostile", [Hostile, HostileStorage])
@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pkl_is_refused_and_runs_nothing(hostile, protocol, tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": np.zeros(1), "x": hostile(tmp_path / "ran")}}, protocol))
    with pytest.raises(UserError, match=r"weights.pkl is refused: it wants to call \w+\.mkdir; only tensors"):
        read(path)
    assert not (tmp_path / "ran").exists()


def pickled(*pieces):
    """A pickle of opcodes (bytes) and of objects, which are pickled."""
    return b"\x80\x03" + b"".join(x if isinstance(x, bytes) else pickle.dumps(x, 3)[2:-1] for x in pieces)


@pytest.mark.parametrize("attributes", [{"__defaults__": (1,), "mark": 1}, (None, {"__defaults__": (1,), "mark": 1})])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"])
def test_a_pkl_that_is_refused_has_changed_no_function(name, nested, attributes, tmp_path, monkeypatch):
    """The opcode BUILD sets attributes of the preceding object, which can be a function."""
    function = getattr(torch._utils, name.rsplit(".", 1)[1])
    monkeypatch.setattr(function, "__defaults__", function.__defaults__)  # restore it if this test fails
    before = function.__defaults__, dict(vars(function))
    if nested:
        torch.save(function, tmp_path / "inner.pth", _use_new_zipfile_serialization=False)
        inner = (tmp_path / "inner.pth").read_bytes()
        named = pickled(b"ctorch.storage\n_load_from_bytes\n", (inner,), b"R")[2:]
    else:
        named = f"c{name.replace('._rebuild', chr(10) + '_rebuild')}\n".encode()
    (tmp_path / "weights.pkl").write_bytes(pickled(named, attributes, b"b."))
    with pytest.raises(UserError, match="weights.pkl(: expected a state dict| is refused)"):
        read(tmp_path / "weights.pkl")
    assert (function.__defaults__, vars(function)) == before


@pytest.mark.parametrize("hidden", ["get", "keys"])
def test_a_mapping_made_to_raise_gives_one_line(hidden, tmp_path):
    """BUILD can set attributes of an OrderedDict that shadow its methods."""
    odd = pickled(b"ccollections\nOrderedDict\n)R", "w", 1, b"s", {hidden: "text"}, b"b.")
    (tmp_path / "odd.pkl").write_bytes(odd)
    with pytest.raises(UserError, match="odd.pkl is refused"):
        read(tmp_path / "odd.pkl")


@pytest.mark.parametrize(
    "what",
    [eval, np.load, np.array(["text"]), np.array([{}], dtype=object), torch.nn.Linear(1, 1), pickle.loads, np.ndarray],
    ids=["eval", "np.load", "text", "objects", "module", "pickle.loads", "ndarray"],
)
def test_a_pkl_holds_numbers_or_is_refused(what, tmp_path):
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"model": {"w": what}}))
    with pytest.raises(UserError, match="is refused|expected a state dict"):
        read(tmp_path / "weights.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_tensors_come_back_from_a_pkl(protocol, tmp_path):
    numbers = np.random.default_rng(0).normal(size=(3, 4))
    model = {
        "single": numbers.astype("f4"), "half": numbers.astype("f2"), "swapped": numbers.astype(">f8"),
        "fortran": np.asfortranarray(numbers), "part": numbers[:, ::2], "count": np.array(7), "mask": numbers > 0,
        "tensor": torch.from_numpy(numbers).T, "parameter": torch.nn.Parameter(torch.from_numpy(numbers)),
    }  # fmt: skip
    whole = {"model": OrderedDict(model), "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(whole, protocol))
    state = read(tmp_path / "weights.pkl")
    assert state.keys() == model.keys()
    for key, value in model.items():
        expected = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        np.testing.assert_array_equal(state[key].numpy(), expected)
    assert state["single"].dtype == torch.float32 and state["half"].dtype == torch.float16


def test_a_pkl_of_python_2_is_read(tmp_path):
    """As in detectron2's oldest files: protocol 2, bytes as strings."""
    data = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + np.array([1.5, -2], "<f4").tobytes()
        + b"tbs."
    )
    (tmp_path / "old.pkl").write_bytes(data)
    assert read(tmp_path / "old.pkl")["w"].tolist() == [1.5, -2]


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("absent.pth", None, "there is no such weights file"),
        ("absent.pkl", None, "there is no such weights file"),
        ("absent.safetensors", None, "there is no such weights file"),
        ("weights.onnx", b"", "is not imagenet, null, or a .safetensors, .pth, .pt or .pkl file"),
        ("empty.pth", b"", "is refused: it is broken"),
        ("empty.pkl", b"", "is refused: it is broken"),
        ("text.pth", b"<html>not found</html>", "is refused: it is broken"),
        ("text.pkl", b"<html>not found</html>", "is refused: it is broken"),
        ("noise.pth", bytes(range(256)) * 20, "is refused: it is broken"),
        ("noise.pkl", bytes(range(256)) * 20, "is refused: it is broken"),
        ("text.safetensors", b"<html>not found</html>", "broken, or no safetensors file"),
        ("empty.safetensors", b"", "broken, or no safetensors file"),
    ],
)
def test_unreadable_files_give_one_line(name, data, message, tmp_path):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pkl"])
def test_a_pipe_is_not_waited_for(suffix, tmp_path):
    os.mkfifo(tmp_path / f"a.{suffix}")
    with pytest.raises(UserError, match="a pipe or a device"):
        read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_a_truncated_file_gives_one_line(suffix, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"w": torch.zeros(1000)}, path)
    else:
        path.write_bytes(pickle.dumps({"w": np.zeros(1000)}))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="is broken") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {}, {"model": {}}, {1: torch.zeros(1)}, {"w": "text"}], ids=str)
def test_something_else_than_a_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match="expected a state dict"):
        read(tmp_path / "other.pth")


FULL = """
import os, resource, sys
from pathlib import Path
from mtseg.core.errors import as_user_error
from mtseg.model.safe_read import read
path = Path(sys.argv[1])
read(path)  # imports
for free in range(3):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for number in taken[:free]:
            os.close(number)
    try:
        read(path)
        line = "read"
    except Exception as error:
        line = as_user_error(error)
    for number in taken[free:]:
        os.close(number)
    print(line)
"""


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_too_many_open_files_are_named(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    state = {"a": torch.zeros(2)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    lines = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True).stdout
    *refused, last = lines.splitlines()
    full = f"{path}: too many open files: raise the limit with `ulimit -n 4096`"
    assert last == "read" and refused[0] == full and set(refused) <= {full, "read"}
