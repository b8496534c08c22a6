"""Start a stage in several processes, as `torchrun` does, whose environment variables say where the other machines
are."""

from __future__ import annotations

import logging
import os
import sys

from torch.distributed import DistError, run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from mtseg.core.errors import UserError, first_line
from mtseg.core.params import Launch
from mtseg.model.ranks import JOIN


def launch(module: str, launch: Launch) -> None:
    """Run a module in `nproc_per_node` processes, on this machine, and wait for them. They share its cores. Raises
    UserError if a signal ended one, or the machines do not meet; exits with 1 if one failed, which has then reported
    why."""
    logging.disable(logging.ERROR)  # of a dozen lines about each process that ends
    cores = len(os.sched_getaffinity(0)) // launch.nproc_per_node
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))
    counts = [f"--nproc-per-node={launch.nproc_per_node}", f"--nnodes={launch.nnodes}"]
    given = run.parse_args([*counts, "--module", module])
    where = given.rdzv_endpoint or f"{given.master_addr}:{given.master_port or 29500}"  # torchrun's own port
    if launch.nnodes > 1:
        print(f"waiting up to {JOIN:g} s for {launch.nnodes} machines at {where}", flush=True)
    try:
        run.run(given)
    except DistError as error:  # no process has started
        raise UserError(
            f"launch.nnodes: {launch.nnodes} machines did not meet at {where} ({first_line(error)}): on each set "
            "PET_MASTER_ADDR and PET_MASTER_PORT to the first machine and a free port of it, PET_NODE_RANK to its own "
            f"number from 0, and start all within {JOIN:g} s"
        ) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            sys.exit(1)
        raise UserError(
            f"rank {rank} (process {failure.pid}) was killed by {failure.signal_name()} (out of memory?): "
            "run again to resume at the last saved state"
        ) from None
    except SignalException:  # passed on to the processes, which have saved and reported it
        sys.exit(1)
