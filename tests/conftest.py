"""Fixtures that tests of several packages share, and the guard that keeps every test off the network."""

import ipaddress
import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

# Tests change their working directory; a relative MUSDB_PATH would then point nowhere.
if os.environ.get("MUSDB_PATH"):
    os.environ["MUSDB_PATH"] = str(Path(os.environ["MUSDB_PATH"]).resolve())

# Two processes that compile at once have spoilt numba's cache for both, which then fail by a signal.
if os.environ.get("PYTEST_XDIST_WORKER"):
    run = f"{os.environ['PYTEST_XDIST_TESTRUNUID']}-{os.environ['PYTEST_XDIST_WORKER']}"
    os.environ["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir(), f"numba-{run}"))

# A shell that starts pytest in the background makes it ignore Ctrl-C, and every program it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Run folders on all cores, four at most, each process on one thread; one file needs no other process."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n_cores == 1 or all(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return 0
    os.environ["OMP_NUM_THREADS"] = "1"
    return min(n_cores, 4)


def pytest_collection_modifyitems(items):
    """Begin with the tests in a browser: they wait for what plays, while the other processes compute."""
    items.sort(key=lambda item: "browser" not in getattr(item, "fixturenames", ()))


def _stays_on_this_machine(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    try:
        return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
    except ValueError:
        return bool(address[0] == "localhost")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Let no test of this process connect to anything but this machine."""

    def guarded(connect):
        def refuse_strangers(self, address):
            if not _stays_on_this_machine(address):
                raise PermissionError(f"A test tried to reach {address}; tests use 127.0.0.1 only.")
            return connect(self, address)

        return refuse_strangers

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))


@pytest.fixture(scope="session")
def demo_dataset(tmp_path_factory) -> Path:
    """Synthesised songs in the prepared layout: 3 train, 2 valid, 2 test, 7 s each. Read only; never write into it."""
    from vocal_extraction.demo_songs import write_demo_songs

    folder = tmp_path_factory.mktemp("demo") / "dataset"
    write_demo_songs(folder, n_train=3, n_valid=2, n_test=2, duration_s=7.0)
    return folder


@pytest.fixture(scope="session")
def musdb_path() -> Path:
    """The real MUSDB18 songs; the test is skipped where the environment does not say where they lie."""
    folder = os.environ.get("MUSDB_PATH")
    if not folder:
        pytest.skip("MUSDB_PATH is not set: this test needs real MUSDB18 songs")
    return Path(folder)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The installed browser in which pages are looked at; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("Chromium is not installed, so no page was looked at: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def one_thread():
    """Small batches are slower on two threads, above all on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_song(tmp_path):
    """Write a short song under tmp_path and return its path."""
    import soundfile
    from extraction_models import music

    def write(name, *, seed=0, duration_s=0.2):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, music(duration_s, sample_rate=44_100, n_channels=1, seed=seed).T, 44_100, format="WAV")
        return path

    return write


@pytest.fixture(scope="module")
def quick_training(one_thread):
    """Training that draws no losses and keeps nothing for TensorBoard, which takes longer than small epochs do."""
    from vocal_extraction.training import run_folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "write_loss_plot", lambda *_: None)
        patch.setattr(run_folder, "_write_tensorboard", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def quick_evaluation(one_thread):
    """BSSEval with short filters, pages without pictures and sound: what takes time and is tested by itself."""
    from vocal_extraction.evaluation import bsseval_v4
    from vocal_extraction.reports import page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bsseval_v4, "N_TAPS", 64)
        patch.setattr(page, "coded", lambda samples, rate: (b"", "audio/mpeg"))
        patch.setattr(page, "spectrogram_png", lambda *_, **__: b"")
        yield
