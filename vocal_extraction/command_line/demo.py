"""``make demo``: the main job from end to end, on songs that are made on the spot.

So short a training shows that all parts work together, not how well they can separate. No network is needed.
"""

import contextlib
import dataclasses
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from vocal_extraction.presets import SPECIFIED, Preset
from vocal_extraction.settings import ACCOMPANIMENT, DEMO_FOLDER, ExtractionSettings

N_SONGS = {"n_train": 8, "n_valid": 2, "n_test": 3}
SONG_S = 8.0
N_MIXTURES = 200
LONGEST_SILENCE_S = 10.0

DEMO: Preset = dataclasses.replace(  # the specified network and recipe, for a few minutes
    SPECIFIED,
    name="demo",
    training=dataclasses.replace(SPECIFIED.training, n_epochs=3, batches_per_epoch=20, n_validation_mixtures=20),
)

_STEPS = (
    "Load the libraries",
    f"Synthesise {sum(N_SONGS.values())} songs of {SONG_S:g} s",
    f"Train the specified network for {DEMO.training.n_epochs} short epochs, after a check of two batches",
    f"Evaluate it on {N_SONGS['n_test']} songs that it was not trained on, beside ideal masks",
    "Extract the vocals of one of them",
)


@contextlib.contextmanager
def _step(number: int) -> Iterator[None]:
    """Say on stderr what begins and how long it took; outside a terminal, which shows no bars, also the time so far."""
    print(f"{number}/{len(_STEPS)}  {_STEPS[number - 1]} ...", file=sys.stderr, flush=True)
    started, ended = time.monotonic(), threading.Event()

    def reassure() -> None:
        while not ended.wait(LONGEST_SILENCE_S):
            print(f"     {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        threading.Thread(target=reassure, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
    print(f"     done in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def run_demo(*, as_json: bool = False) -> int:
    """Synthesise, train, evaluate and extract; print where everything lies and return the exit status."""
    print(f"The whole job on made-up songs, in {DEMO_FOLDER}: 1 to 3 minutes.", file=sys.stderr)
    with _step(1):
        from vocal_extraction.demo_songs import write_demo_songs
        from vocal_extraction.evaluation import evaluate_model
        from vocal_extraction.extraction import extract_vocals
        from vocal_extraction.musdb_preparation import song_names, song_paths
        from vocal_extraction.training import train_model

    dataset, checkpoints = DEMO_FOLDER / "dataset", DEMO_FOLDER / "checkpoints"
    with _step(2):
        write_demo_songs(dataset, **N_SONGS, duration_s=SONG_S, progress=True)
    shutil.rmtree(checkpoints, ignore_errors=True)  # else each demo would keep the one before
    with _step(3):
        checkpoint = train_model(N_MIXTURES, preset=DEMO, dataset_folder=dataset, checkpoint_folder=checkpoints)
    with _step(4):
        kept: dict[str, Any] = {"output_folder": DEMO_FOLDER / "evaluation_results", "overwrite": True}
        evaluation = evaluate_model(checkpoint, dataset_folder=dataset, oracles=True, show=False, **kept)
    mixture = song_paths(dataset, "test", song_names("test", dataset)[0])["mixture"]
    with _step(5):
        settings = ExtractionSettings(overwrite=True)
        extracted = extract_vocals(mixture, DEMO_FOLDER / "extracted", model=checkpoint, settings=settings)
    places = {"songs": dataset, "checkpoint": checkpoint, "scores": evaluation.output_folder / "report.html"}
    places |= {"mixture": mixture, **extracted.stems}
    if as_json:
        print(json.dumps({name: str(place) for name, place in places.items()}))
        return 0
    print(_score_table(evaluation.summary))
    print("\n".join(f"{name:<14} {place}" for name, place in places.items()))
    print(
        f"\nListen to {extracted.stems['vocals']} beside {mixture}.\n"
        "Then try a song of yours, with a model that was trained for hours: vocal-extraction extract SONG.mp3"
    )
    return 0


def _score_table(summary: dict[str, Any]) -> str:
    """Return the mean SI-SDR of vocals and accompaniment, a row for each thing that was scored."""
    from vocal_extraction.reports.tables import number, text_table

    rows = []
    for row in summary["rows"].values():
        means = [number(row["scores"]["SI-SDR"][source]["mean"]) for source in ("vocals", ACCOMPANIMENT)]
        rows.append(["the model just trained" if row["role"] == "evaluated" else row["title"], *means])
    return text_table(["SI-SDR in dB", "vocals", "accompaniment"], rows)
