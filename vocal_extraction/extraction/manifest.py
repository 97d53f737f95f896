"""The record of a folder of stems: ``manifest.jsonl``, one JSON object a line, one line for every song that was tried.

It tells the next run what is done, with which model and options, and whose the files are. A song's line is written when
its stems are whole, just before they get their names: so a run that is killed in between knows its own files again, and
of two runs that want one place, the one whose line comes first has it.
"""

import datetime
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vocal_extraction.atomic_files import sha256_of
from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction.naming import STANDARD_INPUT, Places, identity, place_key
from vocal_extraction.extraction.outcome import DONE, Outcome
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.settings import ExtractionSettings

MANIFEST_NAME = "manifest.jsonl"
_COARSEST_CLOCK_NS = 2 * 10**9
"""Archives and some file systems keep the time of a file to two seconds."""


class Manifest:
    """The lines of earlier runs, and where this run adds its own."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / MANIFEST_NAME
        self._lock = threading.RLock()
        self._done: dict[str, dict[str, Any]] = {}
        self.owners: dict[str, str] = {}
        """Identity of the song that owns a place, by `naming.place_key`."""
        self._n_bytes_read = 0
        self.read_on()

    def read_on(self) -> None:
        """Take note of the lines that have been written since, by whichever run."""
        with self._lock:
            records, self._n_bytes_read = _read(self._path, self._n_bytes_read)
            for record in records:
                self._learn(record)

    def _learn(self, record: dict[str, Any]) -> None:
        if record.get("outcome") != DONE:
            return
        owner = str(record["source"])
        self._done[owner] = record
        for place in (record.get("vocals"), record.get("accompaniment")):
            if place is not None:
                self.owners.setdefault(place_key(self._path.parent / str(place)), owner)

    def is_done(self, song: str | Path, places: Places, options: dict[str, Any]) -> bool:
        """Tell whether these very files were made of this very song, with the same model and options."""
        return self._is_recorded(song, places, options, _is_no_older)

    def is_half_done(self, song: str | Path, places: Places, options: dict[str, Any]) -> bool:
        """Tell whether what stands at `places` is just what an earlier run made of this song before it was stopped."""
        return self._is_recorded(song, places, options, _is_the_same_or_missing)

    def _is_recorded(self, song: str | Path, places: Places, options: dict[str, Any], fits: "_Comparison") -> bool:
        record = self._done.get(identity(song))
        return (
            record is not None
            and all(record.get(name) == value for name, value in options.items())
            and {self.owners.get(key) for key in places.as_keys()} == {identity(song)}
            and all(map(fits, (places.vocals, places.accompaniment), _written(record)))
            and Path(song).is_file()
            and record.get("source_sha256") == sha256_of(song)
        )

    def announce(self, outcome: Outcome, stems: Sequence[Path], *, options: dict[str, Any]) -> None:
        """Append the line of a song whose stems are whole, but still have temporary names.

        Raises
        ------
        ExtractionError
            If another run was quicker to announce another song's stems at the same places.
        """
        written = [[status.st_size, status.st_mtime_ns] for status in map(os.stat, stems)]
        self.add(outcome, options={**options, "written": written})
        for place in (outcome.vocals, outcome.accompaniment):
            if place is not None and self.owners[place_key(place)] != identity(outcome.file):
                raise ExtractionError(
                    f"{place} has meanwhile become the place of another song, by another run. Run it again: it will "
                    "get a place of its own."
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
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
        with self._lock:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                is_torn = not _ends_with_a_line(self._path)
                with open(self._path, "ab") as file:
                    file.write(b"\n" + line if is_torn else line)
            except OSError as error:
                raise ExtractionError(
                    f"Cannot write the manifest {self._path} ({error.strerror}). Look at the disk, or choose another "
                    "folder: -o."
                ) from error
            self.read_on()


_Comparison = Callable[[Path, "list[int] | None"], bool]
"""Takes a stem's place, and size and time of the file that was written there, None where the line does not tell."""


def _written(record: dict[str, Any]) -> list[list[int] | None]:
    """Return size and time of a song's vocals and accompaniment, as its line tells them."""
    told = record.get("written")
    if isinstance(told, list) and len(told) == 2 and all(_are_two_integers(each) for each in told):
        return list(told)
    return [None, None]


def _are_two_integers(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(each) is int for each in value)


def _is_no_older(place: Path, written: list[int] | None) -> bool:
    """Tell whether a stem is there; one from before that which was announced has not been replaced."""
    return place.is_file() and (written is None or place.stat().st_mtime_ns >= written[1] - _COARSEST_CLOCK_NS)


def _is_the_same_or_missing(place: Path, written: list[int] | None) -> bool:
    if not (place.exists() or place.is_symlink()):
        return True
    return written is not None and place.is_file() and [place.stat().st_size, place.stat().st_mtime_ns] == written


def _ends_with_a_line(path: Path) -> bool:
    """Tell whether the next line may follow: a full disk or a crash may have cut off the last one."""
    try:
        with open(path, "rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"
    except FileNotFoundError:
        return True


def options_of(settings: ExtractionSettings, model_sha256: str) -> dict[str, Any]:
    """Return what decides how the stems sound: two runs that agree in it need not both be done."""
    bitrate = None if FORMATS[settings.format].is_lossless else settings.bitrate_kbps
    return {
        "model_sha256": model_sha256,
        "format": settings.format,
        "bitrate_kbps": bitrate,
        "mask": settings.mask,
        "phase": settings.phase,
        **({} if settings.track is None else {"track": settings.track}),
    }


def _read(path: Path, n_bytes_read: int) -> tuple[list[dict[str, Any]], int]:
    """Return the lines from a position on that are whole, and the position of the next; one cut off is passed over."""
    try:
        with open(path, "rb") as file:
            file.seek(n_bytes_read)
            lines, end, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:
        return [], n_bytes_read
    except OSError as error:
        raise ExtractionError(
            f"Cannot read the manifest {path} ({error.strerror}). Choose another folder: -o."
        ) from error
    records = [_record_of(line) for line in lines.decode(errors="replace").split("\n")]
    return [record for record in records if record is not None], n_bytes_read + len(lines + end)


def _record_of(line: str) -> dict[str, Any] | None:
    """Return what a line holds, or None: whatever else stands there, as after a crash, is passed over."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or not isinstance(record.get("source"), str):
            return None
        for place in (record.get("vocals"), record.get("accompaniment")):
            if place is not None:
                place_key(Path(place))
    except (ValueError, TypeError, RecursionError):
        return None
    return record
