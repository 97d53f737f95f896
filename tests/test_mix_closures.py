"""Closures: datasets that are prepared when they are asked for, and songs whose stems are not those of others."""

import dataclasses

import numpy as np
import pytest
import soundfile

from vocal_extraction.compatibility import nussl
from vocal_extraction.data_augmentation import MixClosure, create_mix_closure
from vocal_extraction.rendering import EQUALIZER_HZ
from vocal_extraction.settings import STEMS, MixingSettings
from vocal_extraction.tracks import Track

RATE = 44_100


def noise(duration_s, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(int(duration_s * RATE))).astype(np.float32)


def events_of(jam):
    return jam.annotations.search(namespace="scaper")[0].data


def test_the_folder_of_a_subset_is_accepted_as_published(demo_dataset):
    assert create_mix_closure(demo_dataset / "train", "train") == create_mix_closure(demo_dataset, "train")


@pytest.mark.parametrize("folder", ["dataset", "dataset/train"])
def test_a_missing_dataset_is_prepared(tmp_path, monkeypatch, folder):
    """From a tiny MUSDB18 in the form of MUSDB18-HQ, in a fresh working directory."""
    monkeypatch.chdir(tmp_path)
    for subset in ("train", "test"):
        for stem in ("mixture", *STEMS):
            path = tmp_path / "musdb" / subset / "A - Song" / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.stack([noise(1.0)] * 2, axis=1), RATE)
    closure = create_mix_closure(folder, "train", musdb_path=tmp_path / "musdb")
    assert [track.name for track in closure.tracks] == ["A - Song"]
    assert (tmp_path / "dataset/train/foreground/vocals/A - Song.wav").is_file()


def tracks_of(folder, songs):
    """Write {song: (stems, weight)} with noise of 2 s and return them as tracks."""
    tracks = []
    for song, (stems, weight) in songs.items():
        files = {}
        for seed, stem in enumerate(stems):
            files[stem] = (folder / song / f"{stem}.wav",)
            files[stem][0].parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(files[stem][0], noise(2.0, seed=seed), RATE, subtype="FLOAT")
        tracks.append(Track(song, files, RATE, 1, 2 * RATE, weight))
    return tuple(tracks)


def labels_of(closure, n_mixtures):
    """Return the songs by stem of each of the first mixtures."""
    values = [[event.value for event in events_of(closure.mixture(i)[1])] for i in range(n_mixtures)]
    return [{event["label"]: event["source_file"].split("/")[-2] for event in events} for events in values]


def test_songs_with_an_accompaniment_are_mixed(tmp_path):
    closure = MixClosure(tracks_of(tmp_path, {"a": (["accompaniment", "vocals"], 1.0)}), MixingSettings(duration_s=1.0))
    mixture, _, annotation_list, stems = closure.mixture(0)
    assert [label for _, _, label in annotation_list] == ["accompaniment", "vocals"]
    np.testing.assert_allclose(np.sum(stems, axis=0), mixture, atol=2**-22)


def test_voices_alone_are_mixed_with_the_accompaniment_of_others(tmp_path):
    songs = {"voice": (["vocals"], 1.0), "band": (["accompaniment"], 1.0), "song": (["bass", "vocals"], 1.0)}
    mixtures = labels_of(MixClosure(tracks_of(tmp_path, songs), MixingSettings(duration_s=0.5)), 40)
    coherent = [mixture for mixture in mixtures if mixture == {"bass": "song", "vocals": "song"}]
    assert len(coherent) >= 10
    incoherent = {tuple(sorted(mixture.items())) for mixture in mixtures}
    assert {(("accompaniment", "band"), ("vocals", "voice")), (("bass", "song"), ("vocals", "voice"))} <= incoherent
    assert all("accompaniment" not in mixture or "bass" not in mixture for mixture in mixtures), "one band at a time"


def test_songs_are_drawn_by_their_weights(tmp_path):
    tracks = tracks_of(tmp_path, {"often": (STEMS, 9.0), "rare": (STEMS, 1.0)})
    mixtures = labels_of(MixClosure(tracks, MixingSettings(duration_s=0.5)), 60)
    share = np.mean([song == "often" for mixture in mixtures for song in mixture.values()])
    assert 0.8 <= share <= 0.97  # 0.9, give or take three standard deviations of 60 draws or so


