"""A file of Native Instruments' stems: written, probed by ffprobe, and read back through stempeg."""

import json
import subprocess

import numpy as np
import pytest
import soundfile
from extraction_models import ConstantMask, loaded, music

from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction import extract_vocals
from vocal_extraction.settings import ExtractionSettings

RATE = 44_100
SETTINGS = ExtractionSettings(format="stem.mp4")
SOURCES = ("bass", "drums", "other", "vocals")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model():
    return loaded(ConstantMask(0.1, 0.2, 0.3, 0.4), sources=SOURCES)


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "A song.flac"
    soundfile.write(path, 0.5 * music(2.0, sample_rate=RATE, n_channels=2, seed=1).T, RATE)
    tagged = tmp_path / "in" / "A song.flac"
    tagged.parent.mkdir()
    command = ["ffmpeg", "-v", "error", "-i", path, "-metadata", "artist=Somebody", "-c", "copy", tagged]
    subprocess.run(command, check=True)
    return tagged


def test_mixture_and_four_stems_are_one_file(tmp_path, song, model):
    stempeg = pytest.importorskip("stempeg")
    outcome = extract_vocals(song, tmp_path / "out", settings=SETTINGS, model=model)
    assert outcome.stems == {"stems": tmp_path / "out" / "A song" / "A song.stem.mp4"}
    path = outcome.stems["stems"]
    probed = json.loads(
        subprocess.run(
            ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", path],
            capture_output=True,
            check=True,
        ).stdout
    )
    assert [(one["codec_name"], one["channels"], one["sample_rate"]) for one in probed["streams"]] == [
        ("aac", 2, str(RATE))
    ] * 5
    assert [one["disposition"]["default"] for one in probed["streams"]] == [1, 0, 0, 0, 0]
    assert probed["format"]["tags"]["artist"] == "Somebody"
    written = path.read_bytes()
    box = written.index(b"stem{") + 4
    content, _ = json.JSONDecoder().raw_decode(written[box:].decode("latin-1"))
    assert [stem["name"] for stem in content["stems"]] == ["Drums", "Bass", "Other", "Vocals"]
    stems, rate = stempeg.read_stems(str(path))
    mixture, _ = soundfile.read(song)
    assert rate == RATE
    assert len(stems) == 5
    mixture = mixture[: stems.shape[1]]
    for stem, gain in zip(stems, (1.0, 0.2, 0.1, 0.3, 0.4), strict=True):
        error = stem[: len(mixture)] - gain * mixture
        assert np.mean(error**2) < 0.05 * np.mean((gain * mixture) ** 2)  # -13 dB of noise at 256 kbit/s
    assert extract_vocals(song, tmp_path / "out", settings=SETTINGS, model=model).outcome == "skipped"


def test_another_number_of_stems_is_refused(tmp_path, song):
    with pytest.raises(ExtractionError, match="four stems beside the mixture, got vocals, accompaniment"):
        extract_vocals(song, tmp_path / "out", settings=SETTINGS, model=loaded(ConstantMask(0.25)))
