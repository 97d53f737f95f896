"""What is not the song's business: its level, its offset, and on which side the voice is."""

import numpy as np
import pytest
import torch
from extraction_models import loaded, music

from vocal_extraction.checkpointing import load_checkpoint, named_checkpoint, shipped_checkpoints
from vocal_extraction.separation import separate
from vocal_extraction.separation.input_conditioning import (
    channel_groups,
    covariances_of,
    input_gain,
    without_slow_waves,
)
from vocal_extraction.settings import SignalSettings

RATE = 44_100
pytestmark = pytest.mark.usefixtures("one_thread")


class LevelMask(torch.nn.Module):
    """A mask that follows the magnitudes, so that it shows what the network was given."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, data):
        magnitudes = data["mix_magnitude"]
        return {"mask": (magnitudes / (magnitudes + 0.001))[..., None]}


def vocals_of(mixture, model):
    return separate(mixture, RATE, model=model, stems=["vocals"])["vocals"]


def error_db(found, expected):
    return 10 * np.log10(np.sum(np.square(found - expected, dtype=float)) / np.sum(np.square(expected, dtype=float)))


@pytest.mark.parametrize("preset", sorted(shipped_checkpoints()))
def test_estimates_scale_with_the_song_and_an_offset_stays_out_of_them(preset):
    """An error of -60 dB moves no SI-SDR below 30 dB by more than 0.01 dB."""
    model, mixture = load_checkpoint(named_checkpoint(preset)), music(2.0)
    vocals = vocals_of(mixture, model)
    for gain in (10.0 ** (gain_db / 20) for gain_db in ((-60, -20, 40) if preset == "classic" else (-60, 40))):
        assert error_db(vocals_of(np.float32(gain) * mixture, model) / gain, vocals) < -60
    difference = vocals_of(mixture + np.float32(0.03), model) - vocals
    assert np.abs(difference).max() < 3e-6  # 80 dB below the offset


def test_a_model_without_a_level_is_given_the_song_as_it_is():
    signal = SignalSettings()
    assert error_db(vocals_of(music(1.0) / 100, loaded(LevelMask(), signal=signal)) * 100, music(1.0)) > -20


def test_the_gain_brings_a_song_to_the_level():
    song = np.random.default_rng(0).normal(0, 0.01, (RATE, 2)) + 0.5
    assert 20 * np.log10(input_gain(covariances_of(song, RATE), -20.0)) == pytest.approx(20.0, abs=0.05)
    assert input_gain(covariances_of(np.zeros((100, 2)), RATE), -20.0) == 1.0


def level_db_of(song):
    return -20 * np.log10(input_gain(covariances_of(song, RATE), 0.0))


@pytest.mark.parametrize("frequency_hz", [5.0, 10.0, 18.0])
@pytest.mark.parametrize("rate", [8_000, 96_000])
def test_slow_waves_are_no_part_of_the_level(frequency_hz, rate):
    song = np.random.default_rng(0).normal(0, 0.1, (5 * rate, 1))
    wave = 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(len(song)) / rate)[:, None]
    gain, gain_with_wave = (input_gain(covariances_of(each, rate), -20.0) for each in (song, song + wave))
    assert 20 * np.log10(gain_with_wave / gain) == pytest.approx(0.0, abs=0.05)


def test_a_slow_wave_is_nothing_that_channels_have_in_common():
    one, other = np.random.default_rng(0).normal(0, 0.1, (2, 3 * RATE, 1))
    wave = np.sin(2 * np.pi * 10 * np.arange(len(one)) / RATE)[:, None]
    assert channel_groups(covariances_of(np.hstack([one, other]) + wave, RATE), "mid-side", 1).tolist() == [[0], [1]]


def test_pauses_and_channels_without_sound_are_no_part_of_the_level():
    song = np.random.default_rng(0).normal(0, 0.1, (3 * RATE, 1))
    silence = np.random.default_rng(1).normal(0, 1e-5, song.shape)
    alone = level_db_of(song)
    assert level_db_of(np.concatenate([silence] * 5 + [song])) == pytest.approx(alone, abs=0.02)
    assert level_db_of(np.hstack([song, silence])) == pytest.approx(alone, abs=0.02)
    assert level_db_of(np.hstack([song, song] + [silence] * 4)) == pytest.approx(alone, abs=0.02)


def test_slow_waves_go_and_the_lowest_voices_stay():
    t = np.arange(3 * RATE) / RATE
    waves = np.sin(2 * np.pi * np.array([[5.0], [15.0], [40.0], [60.0]]) * t).astype(np.float32)
    inner = slice(RATE, 2 * RATE)
    left = without_slow_waves(waves, RATE)[:, inner]
    assert np.abs(left[:2]).max() < 0.01
    np.testing.assert_allclose(left[2:], waves[2:, inner], atol=0.01)


@pytest.mark.parametrize("n_together", [1, 2])
def test_channels_with_little_in_common_are_items_of_their_own(n_together):
    rng = np.random.default_rng(0)
    (one, other, common) = rng.standard_normal((3, RATE, 1))

    def groups(*channels):
        return channel_groups(covariances_of(np.hstack(channels), RATE), "mid-side", n_together).tolist()

    apart = [[0] * n_together, [1] * n_together]
    assert groups(one, other) == apart
    assert groups(one, 0 * other) == apart
    assert groups(one + common, other + common) == [[0, 1]]
    assert groups(common, -common) == ([[0, 1]] if n_together == 1 else apart)
    assert groups(one) == [[0] * n_together]
    # 5.1: left and right, centre and subwoofer, both behind
    assert groups(one + common, other + common, one, 0 * one, common, common) == [[0, 1], [2, 2], [3, 3], [4, 5]]
    assert groups(one + common, other + common, one) == [[0, 1], [2, 2]]
    assert groups(one, other, common) == [[0, 0], [1, 1], [2, 2]]


def test_a_voice_on_one_side_is_that_channel_alone():
    model = load_checkpoint(named_checkpoint("classic"))
    one, other = music(2.0, n_channels=1), music(2.0, n_channels=1, seed=1)
    both = vocals_of(np.concatenate([one, other]), model)
    # The level is that of the song; its two channels have nearly the same.
    assert error_db(both[:1], vocals_of(one, model)) < -20
    np.testing.assert_allclose(vocals_of(np.concatenate([one, 0 * one]), model)[:1], vocals_of(one, model), atol=1e-5)
