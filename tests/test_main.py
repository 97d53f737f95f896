"""``python main.py`` as a program: exit statuses, what goes to stdout and stderr, and how little it imports."""

import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import main
import vocal_extraction
from vocal_extraction.command_line import commands
from vocal_extraction.errors import VocalExtractionError

ROOT = Path(__file__).resolve().parent.parent

SLOW = ("torch", "nussl", "scaper", "numpy", "scipy", "pandas", "matplotlib", "librosa", "soundfile", "musdb")


def program(*arguments, folder, answers=b"", **environment):
    """Run ``python main.py`` in `folder`, away from real songs, with `answers` on its stdin."""
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        input=answers,
        capture_output=True,
        cwd=folder,
        timeout=120,
        check=False,
        env={**os.environ, "MUSDB_PATH": str(folder / "no songs here"), **environment},
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import main",
        "from vocal_extraction.command_line import commands, menu, parser",
        "from vocal_extraction.command_line import demo, doctor",
        "from vocal_extraction.command_line.parser import build_parser; build_parser().format_help()",
    ],
)
def test_nothing_slow_is_imported(statement):
    """The menu and --help must not wait for seconds; what is loaded is counted, not timed."""
    report = f"{statement}; import sys; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, cwd=ROOT, check=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["train_model", "evaluate_model", "create_model", "extract_vocals"])
def test_the_four_functions_come_from_main(name):
    assert getattr(main, name).__name__ == name


def test_main_lists_what_the_listings_of_the_specification_use():
    """So that notebooks complete it, and ``from main import *`` gives it."""
    names = {"train_model", "evaluate_model", "create_model", "extract_vocals", "MaskInference"}
    names |= {"processing_device", "nussl", "torch"}
    assert set(main.__all__) == set(dir(main)) == names | {"main"}
    assert {name for name in names if getattr(main, name) is None} == set()
    assert str(main.processing_device) in ("cpu", "cuda", "mps")


def test_evaluate_models_default_is_the_string_of_the_specification():
    default = inspect.signature(main.evaluate_model).parameters["path_to_trained_model"].default
    assert default == "checkpoints/best.model.pth"


