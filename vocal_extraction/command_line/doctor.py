"""``vocal-extraction doctor``: is everything here that the program needs, and does it work?

sox and ffmpeg are used on a second of samples. nussl is not imported, since the answer should not take seconds.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from vocal_extraction.atomic_files import sha256_of
from vocal_extraction.audio_files.ffmpeg import Program, ProgramError, read_all
from vocal_extraction.checkpointing.shipped import is_published
from vocal_extraction.command_line.programs import PROGRAM_VARIABLES, put_programs_on_path
from vocal_extraction.settings import IS_CHECKOUT, PRETRAINED_FOLDER, PROJECT_FOLDER

_SAMPLE_RATE = 44_100
_LENGTH_TOLERANCE_S = 0.05  # AAC pads to whole frames of 1,024 samples, 23 ms, at either end
_NEEDED_FOR = {"sox": ". Only scaper's own rendering, nussl's effects and two benchmarks call it; extract does without"}
_REINSTALL = "pip install --force-reinstall vocal-extraction"
_RESTORE_MODELS = "git checkout -- pretrained_model" if IS_CHECKOUT else _REINSTALL
_MINIMUM_FREE_BYTES = 100 * 2**20
_COMFORTABLE_FREE_BYTES = 3 * 2**30  # the prepared 7 s sample takes 1.7 GB, a training its checkpoints and mixtures


@dataclasses.dataclass(frozen=True)
class Finding:
    name: str
    state: str  # 'ok', 'warning' (works, but look at it) or 'failed' (something needed is missing or wrong)
    found: str
    remedy: str = ""  # what to do about it; empty when nothing is to be done


def examine() -> list[Finding]:
    """Run every examination, in the order in which set-up would go wrong; none of them raises."""
    put_programs_on_path()
    python = f"{platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    findings = [Finding("python", "ok", python), *_examine_libraries(), _examine_device()]
    if IS_CHECKOUT or _version("scaper"):  # only what the extra `train` brings would call sox
        findings.append(_examine_program("sox", _use_sox))
    return [*findings, _examine_program("ffmpeg", _use_ffmpeg), _examine_disk(), *_examine_models()]


def print_findings(findings: list[Finding], *, as_json: bool = False) -> int:
    """Print `findings` to stdout; return the exit status: 1 if any of them failed, else 0."""
    fit = all(finding.state != "failed" for finding in findings)
    if as_json:
        print(json.dumps({"fit": fit, "findings": [dataclasses.asdict(finding) for finding in findings]}, indent=2))
        return 0 if fit else 1
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for finding in findings:
        found = f"{finding.state:<8} {finding.name:<10} {finding.found}"
        for line in (found, f"{'':19} -> {finding.remedy}") if finding.remedy else (found,):
            print(textwrap.fill(line, max(width, 60), subsequent_indent=" " * 20, break_long_words=False))
    print("Everything needed is here and works." if fit else "Something needed is missing: see what is marked failed.")
    return 0 if fit else 1


def _requirements() -> Iterator[tuple[str, str, str]]:
    """Yield name, exact version (or empty) and extra (or empty) of every direct requirement."""
    if IS_CHECKOUT:
        text = (PROJECT_FOLDER / "requirements.txt").read_text(encoding="utf-8")
        pins = re.findall(r"^([\w.-]+)==(\S+)", text.partition("# What those bring along")[0], flags=re.MULTILINE)
        yield from ((name, version, "") for name, version in pins)
        return
    for line in importlib.metadata.requires("vocal-extraction") or ():
        if found := re.match(r"([\w.-]+)(?:==([\w.]+))?[^;]*(?:;.*extra == ['\"](\w+)['\"])?", line):
            yield found[1], found[2] or "", found[3] or ""


def _version(name: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def _examine_libraries() -> list[Finding]:
    right, strayed = [], []
    missing: dict[str, list[str]] = {}
    for name, wanted, extra in _requirements():
        version = _version(name)
        if version is None:
            missing.setdefault(extra, []).append(name)
        # A local part, as in 2.13.0+cpu, names a build of the same version.
        elif version.partition("+")[0] == wanted or not wanted:
            right.append(f"{name} {version}")
        else:
            strayed.append(f"{name} {version} instead of {wanted}")
    remedy = f"make setup, or: pip install -r requirements.txt   (in {PROJECT_FOLDER})" if IS_CHECKOUT else _REINSTALL
    rows = []
    for extra, names in missing.items():
        found = f"not installed: {', '.join(names)}"
        if extra:
            rows.append(("warning", f"{found}. Extraction does without", f"pip install 'vocal-extraction[{extra}]'"))
        else:
            rows.append(("failed", found, remedy))
    if strayed:
        rows.append(("warning", f"not the versions this was tested with: {', '.join(strayed)}", remedy))
    if right:
        rows.append(("ok", ", ".join(right), ""))
    return [Finding("libraries", *row) for row in rows]


def _examine_device() -> Finding:
    try:
        import torch
    except ModuleNotFoundError:
        return Finding("device", "ok", "CPU, through ONNX Runtime; torch is not installed")
    except (ImportError, OSError) as error:
        return Finding("device", "failed", f"torch cannot be imported: {error}", "make setup")
    if torch.cuda.is_available():
        return Finding("device", "ok", f"CUDA: {torch.cuda.get_device_name()}")
    if torch.backends.mps.is_available():
        return Finding("device", "ok", "Apple MPS")
    return Finding("device", "ok", f"CPU, {torch.get_num_threads()} threads (no CUDA device was found)")


def _run(name: str, *arguments: str) -> str:
    """Run a program and return what it printed; raise ProgramError if it is missing, fails or does not end."""
    return read_all(Program(name, arguments, reads=True)).decode(errors="replace").strip()


def _expect_length(path: Path, *, length_s: float) -> str:
    """Return the length of 16-bit samples, in words; raise ProgramError if it is not the one expected."""
    measured_s = path.stat().st_size / 2 / _SAMPLE_RATE if path.exists() else 0.0
    if abs(measured_s - length_s) > _LENGTH_TOLERANCE_S:
        raise ProgramError(f"a second of samples came out at {measured_s:.2f} s instead of {length_s:.2f} s")
    return f"{measured_s:.2f} s, as it should"


def _use_sox(folder: Path) -> str:
    """Shift and stretch silence, as scaper's own rendering and nussl's effects do."""
    given, changed = folder / "given.s16", folder / "changed.s16"
    given.write_bytes(bytes(2 * _SAMPLE_RATE))
    form = ("-t", "s16", "-r", str(_SAMPLE_RATE), "-c", "1")
    _run("sox", *form, str(given), *form, str(changed), "pitch", "200", "tempo", "0.8")
    return f"1 s through pitch and a tempo of 0.8 came out at {_expect_length(changed, length_s=1 / 0.8)}"


def _use_ffmpeg(folder: Path) -> str:
    given, coded, decoded = folder / "given.s16", folder / "coded.m4a", folder / "decoded.s16"
    given.write_bytes(bytes(2 * _SAMPLE_RATE))
    quiet = ("ffmpeg", "-nostdin", "-loglevel", "error", "-y")
    form = ("-f", "s16le", "-ar", str(_SAMPLE_RATE))
    _run(*quiet, *form, "-i", str(given), "-c:a", "aac", str(coded))
    show = ("-v", "error", "-show_entries", "stream=codec_name", "-of", "default=nokey=1:noprint_wrappers=1")
    if (codec := _run("ffprobe", *show, str(coded))) != "aac":
        raise ProgramError(f"ffprobe took an AAC file for {codec!r}")
    _run(*quiet, "-i", str(coded), *form, str(decoded))
    return f"1 s through AAC and back came out at {_expect_length(decoded, length_s=1.0)}"


def _examine_program(name: str, use: Callable[[Path], str]) -> Finding:
    place = shutil.which(name)
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
            return Finding(name, "ok", f"{place}: {use(Path(folder))}")
    except ProgramError as unfit:
        where = f" (used: {place})" if place else ""
        return Finding(name, "failed", f"{unfit}{where}", _program_remedy(name))
    except OSError as error:
        return Finding(name, "failed", f"could not be tried: {error}", "Free some space, or point TMPDIR elsewhere")


def _program_remedy(name: str) -> str:
    install = f"brew install {name}" if platform.system() == "Darwin" else f"sudo apt-get install {name}"
    variable = PROGRAM_VARIABLES[name]
    value = os.environ.get(variable)
    remedy = f"{install}; or let {variable} name the folder that holds it" + (f" (it is {value!r})" if value else "")
    return remedy + _NEEDED_FOR.get(name, "")


def _examine_disk() -> Finding:
    folder = Path.cwd()
    free_bytes = shutil.disk_usage(folder).free
    found = f"{free_bytes / 2**30:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("disk", "failed", f"{folder} cannot be written to", "Work in a folder of your own")
    if free_bytes < _MINIMUM_FREE_BYTES:
        return Finding("disk", "failed", found, "Free some space")
    if free_bytes < _COMFORTABLE_FREE_BYTES:
        return Finding("disk", "warning", found, "Preparing MUSDB18's 7 s sample takes about 2 GB: free some space")
    return Finding("disk", "ok", found)


def _examine_models() -> list[Finding]:
    models = sorted(PRETRAINED_FOLDER.glob("*.pth"))
    if not models:
        remedy = f"{_RESTORE_MODELS}, or train one: vocal-extraction train"
        return [Finding("models", "warning", f"no shipped model in {PRETRAINED_FOLDER}", remedy)]
    findings = []
    for path in models:
        try:
            sha256 = sha256_of(path)
            is_right, found = is_published(path, sha256), f"{path.name}, SHA-256 {sha256[:12]}..."
        except OSError as error:
            is_right, found = False, f"{path} cannot be read ({error.strerror})"
        if is_right:
            findings.append(Finding("models", "ok", f"{found} as SHA256SUMS says"))
        else:
            findings.append(Finding("models", "failed", f"{found}: not as SHA256SUMS says", _RESTORE_MODELS))
    return findings
