"""``python -m benchmarks.frames``: the product's stack frames from ``main`` to the LSTM, in training and extraction.

It prints how many functions of the package stand between the command line and where the time goes. Frames of other
threads count, too: work that is handed to a thread is read in both.
"""

import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from unittest import mock

import numpy as np
import soundfile
import torch

from vocal_extraction.__main__ import main
from vocal_extraction.demo_songs import write_demo_songs
from vocal_extraction.settings import PACKAGE_FOLDER

COMMANDS = {
    "training": "train --preset small.toml --dataset songs --mixtures 2 --batches 1 --validation 1 --epochs 1",
    "extraction": "extract song.wav --preset classic --runtime torch",
}


def _product_frames(frame: FrameType | None) -> list[str]:
    """Return the frames of the package from the outermost to `frame`, as 'file function'."""
    found = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE_FOLDER):
            found.append(f"{path.relative_to(PACKAGE_FOLDER)} {frame.f_code.co_name}")
        frame = frame.f_back
    return found[::-1]


def frames_to_lstm(command: str) -> list[str]:
    """Run a command in the working directory; return the frames at the last call of an LSTM, in training a step's."""
    found: list[str] = []
    needs_gradients = command.startswith("train")
    forward = torch.nn.LSTM.forward

    def note(self: torch.nn.LSTM, *arguments: object) -> object:
        if torch.is_grad_enabled() or not needs_gradients:
            found[:] = _product_frames(sys._getframe(1))
            if threading.current_thread() is not threading.main_thread():
                found[:0] = _product_frames(sys._current_frames()[threading.main_thread().ident or 0])
        return forward(self, *arguments)  # type: ignore[call-overload]

    with mock.patch.object(torch.nn.LSTM, "forward", note):
        status = main(command.split())
    if status != 0 or not found:
        raise RuntimeError(f"{command!r} ended with status {status} and {len(found)} frames")
    return found


def write_inputs(folder: Path) -> None:
    """Write the songs that the commands take."""
    write_demo_songs(folder / "songs", n_train=1, n_valid=1, n_test=0, duration_s=2.0)
    (folder / "small.toml").write_text("[mixing]\nduration_s = 0.5\n[training]\nbatch_size = 1\n")
    noise = 0.1 * np.random.default_rng(0).standard_normal((44_100, 2))
    soundfile.write(folder / "song.wav", noise, 44_100)


if __name__ == "__main__":
    import contextlib

    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        write_inputs(Path(name))
        for what, command in COMMANDS.items():
            frames = frames_to_lstm(command)
            print(f"{what}: {len(frames)} frames", *frames, sep="\n  ")
