"""MUSDB18 to wavs on the disk, once: `sources` finds the songs, `decoding` reads them, `layout` writes them.

Sources: Rafii et al., The MUSDB18 corpus for music separation, 2017, doi:10.5281/zenodo.1117372;
https://github.com/sigsep/sigsep-mus-db.
"""

import concurrent.futures
import json
import logging
import os
import shutil
import threading
from pathlib import Path

from vocal_extraction.atomic_files import remove_leftovers, write_json
from vocal_extraction.musdb_preparation.decoding import song_blocks
from vocal_extraction.musdb_preparation.layout import (
    SAMPLE_RATE,
    STREAMS,
    SUBSETS,
    PreparationError,
    make_folders,
    prepared_length,
    song_names,
    song_paths,
    write_song,
)
from vocal_extraction.musdb_preparation.sources import (
    LOCAL_FOLDER_ADVICE,
    Song,
    download_sample,
    find_songs,
    validation_names,
)
from vocal_extraction.progress import counted
from vocal_extraction.settings import DATASET_FOLDER

_SAMPLE_FOLDER = "musdb18-7s"
_RECORD = "sources.json"  # sizes of the songs' sources, which differ for excerpts and full songs, and their folder
_SOURCE = "musdb_path"
_UNDER_WAY = 0  # recorded size of a song that is being decoded: after a crash it is decoded again
_log = logging.getLogger(__name__)

_Record = dict[str, int | str]


def prepare_musdb(
    musdb_path: str | os.PathLike[str] | None = None,
    dataset_folder: str | os.PathLike[str] = DATASET_FOLDER,
    *,
    download: bool = True,
    subset: str | None = None,
    limit: int | None = None,
    n_workers: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Decode songs of MUSDB18 into `dataset_folder`, save those that are there; return how many each subset has.

    `musdb_path` holds ``train`` and ``test``. None takes the environment variable ``MUSDB_PATH``; without that, the
    folder that was prepared from before; without that, the 7 s sample is downloaded, or without `download` an error
    raised. Songs that the source does not have, or has no more, are left. Only those of a `subset`, or the first
    `limit`, may be decoded, `n_workers` at the same time, by default one per processor. A PreparationError says that
    there are no songs, the download failed, or names those that cannot be decoded; the others are.
    """
    dataset_folder = Path(dataset_folder)
    if n_workers is not None and n_workers < 1:
        raise PreparationError(f"The number of workers is 1 or more; got {n_workers}.")
    remove_leftovers(dataset_folder)
    record = _read_record(dataset_folder)
    source = _choose_source(musdb_path, dataset_folder, record, download=download, progress=progress)
    if source is not None:
        songs = [song for song in find_songs(source) if subset in (None, song.subset)]
        songs = sorted(songs, key=lambda song: song.name)[:limit]
        record[_SOURCE] = str(source.resolve())
        _decode_songs(songs, dataset_folder, record, n_workers=n_workers or os.cpu_count() or 1, progress=progress)
    n_songs = {subset: len(song_names(subset, dataset_folder)) for subset in SUBSETS}
    if n_songs["train"] and not n_songs["valid"]:
        _log.warning(
            "No song in train is one of those that musdb validates on, so there are no valid songs; put some "
            "songs into a folder named valid beside train."
        )
    return n_songs


def has_begun(dataset_folder: str | os.PathLike[str]) -> bool:
    """Return whether a preparation, finished or not, has left anything in a folder."""
    traces = (_RECORD, _SAMPLE_FOLDER, *(f"{subset}/foreground" for subset in SUBSETS))
    return any((Path(dataset_folder) / trace).exists() for trace in traces)


def _choose_source(
    musdb_path: str | os.PathLike[str] | None, dataset_folder: Path, record: _Record, *, download: bool, progress: bool
) -> Path | None:
    """Return the folder to decode from, or None to be content with what is prepared."""
    if given := musdb_path or os.environ.get("MUSDB_PATH"):
        return Path(given).expanduser()
    recorded, sample_folder = record.get(_SOURCE), dataset_folder / _SAMPLE_FOLDER
    if recorded and Path(str(recorded)).is_dir():
        return Path(str(recorded))
    if not sample_folder.exists():
        if any(song_names(subset, dataset_folder) for subset in SUBSETS):
            return None
        if not download:
            raise PreparationError(f"{dataset_folder} holds no prepared songs. {LOCAL_FOLDER_ADVICE}")
    return download_sample(sample_folder, progress=progress)


def _decode_songs(songs: list[Song], dataset_folder: Path, record: _Record, *, n_workers: int, progress: bool) -> None:
    """Decode those of `songs` that are not prepared, several at a time; go on to the next when one cannot be.

    A song is prepared whose files are all there, unless they came from a source of another size, or were not finished.
    """
    make_folders(dataset_folder)
    pending = [
        song
        for song in songs
        if prepared_length(dataset_folder, song.subset, song.name) == 0
        or record.get(song.key) not in (None, song.n_bytes)
    ]
    if pending and shutil.which("ffmpeg") is None:
        raise PreparationError(
            "MUSDB18 is decoded by ffmpeg, which was not found on the PATH. Install it (apt-get install ffmpeg, or "
            "brew install ffmpeg)."
        )
    # Written before the first song, so that a folder in which a crash left songs is known as one that is prepared.
    record |= {song.key: song.n_bytes for song in songs} | {song.key: _UNDER_WAY for song in pending}
    if record != _read_record(dataset_folder):
        write_json(dataset_folder / _RECORD, dict(sorted(record.items())))
    stop, complaints = threading.Event(), []

    def decode(song: Song) -> str | None:
        try:
            n_bytes = song.n_bytes
            write_song(dataset_folder, song.subset, song.name, song_blocks(song, stop))
        except PreparationError as error:
            return str(error)
        record[song.key] = n_bytes
        return None

    with concurrent.futures.ThreadPoolExecutor(n_workers) as executor:
        jobs = [executor.submit(decode, song) for song in pending]
        try:
            for job in counted(concurrent.futures.as_completed(jobs), len(jobs), "decoding", show=progress):
                if complaint := job.result():
                    complaints.append(complaint)
                write_json(dataset_folder / _RECORD, dict(sorted(record.items())))
        finally:
            # On a full disk or Ctrl-C, songs under way stop at their next block and leave nothing behind.
            stop.set()
            executor.shutdown(cancel_futures=True)
    if complaints:
        raise PreparationError("\n".join(sorted(complaints)))


def _read_record(dataset_folder: Path) -> _Record:
    try:
        record = json.loads((dataset_folder / _RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    entries = record.items() if isinstance(record, dict) else ()
    return {key: value for key, value in entries if isinstance(value, str if key == _SOURCE else int)}
