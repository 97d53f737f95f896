"""Training in one process or, started by torchrun, in several ("ranks"): "Several processes" in docs/training.md."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator

import torch
from torch import distributed, nn

from vocal_extraction.errors import SettingsError, TrainingError

_PAUSE_S = 0.5


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which of how many processes this is."""

    rank: int = 0
    n_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network as it is to be called in training."""
        if self.n_ranks == 1:
            return network
        if device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def sums(self, *values: float) -> tuple[float, ...]:
        """Return each value summed over all ranks."""
        if self.n_ranks == 1:
            return values
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"  # NCCL sums on GPUs alone
        summed = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(summed)
        return tuple(summed.tolist())


@contextlib.contextmanager
def joined_processes(device: torch.device, batch_size: int) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did; leave them at the end."""
    n_ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if batch_size % n_ranks:
        raise SettingsError(f"A batch of {batch_size} cannot be shared by {n_ranks} processes. Choose a multiple.")
    if n_ranks == 1:
        yield Processes()
        return
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise TrainingError(
            f"WORLD_SIZE is {n_ranks}, but the processes did not find each other ({reason}). "
            "Start them with torchrun; for a single process, unset WORLD_SIZE."
        ) from error
    try:
        yield Processes(rank, n_ranks)
        distributed.barrier()
    finally:
        # gloo's threads need Python's lock to release the last sums, but destroy_process_group waits for them while it
        # holds that lock: without a pause, the process that has the least to write sometimes waits for ever.
        time.sleep(_PAUSE_S)
        distributed.destroy_process_group()


def device_of_rank(device: torch.device) -> torch.device:
    """Give each process of a machine its own GPU."""
    local_rank = os.environ.get("LOCAL_RANK")
    if device.type == "cuda" and local_rank is not None:
        device = torch.device("cuda", int(local_rank))
        torch.cuda.set_device(device)
    return device
