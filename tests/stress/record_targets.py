"""The edge to earlier runs: JSON that this program wrote once, and whatever has become of it."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from stress import inputs
from stress.edges import Target, refusing


def _song_scores() -> dict[str, Any]:
    from vocal_extraction.evaluation.results import SCHEMA_VERSION, SONG_SCHEMA

    value = {"value": 1.0, "channels": [1.0]}
    scores = {source: {"SI-SDR": value} for source in ("vocals", "bass+drums+other")}
    return {
        "schema": SONG_SCHEMA,
        "schema_version": SCHEMA_VERSION,
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


_MANIFEST_LINE = {
    "file": "song.wav",
    "outcome": "done",
    "seconds": 1.0,
    "reason": None,
    "vocals": "song/vocals.wav",
    "accompaniment": "song/accompaniment.wav",
    "source": "/music/song.wav",
    "source_sha256": "0" * 64,
    "written": [[1, 1], [1, 1]],
    "format": "wav16",
}


def _take_manifest(lines: list[bytes], folder: Path) -> None:
    from vocal_extraction.extraction.manifest import MANIFEST_NAME, Manifest
    from vocal_extraction.extraction.naming import Places
    from vocal_extraction.extraction.outcome import FAILED, Outcome

    (folder / MANIFEST_NAME).write_bytes(b"\n".join(lines))
    with refusing():
        manifest = Manifest(folder)
        places = Places(folder / "song" / "vocals.wav", folder / "song" / "accompaniment.wav")
        assert not manifest.is_done(folder / "song.wav", places, {})
        manifest.is_half_done(folder / "song.wav", places, {})
        manifest.add(Outcome("song.wav", FAILED, reason="x"), options={})
        last = (folder / MANIFEST_NAME).read_bytes().splitlines()[-1]
        assert json.loads(last)["reason"] == "x"


def _take_sources(data: bytes, folder: Path) -> None:
    from vocal_extraction import musdb_preparation

    (folder / musdb_preparation._RECORD).write_bytes(data)
    with refusing():
        assert isinstance(musdb_preparation._read_record(folder), dict)


RECORD_TARGETS = (
    Target("song scores", lambda: inputs.json_bytes(_song_scores()), _take_scores, 10_000),
    Target(
        "manifests",
        lambda: st.lists(inputs.json_bytes(_MANIFEST_LINE), max_size=3),
        _take_manifest,
        14_000,
        n_guided=6_000,
    ),
    Target("records of sources", lambda: inputs.json_bytes({"train/A - B": 123}), _take_sources, 10_000),
)
