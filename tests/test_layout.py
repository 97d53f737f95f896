"""The house rules, read off the syntax trees: who may import whom, how long a file may be, what is never written."""

import ast
import functools
import re
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LAYERS = (
    "errors",
    "output_formats",
    "settings",
    "machine",
    "presets",
    "device",
    "compatibility",
    "atomic_files",
    "progress",
    "audio_files",
    "musdb_preparation",
    "demo_songs",
    "track_layouts",
    "tracks",
    "rendering",
    "data_augmentation",
    "published_names",
    "spectrogram",
    "networks",
    "checkpointing",
    "separation",
    "reports",
    "training",
    "extraction",
    "evaluation",
    "model_library",
    "exporting",
    "live",
    "web_page",
    "command_line",
    "__main__",
    "__init__",
)
"""Modules and packages from the bottom up: a file imports only from layers below its own, and from its own."""

PACKAGE = "vocal_extraction"
WRAPPED = ("nussl", "scaper")
MAXIMUM_LINES = 400
MAXIMUM_TEST_LINES = 520
ROOT_FILES = ["data_augmentation.py", "main.py", "model.py"]


def _files(*folders: str) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        found += (ROOT / folder).glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py")
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))


PRODUCT_FILES = _files(PACKAGE)
TEST_FILES = [path for path in _files("tests") if "stress" not in path.parts]
ALL_FILES = sorted({*PRODUCT_FILES, *_files(".", "tests", "benchmarks")})


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _layer(path: Path) -> str:
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


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


def test_every_file_belongs_to_a_layer():
    assert {_layer(path) for path in PRODUCT_FILES} <= set(LAYERS)


def test_imports_come_from_layers_below():
    for path in PRODUCT_FILES:
        own = LAYERS.index(_layer(path))
        for module, names in _imports(_tree(path)):
            assert not module.startswith("."), f"{_name(path)}: imports are absolute, got a relative one: {module}"
            package, _, rest = module.partition(".")
            assert package not in ("tests", "stress", "benchmarks", "conftest"), f"{_name(path)} imports {module}"
            for layer in [rest.split(".")[0]] if rest else names if package == PACKAGE else ():
                if layer in LAYERS:
                    assert LAYERS.index(layer) <= own, f"{_name(path)} imports {module} from a layer above"


def test_only_compatibility_imports_nussl_and_scaper():
    for path in (*PRODUCT_FILES, *TEST_FILES):
        direct = [module for module, _ in _imports(_tree(path)) if module.split(".")[0] in WRAPPED]
        assert direct == [], f"{_name(path)}: write `from {PACKAGE}.compatibility import {direct[0]}`"


def test_root_holds_the_files_of_the_specification():
    assert [path.name for path in _files(".")] == ROOT_FILES


def test_a_file_is_one_chapter():
    for path in ALL_FILES:
        n_lines = path.read_text(encoding="utf-8").count("\n")
        assert n_lines <= (MAXIMUM_TEST_LINES if path in TEST_FILES else MAXIMUM_LINES), _name(path)
        assert ast.get_docstring(_tree(path)), f"{_name(path)}: a file says at its top what it is"
        assert not re.fullmatch(r"(utils?|common|helpers?|misc)", path.stem), _name(path)


def test_nothing_dangerous_is_written():
    assert {_name(path): found for path in ALL_FILES if (found := list(_dangers(path)))} == {}


def _dangers(path: Path) -> Iterator[str]:
    """Yield what is dangerous in a file, with its lines."""
    tree = _tree(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else ""
            tidies_up = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if not caught:
                yield f"line {node.lineno}: a bare except"
            if re.search(r"\b(?:Base)?Exception\b", caught) and not tidies_up and path.name != "__main__.py":
                yield f"line {node.lineno}: {caught} is too broad"
    for function, call in _calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        is_command = re.fullmatch(r"(subprocess\.)?(run|call|check_\w+|Popen)", function) and call.args
        found = {
            "a shell": keywords.get("shell", "False") != "False"
            or re.search(r"get(status)?output$|create_subprocess_shell|os\.(spawn|exec)[lv]", function),
            "runs a text": function in ("os.system", "os.popen", "eval", "exec"),
            "a command in one text, not a list": is_command and re.match(r"f?['\"]", ast.unparse(call.args[0])),
            "pickle": re.fullmatch(r"c?[pP]ickle\.(load|loads|Unpickler)", function),
            "pickled arrays": keywords.get("allow_pickle", "False") != "False",
            "torch.load may run code": function == "torch.load" and keywords.get("weights_only") != "True",
        }
        yield from (f"line {call.lineno}: {danger}: {function}" for danger, is_there in found.items() if is_there)


def _asserts(function: ast.AST, asserting: Collection[str] = ()) -> bool:
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


def _is_fixture(function: ast.FunctionDef) -> bool:
    return any("fixture" in ast.unparse(decorator) for decorator in function.decorator_list)


def test_every_test_asserts():
    asserting = {each.name for path in TEST_FILES for each in _functions(path) if _asserts(each)}
    tests = [(path, each) for path in TEST_FILES for each in _functions(path) if each.name.startswith("test_")]
    silent = [
        f"{_name(path)}: {test.name}" for path, test in tests if not _is_fixture(test) and not _asserts(test, asserting)
    ]
    assert silent == []


def test_tests_folder_is_no_package():
    """nussl installs a package called `tests`; a second one would hide it or be hidden."""
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_readme_names_every_folder():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = {path.parent.relative_to(ROOT / PACKAGE).as_posix() for path in PRODUCT_FILES} - {"."}
    assert [folder for folder in sorted(folders) if f"{folder}/" not in readme] == []


def test_documents_that_the_code_cites_are_there():
    cited = {
        (_name(path), document)
        for path in ALL_FILES
        for document in re.findall(r"\bdocs/\w+\.md\b", path.read_text(encoding="utf-8"))
    }
    assert ("vocal_extraction/evaluation/systems.py", "docs/evaluation.md") in cited, (
        "where the ideal masks are written out"
    )
    assert [(name, document) for name, document in cited if not (ROOT / document).is_file()] == []


def test_sox_is_called_by_the_doctor_alone():
    """As docs/dependencies.md and the doctor's remedy say; scaper and nussl would call it, but are not asked to."""
    naming = {
        _name(path)
        for path in PRODUCT_FILES
        for node in ast.walk(_tree(path))
        if (isinstance(node, ast.Constant) and node.value == "sox")
        or (isinstance(node, ast.Import) and any(alias.name == "sox" for alias in node.names))
    }
    assert naming == {f"{PACKAGE}/command_line/{name}.py" for name in ("doctor", "programs")}
    rendering = [
        ast.unparse(call) for path in PRODUCT_FILES for name, call in _calls(_tree(path)) if name.endswith(".generate")
    ]
    assert rendering
    assert all("no_audio=True" in call for call in rendering)


def test_every_requirement_is_exact():
    for file in sorted(ROOT.glob("requirements*.txt")):
        lines = file.read_text(encoding="utf-8").splitlines()
        requirements = [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
        loose = [line for line in requirements if "==" not in line and not line.startswith(("./vendor/", "-e "))]
        assert loose == [], file.name


def test_soxbindings_stand_in_comes_first():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if line and not line.startswith("#")) == "./vendor/soxbindings"
