"""Take a stream of samples apart: mixture in, mixture and vocals out, side by side and in constant memory.

The stream is resampled to the model's rate and cut into pieces; several are estimated at a time, each on a core of its
own: one LSTM step is too short to be shared among threads. The pieces are joined and resampled back; whatever that
does to the length is put right at the end, by a sample or two.

A network of this project hears the whole song before it gives the first mask. Till then the song waits on tape, and so
does what the network has found out. Other networks hear each piece by itself, as the stream comes.

The accompaniment is not estimated: it is the mixture less the vocals, so that the two always add up.
"""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from vocal_extraction.audio_files.decoding import Samples
from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.errors import ExtractionCancelledError, ExtractionError, SongTooLongError
from vocal_extraction.separation.estimation import Estimator
from vocal_extraction.separation.pieces import Shelf, cut, grouped, joined
from vocal_extraction.separation.tapes import Tapes
from vocal_extraction.settings import ExtractionSettings

Progress = Callable[[float, float | None], None]
"""Called with the seconds of audio that are done, and the seconds in all, None where nobody knows."""
Cancelled = Callable[[], bool]
"""Asked from time to time whether to stop."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_BLOCK_S = 2.0
_WORKERS_OF_A_SONG = 4
_ENCODING, _LISTENING = 0.2, 0.4
"""Shares of the time that pass before a network that hears the whole song gives its first mask; for the progress."""
_TRIED_S = 0.2
_LARGEST_SAMPLE = 1e15
"""Squares of larger samples leave the range of 32-bit floats."""


def separate(
    mixture: NDArray[np.floating[Any]],
    sample_rate: int,
    *,
    model: LoadedModel,
    mask: str = ExtractionSettings.mask,
    phase: str = ExtractionSettings.phase,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> tuple[Samples, Samples]:
    """Separate an array into vocals and accompaniment.

    Parameters
    ----------
    mixture
        Samples, full scale is 1. Shape: (n_channels, n_samples).
    sample_rate
        Samples per second, any; the network hears the signal at its own rate.
    model
        What `checkpointing.loading.load_checkpoint` returned.
    mask
        'soft' or 'binary'.
    phase
        'mixture' or 'griffin-lim'.
    progress
        Called as ``progress(done_s, total_s)``.
    cancelled
        Called without arguments; returns True to stop.

    Returns
    -------
    vocals, accompaniment
        32-bit floats whose sum is the mixture to rounding. Shape of both: (n_channels, n_samples).

    Raises
    ------
    ExtractionError
        If the array has another shape, or holds NaN or infinity.
    ExtractionCancelledError
        If `cancelled` said so.
    """
    samples = np.asarray(mixture, np.float32)
    if samples.ndim != 2 or samples.shape[0] == 0:
        raise ExtractionError(f"The mixture has shape {np.shape(mixture)}, expected (n_channels, n_samples).")
    if sample_rate <= 0:
        raise ExtractionError(f"The sample rate is {sample_rate}, expected samples per second, more than 0.")
    estimator = Estimator(model, ExtractionSettings(mask=mask, phase=phase))
    step = max(1, round(_BLOCK_S * sample_rate))
    blocks = (samples[:, start : start + step] for start in range(0, samples.shape[1], step))
    watch = Watch(samples.shape[1] / sample_rate, progress=progress, cancelled=cancelled)
    vocals = np.empty_like(samples)
    n_done = 0
    for _, estimate in separate_stream(blocks, sample_rate, estimator=estimator, watch=watch):
        vocals[:, n_done : n_done + estimate.shape[1]] = estimate
        n_done += estimate.shape[1]
    return vocals, samples - vocals


class Watch:
    """Tells a caller how far a song is, asks whether to stop, and holds the song to its limit.

    Parameters
    ----------
    total_s
        Length of the song, None where nobody knows.
    longest_s
        How much of it may come in, None for all.
    progress, cancelled
        See `separate`.
    """

    def __init__(
        self,
        total_s: float | None = None,
        *,
        longest_s: float | None = None,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> None:
        self.total_s = total_s
        self._longest_s = longest_s
        self._progress, self._cancelled = progress, cancelled

    def come_in(self, decoded_s: float) -> None:
        """Take note that `decoded_s` seconds of the song have come in, before any of the last of them is heard.

        Raises
        ------
        SongTooLongError
            If that is more than may come in.
        """
        if self._longest_s is not None and decoded_s > self._longest_s:
            raise SongTooLongError(self._longest_s)

    def at(self, done_s: float) -> None:
        """Take note that the work of `done_s` seconds of the song is done.

        Raises
        ------
        ExtractionCancelledError
            If the caller wants to stop.
        """
        if self._cancelled is not None and self._cancelled():
            raise ExtractionCancelledError
        if self._progress is not None:
            self._progress(done_s, self.total_s)


def separate_stream(
    blocks: Iterable[Samples],
    sample_rate: int,
    *,
    estimator: Estimator,
    pool: ThreadPoolExecutor | None = None,
    watch: Watch | None = None,
    tape_folder: Path | None = None,
) -> Iterator[tuple[Samples, Samples]]:
    """Separate a stream, holding only a few pieces of it in memory.

    Parameters
    ----------
    blocks
        The song in turn, in blocks of any length. Shape of each: (n_channels, n_samples).
    sample_rate
        Samples per second.
    estimator
        Model and settings.
    pool
        Threads that estimate; several songs may share them. None makes some.
    watch
        Is told how much came in and how far it is, from the thread that asks for the blocks.
    tape_folder
        Where songs wait that their network has to hear as a whole; None holds them in memory.

    Yields
    ------
    mixture, vocals
        Blocks of equal length. Together they have exactly as many samples as came in.

    Raises
    ------
    ExtractionError
        If a sample is NaN, infinite or absurdly large.
    SongTooLongError, ExtractionCancelledError
        If the watch said so.
    """
    watch = watch or Watch()
    with contextlib.ExitStack() as stack:
        if pool is None:
            pool = stack.enter_context(worker_pool(estimator.model))
        song = _checked(blocks, sample_rate, watch)
        if estimator.layered is None:
            yield from _by_pieces(song, sample_rate, estimator, pool, watch)
        else:
            tapes = stack.enter_context(Tapes(tape_folder))
            yield from _by_layers(song, sample_rate, estimator, pool, watch, tapes)


def _by_pieces(
    song: Iterable[Samples], sample_rate: int, estimator: Estimator, pool: ThreadPoolExecutor, watch: Watch
) -> Iterator[tuple[Samples, Samples]]:
    """Let the network hear each piece by itself, with its context."""
    model_rate = estimator.model.signal.sample_rate
    mixture, heard = Shelf(), Shelf()
    at_model_rate = resampled(mixture.passing(song), sample_rate, model_rate)
    pieces = cut(heard.passing(at_model_rate, hold=False), estimator.grid)
    batches = _in_order(pool, estimator, grouped(pieces, estimator.pieces_together))
    estimates = joined((estimate for batch in batches for estimate in batch), estimator.grid)
    n_done = 0
    for vocals in resampled(_cut_to_length(estimates, lambda: heard.n_passed), model_rate, sample_rate):
        vocals = vocals[:, : mixture.n_held]
        if vocals.shape[1]:
            yield mixture.take(vocals.shape[1]), vocals
            n_done += vocals.shape[1]
            watch.at(n_done / sample_rate)
    if mixture.n_held:
        rest = mixture.take(mixture.n_held)
        yield rest, np.zeros_like(rest)
        watch.at((n_done + rest.shape[1]) / sample_rate)


def _by_layers(
    song: Iterable[Samples],
    sample_rate: int,
    estimator: Estimator,
    pool: ThreadPoolExecutor,
    watch: Watch,
    tapes: Tapes,
) -> Iterator[tuple[Samples, Samples]]:
    """Let the network hear the whole song, layer by layer, before it gives the masks."""
    model_rate = estimator.model.signal.sample_rate
    mixture = tapes.new()
    heard = mixture if model_rate == sample_rate else tapes.new()
    arriving = mixture.recording(song)
    if heard is not mixture:
        arriving = heard.recording(resampled(arriving, sample_rate, model_rate))
    listener = estimator.listener(tapes)
    for _ in _in_order(
        pool, functools.partial(estimator.encode, listener=listener), cut(arriving, estimator.listening_grid)
    ):
        watch.at(_ENCODING * mixture.n_rows / sample_rate)
    n_samples = mixture.n_rows
    duration_s = n_samples / sample_rate
    watch.total_s = watch.total_s or duration_s
    listener.listen(
        functools.partial(_in_order, pool), lambda share: watch.at((_ENCODING + _LISTENING * share) * duration_s)
    )
    pieces = cut(heard.playing(), estimator.grid)
    estimates = joined(_in_order(pool, functools.partial(estimator.decode, listener=listener), pieces), estimator.grid)
    n_done = 0
    for vocals in resampled(_cut_to_length(estimates, lambda: heard.n_rows), model_rate, sample_rate):
        vocals = vocals[:, : n_samples - n_done]
        if vocals.shape[1]:
            yield mixture.samples(n_done, n_done + vocals.shape[1]), vocals
            n_done += vocals.shape[1]
            share = _ENCODING + _LISTENING + (1 - _ENCODING - _LISTENING) * n_done / n_samples
            watch.at(share * duration_s if n_done < n_samples else duration_s)
    if n_done < n_samples:
        rest = mixture.samples(n_done, n_samples)
        yield rest, np.zeros_like(rest)
        watch.at(duration_s)


def taped_bytes(estimator: Estimator, *, sample_rate: int, n_channels: int) -> float:
    """Return how much tape a second of a song takes at most, while its network hears it.

    The network itself is asked: some channels that it hears together are taken through it, a short silence.
    """
    if estimator.layered is None:
        return 0.0
    signal, n_together = estimator.model.signal, estimator.channels_together(n_channels)
    silence = np.zeros((n_together, round(_TRIED_S * signal.sample_rate)), np.float32)
    with worker_pool(estimator.model) as pool, Tapes(None) as tapes:
        listener, mapped = estimator.listener(tapes), functools.partial(_in_order, pool)
        encode = functools.partial(estimator.encode, listener=listener)
        for _ in mapped(encode, cut([silence], estimator.listening_grid)):
            pass
        listener.listen(mapped, lambda share: None)
        frame_bytes = tapes.most_bytes / estimator.listening_grid.frames_of(silence.shape[1])
    samples = sample_rate + (signal.sample_rate if signal.sample_rate != sample_rate else 0)
    n_groups = -(-n_channels // n_together)
    return n_groups * frame_bytes * signal.sample_rate / signal.hop_length + n_channels * samples * silence.itemsize


def worker_pool(model: LoadedModel, *, n_songs: int = 1) -> ThreadPoolExecutor:
    """Return threads that estimate, each on one core.

    There are as many as torch would use, but no more than a few for each song, since memory grows with them; an
    accelerator is fed by one.
    """
    n_workers = min(_n_cores(), _WORKERS_OF_A_SONG * n_songs) if model.device.type == "cpu" else 1
    # The number of threads is each thread's own setting; that of the caller stays as it is.
    return ThreadPoolExecutor(n_workers, "estimator", initializer=torch.set_num_threads, initargs=(1,))


@functools.cache
def _n_cores() -> int:
    """Return how many threads torch would use; asked once, since our own threads lower what later ones are told."""
    return torch.get_num_threads()


def _checked(blocks: Iterable[Samples], sample_rate: int, watch: Watch) -> Iterator[Samples]:
    """Pass blocks on, and stop at the first sample that is no number, or where the song becomes too long."""
    n_before = 0
    for block in blocks:
        watch.come_in((n_before + block.shape[1]) / sample_rate)
        # The comparison is false for NaN, too.
        if block.size and not np.abs(block).max() < _LARGEST_SAMPLE:
            at = int(np.argmax(~(np.abs(block) < _LARGEST_SAMPLE).all(axis=0)))
            value = block[:, at][~(np.abs(block[:, at]) < _LARGEST_SAMPLE)][0]
            raise ExtractionError(
                f"The audio holds {value} at {(n_before + at) / sample_rate:.3f} s, where a number near -1 to 1 is "
                "expected. Repair the file first."
            )
        n_before += block.shape[1]
        yield block


def resampled(blocks: Iterable[Samples], from_rate: int, to_rate: int) -> Iterator[Samples]:
    """Resample a stream; equal rates pass untouched. The result is as long as it should be, to a sample or two."""
    if from_rate == to_rate:
        yield from blocks
        return
    stream: soxr.ResampleStream | None = None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(from_rate, to_rate, block.shape[0], dtype="float32")
            silence = block[:, :0]
        yield _turned(stream.resample_chunk(_turned(block)))
    if stream is not None:
        yield _turned(stream.resample_chunk(_turned(silence), last=True))


def _turned(samples: Samples) -> Samples:
    return np.ascontiguousarray(samples.T)


def _cut_to_length(estimates: Iterable[Samples], n_heard: Callable[[], int]) -> Iterator[Samples]:
    """Drop what the last frames hold beyond the end of what was heard till then."""
    n_done = 0
    for estimate in estimates:
        kept = estimate[:, : n_heard() - n_done]
        n_done += kept.shape[1]
        yield kept


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """Map `function` over `items` on the threads of `pool`, a few ahead; the results come in the order of the items."""
    n_ahead = min(_n_cores(), _WORKERS_OF_A_SONG) + 1
    ahead: deque[Future[_Result]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) == n_ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()
