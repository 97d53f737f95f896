"""The record of a folder of stems: ``manifest.jsonl``, one JSON object a line, one line for every song that was tried.

It tells the next run what is done, with which model and options, and whose the files are.
"""

import datetime
import json
import os
import threading
from pathlib import Path
from typing import Any

from extraction.naming import STANDARD_INPUT, Places, identity, place_key
from extraction.outcome import DONE, ExtractionError, Outcome
from files import sha256_of
from settings import LOSSY_FORMATS, ExtractionSettings

MANIFEST_NAME = "manifest.jsonl"


class Manifest:
    """The lines of earlier runs, and where this run adds its own."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / MANIFEST_NAME
        self._lock = threading.Lock()
        self._done: dict[str, dict[str, Any]] = {}
        self.owners: dict[str, str] = {}
        """Identity of the song that owns a place, by `naming.place_key`."""
        for record in _read(self._path):
            self._learn(record)

    def _learn(self, record: dict[str, Any]) -> None:
        if record.get("outcome") != DONE:
            return
        owner = str(record["source"])
        self._done[owner] = record
        for place in (record.get("vocals"), record.get("accompaniment")):
            if place is not None:
                self.owners[place_key(self._path.parent / str(place))] = owner

    def is_done(self, song: str | Path, places: Places, options: dict[str, Any]) -> bool:
        """Tell whether these very files were made of this very song, with the same model and options."""
        record = self._done.get(identity(song))
        return (
            record is not None
            and all(record.get(name) == value for name, value in options.items())
            and {self.owners.get(key) for key in places.as_keys()} == {identity(song)}
            and places.vocals.is_file()
            and places.accompaniment.is_file()
            and Path(song).is_file()
            and record.get("source_sha256") == sha256_of(song)
        )

    def add(self, outcome: Outcome, *, options: dict[str, Any]) -> None:
        """Append a line for a song that was tried."""
        record = outcome.as_record()
        for name in ("vocals", "accompaniment"):
            if record[name] is not None:
                record[name] = os.path.relpath(record[name], self._path.parent)
        record |= {"source": identity(outcome.file), "source_sha256": None, **options}
        if outcome.outcome == DONE and outcome.file != STANDARD_INPUT:
            record["source_sha256"] = sha256_of(outcome.file)
        record["time"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        # One write of a whole line, at the end: two runs in one folder do not mix theirs.
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with self._lock:
            self._learn(record)
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with open(self._path, "ab") as file:
                    file.write(line.encode(errors="backslashreplace"))
            except OSError as error:
                raise ExtractionError(f"Cannot write the manifest {self._path} ({error.strerror}).") from error


def options_of(settings: ExtractionSettings, model_sha256: str) -> dict[str, Any]:
    """Return what decides how the stems sound: two runs that agree in it need not both be done."""
    bitrate = settings.bitrate_kbps if settings.format in LOSSY_FORMATS else None
    return {
        "model_sha256": model_sha256,
        "format": settings.format,
        "bitrate_kbps": bitrate,
        "mask": settings.mask,
        "phase": settings.phase,
    }


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the lines that are whole; one that a crash cut off is passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ExtractionError(
            f"Cannot read the manifest {path} ({error.strerror}). Choose another folder: -o."
        ) from error
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "source" in record:
            records.append(record)
    return records
