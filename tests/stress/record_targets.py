"""The edge to earlier runs: JSON that this program wrote once, and whatever has become of it."""

import contextlib
from pathlib import Path
from typing import Any

from stress import inputs
from stress.edges import Target, refusing


def _song_scores() -> dict[str, Any]:
    from vocal_extraction.evaluation.results import SONG_SCHEMA, SONG_SCHEMA_VERSION

    value = {"value": 1.0, "channels": [1.0]}
    scores = {source: {"SI-SDR": value} for source in ("vocals", "bass+drums+other")}
    return {
        "schema": SONG_SCHEMA,
        "schema_version": SONG_SCHEMA_VERSION,
        "song": "A - B",
        "evaluated": {"kind": "model", "name": "a", "path": "a.pth", "sha256": "0" * 64, "settings": {"mask": "soft"}},
        "data": {
            "folder": "dataset",
            "subset": "test",
            "sha256": "0" * 64,
            "sample_rate": 44_100,
            "n_channels": 2,
            "n_samples": 10,
        },
        "rows": {"model": {"settings": {}, "scores": scores}},
    }


def _take_scores(data: bytes, folder: Path) -> None:
    from vocal_extraction.evaluation.results import claim_folder, read_song, write_song

    content = _song_scores()
    (folder / "A - B.json").write_bytes(data)
    with refusing():
        read_song(folder / "A - B.json")
        claim_folder(folder, evaluated=content["evaluated"], data=content["data"], overwrite=False)
        write_song(folder, content)
        assert read_song(folder / "A - B.json") == content


def _take_sources(data: bytes, folder: Path) -> None:
    from vocal_extraction import musdb_preparation

    (folder / musdb_preparation._RECORD).write_bytes(data)
    # A file of ours nests nothing, so that one that nests deeply may well end in Python's own error.
    with refusing(), contextlib.suppress(RecursionError):
        assert isinstance(musdb_preparation._read_record(folder), dict)


RECORD_TARGETS = (
    Target("song scores", lambda: inputs.json_bytes(_song_scores()), _take_scores, 10_000),
    Target("records of sources", lambda: inputs.json_bytes({"train/A - B": 123}), _take_sources, 10_000),
)
