"""One song from file to files.

The network's estimate goes to a spool of 32-bit floats first, with the mixture beside it: only at the song's end is it
known whether an integer format would clip, and by how much both stems have to be scaled. The spool is a nameless file
in the output folder; it vanishes by itself, whatever happens. Floats need no scaling and are written at once.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np

from vocal_extraction.atomic_files import whole_file
from vocal_extraction.audio_files.decoding import Samples, SongReader
from vocal_extraction.audio_files.encoding import Coding, StemWriter, choose_coding
from vocal_extraction.audio_files.probing import SongFacts, examine
from vocal_extraction.audio_files.tags import gather
from vocal_extraction.errors import ExtractionCancelledError
from vocal_extraction.extraction.naming import STANDARD_INPUT, Places
from vocal_extraction.extraction.outcome import DONE, Outcome
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.separation.estimation import Estimator
from vocal_extraction.separation.separation import Cancelled, Progress, Watch, separate_stream

Stream = Iterator[tuple[Samples, Samples]]
"""Mixture and vocals, block by block."""

Announce = Callable[[Outcome, list[Path]], None]

_SPOOLED_SAMPLES = 2**16


@dataclasses.dataclass
class Levels:
    """What a song and its stems amount to, in units of full scale, or of the format's integers."""

    bits: int | None
    """Of the format's samples, None for floats."""
    highest: float = 0.0
    lowest: float = 0.0
    is_silent: bool = True
    n_samples: int = 0

    @property
    def unit(self) -> float:
        """Integers of the format that make up full scale."""
        return 1.0 if self.bits is None else 2.0 ** (self.bits - 1)

    def stems(self, mixture: Samples, vocals: Samples, scale: float) -> tuple[Samples, Samples]:
        """Return vocals and accompaniment, scaled, in units of the format.

        Where those are integers, the mixture and the vocals are rounded, and so their difference is whole, too: the
        stems add up to the rounded mixture without a bit missing.
        """
        mixture, vocals = mixture * np.float32(scale * self.unit), vocals * np.float32(scale * self.unit)
        if self.bits is not None:
            mixture, vocals = np.rint(mixture), np.rint(vocals)
        return vocals, mixture - vocals

    def hear(self, mixture: Samples, vocals: Samples) -> None:
        """Take note of another block."""
        stems = self.stems(mixture, vocals, 1.0)
        self.highest = max(self.highest, *(float(stem.max()) for stem in stems))
        self.lowest = min(self.lowest, *(float(stem.min()) for stem in stems))
        self.is_silent = self.is_silent and not mixture.any()
        self.n_samples += mixture.shape[1]

    def fitting_scale(self) -> float:
        """Return the factor, at most 1, that keeps both stems within the format."""
        largest = 1.0 if self.bits is None else self.unit - 1
        smallest = -1.0 if self.bits is None else -self.unit
        if self.highest <= largest and self.lowest >= smallest:
            return 1.0
        # One unit less, since the difference of two rounded numbers may be one more than the rounded difference.
        margin = 0.0 if self.bits is None else 1.0
        return (largest - margin) / max(self.highest, -self.lowest)


def extract_song(
    song: str | Path,
    places: Places | None,
    *,
    estimator: Estimator,
    pool: ThreadPoolExecutor | None = None,
    longest_s: float | None = None,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
    announce: Announce | None = None,
) -> Outcome:
    """Take one song apart and write its stems.

    Parameters
    ----------
    song
        Path, or '-' for standard input.
    places
        Where the stems go; None writes the vocals to standard output, as floats.
    estimator
        Model and settings.
    pool
        See `separation.separate_stream`.
    longest_s
        See `batch.extract_vocals`.
    progress, cancelled
        See `separation.separate`.
    announce
        Called with the outcome and both stems' temporary paths when they are whole, before they get their names; what
        it raises keeps them from getting them.

    Raises
    ------
    VocalExtractionError
        If anything about the song, the disk or ffmpeg is wrong. No half file remains.
    """
    started = time.monotonic()
    facts = None if str(song) == STANDARD_INPUT else examine(Path(song), track=estimator.settings.track)
    settings = estimator.settings
    with SongReader(facts, keep_partial=settings.keep_partial) as reader:
        layout = None if facts is None else facts.channel_layout
        coding = choose_coding(
            settings, sample_rate=reader.sample_rate, n_channels=reader.n_channels, channel_layout=layout
        )
        duration_s = None if facts is None else facts.duration_s
        watch = Watch(duration_s, longest_s=longest_s, progress=progress, cancelled=cancelled)
        stream = separate_stream(
            reader.blocks(),
            reader.sample_rate,
            estimator=estimator,
            pool=pool,
            watch=watch,
            tape_folder=Path(tempfile.gettempdir()) if places is None else places.vocals.parent,
        )

        def outcome(levels: Levels, scale: float) -> Outcome:
            return Outcome(
                file=str(song),
                outcome=DONE,
                seconds=time.monotonic() - started,
                duration_s=levels.n_samples / coding.sample_rate,
                vocals=None if places is None else places.vocals,
                accompaniment=None if places is None else places.accompaniment,
                scale=scale,
                notes=_notes(coding, reader, levels, scale),
            )

        if places is None:
            return outcome(_write_to_standard_output(stream, coding), 1.0)

        def are_whole(stems: list[Path], levels: Levels, scale: float) -> None:
            if announce is not None:
                announce(outcome(levels, scale), stems)

        return outcome(*_write_files(stream, places, coding, facts, cancelled, are_whole))


