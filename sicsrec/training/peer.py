"""One of several processes that train a model: what torchrun starts.

``python -m sicsrec.training.peer JOB WORK DEVICE MEETING``, with the ranks in the environment, as
torchrun sets them.
"""

import logging
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from sicsrec.errors import SicsrecError
from sicsrec.progress import NoProgress
from sicsrec.starter import when_starter_ends
from sicsrec.tracking import NullTracker
from sicsrec.training.events import EventWriter, events_path
from sicsrec.training.job import Job
from sicsrec.training.process_group import GroupPeers
from sicsrec.training.sequential import fit

_PATIENCE = timedelta(hours=1)
"""How long processes wait for one that writes a checkpoint or is slow."""


def main(folder: Path, work: Path, device_type: str, meeting: str) -> int:
    """Train a job with the other processes.

    Args:
        folder: of the job; events are written there.
        work: folder of the checkpoint.
        device_type: ``cpu``, or ``cuda`` for the device with the process's number on its host.
        meeting: URL by which the processes find each other, as torch.distributed takes it.

    Returns:
        The exit status: 1 after an error, which is among the events then.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    number = os.environ["LOCAL_RANK"]
    device = torch.device(f"cuda:{number}" if device_type == "cuda" else device_type)
    if device_type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device_type == "cuda" else "gloo",
        init_method=meeting,
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    writer = EventWriter(events_path(folder, rank))
    try:
        job = Job.read(folder, device)
        fit(
            job.model,
            job.train,
            job.validation,
            job.settings,
            work=work,
            tracker=writer if rank == 0 else NullTracker(),
            progress=writer if rank == 0 else NoProgress(),
            peers=GroupPeers(device),
        )
    except SicsrecError as err:
        writer.fail(err)
        return 1
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    when_starter_ends(lambda: os._exit(1))
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
