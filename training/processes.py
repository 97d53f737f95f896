"""One process or several.

``torchrun --nproc-per-node N main.py train`` starts N processes ("ranks") that each see their own mixtures; gradients
are averaged by torch's DistributedDataParallel, over NCCL on GPUs and gloo on CPUs. Rank 0 alone writes and talks.

Batch normalization: on CUDA its statistics are taken over all ranks (`SyncBatchNorm`). On CPUs torch has no such
layer: each rank normalizes by its own part of the batch, and rank 0's running statistics are broadcast to all before
every step, so that one set of them is validated and saved.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import torch
from torch import Tensor, distributed, nn

from settings import SettingsError


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which of how many processes this is."""

    rank: int = 0
    n_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network as it is to be called in training."""
        if self.n_ranks == 1:
            return network
        if device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def mean(self, total: float, count: int) -> float:
        """Return the mean over all ranks, given each one's sum and number of items."""
        sums = torch.tensor([total, count], dtype=torch.float64)
        if self.n_ranks > 1:
            sums = self._summed(sums)
        return float(sums[0] / sums[1].clamp_min(1))

    def any(self, condition: bool) -> bool:
        """Whether the condition holds on any rank."""
        return self.mean(float(condition), 1) > 0

    def _summed(self, values: Tensor) -> Tensor:
        on_device = values.float().cuda() if distributed.get_backend() == "nccl" else values
        distributed.all_reduce(on_device)
        return on_device.cpu().double()


@contextlib.contextmanager
def joined_processes(device: torch.device, batch_size: int) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did; leave them at the end.

    Raises
    ------
    SettingsError
        If the batch cannot be shared out evenly.
    """
    n_ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if batch_size % n_ranks:
        raise SettingsError(f"A batch of {batch_size} cannot be shared by {n_ranks} processes. Choose a multiple.")
    if n_ranks == 1:
        yield Processes()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank, n_ranks)
    finally:
        distributed.destroy_process_group()


def device_of_rank(device: torch.device) -> torch.device:
    """Give each process of a machine its own GPU."""
    local_rank = os.environ.get("LOCAL_RANK")
    if device.type == "cuda" and local_rank is not None:
        device = torch.device("cuda", int(local_rank))
        torch.cuda.set_device(device)
    return device
