"""Live separation between audio devices: the callback copies blocks in and mixes stems out, and never waits.

What is played lags by the separator's delay and the blocks that the worker has time for. Where stems are late, the
mixture is played with the same delay.
"""

import atexit
import contextlib
import math
import multiprocessing
import signal
import threading
import time
from typing import Any, Self

import numpy as np

from vocal_extraction.errors import ExtractionError
from vocal_extraction.live.mixing import Mixer, level_db
from vocal_extraction.live.worker import RING, Ring, Task, work

_STANDSTILL_S = 3.0  # without a callback for so long, the device is gone
_ENDING_S = 10.0
_ENDED = "The process that separates ended by itself; is there enough memory?"


def list_devices() -> str:
    return str(_sounddevice().query_devices()) or "There are no audio devices."


def _sounddevice() -> Any:
    try:
        import sounddevice
    except OSError as error:
        raise ExtractionError(
            f"Audio devices need PortAudio ({error}). Install it, on Debian: apt-get install libportaudio2"
        ) from error
    return sounddevice


class LiveSession:
    """A worker and an audio stream between two `devices`; the worker has time for `n_ahead` blocks.

    Devices are named or numbered as sounddevice has them, None is the system's; `mix` is as for `mixing.Mixer`.
    """

    def __init__(self, task: Task, devices: tuple[Any, Any], *, n_ahead: int, **mix: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._arrived = context.Semaphore(0)
        self._worker = context.Process(target=work, args=(task, other, self._arrived), daemon=True)
        self._worker.start()
        other.close()
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise ExtractionError(_ENDED) from None
        if isinstance(answer, Exception):
            raise answer
        names, self.sample_rate, self.n_samples, self._separator_delay = answer
        self.mixer = Mixer(names, self.sample_rate, **mix)
        self._devices, self._n_channels = devices, task.n_channels
        self._stream = self._opened()
        self._n_ahead = n_ahead
        n_behind = self._separator_delay + n_ahead * self.n_samples
        devices_s = sum(self._stream.latency)
        if devices_s > _STANDSTILL_S:  # PortAudio's JACK may give 2^32 samples; it is behind by one block
            devices_s = self.n_samples / self.sample_rate
        self.delays_s = (n_behind / self.sample_rate, devices_s)
        self._ring = Ring(len(names), self.n_samples, task.n_channels)
        self._pipe.send(self._ring.memory.name)
        self.n_blocks = self.n_late = 0
        self.levels_db = (-np.inf, -np.inf)

    def __enter__(self) -> Self:
        self._n_before, self._called_at = self.n_blocks, time.monotonic()
        self._stream.start()
        return self

    def _opened(self) -> Any:
        sounddevice, rate = _sounddevice(), self.sample_rate
        how = {"samplerate": rate, "blocksize": self.n_samples, "channels": self._n_channels, "dtype": "float32"}
        try:
            return sounddevice.Stream(device=self._devices, callback=self._callback, latency="low", **how)
        except (sounddevice.PortAudioError, ValueError) as error:
            raise ExtractionError(
                f"The audio device cannot be opened ({error}). `live --devices` lists those that are there."
            ) from error

    def _callback(self, incoming: Any, played: Any, n_samples: int, times: Any, status: Any) -> None:
        """Take a block and give one; the audio system waits for this."""
        ring, number = self._ring, self.n_blocks
        ring.incoming[number % RING] = incoming
        ring.counts[0] = self.n_blocks = number + 1
        self._arrived.release()
        wanted = number - self._n_ahead
        stems = ring.stems[:, wanted % RING] if ring.counts[1] > wanted >= 0 else None
        self.n_late += stems is None and wanted >= 0
        played[:] = self.mixer.mix(stems, ring.delayed(wanted, self._separator_delay))
        self.levels_db = level_db(incoming), level_db(played)
        self._called_at = time.monotonic()

    def check(self) -> None:
        """Open a stream that broke once more, as PortAudio's may where a buffer ran empty; raise if that does not help.

        The blocks that were lost meanwhile count as late. ExtractionError: the device or the worker is gone.
        """
        if not self._worker.is_alive():
            raise ExtractionError(_ENDED)
        silent_s = time.monotonic() - self._called_at
        if self._stream.active and silent_s <= _STANDSTILL_S:
            return
        if self.n_blocks == self._n_before or not self._close_stream():
            raise ExtractionError("The audio device gives no more sound: it was unplugged, or its rate was changed.")
        self.n_late += math.ceil(max(silent_s, 0.0) * self.sample_rate / self.n_samples)
        self._stream = self._opened()
        self.__enter__()

    def _close_stream(self) -> bool:
        """Return whether the stream could be closed."""
        closing = threading.Thread(target=self._stream.close, daemon=True)
        closing.start()
        closing.join(_STANDSTILL_S)
        # PortAudio waits ten minutes for a JACK server that has ended, and again when Python ends.
        if closing.is_alive():
            atexit.unregister(_sounddevice()._exit_handler)
        return not closing.is_alive()

    def block_times(self) -> tuple[float, float]:
        """Return the median and the 99th percentile of what the last blocks took, as shares of what they last."""
        durations_s = self._ring.durations_s[: max(self._ring.counts[1], 1)]
        median, most = np.percentile(durations_s, [50, 99]) * self.sample_rate / self.n_samples
        return float(median), float(most)

    def __exit__(self, *exception: object) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not keep files from being closed
        self._close_stream()
        with contextlib.suppress(OSError):
            self._pipe.send("stop")
        self._arrived.release()
        self._worker.join(_ENDING_S)
        self._worker.kill()
        self.block_shares = self.block_times()
        self._ring.close()
        signal.signal(signal.SIGINT, before)
