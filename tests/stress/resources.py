"""``python -m stress.resources``: what a process holds after a hundred songs and three trainings, against the first.

Counted are open files, threads, child processes, shared memory and temporary files.
"""

import argparse
import dataclasses
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

N_SONGS, N_TRAININGS = 100, 3
ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Held:
    """What a process holds at a moment."""

    files: int
    threads: int
    children: int
    shared_memory: int
    temporary_files: list[str]


def held() -> Held:
    """Count what this process holds."""
    gc.collect()
    temporary = sorted(str(path) for path in Path(tempfile.gettempdir()).rglob("*"))
    return Held(
        files=sum(os.path.exists(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")),  # noqa: PTH110, PTH208
        threads=len(list(Path("/proc/self/task").iterdir())),
        children=len(multiprocessing.active_children()),
        shared_memory=Path("/proc/self/maps").read_text().count("/dev/shm/"),  # noqa: S108 - a name to look for
        # torch makes itself one folder for what it compiles.
        temporary_files=[path for path in temporary if "torchinductor" not in path],
    )


def extract_and_train(folder: Path, inputs: Path, *, n_songs: int, n_trainings: int) -> dict[str, Held]:
    """Extract one song and train on `inputs` so many times in this process; return what it held on the way."""
    import soundfile
    import torch
    from extraction_models import ConstantMask, loaded, music

    from stress.victims import PRESET, link_songs
    from vocal_extraction.extraction import extract_vocals
    from vocal_extraction.settings import ExtractionSettings
    from vocal_extraction.training import resources, train_model

    resources._n_cores = lambda: 1  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    tempfile.tempdir = str(folder / "temporary")
    Path(tempfile.tempdir).mkdir()
    soundfile.write(folder / "song.wav", music(0.1, sample_rate=8_000, n_channels=1).T, 8_000)
    moments = {"before": held()}
    model, settings = loaded(ConstantMask(0.25)), ExtractionSettings(overwrite=True)
    for number in range(n_songs):
        extract_vocals(folder / "song.wav", folder / "out", model=model, settings=settings)
        moments.setdefault("first song", held())
        if number == n_songs - 1:
            moments["last song"] = held()
    dataset = folder / "results" / "dataset"
    for number in range(n_trainings):
        link_songs(inputs, folder / "results")
        options: dict[str, Any] = {"n_workers": 1, "n_epochs": 1, "device": "cpu", "progress": False}
        train_model(8, preset=PRESET, dataset_folder=dataset, checkpoint_folder=folder / f"run-{number}", **options)
        moments.setdefault("first training", held())
        moments["last training"] = held()
    return moments


def growth(folder: Path, inputs: Path, *, n_songs: int, n_trainings: int) -> list[str]:
    """Do it in a fresh process; return what piled up, in words."""
    counts = ["--songs", str(n_songs), "--trainings", str(n_trainings)]
    command = [sys.executable, "-W", "ignore", "-m", "stress.resources", "--child", str(folder), str(inputs), *counts]
    search = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_800, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    moments = {name: Held(**each) for name, each in json.loads(done.stdout.splitlines()[-1]).items()}
    found = [
        f"{first}: {moments[first]}, {last}: {moments[last]}"
        for first, last in (("first song", "last song"), ("first training", "last training"))
        if moments[first] != moments[last]
    ]
    last = moments["last training"]
    return found + [f"left at the end: {last}"] * bool(last.temporary_files or last.children)


def main() -> int:
    """Print what piled up."""
    parser = argparse.ArgumentParser(prog="python -m stress.resources", description=__doc__)
    parser.add_argument("--songs", type=int, default=N_SONGS)
    parser.add_argument("--trainings", type=int, default=N_TRAININGS)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    counts = {"n_songs": options.songs, "n_trainings": options.trainings}
    if options.child:
        moments = extract_and_train(*options.child, **counts)
        print(json.dumps({name: dataclasses.asdict(each) for name, each in moments.items()}))
        return 0
    from stress.victims import JOBS

    with tempfile.TemporaryDirectory(prefix="resources-") as name:
        inputs = Path(name) / "inputs"
        JOBS["train"].make_inputs(inputs)
        found = growth(Path(name), inputs, **counts)
    print(*found or [f"Nothing piled up over {options.songs} songs and {options.trainings} trainings."], sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
