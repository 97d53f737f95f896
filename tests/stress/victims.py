"""The jobs that ``make stress`` kills: each on songs made for it, small enough to end within seconds.

Every job has inputs that are made once, and one function that does it from wherever an earlier run was stopped.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vocal_extraction.presets import Preset
from vocal_extraction.settings import MixingSettings, NetworkSettings, SignalSettings, TrainingSettings

N_SONGS = 4
SONG_S = 1.2
RECORDING_S = 20.0


@dataclasses.dataclass(frozen=True)
class Job:
    """What is started, killed, and started again."""

    name: str
    make_inputs: Callable[[Path], None]
    """Writes what the job needs into a folder of its own, which it only reads."""
    run: Callable[[Path, Path], None]
    """Takes the folder of inputs and the one of results."""
    compared: tuple[str, ...]
    """Patterns of the results that must come out as if nothing had happened."""


PRESET = Preset(
    "victim",
    signal=SignalSettings(window_length=256, hop_length=128),
    mixing=MixingSettings(duration_s=0.5),
    network=NetworkSettings(hidden_size=4, num_layers=1),
    training=TrainingSettings(
        n_epochs=3,
        batches_per_epoch=3,
        batch_size=2,
        n_mixtures=8,
        n_validation_mixtures=3,
        weight_average_decay=0.9,
    ),
)
"""Trains in a second or two."""


def _on_one_core() -> None:
    """Threads that share a recurrent step crawl where another process holds a core."""
    import torch

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def _write_songs(folder: Path, *, n_train: int = 0, n_valid: int = 0, n_test: int = 0) -> None:
    from vocal_extraction.demo_songs import write_demo_songs

    write_demo_songs(folder, n_train=n_train, n_valid=n_valid, n_test=n_test, duration_s=SONG_S)


def _write_checkpoint(path: Path, preset: Preset | None = None) -> None:
    import torch

    from vocal_extraction.checkpointing import save_checkpoint
    from vocal_extraction.networks import create_model

    torch.manual_seed(0)
    save_checkpoint(path, create_model(preset or PRESET), preset=preset or PRESET)


def _make_stem_files(folder: Path) -> None:
    """MUSDB18's coded form: one file a song, with five streams."""
    from vocal_extraction.musdb_preparation import song_names, song_paths

    _write_songs(folder / "made", n_test=N_SONGS)
    (folder / "source" / "test").mkdir(parents=True)
    for song in song_names("test", folder / "made"):
        wavs = song_paths(folder / "made", "test", song).values()
        inputs = [argument for wav in wavs for argument in ("-i", f"file:{wav}")]
        maps = [argument for i in range(len(wavs)) for argument in ("-map", str(i))]
        target = folder / "source" / "test" / f"{song}.stem.mp4"
        command = ["ffmpeg", "-nostdin", "-v", "error", *inputs, *maps, "-c:a", "aac", "-f", "mp4", f"file:{target}"]
        subprocess.run(command, check=True, timeout=60)


def _prepare(inputs: Path, results: Path) -> None:
    from vocal_extraction.musdb_preparation import prepare_musdb

    prepare_musdb(inputs / "source", results, n_workers=2, progress=False)


def _make_training_songs(folder: Path) -> None:
    _write_songs(folder / "dataset", n_train=2, n_valid=1)


def link_songs(inputs: Path, results: Path) -> None:
    """Give a run a view of the songs of its own, since it keeps mixtures beside them."""
    for subset in ("train", "valid"):
        folder = results / "dataset" / subset
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("foreground", "background", "mixture"):
            if not (folder / part).exists():
                (folder / part).symlink_to(inputs / "dataset" / subset / part)


def _train(inputs: Path, results: Path) -> None:
    """Train with rendered mixtures kept beside the songs, of which each run has a view of its own."""
    from vocal_extraction.training import train_model
    from vocal_extraction.training.state import STATE_NAME

    _on_one_core()
    link_songs(inputs, results)
    run = results / "run"
    train_model(
        8,
        preset=PRESET,
        dataset_folder=results / "dataset",
        checkpoint_folder=run,
        n_workers=1,
        device="cpu",
        progress=False,
        resume=(run / STATE_NAME).exists(),
    )


def _make_evaluated_songs(folder: Path) -> None:
    _write_songs(folder / "dataset", n_test=N_SONGS)
    _write_checkpoint(folder / "tiny.pth")


def _evaluate(inputs: Path, results: Path) -> None:
    from vocal_extraction.evaluation import evaluate_model

    _on_one_core()
    evaluate_model(
        inputs / "tiny.pth",
        dataset_folder=inputs / "dataset",
        output_folder=results,
        save_estimates=True,
        n_jobs=2,
        progress=False,
        show=False,
    )


def _make_mixtures(folder: Path) -> None:
    """Songs, two of them of one name."""
    from vocal_extraction.musdb_preparation import song_names, song_paths

    _write_songs(folder / "dataset", n_test=N_SONGS)
    _write_checkpoint(folder / "tiny.pth")
    for number, song in enumerate(song_names("test", folder / "dataset")):
        target = folder / "songs" / ("one" if number else "other") / f"Song {max(number, 1)}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        source = song_paths(folder / "dataset", "test", song)["mixture"]
        subprocess.run(
            ["ffmpeg", "-nostdin", "-v", "error", "-i", f"file:{source}", f"file:{target}"], check=True, timeout=60
        )


