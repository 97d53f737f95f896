"""A file is there whole or not at all: on errors, on a full disk, among other writers, after a crash."""

import contextlib
import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vocal_extraction import atomic_files
from vocal_extraction.atomic_files import (
    StorageError,
    remove_leftovers,
    sha256_of,
    whole_file,
    write_bytes,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parent.parent
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not AS_ROOT or not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs can only be mounted by root, on Linux; the full disk is simulated in another test")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_new_file_with_new_folders_is_whole(tmp_path):
    target = tmp_path / "a" / "b" / "song.wav"
    with whole_file(target) as aside:
        assert aside.parent == target.parent
        assert aside.suffix == ".wav"
        aside.write_bytes(b"samples")
        assert not target.exists()
    assert target.read_bytes() == b"samples"
    assert names_in(target.parent) == ["song.wav"]


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), SystemExit(1), StorageError("x")])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def interrupted():
        with whole_file(target) as aside:
            aside.write_text("half")
            raise error

    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(type(error)):
        interrupted()
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["result.json"]


@pytest.mark.parametrize(
    "number, remedy",
    [
        (errno.ENOSPC, "The disk is full. Free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "Permission was denied"),
        (errno.EPERM, "Permission was denied"),
        (errno.EIO, "Check the disk"),
    ],
)
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_what_the_system_refuses_is_explained(tmp_path, monkeypatch, number, remedy, call):
    target = tmp_path / "song.wav"
    target.write_bytes(b"old")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(StorageError, match=remedy) as caught:
        write_bytes(target, b"new")
    assert str(target) in str(caught.value)
    cause = caught.value.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == number
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["song.wav"]


def test_a_full_disk_keeps_the_old_file(tiny_disk):
    write_text(tiny_disk / "small.txt", "old")
    with pytest.raises(StorageError, match="The disk is full"):
        write_bytes(tiny_disk / "small.txt", bytes(100_000))
    assert (tiny_disk / "small.txt").read_text() == "old"
    assert names_in(tiny_disk) == ["small.txt"]


@pytest.mark.skipif(AS_ROOT, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(StorageError, match="Permission was denied"):
        write_text(folder / "a.txt", "x")


def test_a_file_in_the_way_of_a_folder_is_explained(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="A file stands where a folder is needed"):
        write_text(tmp_path / "file" / "a.txt", "x")
    assert (tmp_path / "file").read_text() == "x"


def test_folders_and_devices_are_not_replaced(tmp_path):
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    for target in (folder, pipe, Path(os.devnull)):
        with pytest.raises(StorageError, match="no ordinary file"):
            write_text(target, "x")
    assert names_in(tmp_path) == ["folder", "pipe"]


@pytest.mark.parametrize("name", ["", ".", "/", "a\0b"])
def test_what_names_no_file_is_refused(name):
    with pytest.raises(StorageError, match="names no file"):
        write_text(name, "x")


def test_errors_about_other_files_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "copy.wav") as aside:
        aside.write_bytes((tmp_path / "source.wav").read_bytes())
    assert names_in(tmp_path) == []


def test_a_folder_that_vanishes_is_explained(tmp_path):
    def write_into_vanishing_folder():
        with whole_file(folder / "a.txt") as aside:
            aside.write_text("x")
            aside.unlink()
            folder.rmdir()

    folder = tmp_path / "gone"
    with pytest.raises(StorageError, match="The folder vanished"):
        write_into_vanishing_folder()


@pytest.mark.parametrize(
    "name",
    ["s" * 251 + ".wav", "\N{HIRAGANA LETTER A}" * 83 + ".wav", "a." + "b" * 253, b"bad\xff\xfename.wav", "-rf.wav"],
)
def test_any_name_that_the_disk_takes_can_be_written(tmp_path, name):
    target = tmp_path / os.fsdecode(name)
    write_text(target, "x")
    assert target.read_text() == "x"
    assert len(names_in(tmp_path)) == 1


def test_a_name_too_long_for_the_disk_is_explained(tmp_path):
    with pytest.raises(StorageError, match="The name is too long"):
        write_text(tmp_path / ("s" * 300), "x")


def test_concurrent_writers_never_mix(tmp_path):
    """Four threads and two other processes write the same file; each version that is seen is one writer's, whole."""
    target = tmp_path / "shared.txt"
    write_text(target, "0" * 50_000)
    code = (
        "import sys\n"
        "from vocal_extraction.atomic_files import write_text\n"
        "for i in range(20): write_text(sys.argv[1], sys.argv[2] * 50_000)"
    )

    def write_often(letter):
        for _ in range(20):
            write_text(target, letter * 50_000)

    others = [subprocess.Popen([sys.executable, "-c", code, str(target), letter], cwd=ROOT) for letter in ("x", "y")]
    threads = [threading.Thread(target=write_often, args=(digit,)) for digit in "1234"]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads) or any(other.poll() is None for other in others):
        text = target.read_text()
        seen.add((len(text), len(set(text))))
    assert seen == {(50_000, 1)}
    assert [other.wait(timeout=60) for other in others] == [0, 0]
    assert names_in(tmp_path) == ["shared.txt"]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from vocal_extraction import atomic_files\n"
        "with atomic_files.whole_file(sys.argv[1]) as aside:\n"
        "    aside.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    (tmp_path / "deep").mkdir()
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "deep" / "a.wav")], cwd=ROOT, timeout=60, check=False)
    (leftover,) = names_in(tmp_path / "deep")
    assert leftover.startswith(".partial-")
    for living in (1, os.getppid()):
        (tmp_path / f".partial-{living}-0-b.wav").write_text("half")
    (tmp_path / f".partial-{os.getpid()}-999999-former-life.wav").write_text("half")
    (tmp_path / ".partial-of-nobody").write_text("half")
    (tmp_path / ".partial-999999999-folder").mkdir()
    with whole_file(tmp_path / "c.wav") as aside:
        aside.write_text("half")
        assert remove_leftovers(tmp_path) == 4
        assert aside.exists()
    kept = sorted(f".partial-{living}-0-b.wav" for living in {1, os.getppid()})
    assert names_in(tmp_path) == [*kept, "c.wav", "deep"]
    assert names_in(tmp_path / "deep") == []


