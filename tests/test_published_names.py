"""The names of the published program: the specification's numbers, and stems on disk that scaper mixes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

import data_augmentation
from vocal_extraction.compatibility import nussl
from vocal_extraction.musdb_preparation import PreparationError
from vocal_extraction.settings import STEMS

RATE = 44_100


def test_the_numbers_are_the_specifications():
    template = data_augmentation.scaper_event_template
    assert template["pitch_shift"] == ("uniform", -2, 2)
    assert template["time_stretch"] == ("uniform", 0.8, 1.2)
    assert template["snr"] == ("uniform", -5, 5)
    assert template["source_time"] == ("uniform", 0, 7)
    assert template["label"] == ("const", "vocals")
    assert data_augmentation.scaper_object_configuration == {
        "sample_rate": RATE,
        "reference_db": -20,
        "number_of_channels": 1,
        "generated_track_duration": 5,
    }
    assert sorted(data_augmentation.stem_labels) == list(STEMS)


def song(name, seed):
    rng = np.random.default_rng(seed)
    sources = {
        stem: nussl.AudioSignal(audio_data_array=rng.uniform(-0.2, 0.2, (2, 6 * RATE)), sample_rate=RATE)
        for stem in STEMS
    }
    mix = sum(sources.values())
    mix.path_to_input_file = f"somewhere/{name}"
    return {"mix": mix, "sources": sources}


@pytest.mark.parametrize("generate", ["generate_coherent_mixture", "generate_incoherent_mixture"])
def test_songs_of_nussls_are_prepared_and_mixed(tmp_path, generate):
    data_augmentation.prepare_dataset([song("one", 1), song("two", 2)], tmp_path / "train")
    foreground, background = tmp_path / "train" / "foreground", tmp_path / "train" / "background"
    assert {path.relative_to(foreground).as_posix() for path in foreground.rglob("*.wav")} == {
        f"{stem}/{name}.wav" for stem in STEMS for name in ("one", "two")
    }
    written, _ = soundfile.read(foreground / "vocals" / "two.wav")
    assert np.allclose(written.T, song("two", 2)["sources"]["vocals"].audio_data, atol=2**-15)  # 16 bits
    mixture, _, events, stems = getattr(data_augmentation, generate)(
        str(foreground), str(background), data_augmentation.scaper_event_template, 0
    )
    assert mixture.shape == (5 * RATE, 1)
    assert [label for _, _, label in events] == list(STEMS)
    assert np.allclose(np.sum(stems, axis=0), mixture, atol=1e-6)


def test_songs_of_one_title_are_both_kept(tmp_path):
    data_augmentation.prepare_dataset([song("one", 1), song("one", 2)], tmp_path / "train")
    found = [soundfile.read(path)[0].T for path in sorted((tmp_path / "train" / "foreground" / "vocals").iterdir())]
    assert [len(found), found[0].shape] == [2, (2, 6 * RATE)]
    assert not np.allclose(found[0], found[1], atol=0.1)


def test_mixtures_are_made_of_what_was_prepared_in_the_usual_folder(tmp_path, monkeypatch):
    """As the published program does, with no MUSDB18 in reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSDB_PATH", str(tmp_path / "nowhere"))
    Path("dataset/train").mkdir(parents=True)  # empty, so that there is something to do
    data_augmentation.prepare_dataset([song("one", 1)], "dataset/train")
    closure = data_augmentation.create_mix_closure("./dataset/train", "train")
    assert [track.name for track in closure.tracks] == ["one"]


def test_a_file_is_no_folder_for_songs(tmp_path):
    (tmp_path / "train").write_text("notes")
    with pytest.raises(PreparationError, match="is a file"):
        data_augmentation.prepare_dataset([song("one", 1)], tmp_path / "train")


def test_what_is_prepared_is_left_alone_and_what_is_unfinished_is_not_taken_for_it(tmp_path):
    def broken():
        yield song("one", 1)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        data_augmentation.prepare_dataset(broken(), tmp_path / "train")
    assert not (tmp_path / "train").exists()
    data_augmentation.prepare_dataset([song("two", 2)], tmp_path / "train")
    assert [path.name for path in (tmp_path / "train" / "foreground" / "bass").iterdir()] == ["two.wav"]
    data_augmentation.prepare_dataset([song("three", 3)], tmp_path / "train")
    assert [path.name for path in (tmp_path / "train" / "foreground" / "bass").iterdir()] == ["two.wav"]
