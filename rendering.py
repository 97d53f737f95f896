"""Events that scaper drew, made audible: excerpt, pitch, tempo, loudness.

Scaper renders each stem through SoX, one process an effect; that took 92% of its time and spliced the stems of one
song at different places. Here the stems of an event are channels of one array and share every splice. Pitch is
resampling, undone in length by WSOLA (Verhelst and Roelands, "An overlap-add technique based on waveform similarity
(WSOLA)", ICASSP 1993), the algorithm behind SoX's ``tempo`` too. Loudness is that of ITU-R BS.1770-4, with
pyloudnorm's filters.

Axes: ``(n_channels, n_samples)``, float32.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from settings import MixingSettings, VocalExtractionError

Audio = NDArray[np.float32]

# Lengths that SoX's tempo effect uses for music: see "tempo" in its manual.
_SEGMENT_S = 0.082
_SEARCH_S = 0.01468
_OVERLAP_S = 0.012
_COARSE = 4
"""The search runs on every fourth sample first."""

LOWEST_LUFS = -70.0
"""What scaper calls silence; pyloudnorm's gate lies there as well."""


class RenderingError(VocalExtractionError):
    """A stem could not be read or rendered; the text names it."""


def read_excerpt(path: str | Path, *, start_s: float, duration_s: float, channel: str = "mid") -> tuple[Audio, int]:
    """Read a mono excerpt of a stem.

    Parameters
    ----------
    path
        An audio file that soundfile reads.
    start_s, duration_s
        Where the excerpt begins and how long it is, in seconds; it ends early where the file does.
    channel
        'left', 'right' or 'mid' (the mean of all channels). A mono file has only 'mid'.

    Returns
    -------
    tuple
        Samples of shape (n_samples,) and the sample rate.

    Raises
    ------
    RenderingError
        If the file is missing or is no audio.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            file.seek(min(int(start_s * rate), file.frames))
            # As scaper counts, so that both take the same samples.
            n_samples = int((start_s + duration_s) * rate) - int(start_s * rate)
            samples = file.read(n_samples, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise RenderingError(f"Cannot read the stem {path} ({error}). Prepare the dataset again.") from error
    if channel == "mid" or samples.shape[1] == 1:
        # A product with a vector is ten times quicker here than NumPy's mean over two columns.
        return samples @ np.full(samples.shape[1], 1 / samples.shape[1], dtype=np.float32), rate
    return np.ascontiguousarray(samples[:, 0 if channel == "left" else 1]), rate


def change_pitch_and_tempo(audio: Audio, *, semitones: float, stretch: float, sample_rate: int) -> Audio:
    """Shift the pitch and stretch the time of all channels together.

    Parameters
    ----------
    audio
        Shape: (n_channels, n_samples).
    semitones
        Pitch shift; 12 doubles every frequency.
    stretch
        Factor on the duration; 2 plays at half the speed.
    sample_rate
        Samples per second.

    Returns
    -------
    ndarray
        Shape: (n_channels, round(n_samples * stretch)). Channels that were aligned stay aligned to the sample.
    """
    n_wanted = round(audio.shape[1] * stretch)
    ratio = 2 ** (semitones / 12)
    if audio.shape[1] and abs(semitones) > 1e-6:
        audio = soxr.resample(np.ascontiguousarray(audio.T), sample_rate * ratio, sample_rate, quality="MQ").T
    n_missing = n_wanted - audio.shape[1]
    # A record played at another speed has the wanted length already, up to rounding.
    if abs(n_missing) > 2:
        audio = _stretch_time(audio, n_wanted, sample_rate)
    elif n_missing:
        audio = np.pad(audio, ((0, 0), (0, max(n_missing, 0))))[:, :n_wanted]
    return np.ascontiguousarray(audio, dtype=np.float32)


def _stretch_time(audio: Audio, n_wanted: int, sample_rate: int) -> Audio:
    """Stretch (n_channels, n_samples) to `n_wanted` samples by WSOLA, with the same splices in every channel."""
    segment, search, overlap = (int(length_s * sample_rate) for length_s in (_SEGMENT_S, _SEARCH_S, _OVERLAP_S))
    n_samples = audio.shape[1]
    if n_samples < segment + search + overlap:
        return soxr.resample(np.ascontiguousarray(audio.T), max(n_samples, 1), max(n_wanted, 1), quality="MQ").T
    step = segment - overlap
    starts = _splice_points(audio.sum(axis=0), n_wanted, step, search, overlap)
    rise = (np.sin(np.linspace(0, np.pi / 2, overlap, dtype=np.float32)) ** 2).astype(np.float32)
    out = np.zeros((audio.shape[0], len(starts) * step + overlap), dtype=np.float32)
    for i, start in enumerate(starts):
        piece = audio[:, start : start + segment].copy()
        if i:
            piece[:, :overlap] *= rise
        piece[:, step : step + overlap] *= 1 - rise[: piece.shape[1] - step]
        out[:, i * step : i * step + piece.shape[1]] += piece
    return out[:, :n_wanted]


def _splice_points(guide: Audio, n_wanted: int, step: int, search: int, overlap: int) -> list[int]:
    """Choose where in `guide` each segment begins, so that it continues the one before as well as it can."""
    n_samples = len(guide)
    n_segments = max(-(-n_wanted // step), 1)
    last_start = n_samples - step - overlap
    coarse = guide[: n_samples // _COARSE * _COARSE].reshape(-1, _COARSE) @ np.full(_COARSE, 1 / _COARSE, guide.dtype)
    coarse_energy = np.concatenate(([0.0], np.cumsum(np.square(coarse, dtype=np.float64))))
    n_overlap, n_search = overlap // _COARSE, search // _COARSE
    starts = [0]
    for i in range(1, n_segments):
        nominal = min(round(i * step * n_samples / n_wanted), last_start)
        low = max(nominal - search // 2, 0)
        natural = starts[-1] + step  # what would follow had nothing been cut
        wanted = coarse[natural // _COARSE :][:n_overlap]
        first = low // _COARSE
        candidates = coarse[first : first + n_search + n_overlap]
        if len(wanted) < n_overlap or len(candidates) <= n_overlap:
            starts.append(nominal)
            continue
        likeness = np.correlate(candidates, wanted, "valid")
        energies = (
            coarse_energy[first + n_overlap : first + n_overlap + len(likeness)]
            - (coarse_energy[first : first + len(likeness)])
        )
        rough = (first + int(np.argmax(likeness / np.sqrt(energies + 1e-9)))) * _COARSE
        starts.append(min(_refine(guide, rough, natural, overlap), last_start))
    return starts


def _refine(guide: Audio, rough: int, natural: int, overlap: int) -> int:
    """Search the single samples around a coarse splice point."""
    low = max(rough - _COARSE, 0)
    wanted = guide[natural : natural + overlap]
    candidates = guide[low : low + 2 * _COARSE + len(wanted)]
    if len(candidates) <= len(wanted):
        return rough
    likeness = sliding_window_view(candidates, len(wanted)) @ wanted
    return low + int(np.argmax(likeness))


@functools.lru_cache(maxsize=4)
def _k_weighting(sample_rate: int) -> NDArray[np.float64]:
    """Return pyloudnorm's K-weighting at this rate as second-order sections."""
    import pyloudnorm

    filters = pyloudnorm.Meter(sample_rate)._filters.values()
    return np.array([np.concatenate((stage.b, stage.a)) for stage in filters])


