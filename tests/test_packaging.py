"""What pip builds and installs: the wheel's contents, its dependencies, and where the package can be imported."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import soundfile
from extraction_models import music

import vocal_extraction

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements):
    return {re.match(r"[\w.-]+", each)[0].lower() for each in requirements}


BASE = names(PYPROJECT["project"]["dependencies"])
EXTRAS = {name: names(each) for name, each in PYPROJECT["project"]["optional-dependencies"].items()}


def direct(file):
    """Return what a requirements file names before that which the others bring along."""
    own = (ROOT / file).read_text(encoding="utf-8").partition("# What those bring along")[0]
    return names(re.findall(r"^[A-Za-z0-9_.-]+==", own, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built from a copy without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = ["vocal_extraction", "pretrained_model", "pyproject.toml", "README.md", "LICENSE"]
    for name in tracked:
        (folder / name).symlink_to(ROOT / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", ".", "-w", str(folder / "out"), *options]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    (built,) = (folder / "out").glob("vocal_extraction-*-py3-none-any.whl")
    return built


def test_the_wheel_holds_the_package_and_its_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    own = [path.relative_to(ROOT) for path in (ROOT / "vocal_extraction").rglob("*") if path.is_file()]
    expected = {path.as_posix() for path in own if "__pycache__" not in path.parts}
    expected |= {f"vocal_extraction/pretrained_model/{path.name}" for path in (ROOT / "pretrained_model").iterdir()}
    assert packed == expected


def test_the_wheel_gives_the_command_and_its_version(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "vocal-extraction = vocal_extraction.__main__:main" in archive.read(points).decode()
    assert wheel.name.split("-")[1] == vocal_extraction.__version__


def test_the_extras_are_the_direct_requirements():
    assert BASE | EXTRAS["train"] | EXTRAS["live"] == direct("requirements.txt")
    assert EXTRAS["cloud"] | EXTRAS["ray"] == direct("requirements-scale.txt")
    of_the_page = direct("requirements-web.txt")
    assert of_the_page <= EXTRAS["web"] <= of_the_page | direct("requirements.txt")


def test_a_wheel_extracts_with_base_dependencies_alone(wheel, tmp_path):
    """The wheel is imported from its archive's contents, and every other direct requirement is hidden."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    soundfile.write(tmp_path / "song.wav", music(0.5, sample_rate=44_100, n_channels=2).T, 44_100)
    shutil.copy(ROOT / "pretrained_model" / "best.model.pth", tmp_path / "someones.pth")  # has no graph beside it
    code = """
import importlib.abc, sys
site, hidden = sys.argv[1], set(sys.argv[2].split())

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
sys.path.insert(0, site)
import vocal_extraction
from vocal_extraction.__main__ import main
assert "torch" in hidden
assert vocal_extraction.__file__.startswith(site), vocal_extraction.__file__
models = ("classic", "studio")
status = max(main(["extract", "song.wav", "--preset", name, "-o", name]) for name in models)
assert main(["extract", "song.wav", "--model", "someones.pth", "-o", "someones"]) == 1
sys.exit(status or main(["doctor"]))
"""
    modules = {"pillow": "PIL", "python-multipart": "multipart"}
    hidden = {modules.get(name, name) for name in set().union(*EXTRAS.values()) - BASE} | {"main"}
    command = [sys.executable, "-c", code, str(tmp_path / "site"), " ".join(hidden)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for model in ("classic", "studio"):
        assert soundfile.info(tmp_path / model / "song" / "vocals.wav").frames == 22_050
    assert f"in {tmp_path}" in done.stdout
    assert "someones.pth runs on PyTorch, which is missing. Install it" in done.stderr


SPAWN = """
import multiprocessing
from vocal_extraction.separation import separate

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(getattr, (separate, "__name__")))
"""


def test_the_package_is_imported_from_any_folder_and_in_spawned_processes(tmp_path):
    """As after `pip install -r requirements.txt`, whose last line installs the project in place."""
    (tmp_path / "job.py").write_text(SPAWN)
    command = [sys.executable, "job.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    if "No module named 'vocal_extraction'" in done.stderr:
        pytest.skip("the project is not installed in this environment: pip install -e .")
    assert done.stdout == "separate\n", done.stderr
