"""Faults on purpose: full and read-only disks, vanishing files, lost programs, two processes, clocks that jump.

Each of the four jobs meets each of them through the command line: one clear sentence, exit status 1, nothing half
written; and when the fault is gone, the same command ends as if nothing had happened.
"""

import dataclasses
import multiprocessing
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from job_inputs import inputs_of
from small_disks import small_disk  # noqa: F401 - a fixture
from stress import kills, victims
from stress.victims import JOBS

import main
from vocal_extraction import musdb_preparation, presets
from vocal_extraction.audio_files.encoding import StemWriter, choose_coding
from vocal_extraction.evaluation import scoring
from vocal_extraction.extraction import song
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.training.state import STATE_NAME
from vocal_extraction.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("quick_evaluation", "quick_training")


@dataclasses.dataclass
class World:
    """A job's inputs, and what comes of them when nothing goes wrong."""

    name: str
    inputs: Path
    undisturbed: Path

    def arguments(self, results: Path, inputs: Path | None = None) -> list[str]:
        """Return what is typed to do the job."""
        inputs = inputs or self.inputs
        model = ["--model", str(inputs / "tiny.pth"), "--device", "cpu"]
        dataset = ["--dataset", str(inputs / "dataset")]
        match self.name:
            case "prepare":
                return ["prepare", "--musdb-path", str(inputs / "source"), "--dataset", str(results), "--jobs", "1"]
            case "train":
                resume = ["--resume"] if (results / "run" / STATE_NAME).exists() else []
                fixed = ["--preset", "victim", "--mixtures", "8", "--workers", "1", "--device", "cpu"]
                songs = str(results / "dataset")
                return ["train", *fixed, "--dataset", songs, "--checkpoints", str(results / "run"), *resume]
            case "evaluate":
                return ["evaluate", *model, *dataset, "-o", str(results), "--jobs", "1", "--save-estimates"]
            case _:
                return ["extract", str(inputs / "songs"), *model, "-o", str(results)]


@pytest.fixture(autouse=True)
def _calm(monkeypatch):
    """Small networks on one thread; the jobs may not move this process to one core."""
    monkeypatch.setattr("vocal_extraction.training.resources._n_cores", lambda: 1)
    monkeypatch.setattr(victims, "_on_one_core", lambda: None)
    monkeypatch.setitem(presets.PRESETS, "victim", victims.PRESET)
    monkeypatch.delenv("MUSDB_PATH", raising=False)


@pytest.fixture
def world(request, tmp_path_factory, capsys):
    """The world of a job, made once."""
    name, inputs = request.param, inputs_of(request.param, tmp_path_factory)
    made = World(name, inputs, inputs.with_name("undisturbed"))
    if not made.undisturbed.exists():
        look_at_songs(made, made.undisturbed)
        assert main.main(made.arguments(made.undisturbed)) == 0, capsys.readouterr().err
    return made


def look_at_songs(world, results, inputs=None):
    """Training keeps mixtures beside its songs: give it a view of them that it may write to."""
    if world.name == "train":
        victims.link_songs(inputs or world.inputs, results)


# Full disks under an import of a model: tests/model_library/test_library.py.
each_job = pytest.mark.parametrize("world", ["prepare", "train", "evaluate", "extract"], indirect=True)


def assert_fails(arguments, capsys, *sentences):
    """A command ends with status 1 and says why, in one line for each thing that failed."""
    capsys.readouterr()
    assert main.main(arguments) == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    lines = [line for line in printed.splitlines() if line.startswith("Error: ") or ": failed. " in line]
    assert lines, printed
    assert any(sentence in line for line in lines for sentence in sentences), printed
    if arguments[0] != "extract":
        assert len(lines) == 1, printed


