"""Evaluation against the serial loop that nussl's documentation shows: load, separate, score, song by song.

Both are run on one song first, so that imports are not measured. The first row compares the same work: scores of the
model, as JSON. The second includes what only an evaluation does: the mixture's row, the summary, tables and page.
"""

import functools
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import Row
from vocal_extraction.checkpointing import load_checkpoint, named_checkpoint
from vocal_extraction.compatibility import museval, nussl
from vocal_extraction.demo_songs import write_demo_songs
from vocal_extraction.evaluation import evaluate_model
from vocal_extraction.evaluation.bsseval_v4 import BssEvalV4
from vocal_extraction.evaluation.deep_mask_reference import separate_with_nussl
from vocal_extraction.evaluation.metrics import choose_metrics
from vocal_extraction.evaluation.models import ModelSystem
from vocal_extraction.evaluation.scale_metrics import ScaleMetrics
from vocal_extraction.evaluation.scoring import Job, run_jobs
from vocal_extraction.evaluation.systems import Sources, System
from vocal_extraction.settings import DATASET_FOLDER
from vocal_extraction.tracks import Track, find_tracks

N_SONGS = 24  # as in the benchmark table of the specification


def rows() -> list[Row]:
    """Measure whole evaluations, and the metrics alone."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset, checkpoint = _dataset(folder), named_checkpoint("classic")
        tracks = find_tracks(dataset, subset="test", limit=N_SONGS)
        sources = Sources.shared(["vocals"], tracks)
        songs = [sources.of(track) for track in tracks]
        n_songs = len(songs)
        evaluate = functools.partial(
            evaluate_model, checkpoint, dataset_folder=dataset, metrics="scale", progress=False, show=False
        )
        evaluate(output_folder=folder / "one song", limit=1)
        _nussl_loop(songs[:1], checkpoint, folder / "one song.json")
        scored_s = _seconds(lambda: _score(songs, checkpoint, folder / "scores"))
        evaluated_s = _seconds(lambda: evaluate(output_folder=folder / "all songs", limit=N_SONGS))
        reference_s = _seconds(lambda: _nussl_loop(songs, checkpoint, folder / "all songs.json"))
        return [
            Row(f"score {n_songs} songs, scale metrics", scored_s, reference_s),
            Row("the same, with all files and the page", evaluated_s, reference_s),
            *_metrics_alone(songs[0]),
        ]


def _seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _dataset(folder: Path) -> Path:
    """Return the prepared songs where there are enough, else synthesise as many."""
    if len(list((DATASET_FOLDER / "test" / "mixture").glob("*.wav"))) >= N_SONGS:
        return DATASET_FOLDER
    write_demo_songs(folder / "dataset", n_train=0, n_valid=0, n_test=N_SONGS, duration_s=7.0)
    return folder / "dataset"


def _score(songs: list[Track], checkpoint: Path, folder: Path) -> None:
    """Score the model on all songs, as `evaluate_model` does, and write a JSON each."""
    model = load_checkpoint(checkpoint)
    sha256 = model.sha256
    use = {"mask": "soft", "separator": "extraction"}
    system = System("model", "evaluated", ModelSystem(model), {"sha256": sha256, **use})
    evaluated = {"kind": "model", "name": checkpoint.name, "path": str(checkpoint), "sha256": sha256, "settings": use}
    data, metrics = {"folder": "dataset", "subset": "test"}, choose_metrics("scale")
    sources = Sources.shared(["vocals"], songs)
    jobs = [Job(song, {"model": system}, sources, metrics, folder, evaluated, data) for song in songs]
    list(run_jobs(jobs, n_jobs=None))


def _nussl_loop(songs: list[Track], checkpoint: Path, path: Path) -> None:
    """Evaluate as nussl's documentation does."""
    model = load_checkpoint(checkpoint, runtime="torch")
    scores = {}
    for song in songs:
        signals = [
            sum((nussl.AudioSignal(str(file)) for file in files[1:]), start=nussl.AudioSignal(str(files[0])))
            for files in song.sources.values()
        ]
        mixture = signals[0] + signals[1]
        samples = mixture.audio_data.astype(np.float32)
        vocals = separate_with_nussl(samples, song.sample_rate, model=model)["vocals"]
        evaluator = nussl.evaluation.BSSEvalScale(
            signals,
            [
                nussl.AudioSignal(audio_data_array=x.astype(float), sample_rate=song.sample_rate)
                for x in (vocals, samples - vocals)
            ],
            source_labels=list(song.sources),
        )
        found = evaluator.evaluate()
        scores[song.name] = {source: found[source] for source in song.sources}
    path.write_text(json.dumps(scores, default=float), encoding="utf-8")  # nussl keeps single precision


def _metrics_alone(song: Track) -> list[Row]:
    """Score nine sets of estimates of one song, as ``--oracles --baselines`` does, with either family of metrics."""
    references = song.read(0, song.n_samples).astype(np.float64)
    draw = np.random.default_rng(0)
    noise = [references + 0.1 * draw.standard_normal(references.shape) for _ in range(9)]
    return [
        Row(
            "scale metrics, 9 estimates of a song, against nussl",
            _seconds(lambda: _scores(ScaleMetrics(song.sample_rate), references, noise)),
            _seconds(lambda: _nussl_scale(references, noise, song.sample_rate)),
        ),
        Row(
            "BSSEval v4, 9 estimates of a song, against museval",
            _seconds(lambda: _scores(BssEvalV4(song.sample_rate), references, noise)),
            _seconds(lambda: _museval(references, noise, song.sample_rate)),
        ),
    ]


def _scores(metrics: ScaleMetrics | BssEvalV4, references: np.ndarray, estimates: list[np.ndarray]) -> None:
    metrics.add(references, np.stack(estimates))
    metrics.values()


def _nussl_scale(references: np.ndarray, estimates: list[np.ndarray], sample_rate: int) -> None:
    for one in estimates:
        signals = [
            [nussl.AudioSignal(audio_data_array=x.copy(), sample_rate=sample_rate) for x in stack]
            for stack in (references, one)
        ]
        nussl.evaluation.BSSEvalScale(*signals).evaluate()


def _museval(references: np.ndarray, estimates: list[np.ndarray], sample_rate: int) -> None:
    for one in estimates:
        turned = [x.transpose(0, 2, 1) for x in (references, one)]
        museval.metrics.bss_eval(*turned, window=sample_rate, hop=sample_rate)
