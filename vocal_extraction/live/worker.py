"""The process that separates while sound plays, and the memory that it shares with the audio callback.

Block number i of what came in lies at ``incoming[i % RING]``, its stems at ``stems[:, i % RING]``. Each side counts its
own blocks and reads the other's count, so there is no lock.
"""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.shared_memory
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.live.recording import Recorder
from vocal_extraction.separation.disk_array import Rows

if TYPE_CHECKING:
    from vocal_extraction.separation import StreamingSeparator

RING = 512  # blocks that are kept: some ten seconds
_PRIORITY = 5  # real-time, as PulseAudio's threads have
_SLACK = 8  # blocks that are left to the callback when a worker that is far behind goes on with the newest one


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker is to do; the same on both sides."""

    model: str
    sample_rate: int | None
    n_channels: int
    stems: tuple[str, ...] | None
    record: Path | None

    def separator(self) -> "StreamingSeparator":
        """Load the model, on one thread: blocks are too short to be divided."""
        from vocal_extraction.separation import StreamingSeparator, load_model
        from vocal_extraction.separation.workers import compute_on_one_thread

        rate, model = self.sample_rate, load_model(self.model)
        separator = StreamingSeparator(model, sample_rate=rate, n_channels=self.n_channels, stems=self.stems)
        compute_on_one_thread()
        return separator

    @contextlib.contextmanager
    def recording(self, separator: "StreamingSeparator") -> Iterator[Callable[[Mapping[str, Rows]], None]]:
        """Yield what takes blocks of all stems for the folder `record`; without that it does nothing."""
        if self.record is None:
            yield lambda stems: None
            return
        facts = {"sample_rate": separator.sample_rate, "n_channels": self.n_channels, "delay": separator.delay()}
        with Recorder(self.record, **facts) as recorder:
            yield recorder.write


class Ring:
    """Views on the shared memory."""

    def __init__(self, n_stems: int, n_samples: int, n_channels: int, *, name: str | None = None) -> None:
        self.shape = (n_stems, n_samples, n_channels)
        block = n_samples * n_channels
        n_floats = RING * (block * (1 + n_stems) + 1)
        self.memory = multiprocessing.shared_memory.SharedMemory(name, create=name is None, size=16 + 4 * n_floats)
        self.counts = np.ndarray(2, np.int64, self.memory.buf)  # blocks that came in, blocks that are done
        floats = np.ndarray(n_floats, np.float32, self.memory.buf, offset=16)
        self.incoming = floats[: RING * block].reshape(RING, n_samples, n_channels)
        self.stems = floats[RING * block : RING * block * (1 + n_stems)].reshape(n_stems, RING, n_samples, n_channels)
        self.durations_s = floats[RING * block * (1 + n_stems) :]

    def delayed(self, number: int, delay: int) -> Rows:
        """Return the mixture that belongs to the stems of a block: `delay` samples before the block itself."""
        n_samples = self.shape[1]
        first = number * n_samples - delay
        places = np.arange(first, first + n_samples)
        kept = self.incoming.reshape(-1, self.shape[2])
        return np.where(places[:, None] >= 0, kept[places % len(kept)], 0.0)

    def close(self) -> None:
        """Free the memory; for the process that made it, when the other has ended."""
        del self.counts, self.incoming, self.stems, self.durations_s
        self.memory.close()
        self.memory.unlink()


def work(task: Task, pipe: Any, arrived: Any) -> None:
    """Load the model, send its stems, rate, hop and delay, and separate blocks until asked to stop or left alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process, which then ends this one
    try:
        separator = task.separator()
    except VocalExtractionError as error:
        pipe.send(error)
        return
    with contextlib.suppress(OSError, AttributeError):  # where the system allows it and has it: before all other work
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    hop = separator.hop_length
    for _ in range(20):  # the first blocks take longer
        separator.process(np.zeros((hop, task.n_channels), np.float32))
    separator.reset()
    pipe.send((separator.plan.names, separator.sample_rate, hop, separator.delay()))
    try:
        name = pipe.recv()
    except EOFError:  # the device could not be opened
        return
    ring, parent = Ring(len(separator.plan.names), hop, task.n_channels, name=name), os.getppid()
    with task.recording(separator) as record:
        while not pipe.poll() and os.getppid() == parent:
            arrived.acquire(timeout=0.5)
            while ring.counts[1] < ring.counts[0] and not pipe.poll():
                number = int(ring.counts[1])
                if ring.counts[0] - number > RING - _SLACK:
                    number = int(ring.counts[0]) - _SLACK
                start = time.perf_counter()
                stems = separator.process(ring.incoming[number % RING])
                ring.durations_s[number % RING] = time.perf_counter() - start
                for target, samples in zip(ring.stems, stems.values(), strict=True):
                    target[number % RING] = samples
                ring.counts[1] = number + 1
                record(stems)