def assert_as_if_undisturbed(world, results, capsys, inputs=None):
    """The same command, when the fault is gone, does what is missing."""
    assert main.main(world.arguments(results, inputs)) == 0, capsys.readouterr().err
    job = JOBS[world.name]
    expected, found = (kills._result(job, folder) for folder in (world.undisturbed, results))
    assert expected
    assert kills._differences(expected, found) == []
    assert [line for line in kills._lost_or_doubled(job, results) if "several places" in line] == []
    assert kills.half_written(results) == []
    assert not list(results.rglob(".partial-*"))


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@each_job
def test_a_full_disk(world, small_disk, capsys):  # noqa: F811
    disk = small_disk(str(size_of(world.undisturbed) // 2))
    results = disk.path / "results"
    look_at_songs(world, results)
    assert_fails(world.arguments(results), capsys, "The disk is full", "Free some space", "No space left")
    assert kills.half_written(results) == []
    disk.remount("size=50m")
    assert_as_if_undisturbed(world, results, capsys)


def test_ffmpeg_is_not_believed_that_all_is_well_on_a_full_disk(small_disk):  # noqa: F811
    """It writes half a file, says so, and ends with 0: the half went under its final name."""
    disk = small_disk("100k")
    coding = choose_coding(ExtractionSettings(), sample_rate=44_100, n_channels=2, channel_layout=None)
    with StemWriter(disk.path / "stem.wav", coding) as writer:
        writer.encode(np.zeros((60_000, 2), np.float32))
        with pytest.raises(OSError, match="No space left on device"):
            writer.close()


@each_job
def test_a_read_only_disk(world, small_disk, capsys):  # noqa: F811
    disk = small_disk("50m")
    results = disk.path / "results"
    look_at_songs(world, results)
    disk.remount("ro")
    assert_fails(world.arguments(results), capsys, "read-only", "Read-only")
    assert not [path for path in results.rglob("*") if path.is_file() and not path.is_symlink()]


def once(act):
    """Return a function that does something at its first call."""
    calls = []

    def acting():
        calls.append(1)
        if len(calls) == 1:
            act()

    return acting


@each_job
def test_a_file_that_vanishes_meanwhile(world, tmp_path, monkeypatch, capsys):
    inputs, results = tmp_path / "inputs", tmp_path / "results"
    shutil.copytree(world.inputs, inputs)
    look_at_songs(world, results, inputs)
    pattern = {
        "prepare": "source/test/*.mp4",
        "train": "dataset/train/foreground/drums/*.wav",
        "evaluate": "dataset/test/foreground/drums/*.wav",
        "extract": "songs/one/*.flac",
    }[world.name]
    lost = sorted(inputs.glob(pattern))[-1]
    vanish = once(lambda: lost.rename(tmp_path / lost.name))
    room, function = {
        "prepare": (musdb_preparation, "song_blocks"),
        "train": (Trainer, "_report"),
        "evaluate": (scoring, "score_song"),
        "extract": (song, "examine"),
    }[world.name]
    real = getattr(room, function)

    def vanishing(*arguments, **options):
        vanish()
        return real(*arguments, **options)

    with monkeypatch.context() as during:
        during.setattr(room, function, vanishing)
        assert_fails(world.arguments(results, inputs), capsys, lost.name, lost.stem.removesuffix(".stem"))
    (tmp_path / lost.name).rename(lost)
    if world.name == "evaluate":
        return  # its results name the folder of the songs, which is another one here
    assert_as_if_undisturbed(world, results, capsys, inputs)


@pytest.mark.parametrize("world", ["extract"], indirect=True)
def test_a_song_that_vanishes_when_it_has_been_read(world, tmp_path, monkeypatch, capsys):
    """It was read once, checksum included, so its stems are complete."""
    inputs, results = tmp_path / "inputs", tmp_path / "results"
    shutil.copytree(world.inputs, inputs)
    real_close = song.StemWriter.close
    (first, *_) = sorted((inputs / "songs").rglob("*.flac"))

    def close(self):
        first.unlink(missing_ok=True)
        real_close(self)

    monkeypatch.setattr(song.StemWriter, "close", close)
    assert_as_if_undisturbed(world, results, capsys, inputs)
    assert not first.exists()


@pytest.mark.parametrize("world", ["train"], indirect=True)
def test_a_worker_of_the_loader_that_is_killed(world, tmp_path, monkeypatch, capsys):
    results = tmp_path / "results"
    look_at_songs(world, results)
    kill = once(lambda: [child.kill() for child in multiprocessing.active_children()])
    real = Trainer._report

    def killing(self, row):
        kill()
        real(self, row)

    with monkeypatch.context() as during:
        during.setattr(Trainer, "_report", killing)
        assert_fails(world.arguments(results), capsys, "A process that mixes was killed")
    assert_as_if_undisturbed(world, results, capsys)


@pytest.mark.parametrize("world", ["train", "extract"], indirect=True)
def test_two_processes_on_one_folder(world, tmp_path, capsys):
    results = tmp_path / "results"
    look_at_songs(world, results)
    if world.name == "train":
        holding = (
            "import sys, time; from pathlib import Path; from vocal_extraction.atomic_files import sole_writer\n"
            "with sole_writer(Path(sys.argv[1]), doing='training'): print(flush=True); time.sleep(600)"
        )
        command = [sys.executable, "-c", holding, str(results / "run")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as other:
            other.stdout.readline()
            assert_fails(world.arguments(results), capsys, "Another process is training in")
            other.send_signal(signal.SIGKILL)
        return
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=lambda: sys.exit(main.main(world.arguments(results)))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    assert_as_if_undisturbed(world, results, capsys)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put a folder with links to ffmpeg and ffprobe, or scripts in their places, on the PATH instead of all others."""

    def put(program, script):
        folder = tmp_path / "programs"
        folder.mkdir()
        for name in ("ffmpeg", "ffprobe"):
            if name != program:
                (folder / name).symlink_to(shutil.which(name))
            elif script is not None:
                (folder / name).write_text(f"#!/bin/sh\n{script}\n")
                (folder / name).chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", str(folder))

    return put


@pytest.mark.parametrize(
    "world, program, script, sentence",
    [
        ("extract", "ffmpeg", None, "ffmpeg was not found. Install it"),
        ("extract", "ffprobe", None, "ffprobe was not found. Install it"),
        ("extract", "ffmpeg", "echo '[x] It broke' >&2; exit 3", "It broke"),
        ("extract", "ffprobe", "echo '[x] It broke' >&2; exit 3", "It broke"),
        ("extract", "ffmpeg", "exec /bin/sleep 60", "stood still"),
        ("extract", "ffprobe", "exec /bin/sleep 60", "stood still"),
        ("extract", "ffmpeg", "kill -9 $$", "could not be decoded"),
        ("prepare", "ffmpeg", None, "was not found on the PATH. Install it"),
        ("prepare", "ffmpeg", "exit 3", "it ended with status 3"),
        ("prepare", "ffmpeg", "exec /bin/sleep 60", "stood still"),
    ],
    indirect=["world"],
)
def test_programs_that_are_missing_fail_or_hang(
    world, program, script, sentence, tmp_path, monkeypatch, capsys, programs
):
    if sentence == "stood still":  # as any program may seem to do for so short a time on a busy machine
        monkeypatch.setattr("vocal_extraction.audio_files.ffmpeg.STANDSTILL_S", 0.5)
    results = tmp_path / "results"
    programs(program, script)
    assert_fails(world.arguments(results), capsys, sentence)
    assert kills.half_written(results) == []
    assert {path.name for path in results.rglob("*") if path.is_file()} <= {"manifest.jsonl", "sources.json"}


@pytest.mark.parametrize("world", ["train"], indirect=True)
def test_training_needs_no_program(world, tmp_path, monkeypatch, capsys):
    """Not sox, not ffmpeg, not git."""
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    results = tmp_path / "results"
    look_at_songs(world, results)
    assert_as_if_undisturbed(world, results, capsys)


@pytest.mark.parametrize("world", ["train", "extract"], indirect=True)
def test_a_clock_that_jumps_by_years(world, tmp_path, monkeypatch, capsys):
    """Durations come from the clock that nobody sets, and nothing is decided by the other."""
    draw, real = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: real() + draw.uniform(-3e8, 3e8))
    results = tmp_path / "results"
    look_at_songs(world, results)
    assert_as_if_undisturbed(world, results, capsys)
    for path in results.rglob("history.jsonl"):
        assert '"duration_s": -' not in path.read_text()