def test_main_has_nothing_else():
    with pytest.raises(AttributeError, match="no attribute 'conquer_world'"):
        _ = main.conquer_world


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["extract", "-h"]])
def test_help_is_no_failure(arguments, tmp_path):
    done = program(*arguments, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage: vocal-extraction")


@pytest.mark.parametrize(
    "arguments", [["sing"], ["train", "--epochs", "none"], ["train", "--changed-data"], ["--loud"]]
)
def test_usage_has_status_2(arguments, tmp_path):
    done = program(*arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"usage: vocal-extraction" in done.stderr


def test_failure_is_one_sentence_and_status_1(tmp_path):
    done = program("prepare", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"Error: ")
    assert b"no songs here" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "line, words",
    [
        ("train", "no songs here"),
        ("evaluate --preset classic", "no songs here"),
        ("evaluate --dataset . --model nothing.pth", "nothing.pth"),
    ],
)
def test_what_is_missing_is_one_sentence(line, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSDB_PATH", "no songs here")
    assert main.main(line.split()) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Error: ")
    assert words in printed.err


def test_menu_reads_a_pipe_and_ends_with_it(tmp_path):
    done = program(folder=tmp_path, answers=b"7\n2\n")
    assert done.returncode == 0
    assert b"'7' is not a choice" in done.stdout
    assert b"No checkpoint at checkpoints/best.model.pth" in done.stderr
    assert done.stdout.count(b"Vocal extraction") == 3
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("answers", [b"", b"\xff\xfe\x00\n", b"\r\n4\r\n1\n"])
def test_menu_leaves_cleanly_whatever_comes(tmp_path, answers):
    done = program(folder=tmp_path, answers=answers)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Goodbye." in done.stdout


def test_menu_survives_a_closed_stdin(tmp_path):
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$1" <&-', sys.executable, str(ROOT / "main.py")],
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


def test_doctor_speaks_json(tmp_path):
    done = program("doctor", "--json", folder=tmp_path)
    report = json.loads(done.stdout)
    assert (done.returncode, report["fit"]) == (0, True)
    assert {finding["name"] for finding in report["findings"]} >= {"python", "sox", "ffmpeg", "disk"}


def test_ctrl_c_is_status_130(tmp_path):
    with subprocess.Popen(
        [sys.executable, str(ROOT / "main.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    ) as menu:
        assert menu.stdout is not None
        shown = b""
        while b"Your choice" not in shown:
            shown += os.read(menu.stdout.fileno(), 4096)
        time.sleep(0.1)  # from the prompt's flush into the reading of the answer
        menu.send_signal(signal.SIGINT)
        _, complaint = menu.communicate(timeout=60)
    assert menu.returncode == 130
    assert complaint == b"\nStopped by Ctrl-C.\n"


def shell(line, *, folder, **environment):
    """Run a line of shell, in which $@ is ``python main.py``."""
    return subprocess.run(
        ["/bin/sh", "-c", line, "sh", sys.executable, str(ROOT / "main.py")],
        capture_output=True,
        cwd=folder,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", "2>/dev/full"])
def test_streams_that_are_closed_or_full_change_neither_result_nor_status(streams, tmp_path, make_song):
    make_song("\U0001f3a4 Bj\xf6rk.wav")
    done = shell(f'"$@" extract *.wav -o out --preset classic {streams}', folder=tmp_path)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert len(list(tmp_path.glob("out/*/vocals.wav"))) == 1


@pytest.mark.parametrize("arguments", ["extract --list-models", "--help", "train --help", "--version"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_stdout_is_one_sentence_and_status_1(arguments, unbuffered, tmp_path):
    done = shell(f'"$@" {arguments} >/dev/full', folder=tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize("encoding, options", [("latin-1", ""), ("utf-8", "--json")])
def test_names_that_an_encoding_lacks_are_printed_as_escapes(encoding, options, tmp_path, make_song):
    song = make_song("\U0001f3a4.wav")
    song.rename(tmp_path / "\udcff\U0001f3a4.wav")  # a byte that is no UTF-8, too
    line = f'"$@" extract *.wav nothing-"$(printf "\\360\\237\\216\\244")".wav -o out --preset classic {options}'
    done = shell(line, folder=tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 1, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"nothing-" in done.stderr + done.stdout
    if options:
        (first, second) = json.loads(done.stdout.decode(encoding))
        assert first["outcome"] == "done"
        assert second["file"].endswith("\U0001f3a4.wav")


def test_the_menu_finds_a_name_that_the_encoding_of_its_input_lacks(tmp_path, make_song):
    make_song("\U0001f3a4.wav")
    typed = 'printf "e\\n\\360\\237\\216\\244.wav\\n4\\n"'
    assert shell(f'{typed} | "$@"', folder=tmp_path, PYTHONIOENCODING="latin-1").returncode == 0
    assert (tmp_path / "extracted" / "\U0001f3a4" / "vocals.wav").is_file()


def test_a_locale_without_the_letters_of_a_name_finds_and_writes_the_same_files(tmp_path, make_song):
    make_song("Bj\xf6rk \U0001f3a4.wav")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0"}
    for environment, outcome in ((ascii_only, b"done"), ({"PYTHONUTF8": "1"}, b"skipped"), (ascii_only, b"skipped")):
        done = shell('"$@" extract *.wav -o out --preset classic', folder=tmp_path, **environment)
        assert (done.returncode, outcome in done.stdout) == (0, True), done.stderr
    assert (tmp_path / "out" / "Bj\xf6rk \U0001f3a4" / "vocals.wav").is_file()


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_reader_that_left_is_no_traceback(arguments, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nowhere:
        done = subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=nowhere,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            timeout=120,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_errors_become_status_1(monkeypatch, capsys):
    def fail():
        raise VocalExtractionError("It is not there. Bring it.")

    monkeypatch.setattr("vocal_extraction.command_line.menu.run_menu", fail)
    assert main.main([]) == 1
    assert capsys.readouterr().err == "Error: It is not there. Bring it.\n"


@pytest.mark.parametrize("asked", [False, True])
def test_an_unexpected_exception_is_one_sentence_and_a_log(monkeypatch, capsys, tmp_path, asked):
    def break_down(songs):
        assert songs == ["a.mp3"]
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setitem(commands.COMMANDS, "extract", break_down)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main.main(["extract", "a.mp3", *["--traceback"] * asked]) == 1
    printed = capsys.readouterr()
    (log,) = tmp_path.glob("vocal-extraction-*.log")
    sentence = "Internal error (ZeroDivisionError: nothing to divide by). This is a bug: please report it, with the"
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == f"{sentence} file {log}."
    assert ("Traceback" in printed.err) == asked
    written = log.read_text()
    assert "Traceback" in written
    assert "extract a.mp3" in written


def test_a_library_that_is_missing_is_an_error_and_one_of_our_modules_a_bug(monkeypatch):
    for name, expected in (("pandas", commands.MissingPartError), ("vocal_extraction.x", ModuleNotFoundError)):

        def fail(name=name):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setitem(commands.COMMANDS, "evaluate", fail)
        with pytest.raises(expected, match=name):
            commands.run_command("evaluate")


def test_version(tmp_path):
    done = program("--version", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"vocal-extraction {vocal_extraction.__version__}\n"


@pytest.mark.parametrize("named", [None, "/songs"])
@pytest.mark.parametrize("beside", [[], ["a song folder"], ["a", "b"]])
def test_what_every_change_must_pass_finds_real_songs_beside_the_project(tmp_path, named, beside):
    """Whatever the folder is called that holds them; where MUSDB_PATH is set, it stays."""
    run = tmp_path / "project" / ".ci" / "run"
    run.parent.mkdir(parents=True)
    run.write_bytes((ROOT / ".ci" / "run").read_bytes())
    for name, body in (("make", 'echo "$1 ${MUSDB_PATH:-none} ${ONEDNN_MAX_CPU_ISA:-}"'), ("chromium", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    for name in beside:
        (tmp_path / name / "musdb18-7s").mkdir(parents=True)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"} | ({"MUSDB_PATH": named} if named else {})
    done = subprocess.run(["bash", str(run)], env=environment, capture_output=True, text=True, timeout=60, check=True)
    expected = named or (str(tmp_path / beside[0] / "musdb18-7s") if beside else "none")
    assert done.stdout == f".venv/.created {expected} \nlint {expected} \ntest {expected} \ntest {expected} AVX2\n"
