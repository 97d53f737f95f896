"""What is installed: exact versions, hashes that agree with them, a word on each, and an honest audit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from stress import audit
from test_layout import PACKAGE, PRODUCT_FILES, _imports, _layer, _name, _tree

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = sorted(ROOT.glob("requirements*.txt"))


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(path):
    """Return the versions of a requirements file or a lock by name."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\\\]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {plain(name): version for name, version in found}


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_the_lock_has_the_same_versions_with_hashes(path):
    lock = path.with_suffix(".lock")
    assert pinned(path).items() <= pinned(lock).items(), "make lock"
    blocks = re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8"))
    packages = [block for block in blocks if not block.startswith("#")]
    assert packages
    assert [block.splitlines()[0] for block in packages if "--hash=sha256:" not in block] == []


def test_what_is_locked_is_pinned_but_for_other_systems():
    """CUDA's packages are pinned by torch, and some are for Windows."""
    unpinned = pinned(ROOT / "requirements.lock").keys() - pinned(ROOT / "requirements.txt").keys()
    assert {name for name in unpinned if not re.match(r"nvidia-|cuda-|triton$|colorama$", name)} == set()


def test_the_documents_say_what_every_package_is_for():
    text = plain((ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8"))
    listed = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", text))
    missing = {name for path in REQUIREMENTS for name in pinned(path)} - listed
    assert missing == set()


NAMES_OF_PACKAGES = {"PIL": "pillow", "google": "protobuf"}


def direct(path):
    """Return what stands in a requirements file before that which the others bring along."""
    own = path.read_text(encoding="utf-8").partition("# What those bring along")[0]
    return {plain(name) for name in re.findall(r"^([A-Za-z0-9_.-]+)==", own, flags=re.MULTILINE)}


def test_everything_imported_is_a_direct_requirement():
    """numba and five more stood among what others bring along, which the doctor does not look at."""
    direct_here = direct(ROOT / "requirements.txt")
    missing = set()
    n_found = 0
    for path in PRODUCT_FILES:
        more = {"web_page": "web", "extraction": "scale"}.get(_layer(path))
        allowed = direct_here | (direct(ROOT / f"requirements-{more}.txt") if more else set())
        for module, _ in _imports(_tree(path)):
            name = module.split(".")[0]
            if name not in (PACKAGE, *sys.stdlib_module_names):
                n_found += 1
                missing |= {(name, _name(path))} if plain(NAMES_OF_PACKAGES.get(name, name)) not in allowed else set()
    assert missing == set()
    assert n_found > 100


CHECKED = {"name": "a", "version": "1", "vulns": []}
KNOWN = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1"}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    "answer, status, sentence",
    [
        ([CHECKED], 0, "1 of 1 packages checked, 0 known"),
        ([CHECKED, KNOWN], 1, "b 2: CVE-1"),
        ([CHECKED, SKIPPED], 2, "1 could not be checked"),
        ([KNOWN, SKIPPED], 2, "b 2: CVE-1"),
        ([], 2, "0 could not be checked"),
        ("ConnectionError: no route", 2, "was not reached (ConnectionError: no route)"),
    ],
)
def test_an_audit_is_good_news_only_if_all_was_checked(answer, status, sentence):
    lines, found = audit.judge({"requirements.lock": answer})
    assert found == status
    assert sentence in "\n".join(lines)


def test_an_audit_without_its_tool_is_no_good_news(monkeypatch, tmp_path):
    """As in this environment, which has no pip-audit."""
    lock = tmp_path / "requirements.lock"
    lock.write_text("a==1 --hash=sha256:" + "0" * 64)
    answer = audit.ask(lock)
    assert isinstance(answer, str)
    assert audit.judge({"requirements.lock": answer})[1] == 2


def test_onnx_runtime_tells_its_makers_nothing(tmp_path):
    """It begins with a mark in the folder for temporary files."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-B", "-c", "import vocal_extraction, onnxruntime"]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert list(tmp_path.rglob("*")) == []
