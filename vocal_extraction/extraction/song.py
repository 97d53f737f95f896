"""One song from file to files: decode it to an array on disk, separate that, encode the stems.

Only when the whole song is separated is it known whether an integer format would clip, and by how much all its stems
have to be scaled. The arrays are nameless files in the output folder; they vanish by themselves, whatever happens.
"""

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.atomic_files import whole_file
from vocal_extraction.audio_files.decoding import SongReader
from vocal_extraction.audio_files.encoding import Coding, StemWriter, choose_coding
from vocal_extraction.audio_files.integrity import fill_gaps
from vocal_extraction.audio_files.native_stems import write_native_stems
from vocal_extraction.audio_files.probing import SongFacts, examine
from vocal_extraction.audio_files.tags import gather
from vocal_extraction.errors import ExtractionCancelledError, ExtractionError, SongTooLongError
from vocal_extraction.extraction.naming import STANDARD_INPUT
from vocal_extraction.extraction.outcome import DONE, Outcome
from vocal_extraction.separation import Array, Cancelled, DiskArray, Progress, Separator, StemPlan

Record = Callable[[Outcome, Mapping[str, Path]], None]  # called before complete stems get their names

_BLOCK_SAMPLES = 2**16
_FADE_S = 0.01  # at the ends of a region within the song, so that the stems do not click
_DECODING = 0.1  # share of the time that decoding takes; for the progress
_QUIET = 10 ** (-50 / 20)  # below this peak, rounding to 16 bits costs more than 0.05 dB of SI-SDR


