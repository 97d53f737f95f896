"""Cut a stream of samples into overlapping pieces, and join what became of them.

All pieces lie on one grid of frames, the one on which the whole song would be transformed. Each piece carries context
on both sides: the network hears it, its estimate is thrown away. What is kept of two neighbours meets at a frame, and
the windows of the frames overlap as they would within one piece, so that there are no joints. The last piece keeps all
that remains. Nothing here grows with the length of the song.

Axes: samples are ``(n_channels, n_samples)``.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from vocal_extraction.audio_files.decoding import Samples
from vocal_extraction.settings import ExtractionSettings, SignalSettings


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where frames and pieces lie."""

    frame_length: int
    """Samples of a frame."""
    hop_length: int
    """Samples from one frame to the next."""
    n_before: int
    """Zeros before the song's first sample."""
    piece_frames: int
    """Frames of a full piece, context included."""
    context_frames: int
    """Frames of context on either side."""

    @property
    def overlap(self) -> int:
        """Samples that the last frame of a piece shares with the frames after it."""
        return self.frame_length - self.hop_length

    @property
    def n_beside(self) -> int:
        """Frames on either side that share samples with a frame."""
        return self.frame_length // self.hop_length - 1

    def samples_of(self, n_frames: int) -> int:
        """Return how many samples `n_frames` frames cover."""
        return (n_frames - 1) * self.hop_length + self.frame_length

    def frames_of(self, n_samples: int) -> int:
        """Return how many frames a song of `n_samples` samples has: with zeros before, as `spectrogram.stft` counts."""
        return -(-n_samples // self.hop_length) + (1 if self.n_before else 0)


def spectral_grid(signal: SignalSettings, settings: ExtractionSettings) -> Grid:
    """Return the grid of the frames of `spectrogram.stft`."""
    context = round(settings.context_s * signal.sample_rate / signal.hop_length)
    body = max(1, round(settings.chunk_s * signal.sample_rate / signal.hop_length))
    return Grid(signal.window_length, signal.hop_length, signal.window_length // 2, body + 2 * context, context)


def sample_grid(signal: SignalSettings, settings: ExtractionSettings) -> Grid:
    """Return the grid for a network that takes samples: frames as long as a hop, side by side."""
    spectral = spectral_grid(signal, settings)
    return dataclasses.replace(spectral, frame_length=signal.hop_length, n_before=0)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of the song, with context."""

    samples: Samples
    """All samples of its frames; beyond the song they are zeros, where the grid has zeros before it, too."""
    kept: slice
    """Frames to keep, counted from the first of this piece."""
    first_frame: int
    """Its first frame, counted from that of the song."""
    n_frames: int
    """Frames of this piece."""
    is_first: bool
    is_last: bool


def cut(blocks: Iterable[Samples], grid: Grid) -> Iterator[Piece]:
    """Cut a song that comes in blocks of any length into pieces.

    Full pieces are all alike. The last begins with twice the context and holds what is left: a piece is held back until
    all frames that share samples with its kept ones are there, so that none of them is missed where the song ends.
    """
    held: Samples | None = None
    fresh: list[Samples] = []
    n_held = n_song = first_frame = 0
    length = grid.samples_of(grid.piece_frames)
    step = grid.piece_frames - 2 * grid.context_frames
    n_needed = grid.piece_frames - grid.context_frames + grid.n_beside
    for block in blocks:
        if held is None:
            held = np.zeros((block.shape[0], grid.n_before), np.float32)
            n_held = grid.n_before
        fresh.append(block)
        n_held += block.shape[1]
        n_song += block.shape[1]
        while n_held >= length and grid.frames_of(n_held - grid.n_before) >= n_needed:
            held = np.concatenate([held, *fresh], axis=1)
            fresh.clear()
            start = grid.context_frames if first_frame else 0
            kept = slice(start, grid.piece_frames - grid.context_frames)
            piece = held[:, :length].copy()
            yield Piece(piece, kept, first_frame, grid.piece_frames, is_first=not first_frame, is_last=False)
            held, n_held = held[:, step * grid.hop_length :], n_held - step * grid.hop_length
            first_frame += step
    if held is not None and n_song > 0:
        yield _last_piece(np.concatenate([held, *fresh], axis=1), n_song, first_frame, grid)


def _last_piece(held: Samples, n_song: int, first_frame: int, grid: Grid) -> Piece:
    n_frames = grid.frames_of(n_song) - first_frame
    missing = grid.samples_of(n_frames) - held.shape[1]
    if grid.n_before:
        held = np.pad(held, ((0, 0), (0, missing)))
    start = grid.context_frames if first_frame else 0
    return Piece(held, slice(start, n_frames), first_frame, n_frames, is_first=not first_frame, is_last=True)


def grouped(pieces: Iterable[Piece], pieces_together: Callable[[int], int]) -> Iterator[list[Piece]]:
    """Gather neighbours of equal length, to go through the network together.

    `pieces_together` tells, for a number of channels, how many at most.
    """
    group: list[Piece] = []
    for piece in pieces:
        if group and (len(group) == pieces_together(piece.samples.shape[0]) or piece.n_frames != group[0].n_frames):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def joined(estimates: Iterable[Samples], grid: Grid) -> Iterator[Samples]:
    """Add neighbours up where their frames overlap, and drop the zeros before the song.

    Parameters
    ----------
    estimates
        The kept frames of each piece in turn, synthesised: ``grid.samples_of(n_kept)`` samples, or fewer for the last.
    grid
        Where they lie.

    Yields
    ------
    Samples
        The song's estimate, followed by what the last frames hold beyond its end.
    """
    carried: Samples | None = None
    to_drop = grid.n_before
    for estimate in estimates:
        if carried is not None:
            estimate[:, : grid.overlap] += carried
        end = estimate.shape[1] - grid.overlap
        carried = estimate[:, end:]
        dropped = min(to_drop, end)
        to_drop -= dropped
        yield estimate[:, dropped:end]
    if carried is not None:
        yield carried[:, to_drop:]


class Shelf:
    """Holds samples back until their estimate is there, and counts them."""

    def __init__(self) -> None:
        self.n_passed = 0
        self.n_held = 0
        self._blocks: deque[Samples] = deque()

    def passing(self, blocks: Iterable[Samples], *, hold: bool = True) -> Iterator[Samples]:
        """Yield `blocks` as they come; `hold` keeps each until it is taken."""
        for block in blocks:
            self.n_passed += block.shape[1]
            if hold:
                self.n_held += block.shape[1]
                self._blocks.append(block)
            yield block

    def take(self, n_samples: int) -> Samples:
        """Return the next `n_samples` held samples."""
        taken: list[Samples] = []
        self.n_held -= n_samples
        while n_samples > 0:
            block = self._blocks.popleft()
            if block.shape[1] > n_samples:
                self._blocks.appendleft(block[:, n_samples:])
                block = block[:, :n_samples]
            n_samples -= block.shape[1]
            taken.append(block)
        return np.concatenate(taken, axis=1)
