"""Training step and prediction on CUDA, tested without a GPU: parameters and buffers are fake CUDA tensors, which have
no values; images and labels are on the CPU, as the loader gives them. An operation on tensors of two devices is an
error, and so is each transfer or read for which the host waits, except in `to_host`, whose calls are counted."""

from __future__ import annotations

import traceback
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from mtseg.inference import torch_network
from mtseg.inference.postprocess import encode
from mtseg.model import device, matching
from mtseg.model.ranks import Ranks
from mtseg.training import step
from mtseg.training.step import Stepper
from tests import tiny
from tests.scenes import make_tasks

SEEN = [(0, 0, 0), (1, 1, 2), (2, 0, 1)]
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
READS = {
    aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default, aten.masked_select.default,
    aten.nonzero.default, aten.unique_consecutive.default, aten.unique_dim.default, aten._unique2.default,
}  # fmt: skip

# With a fake device, the first backward pass of a process would start threads for it, and no later test could fork.
torch.ones(1, requires_grad=True).sum().backward()


class Watch(TorchDispatchMode):
    """waits: source lines at which the host waits for the device. copies: number of copies to the device that it does
    not wait for. reads: number of calls of `to_host`."""

    def __init__(self):
        super().__init__()
        self.waits, self.copies, self.reads = [], 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        before = [x.device.type for x in args if isinstance(x, torch.Tensor)]
        boolean = any(x.dtype in (torch.bool, torch.uint8) for x in indices(func, args))
        found = func(*args, **kwargs)
        after = {*before, found.device.type} if func in COPIES else set()
        if len(after) > 1 and self.not_blocking(args, kwargs):
            self.copies += found.device.type == "cuda"
        elif len(after) > 1 or boolean or (func in READS and "cuda" in before):
            self.waits.append(f"{func} at {line()}")
        return found

    def not_blocking(self, args, kwargs):
        given = kwargs.get("non_blocking") or args[2:] == (True,)
        return given and "/mtseg/model/device.py:" in line()  # only there the memory is pinned

    def read(self, tensors):
        """`to_host`, with random values."""
        copies = device.to_host(tensors)
        assert [x.device.type for x in copies] == ["cpu"] * len(tensors)
        with _disable_current_modes():
            return [
                torch.rand(x.shape, dtype=x.dtype) if x.is_floating_point() else torch.zeros(x.shape, dtype=x.dtype)
                for x in copies
            ]

    def synchronize(self):
        self.reads += 1


def indices(func, args):
    """The index tensors on the device; a mask among them is a read, as `nonzero` is."""
    if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
        return [x for x in args[1] if x is not None and x.device.type == "cuda"]
    return []


def line():
    frames = [x for x in traceback.extract_stack() if "/mtseg/" in x.filename or x.name.startswith("test_")]
    return f"{frames[-1].filename}:{frames[-1].lineno}"


def backward(loss, *args, **kwargs):
    """`Tensor.backward`, whose engine needs a device."""
    order, seen = [], set()

    def visit(node):
        seen.add(node)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                visit(following)
        order.append(node)

    visit(loss.grad_fn)
    gradients = {loss.grad_fn: [torch.ones_like(loss)]}
    for node in reversed(order):
        given = gradients.pop(node, None)
        if given is None:
            continue
        found = node(*given)
        found = found if isinstance(found, tuple) else (found,)
        for (following, number), gradient in zip(node.next_functions, found, strict=False):
            if following is not None and gradient is not None:
                wanted = following._input_metadata
                into = gradients.setdefault(following, [None] * len(wanted))
                gradient = gradient.sum_to_size(wanted[number].shape).to(wanted[number].dtype)
                into[number] = gradient if into[number] is None else into[number] + gradient


def real(method):
    def call(x):
        if isinstance(x, FakeTensor):
            raise DataDependentOutputException(method.__name__)
        with _disable_current_modes():
            return method(x)

    return call


@pytest.fixture
def watch(monkeypatch):
    watch = Watch()
    for module in (matching, step, torch_network):
        monkeypatch.setattr(module, "to_host", watch.read)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(synchronize=watch.synchronize))
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: torch.no_grad()(backward)(loss))
    for name in ("numpy", "tolist"):  # of a tensor with values
        monkeypatch.setattr(torch.Tensor, name, real(getattr(torch.Tensor, name)))
    with FakeTensorMode(allow_non_fake_inputs=True), watch:
        yield watch


