"""What a process holds after a hundred songs and three trainings is what it held after the first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from extraction_models import music
from job_inputs import inputs_of

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
import contextlib, gc, json, multiprocessing, os, sys, tempfile, threading
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
folder = Path(sys.argv[1])
tempfile.tempdir = str(folder / "temporary")
Path(tempfile.tempdir).mkdir()

import torch
from vocal_extraction.training import resources
resources._n_cores = lambda: 1
torch.set_num_threads(1)
from vocal_extraction.extraction import extract_vocals
from extraction_models import ConstantMask, loaded
from stress.victims import PRESET, link_songs
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.training import train_model


def held():
    gc.collect()
    numbers = [number for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{{number}}")]
    return {{
        "files": len(numbers),
        "threads": len(os.listdir("/proc/self/task")),
        "children": len(multiprocessing.active_children()),
        "shared memory": Path("/proc/self/maps").read_text().count("/dev/shm/"),
        "temporary files": sorted(str(path) for path in Path(tempfile.tempdir).rglob("*")),
    }}


before = held()
model = loaded(ConstantMask(0.25))
after = []
for number in range({n_songs}):
    extract_vocals(folder / "song.wav", folder / "out", model=model, settings=ExtractionSettings(overwrite=True))
    after.append(held())
trained = []
for number in range({n_trainings}):
    link_songs(folder / "inputs", folder / "results")
    train_model(
        8,
        preset=PRESET,
        dataset_folder=folder / "results" / "dataset",
        checkpoint_folder=folder / f"run-{{number}}",
        n_workers=1,
        n_epochs=1,
        device="cpu",
        progress=False,
    )
    trained.append(held())
print(json.dumps([before, after[0], after[-1], trained[0], trained[-1]]))
"""

N_SONGS, N_TRAININGS = 100, 3


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="what a process holds is read from /proc")
def test_nothing_piles_up(tmp_path, tmp_path_factory):
    (tmp_path / "inputs").symlink_to(inputs_of("train", tmp_path_factory))
    soundfile.write(tmp_path / "song.wav", music(0.1, sample_rate=8_000, n_channels=1).T, 8_000)
    code = PROGRAM.format(root=str(ROOT), tests=str(ROOT / "tests"), n_songs=N_SONGS, n_trainings=N_TRAININGS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    before, first, last, first_trained, last_trained = json.loads(done.stdout.splitlines()[-1])
    assert first["files"] > 0
    assert last == first
    assert last_trained == first_trained
    assert last["temporary files"] == before["temporary files"] == []
    # torch makes itself one folder for what it compiles.
    assert [path for path in last_trained["temporary files"] if "torchinductor" not in path] == []
    assert last_trained["children"] == before["children"] == 0
