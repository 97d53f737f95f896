"""The doctor with programs that work, are missing, fail, hang or give the wrong answer."""

import json
import shlex
import shutil
import stat
import sys

import pytest

from vocal_extraction.command_line import doctor
from vocal_extraction.command_line.programs import put_programs_on_path

REAL_SOX = shutil.which("sox")
REAL_FFMPEG = shutil.which("ffmpeg")


def write_program(folder, name, body):
    """Write an executable Python script that stands in for a program."""
    folder.mkdir(exist_ok=True)
    script = folder / name
    code = shlex.quote(f"import os, sys, time\n{body}")
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {code} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def finding(name):
    doctor.put_programs_on_path()
    return doctor._examine_program(name, getattr(doctor, f"_use_{name}"))


@pytest.fixture
def only(tmp_path, monkeypatch):
    """A PATH that holds what the test puts into it, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("SOX_PATH", raising=False)
    monkeypatch.delenv("FFMPEG_PATH", raising=False)
    return folder


def test_everything_needed_is_here():
    """The machine that runs the tests has what `make` sets up."""
    findings = doctor.examine()
    assert [found for found in findings if found.state == "failed"] == []
    names = [found.name for found in findings]
    assert names == sorted(names, key=["python", "libraries", "device", "sox", "ffmpeg", "disk", "models"].index)


@pytest.mark.parametrize("name", ["sox", "ffmpeg"])
def test_missing_program_comes_with_its_remedy(only, name):
    found = finding(name)
    assert found.state == "failed"
    assert f"{name} was not found" in found.found
    assert f"install {name}" in found.remedy
    assert f"{name.upper()}_PATH" in found.remedy
    assert ("extract does without" in found.remedy) == (name == "sox")


@pytest.mark.parametrize("name", ["sox", "ffmpeg"])
def test_failing_program_is_quoted(only, name):
    write_program(only, name, "sys.exit('libcodec.so.7: no such file')")
    found = finding(name)
    assert found.state == "failed"
    assert f"{name} failed: libcodec.so.7: no such file" in found.found
    assert str(only / name) in found.found


@pytest.mark.parametrize("name", ["sox", "ffmpeg"])
def test_hanging_program_is_given_up(only, name, monkeypatch):
    monkeypatch.setattr("vocal_extraction.audio_files.ffmpeg.STANDSTILL_S", 0.2)
    write_program(only, name, "time.sleep(60)")
    found = finding(name)
    assert found.state == "failed"
    assert "stood still for 0.2 s" in found.found


def test_program_that_is_no_program_is_told_apart(only):
    (only / "sox").write_bytes(b"\x7fELF, but not really")
    (only / "sox").chmod(0o755)
    found = finding("sox")
    assert found.state == "failed"
    assert "cannot be started" in found.found


def test_sox_that_ignores_its_effects_is_caught(only):
    write_program(only, "sox", "open(sys.argv[14], 'wb').write(open(sys.argv[7], 'rb').read())")
    found = finding("sox")
    assert found.state == "failed"
    assert "a second of samples came out at 1.00 s instead of 1.25 s" in found.found


def test_sox_that_writes_nothing_is_caught(only):
    write_program(only, "sox", "")
    found = finding("sox")
    assert found.state == "failed"
    assert "came out at 0.00 s" in found.found


def test_ffmpeg_without_ffprobe_is_caught(only):
    (only / "ffmpeg").symlink_to(REAL_FFMPEG)
    found = finding("ffmpeg")
    assert found.state == "failed"
    assert "ffprobe was not found" in found.found


def test_ffmpeg_without_the_codec_is_caught(only):
    write_program(only, "ffmpeg", "open(sys.argv[-1], 'wb').close()")
    write_program(only, "ffprobe", "print('mp3')")
    found = finding("ffmpeg")
    assert found.state == "failed"
    assert "ffprobe took an AAC file for 'mp3'" in found.found


@pytest.mark.parametrize("names_the_program", [True, False])
def test_sox_path_is_honoured(only, tmp_path, monkeypatch, names_the_program):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sox").symlink_to(REAL_SOX)
    monkeypatch.setenv("SOX_PATH", str(elsewhere / "sox" if names_the_program else elsewhere))
    found = finding("sox")
    assert found.state == "ok"
    assert str(elsewhere / "sox") in found.found


def test_sox_path_that_leads_nowhere_is_named(only, monkeypatch):
    monkeypatch.setenv("SOX_PATH", "/nowhere/at/all")
    found = finding("sox")
    assert found.state == "failed"
    assert "/nowhere/at/all" in found.remedy


def test_path_is_changed_once():
    environment = {"PATH": "/usr/bin", "SOX_PATH": "/opt/sox/bin", "FFMPEG_PATH": "  "}
    put_programs_on_path(environment)
    put_programs_on_path(environment)
    assert environment["PATH"] == "/opt/sox/bin:/usr/bin"


def test_missing_and_strayed_libraries_are_named(monkeypatch):
    torch = doctor.importlib.metadata.version("torch")
    pins = [("numpy", "0.0.1", ""), ("a-library-nobody-has", "1.0", ""), ("torch", torch, "")]
    monkeypatch.setattr(doctor, "_requirements", lambda: pins)
    missing, strayed = doctor._examine_libraries()[:2]
    assert (missing.state, strayed.state) == ("failed", "warning")
    assert "a-library-nobody-has" in missing.found
    assert "instead of 0.0.1" in strayed.found
    assert "pip install -r requirements.txt" in missing.remedy


def test_pins_are_those_of_the_libraries_imported():
    pinned = {name: version for name, version, _ in doctor._requirements()}
    assert {"torch", "nussl", "scaper", "numpy"} <= set(pinned)
    assert all(pinned.values())
    assert "six" not in pinned


def test_a_wheel_without_its_extras_is_fit_for_extraction(monkeypatch, only):
    """An installed wheel has no requirements.txt, and of nussl and sox extraction needs none."""
    lines = ["torch>=2.6", 'a-library-nobody-has==1.1.9; extra == "train"']
    monkeypatch.setattr(doctor, "IS_CHECKOUT", False)
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(doctor, "_version", {"torch": "2.13.0"}.get)
    for name in ("ffmpeg", "ffprobe"):
        (only / name).symlink_to(shutil.which(name, path="/usr/local/bin:/usr/bin:/opt/homebrew/bin"))
    findings = doctor.examine()
    assert [found.name for found in findings if found.state == "failed"] == []
    assert "sox" not in [found.name for found in findings]
    (missing,) = [found for found in findings if found.state == "warning" and found.name == "libraries"]
    assert "a-library-nobody-has" in missing.found
    assert missing.remedy == "pip install 'vocal-extraction[train]'"


@pytest.mark.parametrize(
    "free_gib, state",
    [(0.05, "failed"), (1, "warning"), (50, "ok")],
)
def test_disk_space_is_judged(monkeypatch, tmp_path, free_gib, state):
    monkeypatch.chdir(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free_gib * 2**30))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)
    assert doctor._examine_disk().state == state


def test_shipped_models_are_checked_against_their_sum(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "PRETRAINED_FOLDER", tmp_path)
    (nothing,) = doctor._examine_models()
    assert nothing.state == "warning"

    model = tmp_path / "best.model.pth"
    model.write_bytes(b"weights")
    (unknown,) = doctor._examine_models()
    assert unknown.state == "failed"
    assert "best.model.pth" in unknown.found

    (tmp_path / "SHA256SUMS").write_text(f"{doctor.sha256_of(model)}  best.model.pth\n")
    (known,) = doctor._examine_models()
    assert known.state == "ok"

    model.write_bytes(b"other weights")
    (changed,) = doctor._examine_models()
    assert changed.state == "failed"


def test_findings_print_as_text_and_as_json(capsys):
    findings = [doctor.Finding("sox", "failed", "not there", "install it"), doctor.Finding("disk", "ok", "plenty")]
    assert doctor.print_findings(findings) == 1
    text = capsys.readouterr().out
    assert "-> install it" in text
    assert doctor.print_findings(findings[1:], as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["fit"] is True
    assert report["findings"] == [{"name": "disk", "state": "ok", "found": "plenty", "remedy": ""}]
