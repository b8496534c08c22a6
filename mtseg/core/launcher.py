"""The environment variables with which a launcher such as torchrun tells a process which one of how many it is."""

from __future__ import annotations

import os

from mtseg.core.errors import UserError, quoted

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
START = "start with `torchrun -m stages.NAME` or with `launch` in params.yaml, or unset RANK and WORLD_SIZE"


def started(processes: int) -> bool:
    """Whether a launcher has started this process, so that none is to be started. processes: that the params ask for.
    Raises UserError if another launcher than torchrun has started other than so many: operators of clusters set the
    variables once for each machine, on which the others are missing."""
    if "RANK" not in os.environ:
        return False
    size = os.environ.get("WORLD_SIZE")
    if size != str(processes) and processes > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise UserError(
            f"RANK {quoted(os.environ['RANK'])} is set, but not by torchrun, and launch asks for {processes} "
            f"processes: {START}"
        )
    return True


def place() -> tuple[int, int]:
    """Number of this process, and of all that share the stage; (0, 1) without a launcher."""
    given = {name: os.environ[name] for name in NEEDED if os.environ.get(name)}
    try:
        size = int(given.get("WORLD_SIZE", 1))
        if size == 1 and int(given.get("RANK", 0)) == 0:
            return 0, 1
        rank, _ = int(given["RANK"]), int(given["MASTER_PORT"])
        if 0 <= rank < size and "MASTER_ADDR" in given:
            return rank, size
    except (KeyError, ValueError):
        pass
    listed = ", ".join(f"{name} {quoted(given[name]) if name in given else 'not set'}" for name in NEEDED)
    raise UserError(
        f"the environment does not say which of several processes this is ({listed}): expected RANK from 0 to "
        f"WORLD_SIZE - 1 and the address of rank 0; {START}"
    )