def test_remove_leftovers_spares_all_else(tmp_path):
    (tmp_path / "song.partial-1").write_text("x")
    (tmp_path / "folder").mkdir()
    assert remove_leftovers(tmp_path) == 0
    assert len(names_in(tmp_path)) == 2
    assert remove_leftovers(tmp_path / "not-there") == 0


def test_a_folder_that_vanishes_while_it_is_cleaned_does_no_harm(tmp_path, monkeypatch):
    def vanish(*_):
        raise FileNotFoundError(errno.ENOENT, "gone")
        yield

    monkeypatch.setattr(Path, "rglob", vanish)
    assert remove_leftovers(tmp_path) == 0


def test_process_numbers_beyond_any_are_dead(tmp_path):
    (tmp_path / ".partial-99999999999999999999-a").write_text("x")
    assert remove_leftovers(tmp_path) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which processes have ended, unasked")
def test_a_process_that_has_ended_unasked_is_dead(tmp_path):
    with subprocess.Popen(["true"]) as ended:
        (tmp_path / f".partial-{ended.pid}-0-a").write_text("x")
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert remove_leftovers(tmp_path) == 1


def test_a_process_of_somebody_else_is_alive(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError

    (tmp_path / ".partial-1-0-a").write_text("x")
    monkeypatch.setattr(os, "kill", denied)
    assert remove_leftovers(tmp_path) == 0


def test_json_reads_back(tmp_path):
    content = {
        "song": "Ça va – \N{MUSICAL SYMBOL G CLEF}",
        "scores": [1.5, None, True],
        "file": os.fsdecode(b"bad\xff.wav"),
    }
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == content
    assert "Ça va" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_what_json_has_not(tmp_path, number):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": number})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_sha256_is_that_of_hashlib(tmp_path):
    content = os.urandom(300_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_nothing_is_kept_open(tmp_path):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are counted in /proc, which this system has not")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (the same listing before and after)
    for i in range(50):
        write_text(tmp_path / "a", str(i))
        with contextlib.suppress(RuntimeError), whole_file(tmp_path / "b"):
            raise RuntimeError
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert atomic_files._being_written == set()
