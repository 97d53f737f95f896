"""The additions that docs/extending.md shows, made as it shows them, and used."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vocal_extraction.checkpointing import LOADERS, load_checkpoint, save_checkpoint
from vocal_extraction.evaluation import METRICS, evaluate_model
from vocal_extraction.extraction import extract_vocals
from vocal_extraction.networks import NETWORKS, create_model
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.presets import SPECIFIED, read_preset
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.track_layouts import LAYOUTS
from vocal_extraction.tracks import find_tracks
from vocal_extraction.training import train_model

pytestmark = pytest.mark.usefixtures("quick_evaluation", "quick_training")

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
MOST_LINES = 20


@pytest.fixture
def run_block(tmp_path_factory, monkeypatch):
    """Run a block of the page; afterwards the tables are as they were."""
    tmp_path = tmp_path_factory.mktemp("user")
    tables = [NETWORKS, METRICS, FORMATS, LAYOUTS, LOADERS]
    before = [table.copy() for table in tables]

    def run(title):
        block = re.search(rf"^## {title}$.*?```python\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE)[1]
        assert len([line for line in block.splitlines() if line.strip()]) <= MOST_LINES
        (tmp_path / "module_of_a_user.py").write_text(block)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "module_of_a_user", raising=False)
        importlib.import_module("module_of_a_user")

    yield run
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.extend(rows) if isinstance(table, list) else table.update(rows)


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).normal(size=(44_100, 2)), 44_100)
    return path


def test_a_network(run_block, demo_dataset, song, tmp_path):
    """Trained by a preset of one's own, evaluated and used for extraction."""
    run_block("A network")
    (tmp_path / "conv.toml").write_text(re.search(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)[1])
    checkpoint = train_model(
        4,
        preset=read_preset(tmp_path / "conv.toml"),
        dataset_folder=demo_dataset,
        checkpoint_folder=tmp_path / "checkpoints",
        n_epochs=1,
        n_batches=1,
        n_validation_mixtures=1,
        n_workers=0,
        device="cpu",
        progress=False,
    )
    found = evaluate_model(
        checkpoint,
        dataset_folder=demo_dataset,
        output_folder=tmp_path / "scores",
        metrics=["scale"],
        limit=1,
        n_jobs=1,
        progress=False,
        show=False,
    )
    assert np.isfinite(found.summary["rows"]["model"]["scores"]["SI-SDR"]["vocals"]["mean"])
    outcome = extract_vocals(song, tmp_path / "stems", model=checkpoint)
    assert sorted(outcome.stems) == ["accompaniment", "vocals"]


def test_a_metric(run_block, demo_dataset, tmp_path):
    run_block("A metric")
    checkpoint = save_checkpoint(tmp_path / "a.pth", create_model(), preset=SPECIFIED)
    found = evaluate_model(
        checkpoint,
        dataset_folder=demo_dataset,
        output_folder=tmp_path / "scores",
        metrics=["Level"],
        limit=1,
        n_jobs=1,
        progress=False,
        show=False,
    )
    mixture = found.summary["rows"]["mixture"]["scores"]["Level"]
    assert mixture["vocals"]["mean"] > 0
    assert "Level" in (tmp_path / "scores" / "scores.csv").read_text()
    assert "Level" in (tmp_path / "scores" / "report.html").read_text()


def test_an_output_format(run_block, song, tmp_path):
    run_block("An output format")
    outcome = extract_vocals(song, tmp_path, settings=ExtractionSettings(format="opus"), preset_name="classic")
    assert outcome.stems["vocals"].suffix == ".opus"
    probe = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0"]
    answer = subprocess.run([*probe, str(outcome.stems["vocals"])], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "opus"


def test_a_layout_of_tracks(run_block, tmp_path):
    run_block("A layout of tracks")
    for name in ("one_vox", "one_band", "two_vox", "two_band"):
        soundfile.write(tmp_path / f"{name}.wav", np.full(8_000, 0.1), 8_000)
    tracks = find_tracks(tmp_path, subset="test")
    assert [(track.name, sorted(track.sources)) for track in tracks] == [
        ("one", ["accompaniment", "vocals"]),
        ("two", ["accompaniment", "vocals"]),
    ]


def test_a_kind_of_checkpoint(run_block, tmp_path):
    run_block("A kind of checkpoint")
    checkpoint = save_checkpoint(tmp_path / "a.pth", create_model(), preset=SPECIFIED)
    (tmp_path / "b.mine").write_bytes(b"MYMODEL1" + checkpoint.read_bytes())
    assert load_checkpoint(tmp_path / "b.mine").sources == ("vocals",)


def test_pages_import_what_is_there():
    """docs/training.md took a preset by a name that had gone."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    imports = re.findall(r"^from (vocal_extraction[\w.]*|main|model|data_augmentation) import ([\w, ]+)", text, re.M)
    assert ("vocal_extraction.networks", "NETWORKS, Network") in imports
    names = {(module, name.strip()) for module, listed in imports for name in listed.split(",")}
    assert [each for each in sorted(names) if not hasattr(importlib.import_module(each[0]), each[1])] == []
