"""Runs that are killed or interrupted, and runs of two processes: each in processes of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_presets import assert_same_weights, history_of, tiny_preset, trainer_of, weights_of

from vocal_extraction.checkpointing import load_checkpoint
from vocal_extraction.errors import SettingsError
from vocal_extraction.training import TrainingError, train_model
from vocal_extraction.training.processes import Processes, device_of_rank, joined_processes
from vocal_extraction.training.state import STATE_NAME, TrainingState

pytestmark = pytest.mark.usefixtures("one_core", "quick_training")

TESTS = Path(__file__).resolve().parents[1]

RUN = """
import os, sys
if hasattr(os, "sched_setaffinity"):  # threads that share a recurrent step crawl where others hold a core
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pathlib import Path
from training_presets import tiny_preset
from vocal_extraction.training import run_folder, train_model
run_folder.write_loss_plot = run_folder._write_tensorboard = lambda *_: None  # what is resumed from is not there
try:
    train_model(8, preset=tiny_preset(), dataset_folder=Path(sys.argv[1]), checkpoint_folder=Path(sys.argv[2]),
                n_epochs=10_000, n_workers=1, device="cpu", progress=False)
except KeyboardInterrupt:
    sys.exit(130)
"""

RANK = """
import os, sys
from pathlib import Path
import torch
from training_presets import tiny_preset
from vocal_extraction.training import train_model
from vocal_extraction.training.processes import joined_processes
import test_training_stops
from vocal_extraction.training import run_folder

run_folder.write_loss_plot = run_folder._write_tensorboard = lambda *_: None
dataset, folder = Path(sys.argv[1]), Path(sys.argv[2])
with joined_processes(torch.device("cpu"), 10) as processes:
    assert processes.sums(processes.rank, 0.25) == (1.0, 0.5)
    gradients = test_training_stops.gradients_of_a_step(dataset, folder, processes)
    torch.save(gradients, folder / f"gradients-{processes.rank}.pt")
os.environ["MASTER_PORT"] = sys.argv[3]  # the first meeting place may not be gone yet
train_model(8, preset=tiny_preset(batch_size=4, dropout=0.3), dataset_folder=dataset,
            checkpoint_folder=folder / f"run-{processes.rank}", n_workers=0, device="cpu", progress=False)
"""


def start(script, *arguments, **environment):
    """Start a Python process that finds this project and its tests; its stderr is kept."""
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "training")))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
        text=True,
    )


def wait_for_epochs(process, folder, n_epochs, patience_s=240):
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "history.jsonl").exists() and len(history_of(folder)) >= n_epochs:
            return
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"no {n_epochs} epochs in {patience_s} s: {process.communicate()[1]}")


def is_running(group):
    """Whether any process of the group is left, zombies aside."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[2]) == group:
            return True
    return False


