"""The reports of evaluations that the page lists, and what is known of each."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_DATA = {"report.html": "summary.json", "comparison.html": "comparison.json"}
"""A report, and the file of its numbers beside it."""


def reports_in(folders: Iterable[Path]) -> dict[str, Path]:
    """Return the reports below `folders` by their paths, the newest first; links that lead out are left out."""
    found = [
        (folder / path.relative_to(folder))
        for folder in folders
        for name in _DATA
        for path in folder.rglob(name)
        if path.is_file() and path.resolve().is_relative_to(folder.resolve())
    ]
    return {path.as_posix().lstrip("/"): path for path in sorted(found, key=lambda path: -path.stat().st_mtime)}


def describe(path: Path) -> dict[str, Any]:
    """Return the models of a report, by preset where they have one, with date, machine and commit, as far as known."""
    try:
        content = json.loads((path.parent / _DATA[path.name]).read_text(encoding="utf-8"))
        models: Mapping[str, Any] = content.get("models") or {path.parent.name: content}
        made = [(label, model["made"]) for label, model in models.items()]
        names = [fact.get("preset") or label for label, fact in made]
        return {"models": names} | {key: made[0][1].get(key) for key in ("date", "machine", "commit")}
    except (OSError, ValueError, KeyError, AttributeError, IndexError):
        return {"models": [path.parent.name], "date": None, "machine": None, "commit": None}
