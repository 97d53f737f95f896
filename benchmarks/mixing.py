"""Mixing against scaper as it comes: the same template, the same songs, its default pitch and tempo.

The seconds are those of a core, the programs that scaper starts included, so that a busy machine changes them little.
"""

import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from benchmarks import Row
from compatibility import scaper
from data_augmentation import create_mix_closure, event_template
from demo_songs import write_demo_songs
from musdb_preparation import song_names
from settings import DATASET_FOLDER, STEMS, MixingSettings

N_ALTERNATIONS = 7


def rows() -> list[Row]:
    """Measure incoherent and coherent mixtures of 5 s, alternating with scaper's."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        dataset = DATASET_FOLDER
        if not song_names("train", dataset):
            dataset = Path(temporary)
            write_demo_songs(dataset, n_train=6, n_valid=0, n_test=0, duration_s=6.8)
        return [
            _row(dataset, what, coherent_probability)
            for what, coherent_probability in (
                ("an incoherent mixture of 5 s", 0.0),
                ("a coherent mixture of 5 s", 1.0),
            )
        ]


def _row(dataset: Path, what: str, coherent_probability: float) -> Row:
    closure = create_mix_closure(dataset, "train", mixing=MixingSettings(coherent_probability=coherent_probability))
    closure.mixture(0)  # what is compiled or listed once is not part of a mixture
    this_s, reference_s = [], []
    for i in range(1, N_ALTERNATIONS + 1):
        # Several of ours for one of scaper's, since they are so much shorter.
        this_s.append(_seconds(lambda i=i: [closure.mixture(10 * i + k) for k in range(10)]) / 10)  # type: ignore[misc]
        reference_s.append(_seconds(lambda i=i: _plain_scaper(dataset, i)))  # type: ignore[misc]
    return Row(what, statistics.median(this_s), statistics.median(reference_s))


def _plain_scaper(dataset: Path, seed: int) -> None:
    folder = dataset / "train"
    mixer = scaper.Scaper(5.0, str(folder / "foreground"), str(folder / "background"), random_state=seed)
    mixer.sr, mixer.ref_db, mixer.n_channels = 44_100, MixingSettings().ref_db, 1
    for stem in STEMS:
        mixer.add_event(**{**event_template(MixingSettings()), "label": ("const", stem)})
    mixer.generate(fix_clipping=True)


def _seconds(task: Callable[[], object]) -> float:
    before = os.times()
    task()
    # user, system, and both of the children that have ended
    return sum(os.times()[:4]) - sum(before[:4])
