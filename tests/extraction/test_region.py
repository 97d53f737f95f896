"""A region separated and put back: silent vocals and an untouched accompaniment outside of it."""

import numpy as np
import pytest
import soundfile
from extraction_models import ConstantMask, loaded

from vocal_extraction.command_line.parser import parse
from vocal_extraction.errors import ExtractionError, SettingsError
from vocal_extraction.extraction import extract_vocals
from vocal_extraction.settings import ExtractionSettings

RATE = 44_100
FADE = round(0.01 * RATE)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("bounds", [(1.0, 2.5), (0.0, 1.5), (2.0, None), (2.0, 99.0)])
def test_outside_of_a_region_the_song_is_untouched(tmp_path, make_song, bounds):
    song = make_song("song.wav", duration_s=4.0)
    settings = ExtractionSettings(from_s=bounds[0], to_s=bounds[1])
    reported = []
    outcome = extract_vocals(
        song, tmp_path / "out", settings=settings, model=loaded(ConstantMask(0.25)),
        progress=lambda done_s, total_s: reported.append(done_s),
    )  # fmt: skip
    mixture, vocals, accompaniment = (
        soundfile.read(path, dtype="int16")[0].astype(int) for path in (song, *outcome.stems.values())
    )
    np.testing.assert_array_equal(vocals + accompaniment, mixture)
    start, stop = (round(RATE * min(4.0, 4.0 if bound is None else bound)) for bound in bounds)
    assert not vocals[:start].any()
    assert not vocals[stop:].any()
    fade_in, fade_out = FADE if start else 0, FADE if stop < len(mixture) else 0
    inside = slice(start + fade_in, stop - fade_out)
    np.testing.assert_allclose(vocals[inside], 0.25 * mixture[inside], atol=33)  # -60 dB of full scale
    assert reported[-1] == pytest.approx(4.0)


def test_another_region_is_done_again(tmp_path, make_song):
    song, model = make_song("song.wav"), loaded(ConstantMask(0.25))
    whole = extract_vocals(song, tmp_path, model=model)
    settings = ExtractionSettings(from_s=0.1, overwrite=True)
    assert extract_vocals(song, tmp_path, model=model).outcome == "skipped"
    with pytest.raises(ExtractionError, match="exist already"):
        extract_vocals(song, tmp_path, model=model, settings=ExtractionSettings(from_s=0.1))
    assert extract_vocals(song, tmp_path, model=model, settings=settings).outcome == whole.outcome == "done"
    with pytest.raises(ExtractionError, match="exist already"):
        extract_vocals(song, tmp_path, model=model)


def test_a_region_lies_within_the_song(tmp_path, make_song):
    with pytest.raises(ExtractionError, match=r"begins at 99 s, and the song ends at 1 s"):
        extract_vocals(
            make_song("song.wav", duration_s=1.0),
            tmp_path / "out",
            model=loaded(ConstantMask(0.25)),
            settings=ExtractionSettings(from_s=99.0),
        )
    with pytest.raises(SettingsError, match="to s must be more than from s"):
        ExtractionSettings(from_s=2.0, to_s=1.0)


def test_the_command_line_takes_minutes_and_seconds():
    _, options = parse(["extract", "song.mp3", "--from", "1:10", "--to", "2:25.5"])
    assert options["settings"].region == (70.0, 145.5)