def _notes(coding: Coding, reader: SongReader, levels: Levels, scale: float) -> tuple[str, ...]:
    """Say what else there is to say of a song."""
    notes = [*coding.notes, *reader.notes]
    if levels.is_silent:
        notes.append("the song is silent, and so are its stems")
    if scale != 1.0:
        notes.append(f"both stems are scaled by {scale:.6f}, so that {coding.name} does not clip")
    return tuple(notes)


def _stoppable(stream: Stream, cancelled: Cancelled | None) -> Stream:
    """Pass a stream on until asked to stop."""
    for pair in stream:
        if cancelled is not None and cancelled():
            raise ExtractionCancelledError
        yield pair


def _write_to_standard_output(stream: Stream, coding: Coding) -> Levels:
    levels = Levels(bits=None)
    coding = dataclasses.replace(
        coding, name="float", format=FORMATS["float"], coded_rate=coding.sample_rate, coded_channels=coding.n_channels
    )
    with StemWriter(None, coding) as writer:
        for mixture, vocals in stream:
            levels.hear(mixture, vocals)
            writer.write(vocals)
        writer.finish()
    return levels


def _write_files(
    stream: Stream,
    places: Places,
    coding: Coding,
    facts: SongFacts | None,
    cancelled: Cancelled | None,
    are_whole: Callable[[list[Path], Levels, float], None],
) -> tuple[Levels, float]:
    levels, scale = Levels(coding.format.bits), 1.0
    try:
        with contextlib.ExitStack() as stack:
            asides = [stack.enter_context(whole_file(place)) for place in (places.vocals, places.accompaniment)]
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tags-")))
            attachments = gather(facts, coding.format, folder=folder)
            # The encoders start now, while the song is being estimated; they are closed before their files get names.
            writers = [stack.enter_context(StemWriter(aside, coding, attachments=attachments)) for aside in asides]
            if coding.format.bits is not None or not coding.format.is_lossless:
                spool = stack.enter_context(tempfile.TemporaryFile(dir=places.vocals.parent))
                for mixture, vocals in stream:
                    levels.hear(mixture, vocals)
                    spool.write(np.concatenate([mixture, vocals]).T.tobytes())
                scale = levels.fitting_scale()
                stream = _stoppable(_spooled(spool, coding.n_channels), cancelled)
            for mixture, vocals in stream:
                if coding.format.bits is None and coding.format.is_lossless:
                    levels.hear(mixture, vocals)
                for writer, stem in zip(writers, levels.stems(mixture, vocals, scale), strict=True):
                    writer.write(stem)
            for writer in writers:
                writer.finish()
            are_whole(asides, levels, scale)
    finally:
        # Where nothing came of it, no empty folder remains; one that holds anything is not removed by this.
        with contextlib.suppress(OSError):
            places.vocals.parent.rmdir()
    return levels, scale


def _spooled(spool: IO[bytes], n_channels: int) -> Stream:
    """Read mixture and vocals back."""
    spool.seek(0)
    while data := spool.read(_SPOOLED_SAMPLES * 2 * n_channels * 4):
        both = np.frombuffer(data, np.float32).reshape(-1, 2 * n_channels).T
        yield both[:n_channels], both[n_channels:]
