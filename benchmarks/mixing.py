"""Mixing against scaper as it comes: the same template, the same songs, its default pitch and tempo.

The seconds are processor time, with that of the programs that scaper starts, so that a busy machine changes them
little. Freed memory is kept, for both, as in a training.
"""

import contextlib
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import Row
from vocal_extraction.compatibility import scaper
from vocal_extraction.data_augmentation import create_mix_closure, event_template
from vocal_extraction.demo_songs import write_demo_songs
from vocal_extraction.musdb_preparation import song_names, song_paths
from vocal_extraction.settings import DATASET_FOLDER, STEMS, MixingSettings, SignalSettings
from vocal_extraction.training.resources import keep_freed_memory

N_ALTERNATIONS = 11


def rows() -> list[Row]:
    """Measure incoherent and coherent mixtures of 5 s, alternating with scaper's."""
    warnings.simplefilter("ignore")
    with _songs() as dataset:
        return [
            _row(dataset, "an incoherent mixture of 5 s", 0.0),
            _row(dataset, "a coherent mixture of 5 s", 1.0),
        ]


@contextlib.contextmanager
def _songs() -> Iterator[Path]:
    """Yield the prepared songs, or demo songs where there are none; keep freed memory meanwhile."""
    keep_freed_memory(True)
    with tempfile.TemporaryDirectory() as temporary:
        dataset = DATASET_FOLDER
        if not song_names("train", dataset):
            dataset = Path(temporary)
            write_demo_songs(dataset, n_train=6, n_valid=0, n_test=0, duration_s=6.8)
        yield dataset
    keep_freed_memory(False)


def _row(dataset: Path, what: str, coherent_probability: float) -> Row:
    closure = create_mix_closure(dataset, "train", mixing=MixingSettings(coherent_probability=coherent_probability))
    reference = _plain_coherent if coherent_probability else _plain_incoherent
    for task in (lambda: closure.mixture(0), lambda: reference(dataset, 0)):
        task()  # what is compiled or listed once is not part of a mixture
    this_s, reference_s = [], []
    for i in range(1, N_ALTERNATIONS + 1):
        # Ten of ours for one of scaper's, which takes much longer.
        this_s.append(_seconds(lambda i=i: [closure.mixture(10 * i + k) for k in range(10)]) / 10)  # type: ignore[misc]
        reference_s.append(_seconds(lambda i=i: reference(dataset, i)))  # type: ignore[misc]
    return Row(what, statistics.median(this_s), statistics.median(reference_s))


def _plain_incoherent(dataset: Path, seed: int) -> None:
    mixer = plain_scaper(dataset / "train", seed)
    for stem in STEMS:
        mixer.add_event(**{**event_template(MixingSettings()), "label": ("const", stem)})
    mixer.generate(fix_clipping=True)


def _plain_coherent(dataset: Path, seed: int) -> None:
    """As the tutorial does: the song, its offset, pitch and stretch are drawn once and are constants from there on."""
    mixer, template = plain_scaper(dataset / "train", seed), event_template(MixingSettings(), coherent=True)
    song = mixer.random_state.choice(song_names("train", dataset))
    for name in ("source_time", "pitch_shift", "time_stretch"):
        template[name] = ("const", mixer.random_state.uniform(*template[name][1:]))
    for stem in STEMS:
        source_file = ("const", str(song_paths(dataset, "train", song)[stem]))
        mixer.add_event(**{**template, "label": ("const", stem), "source_file": source_file})
    mixer.generate(fix_clipping=True)


def plain_scaper(folder: Path, seed: int) -> Any:
    """Return scaper with the specified settings, for the stems of one subset."""
    stems, background = str(folder / "foreground"), str(folder / "background")
    mixer = scaper.Scaper(MixingSettings.duration_s, stems, background, random_state=seed)
    mixer.sr, mixer.ref_db, mixer.n_channels = SignalSettings.sample_rate, MixingSettings.ref_db, 1
    return mixer


def _seconds(task: Callable[[], object]) -> float:
    before = os.times()
    task()
    # user, system, and both of the children that have ended
    return sum(os.times()[:4]) - sum(before[:4])
