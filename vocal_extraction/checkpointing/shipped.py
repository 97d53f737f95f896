"""Models by name: those that ship, with the checksums under which they were published, and those that were imported."""

import difflib
import re
import tomllib
from pathlib import Path

from vocal_extraction.checkpointing.archive import CheckpointError, contents_of
from vocal_extraction.settings import PRETRAINED_FOLDER, models_folder

_SHIPPED = {
    "classic": "best.model.pth",
    "studio": "studio.model.pth",
    "ensemble": "ensemble.toml",
    "band-split": "band-split.model.pth",
    "live": "live.model.pth",
    "low-latency": "low-latency.model.pth",
}
_SHIPPED_LICENCE = "research and private use"
"""Of their weights, by the songs that they were trained on; pretrained_model/README.md has more."""
ENDING = ".model.pth"
"""Of an imported model's file, behind its name."""

LIST_ENDING = ".toml"
"""Of a text that lists models, ``members = ["studio", "mine.pth"]``; the mean of their estimates is a model."""


def shipped_checkpoints() -> dict[str, Path]:
    """Return the shipped models that are there, by preset."""
    paths = {preset: PRETRAINED_FOLDER / name for preset, name in _SHIPPED.items()}
    return {preset: path for preset, path in paths.items() if path.is_file()}


def imported_checkpoints() -> dict[str, Path]:
    """Return the models that were imported, by name."""
    found = sorted(path for path in models_folder().glob(f"*{ENDING}") if not path.name.startswith("."))
    return {path.name.removesuffix(ENDING): path for path in found}


def named_checkpoints() -> dict[str, Path]:
    """Return the models that ship and those that were imported, by name."""
    return shipped_checkpoints() | {name: path for name, path in imported_checkpoints().items() if name not in _SHIPPED}


def named_checkpoint(name: str) -> Path:
    """Return a model that ships or was imported, or raise CheckpointError."""
    found = named_checkpoints()
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        meant = f"Did you mean {near[0]}?" if near else f"There are {', '.join(found) or 'none'}."
        raise CheckpointError(f"No model is called {name!r}. {meant} `vocal-extraction models` lists them.")
    return found[name]


def checkpoint_path(model: str | Path) -> Path:
    """Return the path of a checkpoint that is named by it, or by the name under which it ships or was imported."""
    path = Path(model)
    return path if path.exists() else named_checkpoints().get(str(model), path)


def member_paths(path: Path) -> list[Path]:
    """Return the files of a model: its own, or those that its list names, or gives by paths from its folder."""
    if path.suffix != LIST_ENDING:
        return [path]
    try:
        names = tomllib.loads(contents_of(path).decode())["members"]
        if not all(isinstance(name, str) and not name.endswith(LIST_ENDING) for name in names):
            raise ValueError("a member is no checkpoint")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f'{path} lists no models ({error}). Expected: members = ["NAME", "PATH"].') from error
    return [path.parent / name if (path.parent / name).exists() else checkpoint_path(name) for name in names]


def model_name(path: Path) -> str:
    """Return what a model is called: a model that ships by its preset, others by their files.

    >>> model_name(Path("checkpoints/best.model.pth"))
    'best'
    """
    shipped = {each.resolve(): preset for preset, each in shipped_checkpoints().items()}
    return shipped.get(path.resolve()) or re.sub(r"(\.model)?(\.pth|\.toml)$", "", path.name) or "model"


def licence_of(path: Path, stated: str | None) -> str:
    """Return under which licence a model may be used, where its file may state that itself."""
    return stated or (_SHIPPED_LICENCE if _ships(path) else "not stated")


def default_checkpoint() -> Path:
    """Return the model that is used where none is named: 'studio' if it ships, else 'classic'."""
    return named_checkpoint("studio" if "studio" in shipped_checkpoints() else "classic")


def graph_beside(path: Path) -> Path | None:
    """Return the graph of a shipped model, whose weights are in its checkpoint; None of others."""
    graph = path.with_suffix(".onnx")
    return graph if _ships(path) and graph.is_file() else None


def _ships(path: Path) -> bool:
    path = path.resolve()
    return path.parent == PRETRAINED_FOLDER.resolve() and path.name in _SHIPPED.values()


def is_published(path: Path, sha256: str) -> bool:
    """Return whether the SHA256SUMS beside a file list it with this checksum."""
    try:
        lines = path.with_name("SHA256SUMS").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return [sha256, path.name] in [line.replace("*", " ").split() for line in lines]


def check_shipped(path: Path, sha256: str) -> None:
    """Raise CheckpointError if a shipped model's checksum is not the published one; other files may have any."""
    path = path.resolve()
    if _ships(path) and not is_published(path, sha256):
        raise CheckpointError(
            f"{path} is not the file that was published: its SHA-256 is {sha256}. "
            f"Restore it: git checkout -- {path.parent.name}."
        )
