"""What the service accepts at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """batch: images at a time. wait: ms that an image waits for others to fill a batch. queue: requests that are
    accepted and not answered; more are refused. megabytes (10^6): of a request. megapixels: of an image, and of all
    images of a batch."""

    batch: int = 8
    wait: float = 10.0
    queue: int = 64
    megabytes: float = 20.0
    megapixels: float = 50.0
