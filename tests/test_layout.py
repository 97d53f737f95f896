"""The house rules, read off the syntax trees: who may import whom, how long a file may be, what is never written."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ROOMS = (
    "settings",
    "device",
    "compatibility",
    "files",
    "musdb_preparation",
    "demo_songs",
    "rendering",
    "data_augmentation",
    "spectrogram",
    "stereo",
    "layers",
    "model",
    "checkpoint_format",
    "checkpoints",
    "ensemble",
    "reports",
    "training",
    "extraction",
    "evaluation",
    "web_page",
    "command_line",
    "main",
)
"""From the top down: a file imports only from rooms above its own, and from its own."""

WRAPPED = ("nussl", "scaper")
MAXIMUM_LINES = 400
MAXIMUM_TEST_LINES = 500
MAXIMUM_FILES_AT_ROOT = 12


def _files(*folders: str) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        found += (ROOT / folder).glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py")
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))


ROOM_FILES = _files(".", *(room for room in ROOMS if (ROOT / room).is_dir()))
TEST_FILES = _files("tests")
ALL_FILES = sorted({*ROOM_FILES, *TEST_FILES, *_files("benchmarks", "hardening")})


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _imports(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every import, inside functions too, as (module, names taken from it)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call with the source text of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_file_belongs_to_a_room():
    assert {_room(path) for path in ROOM_FILES} <= set(ROOMS)


@pytest.mark.parametrize("path", ROOM_FILES, ids=_name)
def test_imports_come_from_rooms_above(path):
    own = ROOMS.index(_room(path))
    for module, _ in _imports(_tree(path)):
        assert not module.startswith("."), f"imports are flat, got a relative one: {module}"
        room = module.split(".")[0]
        if room in ROOMS:
            assert ROOMS.index(room) <= own, f"{_name(path)} imports {module} from a room below"
        assert room not in ("tests", "benchmarks", "hardening", "conftest"), f"{_name(path)} imports {module}"


@pytest.mark.parametrize("path", [*ROOM_FILES, *TEST_FILES], ids=_name)
def test_only_compatibility_imports_nussl_and_scaper(path):
    direct = [module for module, _ in _imports(_tree(path)) if module.split(".")[0] in WRAPPED]
    assert direct == [], f"write `from compatibility import {direct[0]}`"


def test_root_holds_at_most_twelve_files():
    assert len(_files(".")) <= MAXIMUM_FILES_AT_ROOT


@pytest.mark.parametrize("path", ALL_FILES, ids=_name)
def test_a_file_is_one_chapter(path):
    n_lines = path.read_text(encoding="utf-8").count("\n")
    assert n_lines <= (MAXIMUM_TEST_LINES if path in TEST_FILES else MAXIMUM_LINES)
    assert ast.get_docstring(_tree(path)), "a file says at its top what it is"
    assert not re.fullmatch(r"(utils?|common|helpers?|misc)", path.stem)


@pytest.mark.parametrize("path", ALL_FILES, ids=_name)
def test_nothing_dangerous_is_written(path):
    tree = _tree(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else ""
            assert caught, f"line {node.lineno}: a bare except"
            broad = re.findall(r"\b(?:Base)?Exception\b", caught)
            tidies_up = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            assert not broad or tidies_up, f"line {node.lineno}: {caught} is too broad"
    for function, call in _calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert keywords.get("shell", "False") == "False", f"line {call.lineno}: a shell"
        assert function not in ("os.system", "os.popen", "eval", "exec"), f"line {call.lineno}: {function}"
        assert not re.search(r"get(status)?output$|create_subprocess_shell|os\.(spawn|exec)[lv]", function), function
        if re.fullmatch(r"(subprocess\.)?(run|call|check_\w+|Popen)", function) and call.args:
            command = ast.unparse(call.args[0])
            assert not re.match(r"f?['\"]", command), (
                f"line {call.lineno}: a command in one text, not a list: {command}"
            )
        assert not re.fullmatch(r"c?[pP]ickle\.(load|loads|Unpickler)", function), f"line {call.lineno}: {function}"
        assert keywords.get("allow_pickle", "False") == "False", f"line {call.lineno}: pickled arrays"
        if function == "torch.load":
            assert keywords.get("weights_only") == "True", f"line {call.lineno}: torch.load may run code"


def _asserts(function: ast.AST, asserting: frozenset[str] = frozenset()) -> bool:
    """Whether a function checks something: an assert, an expected raise, or a call of one of the `asserting`."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if re.search(r"\.raises$|\.warns$|\.fail$|assert_", name) or name in asserting:
                return True
    return False


def _functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef)]


@functools.cache
def _asserting_functions() -> frozenset[str]:
    """The tests' own functions that check something, whichever file they are in."""
    return frozenset(each.name for path in TEST_FILES for each in _functions(path) if _asserts(each))


def _is_fixture(function: ast.FunctionDef) -> bool:
    return any("fixture" in ast.unparse(decorator) for decorator in function.decorator_list)


@pytest.mark.parametrize("path", TEST_FILES, ids=_name)
def test_every_test_asserts(path):
    tests = [each for each in _functions(path) if each.name.startswith("test_") and not _is_fixture(each)]
    silent = [test.name for test in tests if not _asserts(test, _asserting_functions())]
    assert silent == []


def test_tests_folder_is_no_package():
    """nussl installs a package called `tests`; a second one would hide it or be hidden."""
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_readme_names_every_file():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for path in ROOM_FILES if (name := _name(path)) not in readme and path.name != "__init__.py"]
    assert missing == [], f"the list of files in README.md has one line for each; missing: {' '.join(missing)}"


def test_documents_that_the_code_cites_are_there():
    cited = {
        (_name(path), document)
        for path in ALL_FILES
        for document in re.findall(r"\bdocs/\w+\.md\b", path.read_text(encoding="utf-8"))
    }
    assert ("evaluation/separators.py", "docs/evaluation.md") in cited, "where the ideal masks are written out"
    assert [(name, document) for name, document in cited if not (ROOT / document).is_file()] == []


def test_sox_is_called_by_the_doctor_alone():
    """As docs/dependencies.md and the doctor's remedy say; scaper and nussl would call it, but are not asked to."""
    naming = {
        _name(path)
        for path in ROOM_FILES
        for node in ast.walk(_tree(path))
        if (isinstance(node, ast.Constant) and node.value == "sox")
        or (isinstance(node, ast.Import) and any(alias.name == "sox" for alias in node.names))
    }
    assert naming == {"command_line/doctor.py", "command_line/programs.py"}
    rendering = [
        ast.unparse(call) for path in ROOM_FILES for name, call in _calls(_tree(path)) if name.endswith(".generate")
    ]
    assert rendering
    assert all("no_audio=True" in call for call in rendering)


def test_every_requirement_is_exact():
    for file in sorted(ROOT.glob("requirements*.txt")):
        lines = file.read_text(encoding="utf-8").splitlines()
        requirements = [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
        loose = [line for line in requirements if "==" not in line and not line.startswith("./vendor/")]
        assert loose == [], file.name


def test_soxbindings_stand_in_comes_first():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if line and not line.startswith("#")) == "./vendor/soxbindings"
