"""``make demo``: the main job from end to end, on songs that are made on the spot.

Songs are synthesised, the specified network is trained on them for a short while, scored on songs that it has not
heard, and the vocals of one of those are extracted. No network is needed, and everything lands in one folder. So short
a training shows that all parts work together, not how well they can separate.
"""

import dataclasses
import json
import shutil
from pathlib import Path

from vocal_extraction.settings import SPECIFIED, ExtractionSettings, Preset

DEMO_FOLDER = Path("demo_output")
"""Where everything lands, below the working directory."""

N_SONGS = {"n_train": 8, "n_valid": 2, "n_test": 3}
SONG_S = 8.0
N_MIXTURES = 200

DEMO: Preset = dataclasses.replace(
    SPECIFIED,
    name="demo",
    training=dataclasses.replace(SPECIFIED.training, n_epochs=3, batches_per_epoch=20, n_validation_mixtures=20),
)
"""The specified network and recipe, for as long as one cares to watch."""


def run_demo(*, as_json: bool = False) -> int:
    """Synthesise, train, evaluate and extract; print where everything lies and return the exit status."""
    from vocal_extraction.demo_songs import write_demo_songs
    from vocal_extraction.evaluation import evaluate_model
    from vocal_extraction.extraction import extract_vocals
    from vocal_extraction.musdb_preparation import mixture_path, song_names
    from vocal_extraction.training import train_model

    dataset, checkpoints = DEMO_FOLDER / "dataset", DEMO_FOLDER / "checkpoints"
    write_demo_songs(dataset, **N_SONGS, duration_s=SONG_S, progress=True)
    shutil.rmtree(checkpoints, ignore_errors=True)  # else each demo would keep the one before
    checkpoint = train_model(N_MIXTURES, preset=DEMO, dataset_folder=dataset, checkpoint_folder=checkpoints)
    evaluation = evaluate_model(
        checkpoint,
        dataset_folder=dataset,
        output_folder=DEMO_FOLDER / "evaluation_results",
        oracles=True,
        overwrite=True,
        show=not as_json,
    )
    mixture = mixture_path(dataset, "test", song_names("test", dataset)[0])
    extracted = extract_vocals(
        mixture, DEMO_FOLDER / "extracted", model=checkpoint, settings=ExtractionSettings(overwrite=True)
    )
    places = {
        "songs": dataset,
        "checkpoint": checkpoint,
        "scores": evaluation.output_folder / "report.html",
        "mixture": mixture,
        **extracted.stems,
    }
    if as_json:
        print(json.dumps({name: str(place) for name, place in places.items()}))
    else:
        print("\n".join(f"{name:<14} {place}" for name, place in places.items()))
    return 0