@dataclasses.dataclass(frozen=True)
class StemBlocks:
    """The stems of a separated song, in units of full scale, or of the format's integers.

    Mixture and estimates are rounded then, so that the stems add up to the rounded mixture to the bit.
    """

    mixture: DiskArray
    estimates: Mapping[str, Any]
    plan: StemPlan
    bits: int | None  # of the format's samples, None for floats

    @property
    def unit(self) -> float:
        """Integers of the format that make up full scale."""
        return 1.0 if self.bits is None else 2.0 ** (self.bits - 1)

    def blocks(self, scale: float) -> Iterator[dict[str, NDArray[np.floating[Any]]]]:
        """Yield the scaled stems in turn. Shape of each: (n_samples, n_channels)."""

        def scaled(rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
            rows = rows * np.float32(scale * self.unit)
            if self.bits is not None:
                np.rint(rows, out=rows)
            # Sums of several 24-bit integers leave what 32-bit floats hold exactly.
            return rows.astype(np.float64) if self.bits == 24 else rows

        for start in range(0, len(self.mixture), _BLOCK_SAMPLES):
            rows = slice(start, min(start + _BLOCK_SAMPLES, len(self.mixture)))
            estimates = {name: scaled(estimate[rows]) for name, estimate in self.estimates.items()}
            yield self.plan.stems_of(scaled(self.mixture[rows]), estimates)

    def fitting_scale(self) -> float:
        """Return the factor, at most 1, that keeps all stems within the format."""
        extremes = [(stem.max(), stem.min()) for block in self.blocks(1.0) for stem in block.values()]
        highest, lowest = max(high for high, _ in extremes), min(low for _, low in extremes)
        largest, smallest = (1.0, -1.0) if self.bits is None else (self.unit - 1, -self.unit)
        if highest <= largest and lowest >= smallest:
            return 1.0
        # A residual of rounded numbers may be so many units more than the rounded residual.
        margin = 0 if self.bits is None else len(self.estimates)
        return float((largest - margin) / max(highest, -lowest))


def extract_song(
    song: str | Path,
    paths: Mapping[str, Path] | None,
    plan: StemPlan,
    separator: Separator,
    *,
    longest_s: float | None = None,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
    record: Record | None = None,
) -> Outcome:
    """Separate one song and write its stems; see `batch.extract_vocals`.

    `paths` says where each stem goes; None writes the plan's only stem to standard output, as floats. `record` writes
    down that the song is done. On any error no half-written file remains.
    """
    started, settings = time.monotonic(), separator.settings
    facts = SongFacts() if str(song) == STANDARD_INPUT else examine(Path(song), track=settings.track)
    duration_s = facts.duration_s

    def watch(done_s: float, total_s: float | None) -> None:
        if cancelled is not None and cancelled():
            raise ExtractionCancelledError
        if progress is not None:
            progress(done_s, total_s)

    try:
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(SongReader(facts, keep_partial=settings.keep_partial))
            coding = choose_coding(
                settings if paths is not None else dataclasses.replace(settings, format="float"),
                sample_rate=reader.sample_rate,
                n_channels=reader.n_channels,
                channel_layout=facts.channel_layout,
            )
            temporary = {stem: stack.enter_context(whole_file(path)) for stem, path in (paths or {}).items()}
            mixture = stack.enter_context(DiskArray((reader.n_channels,), separator.folder))
            peak = _decode(reader, mixture, longest_s, lambda done_s: watch(_DECODING * done_s, duration_s))
            duration_s = len(mixture) / reader.sample_rate
            estimates = (separator if settings.region is None else partial(_separate_region, separator))(
                mixture,
                reader.sample_rate,
                sources=plan.sources,
                progress=lambda done_s, total_s: watch(_DECODING * duration_s + (1 - _DECODING) * done_s, duration_s),
                cancelled=cancelled,
            )
            for array in estimates.values():
                if isinstance(array, DiskArray):
                    stack.enter_context(array)
            stems = StemBlocks(mixture, estimates, plan, coding.format.bits)
            scale = 1.0 if coding.format.bits is None and coding.format.is_lossless else stems.fitting_scale()
            lost = _encode(stems, scale, coding, facts, temporary, lambda: watch(duration_s, duration_s))
            notes = [*coding.notes, *reader.notes, *lost]
            if peak == 0:
                notes.append("the song is silent, and so are its stems")
            elif peak < _QUIET and coding.format.bits == 16:
                notes.append(
                    f"the song is so quiet ({20 * math.log10(peak):.0f} dB at its loudest) that {coding.name} rounds "
                    "it coarsely: --format wav24 or float keeps it"
                )
            if scale != 1.0:
                notes.append(f"all stems are scaled by {scale:.6f}, so that {coding.name} does not clip")
            seconds, written = time.monotonic() - started, dict(paths or {})
            outcome = Outcome(
                str(song), DONE, seconds, None, duration_s, written, scale, separator.runtime, tuple(notes)
            )
            if record is not None:
                record(outcome, temporary)
    finally:
        # Where nothing came of it, no empty folder remains; one that holds anything is not removed by this.
        for path in (paths or {}).values():
            with contextlib.suppress(OSError):
                path.parent.rmdir()
    return outcome


def _decode(reader: SongReader, mixture: DiskArray, longest_s: float | None, watch: Callable[[float], None]) -> float:
    """Put the samples of a song into an array; return the largest, without its sign."""
    peak = 0.0
    most_samples = math.inf if longest_s is None else longest_s * reader.sample_rate
    for block in reader.blocks():
        mixture.append(block)
        peak = max(peak, float(block.max()), -float(block.min()))
        if len(mixture) > most_samples:
            raise SongTooLongError(most_samples / reader.sample_rate)
        watch(len(mixture) / reader.sample_rate)
    if len(mixture) + sum(gap.n_samples for gap in reader.gaps) > most_samples:
        raise SongTooLongError(most_samples / reader.sample_rate)
    fill_gaps(mixture, reader.gaps)
    return peak


def _separate_region(
    separator: Separator, mixture: DiskArray, sample_rate: int, *, progress: Progress, **options: Any
) -> dict[str, Array]:
    """Estimate sources between ``settings.from_s`` and ``settings.to_s``, in arrays of the song's length.

    Outside of the region they are silent. The network gets ``settings.context_s`` of the song on either side.
    """
    (n_samples, n_channels), settings, folder = mixture.shape, separator.settings, separator.folder
    end_s = n_samples / sample_rate if settings.to_s is None else settings.to_s
    start, stop = round(settings.from_s * sample_rate), min(round(end_s * sample_rate), n_samples)
    if start >= stop:
        raise ExtractionError(
            f"The region begins at {settings.from_s:g} s, and the song ends at {n_samples / sample_rate:g} s. "
            "Choose an earlier --from."
        )
    context = round(settings.context_s * sample_rate)
    first, last = max(0, start - context), min(n_samples, stop + context)
    with contextlib.ExitStack() as stack:
        part = stack.enter_context(DiskArray((n_channels,), folder))
        for begin in range(first, last, _BLOCK_SAMPLES):
            part.append(mixture[begin : min(begin + _BLOCK_SAMPLES, last)])

        def scaled_progress(done_s: float, total_s: float | None) -> None:
            progress(done_s * n_samples / len(part), total_s)

        estimates = separator(part, sample_rate, progress=scaled_progress, **options)
        placed: dict[str, Array] = {}
        for name, estimate in estimates.items():
            placed[name] = DiskArray((n_channels,), folder, n_rows=n_samples)
            for begin in range(start, stop, _BLOCK_SAMPLES):
                at = np.arange(begin, min(begin + _BLOCK_SAMPLES, stop))
                rising = (at - start + 0.5) / (_FADE_S * sample_rate) if start > 0 else np.ones(len(at))
                falling = (stop - at - 0.5) / (_FADE_S * sample_rate) if stop < n_samples else np.ones(len(at))
                gain = np.clip(np.minimum(rising, falling), 0.0, 1.0)[:, None]
                placed[name][begin:stop] = gain * estimate[begin - first : at[-1] + 1 - first]
            if isinstance(estimate, DiskArray):
                estimate.close()
    return placed


def _encode(
    stems: StemBlocks,
    scale: float,
    coding: Coding,
    facts: SongFacts,
    temporary: Mapping[str, Path],
    watch: Callable[[], None],
) -> tuple[str, ...]:
    """Write every stem to its temporary file, or the only one to standard output; return what was left out."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tags-")))
        attachments = gather(facts, coding.format, folder=folder) if temporary else None
        paths = dict(temporary)
        if coding.format.holds_all:
            paths = {stem: folder / f"{i}.m4a" for i, stem in enumerate(("mixture", *stems.plan.names))}
        writers = {
            stem: stack.enter_context(StemWriter(paths.get(stem), coding, attachments=attachments))
            for stem in paths or stems.plan.names
        }
        for block in stems.blocks(scale):
            if coding.format.holds_all:
                block["mixture"] = np.sum([*block.values()], axis=0)
            for stem, writer in writers.items():
                writer.encode(block[stem])
            watch()
        for writer in writers.values():
            writer.close()
        if coding.format.holds_all:
            write_native_stems(paths.pop("mixture"), paths, *temporary.values())
    return () if attachments is None else attachments.notes