def extract(inputs: Path, results: Path, *, n_jobs: int = 2) -> None:
    """Extract them, by default in two processes."""
    from vocal_extraction.extraction import extract_songs

    _on_one_core()
    options: dict[str, Any] = {"model": inputs / "tiny.pth", "device": "cpu", "n_jobs": n_jobs, "show": False}
    outcomes = extract_songs([inputs / "songs"], results, **options)
    failures = [str(outcome) for outcome in outcomes if outcome.failed]
    if failures:
        raise SystemExit("\n".join(failures))


def _make_foreign_model(folder: Path) -> None:
    import foreign_models

    weights = {source: foreign_models.open_unmix_weights(seed) for seed, source in enumerate(foreign_models.FOUR)}
    foreign_models.write_open_unmix(folder / "theirs", weights)


def _import(inputs: Path, results: Path) -> None:
    from vocal_extraction.model_library import import_model

    os.environ["VOCAL_EXTRACTION_MODELS"] = str(results)
    if not (results / "theirs.model.pth").exists():
        import_model(inputs / "theirs", name="theirs")


def _make_stream(folder: Path) -> None:
    """Raw PCM, and a model that runs forwards only."""
    network = dataclasses.replace(PRESET.network, bidirectional=False)
    _write_checkpoint(folder / "tiny.pth", dataclasses.replace(PRESET, network=network))
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (int(RECORDING_S * 44_100), 2))
    (folder / "song.pcm").write_bytes(noise.astype("<f4").tobytes())


def _record(inputs: Path, results: Path) -> None:
    """Record a stream's stems; whatever was recorded before a kill must be how they begin."""
    from vocal_extraction.atomic_files import write_bytes
    from vocal_extraction.live.run import run_live

    _on_one_core()
    recordings = Path(f"{results}-recordings")
    with open(inputs / "song.pcm") as sys.stdin, open(os.devnull, "w") as sys.stdout:
        run_live(["-"], model=inputs / "tiny.pth", record=recordings / "stems", raw=True)
    last = max(recordings.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    for path in sorted(recordings.rglob("*.wav")):
        if path.stat().st_size:
            samples, whole = (soundfile.read(each, dtype="int32")[0] for each in (path, last / path.name))
            if not np.array_equal(samples, whole[: len(samples)]):
                raise SystemExit(f"{path} is not how {path.name} begins")
    for path in last.iterdir():
        write_bytes(results / path.name, path.read_bytes())


def _make_upload(folder: Path) -> None:
    _write_songs(folder / "dataset", n_test=1)
    _write_checkpoint(folder / "tiny.pth")


def _serve(inputs: Path, results: Path) -> None:
    """Do a client's job on the page's queue; what killed servers left must be gone when the next one ends."""
    from vocal_extraction.atomic_files import write_bytes
    from vocal_extraction.musdb_preparation import song_names, song_paths
    from vocal_extraction.settings import ExtractionSettings
    from vocal_extraction.web_page.jobs import JobQueue, Options
    from vocal_extraction.web_page.server import jobs_folder
    from vocal_extraction.web_page.uploads import Limits

    _on_one_core()
    (name,) = song_names("test", inputs / "dataset")
    song = song_paths(inputs / "dataset", "test", name)["mixture"].read_bytes()
    temporary = Path(f"{results}-temporary")
    temporary.mkdir(exist_ok=True)
    tempfile.tempdir = str(temporary)
    with jobs_folder() as root, JobQueue(root, Limits(), {"tiny": inputs / "tiny.pth"}, "cpu") as queue:
        path = queue.new_song("a client", "song.wav", len(song))
        path.write_bytes(song)
        job = queue.submit("a client", path, Options("tiny", ExtractionSettings()))
        while not job.is_over:
            time.sleep(0.01)
        for stem in job.files.values():
            write_bytes(results / stem.name, stem.read_bytes())
    if left := [str(path) for path in temporary.iterdir()]:
        raise SystemExit(f"left in the temporary folder: {left}")


JOBS = {
    job.name: job
    for job in (
        Job("prepare", _make_stem_files, _prepare, ("**/*.wav", "sources.json")),
        Job("train", _make_training_songs, _train, ("run/*.model.pth", "run/history.jsonl", "**/rendered/**/*.npy")),
        Job(
            "evaluate",
            _make_evaluated_songs,
            _evaluate,
            ("*.json", "*.csv", "*.txt", "*.html", "estimates/**/*.wav"),
        ),
        Job("extract", _make_mixtures, extract, ("**/*.wav",)),
        Job("import", _make_foreign_model, _import, ("*.model.pth",)),
        Job("record", _make_stream, _record, ("*.wav",)),
        Job("page", _make_upload, _serve, ("*.wav",)),
    )
}
"""Jobs by name."""


def is_whole_wav(path: Path) -> bool:
    """Tell whether a wav has all the samples that its header promises."""
    with open(path, "rb") as file:
        declared = int.from_bytes(file.read(8)[4:], "little")
    return declared + 8 == path.stat().st_size
