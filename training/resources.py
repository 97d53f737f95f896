"""What a run takes of the machine: cores, memory; and which code it is."""

import contextlib
import ctypes
import os
import platform
import subprocess
from collections.abc import Iterator

import torch

from settings import PROJECT_FOLDER


@contextlib.contextmanager
def resources(device: torch.device, n_workers: int | None) -> Iterator[int]:
    """Share the cores out between network and workers, and keep freed memory; yield the number of workers."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n_workers is None:
        # On a CPU the small recurrences of a step run best on few threads, so half the cores can mix.
        n_workers = n_cores // 2 if device.type == "cpu" else min(n_cores - 2, 16)
    n_workers = max(n_workers, 0)
    n_threads_before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(max(n_cores - n_workers, 1))
    _keep_freed_memory(True)
    try:
        yield n_workers
    finally:
        torch.set_num_threads(n_threads_before)
        _keep_freed_memory(False)


def _keep_freed_memory(keep: bool) -> None:
    """Tell glibc to keep large blocks for the next step instead of giving them back page by page.

    A third of a step's time went into fresh pages otherwise. Without glibc nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # the names of mallopt(3)
    mallopt(trim_threshold, 2**31 - 1 if keep else 2**17)
    mallopt(mmap_threshold, 2**30 if keep else 2**17)
    mallopt(mmap_max, 0 if keep else 65_536)


def git_commit() -> str:
    """Name the commit of the code, with a mark where it has been changed since; empty outside a checkout."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(PROJECT_FOLDER), "describe", "--always", "--dirty", "--abbrev=12", "--match", ""],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()