def test_kill_at_any_moment_leaves_what_can_be_loaded_and_resumed(dataset, tmp_path):
    folder = tmp_path / "run"
    process = start(RUN, dataset, folder)
    wait_for_epochs(process, folder, 2)
    time.sleep(int.from_bytes(os.urandom(2), "little") / 2**16)  # up to a second: several epochs and savings
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    for name in ("best.model.pth", "latest.model.pth"):
        assert load_checkpoint(folder / name).sources == ("vocals",)
    run = TrainingState(tiny_preset(), seed=0, device=torch.device("cpu"))
    run.load(folder, changed_data=True)  # this one has no songs
    n_done = run.n_epochs_done
    assert n_done >= 1
    train_model(
        8,
        preset=tiny_preset(),
        dataset_folder=dataset,
        checkpoint_folder=folder,
        n_epochs=n_done + 1,
        n_workers=0,
        device="cpu",
        progress=False,
        resume=True,
    )
    assert [row["epoch"] for row in history_of(folder)] == list(range(1, n_done + 2))
    assert not list(folder.glob(".partial*"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for orphans in /proc")
def test_ctrl_c_leaves_the_last_epoch_and_no_process(dataset, tmp_path):
    folder = tmp_path / "run"
    process = start(RUN, dataset, folder)
    wait_for_epochs(process, folder, 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert weights_of(folder)
    deadline = time.monotonic() + 30
    while is_running(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(process.pid)


def gradients_of_a_step(dataset, folder, processes):
    """Return the gradients of the first step on a batch of 10, shared by all processes; batch norm is frozen."""
    preset = tiny_preset(batch_size=10, dropout=0.0, num_layers=1, batches_per_epoch=1)
    trainer = trainer_of(preset, dataset, folder, processes=processes)
    network = trainer.state.network
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.eval()
            object.__setattr__(layer, "train", lambda mode=True, layer=layer: layer)
    trainer.train_epoch(trainer.data.training_loader)
    return {name: weights.grad for name, weights in network.named_parameters() if weights.grad is not None}


def free_ports(n_ports):
    probes = [socket.socket() for _ in range(n_ports)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def test_two_processes_have_the_gradients_of_one_and_train_together(dataset, tmp_path):
    """What torchrun sets is set by hand; gloo over the loopback. Float32 sums in another order: 1e-5 of each norm."""
    ports = free_ports(2)
    ranks = [
        start(
            RANK,
            dataset,
            tmp_path,
            ports[1],
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=ports[0],
            GLOO_SOCKET_IFNAME="lo",
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=300)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], printed
    expected = gradients_of_a_step(dataset, tmp_path, Processes())
    for rank in range(2):
        gradients = torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True)
        for name, gradient in gradients.items():
            difference = torch.linalg.vector_norm(gradient - expected[name])
            assert difference <= 1e-5 * torch.linalg.vector_norm(expected[name]), name
    history = history_of(tmp_path / "run-0")
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[1]["train_loss"] < history[0]["train_loss"]
    assert load_checkpoint(tmp_path / "run-0" / "best.model.pth").sources == ("vocals",)
    assert not (tmp_path / "run-1").exists(), "one process writes"


def test_on_gpus_batch_norm_is_shared_and_each_process_has_its_own(monkeypatch):
    """The path of CUDA as far as a machine without one can walk it: what torch is asked to wrap, and for which GPU."""
    asked = []
    monkeypatch.setattr(
        torch.nn.parallel, "DistributedDataParallel", lambda network, device_ids: asked.append((network, device_ids))
    )
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(device))
    monkeypatch.setenv("LOCAL_RANK", "1")
    device = device_of_rank(torch.device("cuda"))
    assert asked == [torch.device("cuda", 1)] == [device]
    run = TrainingState(tiny_preset(), seed=0, device=torch.device("cpu"))
    weights, names = list(run.network.parameters()), list(run.network.state_dict())
    Processes(1, 2).wrap(run.network, device)
    ((network, device_ids),) = asked[1:]
    kinds = {type(layer) for layer in network.modules()}
    assert torch.nn.SyncBatchNorm in kinds
    assert torch.nn.BatchNorm1d not in kinds
    assert device_ids == [device]
    assert all(one is other for one, other in zip(network.parameters(), weights, strict=True)), "as the optimizer's"
    assert list(network.state_dict()) == names, "as in any checkpoint"


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with (
        pytest.raises(SettingsError, match="A batch of 10 cannot be shared by 3"),
        joined_processes(torch.device("cpu"), 10),
    ):
        pass


def test_processes_that_do_not_find_each_other_say_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TrainingError, match="Start them with torchrun"), joined_processes(torch.device("cpu"), 10):
        pass


def test_ranks_draw_dropout_of_their_own():
    """And the same again for an epoch that is repeated."""

    def drawn(rank, epoch):
        run = TrainingState(tiny_preset(), seed=0, device=torch.device("cpu"), rank=rank)
        run.begin_epoch(epoch)
        return torch.rand(3).tolist()

    assert drawn(1, 1) == drawn(1, 1)
    assert len({tuple(drawn(rank, epoch)) for rank, epoch in ((0, 1), (1, 1), (2, 1), (1, 2))}) == 4


def run_of_one_epoch(dataset, folder, **options):
    options = {"n_epochs": 1, "n_workers": 0, "device": "cpu", "progress": False, **options}
    return train_model(8, preset=tiny_preset(), dataset_folder=dataset, checkpoint_folder=folder, **options)


def test_another_run_keeps_what_the_first_left(dataset, tmp_path, capfd):
    run = tmp_path / "run"
    run_of_one_epoch(dataset, run)
    weights, left = weights_of(run), {path.name for path in run.iterdir()}
    run_of_one_epoch(dataset, run, seed=1, progress=True)
    assert f"what an earlier run left in {run} is now in {run / 'earlier-1'}" in capfd.readouterr().err
    assert {path.name for path in run.iterdir()} == {*left, "earlier-1"}
    assert {path.name for path in (run / "earlier-1").iterdir()} == left - {".lock"}
    assert_same_weights(weights_of(run / "earlier-1"), weights)
    run_of_one_epoch(dataset, run / "earlier-1", resume=True)
    run_of_one_epoch(dataset, run, seed=2)
    assert load_checkpoint(run / "earlier-2" / "best.model.pth").metadata.seed == 1
    assert [path.name for path in run.iterdir() if path.name.startswith("earlier")] == ["earlier-1", "earlier-2"]


def test_a_run_that_was_killed_in_its_first_epoch_left_nothing_to_keep(dataset, tmp_path):
    run = tmp_path / "run"
    run_of_one_epoch(dataset, run)
    (run / STATE_NAME).unlink()
    run_of_one_epoch(dataset, run)
    assert not list(run.glob("earlier*"))


def test_a_checkpoint_that_somebody_put_there_is_kept(dataset, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.model.pth").write_bytes(b"mine")
    run_of_one_epoch(dataset, run)
    assert (run / "earlier-1" / "best.model.pth").read_bytes() == b"mine"
