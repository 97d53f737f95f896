"""Threads that share the work of a song: each takes whole chunks, since one LSTM step is too short to be divided."""

import contextlib
import ctypes
import functools
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.machine import n_cores

Item = TypeVar("Item")

_WORKERS_OF_A_SONG = 4
_GIVEN_BACK_BYTES, _M_MMAP_THRESHOLD = 1_000_000, -3
"""Memory of at least so many bytes goes back to the system as soon as it is free, and glibc's name for that."""


@functools.cache
def _n_cores() -> int:
    """Return how many threads torch would use; asked once, since our own threads lower what later calls return."""
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    given = os.environ.get("OMP_NUM_THREADS", "")
    return max(int(given), 1) if given.isdecimal() else n_cores()


def worker_pool(model: LoadedModel, *, n_beside: int = 1) -> ThreadPoolExecutor:
    """Return threads that compute chunks, each on one core; an accelerator is fed by one.

    There are as many as torch would use, shared with the `n_beside` processes that do so, but no more than a few.
    """
    if model.is_on_cpu and any(getattr(each.network, "block_frames", None) for each in model.members):
        _give_memory_back()
    n_workers = max(1, min(_n_cores() // n_beside, _WORKERS_OF_A_SONG)) if model.is_on_cpu else 1
    return ThreadPoolExecutor(n_workers, "separation", initializer=compute_on_one_thread)


@functools.cache
def _give_memory_back() -> None:
    """Let glibc keep no large arrays that were freed: a third less memory for convolutions, but layers take longer."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK_BYTES)


def compute_on_one_thread() -> None:
    """Let torch compute on this thread only, as ONNX Runtime does; other threads stay as they are."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def for_each(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Any],
    items: Iterable[Item],
    after_each: Callable[[int], None] = lambda n_done: None,
) -> None:
    """Call a function on every item on the threads of a pool, a few items ahead of the first that is not done.

    `after_each` is called from this thread with the number of items that are done, in order, and may raise to stop. No
    call of `function` is under way any more when this returns or raises, so that arrays may be closed.
    """
    waiting, ahead = iter(items), deque[Future[Any]]()
    n_ahead = min(_n_cores(), _WORKERS_OF_A_SONG) + 1
    try:
        for n_done in itertools.count(1):
            for item in itertools.islice(waiting, n_ahead - len(ahead)):
                ahead.append(pool.submit(function, item))
            if not ahead:
                return
            ahead[0].result()
            ahead.popleft()
            after_each(n_done)
    finally:
        wait([future for future in ahead if not future.cancel()])
