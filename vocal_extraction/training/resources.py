"""Cores and memory for a run."""

import collections
import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

import vocal_extraction
from vocal_extraction.machine import n_cores

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_MOST_THREADS = 8  # each holds the spectrograms of a batch: a few hundred megabytes


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies matrices of bfloat16 by itself: CUDA does, and CPUs since about 2020."""
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type == "cuda"


@contextlib.contextmanager
def resources(device: torch.device, n_workers: int | None) -> Iterator[int]:
    """Share the cores out between network and workers, and keep freed memory; yield the number of workers."""
    n_own = _n_cores()
    if n_workers is None:
        # On a CPU the small recurrences of a step run best on few threads, so half the cores can mix.
        n_workers = n_own // 2 if device.type == "cpu" else min(n_own - 2, 16)
    n_workers = max(n_workers, 0)
    n_threads_before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1 if vocal_extraction.LACKS_THREADS else max(n_own - n_workers, 1))
    keep_freed_memory(True)
    try:
        yield n_workers
    finally:
        torch.set_num_threads(n_threads_before)
        keep_freed_memory(False)


def in_threads(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, device: torch.device
) -> Iterator[_Result]:
    """Apply a function to items and yield the results in order; on a CPU, to as many at once as there are cores.

    Threads that share each small step of a recurrent network wait for each other: where another process uses a core,
    such a step takes a thousand times as long. Threads with an item each do not.
    """
    if device.type != "cpu":
        yield from map(function, items)
        return
    n_threads = min(_n_cores(), _MOST_THREADS)
    n_before = torch.get_num_threads()
    torch.set_num_threads(1)
    pending: collections.deque[Future[_Result]] = collections.deque()
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > n_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        torch.set_num_threads(n_before)


def _n_cores() -> int:
    """Return how many cores this process may use: its share, where torchrun started several on this machine."""
    return max(n_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def keep_freed_memory(keep: bool) -> None:
    """Tell glibc to keep large blocks for the next step, a third of whose time is spent on fresh pages otherwise."""
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # the names of mallopt(3)
    mallopt(trim_threshold, 2**31 - 1 if keep else 2**17)
    mallopt(mmap_threshold, 2**30 if keep else 2**17)
    mallopt(mmap_max, 0 if keep else 65_536)
