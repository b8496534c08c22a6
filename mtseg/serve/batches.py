"""Images of several requests go through the network together, in one thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from threading import Condition, Thread

import numpy as np

from mtseg.core.errors import UserError, first_line
from mtseg.core.tables import Image, Images
from mtseg.data.images import DECODE_ERRORS, decode
from mtseg.inference.predictor import Predictor
from mtseg.inference.result import Result
from mtseg.inference.sources import Source
from mtseg.serve.metrics import Metrics


@dataclass(eq=False)
class Job:
    """An image that waits for the network. data: its file. pixels: how many it has. score: as `Predictor.predict` takes
    it. future: gets the result, UserError when the image does not decode, or what the network raised."""

    name: str
    data: bytes
    pixels: int
    score: float | None = None
    future: Future[Result] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)

    def read(self) -> np.ndarray:
        """uint8 [height, width, 3], rotated by EXIF data."""
        try:
            return np.asarray(decode(BytesIO(self.data)))
        except DECODE_ERRORS as error:
            raise UserError(f"the image does not decode ({first_line(error)})") from None


class Batcher:
    """Runs the jobs that are submitted, from any thread, until it is closed.

    batch: images at a time. wait: seconds that the oldest job waits for others to fill its batch. pixels: most of a
    batch, so that many large images take no more memory than one of the largest that is accepted. pool: decodes.
    """

    def __init__(self, predictor: Predictor, *, batch: int, wait: float, pixels: int, pool: Executor, metrics: Metrics):
        self.predictor, self.batch, self.wait, self.pixels = predictor, batch, wait, pixels
        self.pool, self.metrics = pool, metrics
        self.waiting: list[Job] = []
        self.closed, self.changed = False, Condition()
        self.thread = Thread(target=self._run, name="network", daemon=True)
        self.thread.start()

    def submit(self, job: Job) -> None:
        with self.changed:
            self.waiting.append(job)
            self.changed.notify()

    def withdraw(self, job: Job) -> None:
        """Nobody waits for this job any more; it is dropped unless it has started."""
        with self.changed:
            if job in self.waiting:
                self.waiting.remove(job)
        job.future.cancel()

    def close(self) -> None:
        """Finish the jobs that wait, then end the thread."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            self._process([job for job in jobs if job.future.set_running_or_notify_cancel()])
            del jobs  # results and images are not kept until the next request

    def _next(self) -> list[Job]:
        """The next batch; an empty list when closed and done."""
        with self.changed:
            while True:
                self.changed.wait_for(lambda: self.waiting or self.closed)
                if self.waiting:
                    left = self.waiting[0].arrived + self.wait - time.monotonic()
                    self.changed.wait_for(lambda: self.closed or len(self._chosen()) == self.batch, max(0.0, left))
                jobs = self._chosen()
                self.waiting = [job for job in self.waiting if job not in jobs]
                if jobs or self.closed:  # a client may have withdrawn the last one during the wait
                    return jobs

    def _chosen(self) -> list[Job]:
        """A batch of what waits: jobs with the oldest one's threshold, in their order."""
        jobs, pixels = [], 0
        for job in self.waiting:
            if job.score == self.waiting[0].score and len(jobs) < self.batch:
                pixels += job.pixels
                if jobs and pixels > self.pixels:
                    break
                jobs.append(job)
        return jobs

    def _process(self, jobs: Sequence[Job]) -> None:
        read = zip(jobs, self.pool.map(_read, jobs), strict=True)
        self._predict([(job, pixels) for job, pixels in read if pixels is not None])

    def _predict(self, read: Sequence[tuple[Job, np.ndarray]]) -> None:
        if not read:
            return
        sources = [Source(job.name, partial(np.asarray, pixels)) for job, pixels in read]
        try:
            with self.metrics.batch_seconds.time():
                found = list(self.predictor.stream(sources, score=read[0][0].score, batch=len(read)))
        except Exception as error:  # a bug, or memory is short
            if len(read) > 1:  # one image must not harm the others
                for one in read:
                    self._predict([one])
            else:
                self.metrics.failures.inc()
                read[0][0].future.set_exception(error)
            return
        self.metrics.batch_images.observe(len(read))
        for (job, _), result in zip(read, found, strict=True):
            job.future.set_result(_alone(result, job))


def _read(job: Job) -> np.ndarray | None:
    try:
        return job.read()
    except Exception as error:  # a file that does not decode, or memory is short
        job.future.set_exception(error)
        return None


def _alone(result: Result, job: Job) -> Result:
    """As if the image had been predicted alone: its id is 1. It is decoded again when it is drawn, since many results
    that keep their pixels would take much memory."""
    (height,), (width,) = result.images.height, result.images.width
    images = Images.from_records([Image(1, job.name, int(height), int(width))], result.images.classes)
    table = result.replace(image_id=np.ones(len(result), dtype=int))
    return Result.of_table(table, images, result.tasks, [Source(job.name, job.read)], result.removed_of)
