"""The record of a folder of stems: ``manifest.jsonl``, one JSON object a line, one line for every song that was tried.

The next run reads from it what is done, and which song a file belongs to. A line is written just before complete
stems get their names, so that the files of a run that was killed in between are known, too.
"""

import contextlib
import datetime
import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction.naming import ALL_STEMS, path_key
from vocal_extraction.extraction.outcome import DONE, Outcome
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.separation import StemPlan
from vocal_extraction.settings import ExtractionSettings

MANIFEST_NAME = "manifest.jsonl"
_COARSEST_CLOCK_NS = 2 * 10**9  # archives and some file systems keep the time of a file to two seconds
_FIRST_STEMS = {"vocals": "vocals", "accompaniment": "mixture - vocals"}
"""What a line names that was written before a song could have other stems, and of what they were made."""


def options_of(settings: ExtractionSettings, model_sha256: str, plan: StemPlan) -> dict[str, Any]:
    """Return what decides how a stem sounds: two runs that agree in it need not both be done."""
    made_of = {
        stem.name: " - ".join(("mixture", *stem.sources)) if stem.is_residual else " + ".join(stem.sources)
        for stem in plan.stems
    }
    return {
        "made_of": {ALL_STEMS: ", ".join(made_of.values())} if FORMATS[settings.format].holds_all else made_of,
        "model_sha256": model_sha256,
        "format": settings.format,
        "bitrate_kbps": None if FORMATS[settings.format].is_lossless else settings.bitrate_kbps,
        "mask": settings.mask,
        "phase": settings.phase,
        "track": settings.track,
        "region_s": None if settings.region is None else list(settings.region),
    }


class Manifest:
    """The lines of earlier runs, to which this run adds its own.

    `made` is how stems are made: ``source`` and its ``source_sha256`` (or None), and what `options_of` returns.
    """

    def __init__(self, folder: Path, name: str = MANIFEST_NAME) -> None:
        self.folder, self._path = folder, folder / name
        self._lock = threading.Lock()
        self._lines: dict[str, dict[str, Any]] = {}  # of each stem, by `naming.path_key`; 'file': size, time
        try:
            with open(self._path, encoding="utf-8", errors="replace", newline="\n") as lines:
                for line in lines:
                    self._learn(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ExtractionError(
                f"Cannot read the manifest {self._path} ({error.strerror}). Choose another folder: -o."
            ) from error

    @property
    def owners(self) -> dict[str, str]:
        """Identity of the song whose stem a path is, by `naming.path_key`."""
        return {key: line["source"] for key, line in self._lines.items()}

    def is_done(self, paths: Mapping[str, Path], made: Mapping[str, Any]) -> bool:
        """Return whether these files were made like that; one older than its line was to be replaced, and was not."""
        lines = [self._line_of(stem, path, made) for stem, path in paths.items()]
        return all(map(_stands, paths.values(), lines)) and len({line.get("scale") for line in lines if line}) == 1

    def foreign(self, paths: Mapping[str, Path], made: Mapping[str, Any]) -> list[Path]:
        """List the files at `paths` that are there and were not made like that."""
        found = []
        for stem, path in paths.items():
            if path.exists() or path.is_symlink():
                line = self._line_of(stem, path, made)
                if line is None or not path.is_file() or line["file"] != _size_and_time(path):
                    found.append(path)
        return found

    def _line_of(self, stem: str, path: Path, made: Mapping[str, Any]) -> dict[str, Any] | None:
        line, wanted = self._lines.get(path_key(path)), {**made, "made_of": made["made_of"][stem]}
        if line is None or made["source_sha256"] is None:
            return None
        return line if all(line.get(name) == value for name, value in wanted.items()) else None

    def add(self, outcome: Outcome, temporary: Mapping[str, Path], made: Mapping[str, Any]) -> None:
        """Append the line of a song that was tried; `temporary` are complete stems that wait for their names."""
        folder, record = self.folder, {**outcome.as_record(), **made}
        stems = record["stems"].items()
        record["stems"] = {name: path if "://" in path else os.path.relpath(path, folder) for name, path in stems}
        record["written"] = {name: _size_and_time(path) for name, path in temporary.items()}
        record["time"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with self._lock:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with open(self._path, "ab+") as file:
                    with contextlib.suppress(OSError):  # of network file systems that have no locks
                        fcntl.lockf(file, fcntl.LOCK_EX)
                    if file.seek(0, os.SEEK_END):  # a full disk or a crash may have cut off the last line
                        file.seek(-1, os.SEEK_END)
                        line = line if file.read() == b"\n" else "\n" + line
                    file.write(line.encode(errors="backslashreplace"))
            except OSError as error:
                raise ExtractionError(
                    f"Cannot write the manifest {self._path} ({error.strerror}). Look at the disk, or choose another "
                    "folder: -o."
                ) from error
            self._learn(line)

    def _learn(self, text: str) -> None:
        """Take in a line; one that a crash or a full disk has cut off is passed over."""
        try:
            line = json.loads(text)
        except ValueError:
            return
        if not isinstance(line, dict) or line.get("outcome") != DONE or "source" not in line:
            return
        stems = line.get("stems") or {name: line[name] for name in _FIRST_STEMS if line.get(name)}
        written = line.get("written") or {}
        if isinstance(written, list):
            written = dict(zip(_FIRST_STEMS, written, strict=True))
        made_of = line.get("made_of", _FIRST_STEMS)
        for name, path in stems.items():
            file = {"file": written.get(name), "made_of": made_of.get(name)}
            self._lines[path_key(self._path.parent / path)] = line | file


def _stands(path: Path, line: dict[str, Any] | None) -> bool:
    if line is None or not path.is_file():
        return False
    return line["file"] is None or path.stat().st_mtime_ns >= line["file"][1] - _COARSEST_CLOCK_NS


def _size_and_time(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
