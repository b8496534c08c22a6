"""Progress of a training run: health statistics and a progress bar.

L layers, B images, Q queries, N instances of an image, T tasks.
"""

from __future__ import annotations

import time

import rich.progress
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.nn.utils.rnn import pad_sequence

from mtseg.core.tables import UNLABELLED
from mtseg.model.decoder import QueryOutput
from mtseg.model.mask2former import Mask2Former
from mtseg.model.matching import Matches, Target

Row = dict[str, float]


class Health:
    """Health statistics, summed on the device and fetched once per log period:

    background_TASK  fraction of the matched queries with a label of the task that predict no-object
    stability        fraction of the instances that the last two decoder layers match to the same query
    gradient_PART    mean gradient norm before clipping, of each head and of backbone, pixel decoder and (the rest of
                     the) decoder
    memory           peak memory of the CUDA device in MiB; left out on a CPU, where it differs between runs
    """

    def __init__(self, network: Mask2Former):
        self.tasks, self.heads, self.device = network.tasks, network.heads, network.device
        self.parts = {name: list(head.parameters()) for name, head in network.decoder.heads.items()}
        inside = {id(parameter) for head in self.parts.values() for parameter in head}
        for name in ("decoder", "pixel_decoder", "backbone"):
            self.parts[name] = [one for one in getattr(network, name).parameters() if id(one) not in inside]
        shares = [*(f"background_{task.name}" for task in self.tasks if task.background), "stability"]
        self.names = [*shares, *(f"gradient_{part}" for part in self.parts)]
        self.sums = torch.zeros(len(self.names), 2, device=self.device)  # numerator and denominator of each statistic

    @torch.no_grad()
    def watch(self, output: QueryOutput, targets: list[Target], matches: Matches) -> None:
        """Add a batch's matches, without synchronising with the device."""
        labels_BNT = pad_sequence([target.labels for target in targets], batch_first=True, padding_value=UNLABELLED)
        labels_BNT = labels_BNT.to(self.device)
        B, N, _ = labels_BNT.shape
        query_LBN = torch.full((len(output.mask_embed_LBQC), B, N), -1, device=self.device)
        query_LBN[matches.layer, matches.image, matches.instance] = matches.query
        before_BN, query_BN = query_LBN[-2:]
        matched_BN, logits, counts = query_BN >= 0, self.heads.class_logits(output.last()), []
        for t, task in enumerate(self.tasks):
            if task.background:
                counted_BN = matched_BN & (labels_BNT[..., t] != UNLABELLED)
                label_BN = logits[task.name].argmax(-1).gather(1, query_BN.clamp(min=0))
                counts += [counted_BN & (label_BN == task.num_classes), counted_BN]
        counts += [matched_BN & (query_BN == before_BN), matched_BN]
        self.sums[: len(counts) // 2] += torch.stack([count.sum() for count in counts]).view(-1, 2)

    @torch.no_grad()
    def gradients(self) -> Tensor:
        """Add a step's gradients, before clipping. Returns their norms [parts], on the device."""
        gradients = ([p.grad for p in part if p.grad is not None] for part in self.parts.values())
        norms = torch.stack([get_total_norm(part) if part else self.sums.new_zeros(()) for part in gradients])
        self.sums[-len(norms) :] += torch.stack([norms, torch.ones_like(norms)], dim=1)
        return norms

    def fetch(self) -> Row:
        """The statistics since the last call, NaN where the denominator is 0."""
        sums = zip(self.names, self.sums.tolist(), strict=True)
        row = {name: value / count if count else float("nan") for name, (value, count) in sums}
        self.sums.zero_()
        if self.device.type == "cuda":
            row["memory"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return row


class Progress(rich.progress.Progress):
    """A progress bar in a terminal, else lines of text, with the losses by name and the remaining time."""

    def __init__(self, console: Console, *, total: int, start: int):
        columns = ("train", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), "{task.fields[losses]}")
        super().__init__(*columns, console=console, disable=not console.is_terminal)
        self.bar = self.add_task("train", total=total, completed=start, losses="")
        self.total, self.first, self.began = total, start, time.monotonic()

    def step(self, step: int, averages: Row | None) -> None:
        """Show a step. averages: losses and lr at the end of a log period, else None."""
        self.update(self.bar, completed=step)
        if averages is None:
            return
        losses = "  ".join(f"{name} {value:.3g}" for name, value in averages.items() if name.startswith("loss"))
        self.update(self.bar, losses=losses)
        if not self.console.is_terminal:
            left = (time.monotonic() - self.began) / (step - self.first) * (self.total - step) / 60
            self.console.print(f"step {step}/{self.total}  {losses}  lr {averages['lr']:.2e}  {left:.1f} min left")

    def validated(self, step: int, scores: Row) -> None:
        values = "  ".join(f"{name} {value:.1f}" for name, value in scores.items())
        self.console.print(f"step {step}/{self.total}  val  {values}")
