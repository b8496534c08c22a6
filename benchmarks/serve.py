"""`python -m benchmarks.serve MODEL IMAGES [--seconds 20]`: throughput and latency of the service, batched and not.

Starts the service twice, with batches of up to 8 and of 1, each in a process of its own; 1, 8 and 32 clients send the
images of a folder over and over, each its next one when it has the answer. The two services take turns, so that a busy
machine slows both. Expect a table; two minutes. The clients run on the same machine and take some of its processor.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

BATCHES, CLIENTS, TURNS = (8, 1), (1, 8, 32), 4


def start(model: Path, batch: int, device: str) -> tuple[str, subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "mtseg", "serve", "--weights", model, "--port", port, "--batch", batch, "--device", device]
    server = subprocess.Popen([sys.executable, *map(str, command)], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            httpx.get(f"{url}/health").raise_for_status()
            return url, server
        except httpx.ConnectError:
            if server.poll() is not None:
                sys.exit("error: the service ended: run `mtseg serve` to see why")
            time.sleep(0.2)


def measure(url: str, images: Sequence[bytes], clients: int, seconds: float) -> tuple[float, list[float]]:
    """Seconds that it took, and the latency of each image in ms."""
    end = time.monotonic() + seconds

    def client(first: int) -> list[float]:
        found = []
        with httpx.Client(timeout=120) as connection:
            for image in itertools.islice(itertools.cycle(images), first, None):
                start = time.monotonic()
                if start > end:
                    return found
                connection.post(f"{url}/predict", files={"file": image}).raise_for_status()
                found.append(1000 * (time.monotonic() - start))

    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        latencies = [one for found in pool.map(client, range(clients)) for one in found]
    return time.monotonic() - start, latencies


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description="Throughput and latency.")
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, help="folder of .jpg")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    images = [path.read_bytes() for path in sorted(given.images.glob("*.jpg"))]
    servers = {batch: start(given.model, batch, given.device) for batch in BATCHES}
    try:
        print("| clients | batch | images a second | p50, ms | p95, ms |\n|---|---|---|---|---|")
        for clients in CLIENTS:
            turns = [
                (batch, *measure(servers[batch][0], images, clients, given.seconds / TURNS))
                for batch in BATCHES * TURNS
            ]
            for batch in BATCHES:
                seconds = sum(took for own, took, _ in turns if own == batch)
                latencies = np.concatenate([found for own, _, found in turns if own == batch])
                p50, p95 = np.percentile(latencies, [50, 95])
                print(f"| {clients} | {batch} | {len(latencies) / seconds:.1f} | {p50:.0f} | {p95:.0f} |", flush=True)
    finally:
        for _, server in servers.values():
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
