"""Forked processes, as job workers and notebooks make them: they end, with the results of their parent."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
import os, sys
from pathlib import Path
import numpy as np, torch
from evaluation_songs import QUIET, RATE, save_model, write_songs
from vocal_extraction import evaluate_model, load_checkpoint, separate
from vocal_extraction.checkpointing import named_checkpoint
from vocal_extraction.reports import page

page.coded, page.spectrogram_png = lambda samples, rate: (b"", "audio/mpeg"), lambda *_, **__: b""
folder = Path(sys.argv[1])
songs, model = write_songs(folder / "songs"), save_model(folder / "a.pth")
torch.set_num_threads(2)
noise = np.random.default_rng(0).normal(0, 0.1, (2, 3 * RATE)).astype(np.float32)

def work(name):
    large = load_checkpoint(named_checkpoint("classic"))
    options = {**QUIET, "n_jobs": 2, "oracles": True, "dataset_folder": songs}
    found = evaluate_model(model, output_folder=folder / name, **options)
    vocals = separate(noise, RATE, model=large)["vocals"]
    return [song["rows"]["model"]["scores"] for song in found.songs], float(np.square(vocals).sum())

expected = work("parent")
child = os.fork()
if child == 0:
    status = 1
    try:
        found = work("child")
        status = 0 if found[0] == expected[0] and abs(found[1] - expected[1]) < 1e-6 * expected[1] else 2
    finally:
        os._exit(status)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_evaluation_and_separation_work_after_a_fork(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    environment.pop("OMP_NUM_THREADS", None)  # with one thread there is no pool to wait for
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)]
    process = subprocess.run(command, env=environment, timeout=300, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
