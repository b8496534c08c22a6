"""Processes that share a training or a prediction, one for each rank of torchrun. All that ranks tell each other but
gradients goes through host memory (gloo), so that a rank that died or hangs is noticed there, before the GPUs (NCCL)
wait for each other. The gradients of a step are summed by one all-reduce."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mtseg.core.errors import UserError, as_user_error
from mtseg.core.launcher import place
from mtseg.core.signals import deferred, interrupts_held, stops
from mtseg.model import device

TICK = 1.0  # seconds between signs of life of rank 0
JOIN = 900.0  # seconds to wait for all processes at the start, as torchrun does for all machines
GRACE = 3.0  # seconds that a rank which lost another one waits for the launcher to end the job


class Ranks:
    """This process among those that share a stage: rank 0 to size - 1. By default one process, which exchanges nothing
    and is interrupted by signals as any other. Several stop at the same step: they note a signal until `agree`."""

    def __init__(self, rank: int = 0, size: int = 1, store: dist.Store | None = None, timeout: float = JOIN):
        self.rank, self.size, self.store, self.timeout = rank, size, store, timeout
        self.asked = False  # whether a signal to stop has arrived
        self.at_once = True  # whether it interrupts this process at once
        self.stopped: Callable[[], bool] = lambda: False  # in a `held` block of one process: whether a signal arrived
        self.whole = True  # whether no `held` block was cut short
        self.waits = 0  # number of calls of `wait`
        self.processes: list[str] = []  # of all ranks, as text

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the only one that reads and writes the state, and writes the outs."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this rank: with CUDA one for each process of a machine."""
        if self.size == 1:
            return device.pick(name)
        if name not in ("auto", "cpu", "cuda"):
            raise UserError(f"device: {name} is one device, for {self.size} processes: use auto, cpu or cuda")
        if device.pick(name).type == "cpu":
            return torch.device("cpu")
        where = device.pick(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        torch.cuda.set_device(where)
        return where

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        found = [None] * self.size
        with self._exchange():
            dist.all_gather_object(found, value)
        return found

    def collect(self, value: Any) -> list[Any]:
        """On rank 0 the values of all ranks, in their order; on the others an empty list."""
        if self.size == 1:
            return [value]
        found = [None] * self.size if self.first else None
        with self._exchange():
            dist.gather_object(value, found)
        return found or []

    def share(self, value: Any) -> Any:
        """The value of rank 0. What the other ranks give is not used."""
        if self.size == 1:
            return value
        with self._exchange():
            dist.broadcast_object_list(found := [value])
        return found[0]

    def compare(self, own: dict[str, str]) -> None:
        """Raise UserError in all ranks unless what each has `own` is the same: name of a thing -> its hash."""
        found = self.gather(own)
        others = [rank for rank, theirs in enumerate(found) if theirs != found[0]]
        if not others:
            return
        rank = others[0]
        things = " and ".join(name for name in own if found[rank][name] != found[0][name])
        more = f", as have {len(others) - 1} more" * (len(others) > 1)
        raise UserError(
            f"rank {rank} ({self.processes[rank]}) has other {things} than rank 0 ({self.processes[0]}){more}: every "
            "machine needs the same params.yaml, data and commit; copy them from that of rank 0"
        )

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all ranks, which get the same bits."""
        if self.size == 1:
            return
        flat = torch.cat([x.reshape(-1) for x in tensors])
        with self._exchange():
            dist.all_reduce(flat)
        for x, total in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.copy_(total.view_as(x))

    def wait(self) -> None:
        """Wait for rank 0 to come here, however long that takes while it lives (see `ticking`)."""
        if self.size == 1:
            return
        self.waits += 1
        with self._exchange():
            if self.first:
                self.store.set(f"come/{self.waits}", "")
            ticks, since = -1, time.monotonic()
            while not self.store.check([f"come/{self.waits}"]):
                time.sleep(0.1)
                if (now := self.store.add("ticks", 0)) != ticks:
                    ticks, since = now, time.monotonic()
                elif time.monotonic() - since > self.timeout:
                    raise RuntimeError

    def agree(self) -> None:
        """Raise KeyboardInterrupt in all ranks if a signal has reached one of them."""
        if self.size > 1 and any(self.gather(self.asked)):
            raise KeyboardInterrupt

    def alone(self, function: Callable[[], Any]) -> Any:
        """The value of a function that exchanges nothing. A signal interrupts it at once, unless it is `held`; of
        several ranks it is then None until they `agree`. A signal to the whole group, as launchers and `timeout` send
        it, ends the processes of a loader too, which is an error that then means the same."""
        if self.size == 1:
            try:
                return function()
            except (RuntimeError, UserError):
                if not self.stopped():
                    raise
                self.whole = True  # it has changed nothing
                raise KeyboardInterrupt from None
        try:
            self.at_once = True
            return None if self.asked else function()
        except (KeyboardInterrupt, RuntimeError, UserError):
            if not self.asked:
                raise
            return None
        finally:
            self.at_once = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Defer signals to the end of the block, which a second one cuts short; of several ranks to where they
        `agree`."""
        if self.size == 1:
            with interrupts_held() as self.stopped:
                self.whole = False
                yield
                self.whole = True
        else:
            self.at_once = False
            yield

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal to stop."""
        self.asked = True
        if self.at_once and not deferred(number, frame):
            self.at_once = False  # `timeout` sends SIGTERM twice
            raise KeyboardInterrupt

    def reports(self) -> bool:
        """Whether this rank is the one that reports the end of the job: the first that asks. Not if rank 0 kept the
        store, without a launcher, and has ended."""
        try:
            return self.store.compare_set("report", "", str(self.rank)) == str(self.rank).encode()
        except RuntimeError:
            return False

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from None

    def _lost(self, error: RuntimeError) -> Exception:
        """What to raise when an exchange failed: a rank has died, or did not come within the time limit. A launcher
        ends the others of a rank that died, and reports it."""
        began = time.monotonic()
        try:
            self.store.set(f"alive/{self.rank}", "")
            while time.monotonic() - began < GRACE and not self.asked:
                time.sleep(0.05)
            missing = [rank for rank in range(self.size) if not self.store.check([f"alive/{rank}"])]
        except RuntimeError:
            return SystemExit(1)
        if self.asked or not self.reports():
            return SystemExit(1)
        if not missing:
            return error
        names = ", ".join(f"rank {rank} ({self.processes[rank]})" for rank in missing)
        return UserError(
            f"{names} has ended, or has not answered within launch.timeout: look there for its cause, and run again to "
            "resume at the last saved state"
        )


ALONE = Ranks()


@contextmanager
def ticking(store: dist.Store) -> Iterator[None]:
    """Give a sign of life every `TICK` seconds, in a thread: so others tell long work from a process that hangs."""
    over = threading.Event()

    def tick() -> None:
        with suppress(RuntimeError):  # the launcher has ended
            while not over.wait(TICK):
                store.add("ticks", 1)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def joined(timeout: float) -> Iterator[Ranks]:
    """The ranks that torchrun (or another launcher that sets its environment variables) started, joined; without one,
    this process alone. timeout: seconds after which a rank that does not answer ends the job.

    An error that all ranks raise is reported by one of them. Only rank 0 prints.
    """
    rank, size = place()
    if size == 1:
        yield Ranks()
        return
    limit = timedelta(seconds=timeout)
    before = {number: signal.getsignal(number) for number in stops()}
    try:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, timeout=timedelta(seconds=JOIN),
            is_master=rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        )  # fmt: skip
        # of this attempt: if the launcher starts all processes again (--max-restarts), its store has the keys before
        store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        began = time.monotonic()
        store.add("joined", 1)
        while store.add("joined", 0) < size:
            if time.monotonic() - began > JOIN:
                raise RuntimeError
            time.sleep(0.05)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    except RuntimeError:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"rank {rank} could not join the {size} processes at {where} within {JOIN:g} s: look at the others, and "
            "whether this machine reaches that address"
        ) from None
    ranks = Ranks(rank, size, store, timeout)
    for number in before:
        signal.signal(number, ranks.note)
    try:
        with ExitStack() as quiet:
            if rank:
                quiet.enter_context(redirect_stdout(quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))))
            else:
                quiet.enter_context(ticking(store))
            ranks.processes = ranks.gather(f"process {os.getpid()} on {socket.gethostname()}")
            yield ranks
            ranks.gather(None)
        dist.destroy_process_group()
    except (Exception, KeyboardInterrupt) as error:
        ranks.at_once = False
        if isinstance(error, KeyboardInterrupt) or as_user_error(error):
            if not ranks.reports():
                raise SystemExit(1) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