def test_nothing_is_left_above_a_band_limit(tmp_path):
    mixing = MixingSettings(duration_s=1.0, band_limits_hz=(8_000.0,))
    closure = MixClosure(tracks_of(tmp_path, {"a": (STEMS, 1.0)}), mixing)
    limited = []
    for index in range(12):
        mixture, _, _, stems = closure.mixture(index)
        np.testing.assert_allclose(np.sum(stems, axis=0), mixture, atol=2**-22)
        energies = np.abs(np.fft.rfft(mixture[:, 0])) ** 2
        limited.append(energies[8_000:].sum() < 1e-9 * energies.sum())
    assert 0 < sum(limited) < 12


def test_each_stem_has_the_equalizer_that_the_annotation_says(tmp_path):
    tracks, plain = tracks_of(tmp_path, {"a": (STEMS, 1.0)}), MixingSettings(duration_s=1.0)
    *_, before = MixClosure(tracks, plain).mixture(0)
    mixture, jam, _, stems = MixClosure(tracks, dataclasses.replace(plain, equalizer_db=6.0)).mixture(0)
    np.testing.assert_allclose(np.sum(stems, axis=0), mixture, atol=2**-22)
    said = np.array(jam.annotations[0].sandbox.scaper.equalizer_gains_db)
    assert said.shape == (len(STEMS), len(EQUALIZER_HZ))
    assert 3 < np.abs(said).max() <= 6
    for stem, without, gains_db in zip(stems, before, said, strict=True):
        powers = np.array([np.abs(np.fft.rfft(each[:, 0])) ** 2 for each in (without, stem)])
        bands = np.array([powers[:, hz - hz // 20 : hz + hz // 20].sum(axis=1) for hz in EQUALIZER_HZ[1:]])
        found_db = 10 * np.log10(bands[:, 1] / bands[:, 0])
        difference = found_db - gains_db[1:]
        assert np.ptp(difference) < 0.8, "apart from the level, to which each stem is brought"


def test_closure_feeds_nussls_on_the_fly_dataset(demo_dataset):
    transforms = nussl.datasets.transforms
    dataset = nussl.datasets.OnTheFly(
        create_mix_closure(demo_dataset, "train"),
        num_mixtures=3,
        stft_params=nussl.STFTParams(window_length=512, hop_length=128, window_type="sqrt_hann"),
        sample_rate=RATE,
        strict_sample_rate=False,
        transform=transforms.Compose(
            [
                transforms.SumSources([["bass", "drums", "other"]]),
                transforms.MagnitudeSpectrumApproximation(),
                transforms.IndexSources("source_magnitudes", 1),
                transforms.ToSeparationModel(),
            ]
        ),
    )
    item = dataset[1]
    n_frames = 5 * RATE // 128 + 2
    assert tuple(item["mix_magnitude"].shape) == (n_frames, 257, 1)
    assert tuple(item["source_magnitudes"].shape) == (n_frames, 257, 1, 1)
    assert len(dataset) == 3
    again = dataset[1]
    np.testing.assert_array_equal(item["mix_magnitude"], again["mix_magnitude"])


def test_closure_without_transforms_gives_signals_that_add_up(demo_dataset):
    dataset = nussl.datasets.OnTheFly(create_mix_closure(demo_dataset, "valid"), num_mixtures=1, sample_rate=RATE)
    item = dataset[0]
    assert sorted(item["sources"]) == list(STEMS)
    total = sum(source.audio_data for source in item["sources"].values())
    np.testing.assert_allclose(total, item["mix"].audio_data, atol=2**-22)
    assert item["metadata"]["labels"] == list(STEMS)


def test_index_epoch_and_seed_each_matter(demo_dataset):
    def first_offset(seed=0, index=0, epoch=0):
        closure = create_mix_closure(demo_dataset, "train", mixing=MixingSettings(duration_s=0.5), seed=seed)
        return events_of(closure.mixture(index, epoch)[1])[0].value["source_time"]

    assert len({first_offset(), first_offset(seed=1), first_offset(index=1), first_offset(epoch=1)}) == 4
    assert first_offset() == first_offset()


def test_about_half_of_the_mixtures_are_coherent(demo_dataset):
    closure = create_mix_closure(demo_dataset, "train", mixing=MixingSettings(duration_s=0.5))
    n_coherent = sum(
        len({event.value["source_time"] for event in events_of(closure.mixture(i)[1])}) == 1 for i in range(30)
    )
    assert 7 <= n_coherent <= 23  # three standard deviations around 15


def test_closure_is_a_mix_closure(demo_dataset):
    closure = create_mix_closure(str(demo_dataset), "test")
    assert isinstance(closure, MixClosure)
    assert closure.mixing == MixingSettings()