def to_cuda(network):
    """`network.to("cuda")`, which fails for fake tensors."""
    for module in network.modules():
        for name, x in module._parameters.items():
            if x is not None:
                fake = torch.empty(x.shape, dtype=x.dtype, device="cuda")
                module._parameters[name] = nn.Parameter(fake, requires_grad=x.requires_grad)
        for name, x in module._buffers.items():
            if x is not None:
                module._buffers[name] = torch.empty(x.shape, dtype=x.dtype, device="cuda")
    return network


def built(count, seen, **model):
    with _disable_current_modes():
        network = tiny.network(
            make_tasks(count, background=not seen), seen=seen,
            model={"unseen_combinations": 0.1 if seen else 1} | model,
        )  # fmt: skip
    return to_cuda(network)


def batch(network, images):
    with _disable_current_modes():
        return [tiny.example(network.tasks, 1 + i % 3, seed=i) for i in range(images)]


@pytest.mark.parametrize(
    "dtype, count, seen, model, images",
    [
        (None, 1, (), {}, 1),
        (torch.bfloat16, 3, SEEN, {}, 2),
        (torch.float16, 4, (), {"decoder_layers": 3, "freeze_norm": True}, 3),
    ],
)
def test_the_host_waits_twice_in_a_training_step(watch, monkeypatch, dtype, count, seen, model, images):
    monkeypatch.setattr(step, "amp_dtype", lambda device: dtype)
    network = built(count, seen, **model)
    stepper = Stepper(network, tiny.params().solver)
    assert stepper.scaler.is_enabled() == (dtype == torch.float16)
    for number in range(2):  # the first one creates the optimiser's state
        watch.reads = watch.copies = 0
        stepper([batch(network, images)], number)
        assert watch.waits == []
        assert watch.reads == 2  # the matching costs; losses and gradient norms
        assert watch.copies == 2  # the batch; the assignment
    assert all(stepper.optimizer.state[x]["exp_avg"].device.type == "cuda" for x in stepper.optimizer.state)
    trained = [x for x in network.parameters() if x.requires_grad]
    assert len(stepper.optimizer.state) == len(trained)


class Two(Ranks):
    """Two ranks with the same share, whose gradients go to a process group that exchanges nothing."""

    def gather(self, value):
        return [value, value]


def test_the_host_waits_once_more_for_each_further_batch_of_a_step(watch):
    network = built(1, (), freeze_norm=True, decoder_layers=1)
    stepper = Stepper(network, tiny.params(solver={"accumulate": 3, "tf32": True}).solver)
    stepper([batch(network, 1)] * 3, 0)
    assert watch.waits == [] and watch.reads == 4 and watch.copies == 6


@pytest.fixture
def two():
    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    yield Two(1, 2)
    dist.destroy_process_group()


def test_ranks_exchange_gradients_on_the_device_without_waiting(watch, two, monkeypatch):
    sums, reduce = [], dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", lambda x: sums.append((x.device.type, x.dtype, x.numel())) or reduce(x))
    network = built(1, (), freeze_norm=True, decoder_layers=1)
    stepper = Stepper(network, tiny.params().solver, ranks=two)
    stepper([batch(network, 1)], 0)
    assert watch.waits == [] and watch.reads == 2 and watch.copies == 2
    trained = sum(x.numel() for x in network.parameters() if x.requires_grad)
    assert sums == [("cuda", torch.float32, trained + stepper.health.sums.numel())], "one exchange in a step"


@pytest.mark.parametrize("seen", [(), SEEN])
@pytest.mark.parametrize("images", [1, 5])
def test_the_host_waits_once_in_a_prediction(watch, seen, images):
    network = built(3, seen).eval()
    examples = batch(network, images)
    found = list(torch_network.detect(network, examples))
    assert watch.waits == []
    assert watch.reads == 1 and watch.copies == 1
    with _disable_current_modes():
        assert len(found) == images
        for detections in found:
            encode(detections, 1, network.tasks)
            assert len(detections.masks) <= network.num_queries, "a mask is copied once, however many detections it has"


def test_waits_and_tensors_of_two_devices_are_found(watch):
    with pytest.raises(RuntimeError, match="device"):
        torch.empty(3, device="cuda") + torch.empty(3)
    x = torch.empty(3, device="cuda")
    for read in (lambda: x.cpu(), lambda: torch.tensor([1.0, 2.0], device="cuda"), lambda: x.copy_(torch.empty(3))):
        watch.waits.clear()
        read()
        assert len(watch.waits) == 1
    for read in (lambda: x.unique(), lambda: x.nonzero(), lambda: x[x > 0], lambda: x.sum().item(), x.tolist):
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            read()