def loudness_lufs(audio: Audio, sample_rate: int) -> NDArray[np.float64]:
    """Measure the integrated loudness of each channel by itself, as scaper does.

    Parameters
    ----------
    audio
        Shape: (n_channels, n_samples).
    sample_rate
        Samples per second.

    Returns
    -------
    ndarray
        LUFS, at least -70. Shape: (n_channels,). An excerpt under half a second is repeated until it has one.

    Notes
    -----
    ITU-R BS.1770-4: K-weighting, blocks of 0.4 s that overlap by three quarters, an absolute gate at -70 LUFS and a
    relative one at 10 LU below. Equal to ``scaper.audio.get_integrated_lufs`` (tested to 1e-3 LU), which takes the
    channels one at a time and the blocks in a Python loop.
    """
    from scipy.signal import sosfilt

    n_least = sample_rate // 2
    if audio.shape[1] == 0:
        return np.full(audio.shape[0], LOWEST_LUFS)
    if audio.shape[1] < n_least:
        audio = np.tile(audio, (1, -(-n_least // audio.shape[1])))
    weighted = sosfilt(_k_weighting(sample_rate), audio, axis=1)
    block_s, hop_share = 0.4, 0.25
    n_blocks = int(np.round((audio.shape[1] / sample_rate - block_s) / (block_s * hop_share))) + 1
    starts = [int(block_s * hop_share * i * sample_rate) for i in range(n_blocks)]
    ends = [int(block_s * (hop_share * i + 1) * sample_rate) for i in range(n_blocks)]
    # Block edges fall on a common grid, so that each stretch between two edges is squared and summed once.
    edges = sorted({min(edge, audio.shape[1]) for edge in (*starts, *ends)})
    sums = np.add.reduceat(np.square(weighted), [*edges[:-1]], axis=1)
    running = np.concatenate((np.zeros((len(audio), 1)), np.cumsum(sums[:, : len(edges) - 1], axis=1)), axis=1)
    position = {edge: i for i, edge in enumerate(edges)}
    high = [position[min(end, audio.shape[1])] for end in ends]
    low = [position[start] for start in starts]
    power = (running[:, high] - running[:, low]) / (block_s * sample_rate)  # (n_channels, n_blocks)
    return np.array([_gated_lufs(channel_power) for channel_power in power])


def _gated_lufs(power: NDArray[np.float64]) -> float:
    """Average the blocks' power (n_blocks,) above both gates of BS.1770-4."""

    def lufs(mean_square: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return -0.691 + 10 * np.log10(np.maximum(mean_square, 1e-30))

    audible = power[lufs(power) >= LOWEST_LUFS]
    if not len(audible):
        return LOWEST_LUFS
    loud = audible[lufs(audible) > lufs(audible.mean()) - 10]
    return max(float(lufs(loud.mean())), LOWEST_LUFS) if len(loud) else LOWEST_LUFS


def render_events(
    events: list[dict[str, Any]], channels: list[str], mixing: MixingSettings, sample_rate: int, *, together: bool
) -> Audio:
    """Read and transform the events: (n_stems, n_samples). Coherent stems go through one transform together."""
    n_samples = int(mixing.duration_s * sample_rate)
    excerpts = [_excerpt(event, channel, sample_rate) for event, channel in zip(events, channels, strict=True)]
    groups = [excerpts] if together else [[excerpt] for excerpt in excerpts]
    leaders = events[:1] if together else events
    stems = np.zeros((len(events), n_samples), dtype=np.float32)
    row = 0
    for group, event in zip(groups, leaders, strict=True):
        # Siblings may differ by a few samples at the end of the file.
        block = np.zeros((len(group), max(map(len, group))), dtype=np.float32)
        for line, excerpt in zip(block, group, strict=True):
            line[: len(excerpt)] = excerpt
        changed = change_pitch_and_tempo(
            block,
            semitones=event["pitch_shift"] or 0.0,
            stretch=event["time_stretch"] or 1.0,
            sample_rate=sample_rate,
        )[:, :n_samples]
        stems[row : row + len(group), : changed.shape[1]] = changed
        row += len(group)
    return stems


def _excerpt(event: dict[str, Any], channel: str, sample_rate: int) -> Audio:
    samples, rate = read_excerpt(
        event["source_file"], start_s=event["source_time"], duration_s=event["event_duration"], channel=channel
    )
    if rate != sample_rate:
        raise RenderingError(
            f"The stem {event['source_file']} has {rate} Hz, but {sample_rate} Hz were expected. Prepare it again."
        )
    return samples


def fade(stems: Audio, n_fade: int) -> None:
    """Fade both ends of (n_stems, n_samples) over `n_fade` samples, as scaper does, so that no cut clicks."""
    rise = np.sin(np.linspace(0, np.pi / 2, n_fade, dtype=np.float32))
    stems[:, :n_fade] *= rise
    stems[:, -n_fade:] *= rise[::-1]
