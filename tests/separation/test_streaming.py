"""Blocks of a signal that is still arriving: equal to the whole song, behind by the stated delay, and adding up."""

import dataclasses

import numpy as np
import pytest
import torch
from extraction_models import Layered, loaded, music, remembering_model, whole_song

from vocal_extraction.errors import ExtractionError
from vocal_extraction.networks import BandSplitMaskInference
from vocal_extraction.separation import streaming
from vocal_extraction.separation.streaming import StreamingSeparator
from vocal_extraction.settings import SignalSettings

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = [
    ("MaskInference", {}),
    ("BandSplitMaskInference", {"lookahead": 3, "stereo": "mid-side"}),
    ("BandSplitMaskInference", {"lookahead": 2, "stereo": "mid-side", "n_channels": 2}),
    ("Ensemble of BandSplitMaskInference", {"lookahead": 1}),
]


def live_model(kind="BandSplitMaskInference", *, level_db=None, **options):
    model = remembering_model(kind, bidirectional=False, **options)
    return dataclasses.replace(model, signal=dataclasses.replace(model.signal, input_level_db=level_db))


def run(separator, samples, *, sizes=(1, 100, 333, 4_096, 20_000), seed=0):
    """Take (n_samples, n_channels) through a separator in blocks of drawn sizes."""
    rng, start, stems = np.random.default_rng(seed), 0, []
    while start < len(samples):
        stop = min(start + int(rng.choice(sizes)), len(samples))
        stems.append(separator.process(samples[start:stop], last=stop == len(samples)))
        assert len(next(iter(stems[-1].values()))) == stop - start + (separator.delay() if stop == len(samples) else 0)
        start = stop
    return {name: np.concatenate([block[name] for block in stems]) for name in stems[0]}


def decibels(error, reference):
    return 10 * np.log10(np.square(error, dtype=float).sum() / np.square(reference, dtype=float).sum())


@pytest.mark.parametrize(
    "kind, options, duration_s, n_channels",
    [(*kind, duration_s, 2) for kind in KINDS for duration_s in (0.001, 2.1)] + [(*KINDS[1], 2.1, 1)],
)
def test_blocks_of_any_size_give_what_the_whole_song_gives(kind, options, duration_s, n_channels, monkeypatch):
    monkeypatch.setattr(streaming, "_LOWEST_HZ", 0.0)
    model, song = live_model(kind, **options), music(duration_s, n_channels=n_channels)
    separator = StreamingSeparator(model, n_channels=n_channels)
    stems, delay = run(separator, song.T), separator.delay()
    assert delay == 512 + 128 * options.get("lookahead", 0)
    assert not stems["vocals"][:delay].any()
    whole = whole_song(song, model).T
    assert decibels(stems["vocals"][delay:] - whole, whole) < -100
    np.testing.assert_allclose(stems["vocals"][delay:] + stems["accompaniment"][delay:], song.T, atol=1e-6)


def test_a_separator_that_is_reset_knows_nothing_of_before():
    separator, song = StreamingSeparator(live_model(lookahead=2)), music(0.5).T
    first = run(separator, song)
    separator.process(music(0.3, seed=1).T)
    separator.reset()
    np.testing.assert_allclose(run(separator, song)["vocals"], first["vocals"], atol=1e-6)


@pytest.mark.parametrize("sample_rate", [16_000, 48_000])
def test_at_another_rate_the_delay_is_as_stated_and_the_stems_add_up(sample_rate):
    model = live_model("MaskInference")
    torch.nn.init.zeros_(model.network.layers["model"].embedding.linear.weight)  # so that all masks are a half
    separator, song = StreamingSeparator(model, sample_rate=sample_rate), music(2.0, sample_rate=sample_rate).T
    stems, delay = run(separator, song), separator.delay()
    assert 512 / 44_100 <= delay / sample_rate < 512 / 44_100 + 0.15
    assert decibels(2 * stems["vocals"][delay:][2_000:-2_000] - song[2_000:-2_000], song[2_000:-2_000]) < -20
    np.testing.assert_allclose((stems["vocals"] + stems["accompaniment"])[delay:], song, atol=1e-6)


@pytest.mark.parametrize("gain_db", [-40.0, 12.0])
def test_the_level_of_the_signal_hardly_changes_the_estimate(gain_db):
    model, song = live_model("MaskInference", level_db=-20.0), music(3.0).T
    gain = 10 ** (gain_db / 20)
    as_it_is = run(StreamingSeparator(model), song)["vocals"]
    found = run(StreamingSeparator(model), (gain * song).astype(np.float32))["vocals"] / gain
    assert decibels(found - as_it_is, as_it_is) < -60


def test_a_pause_does_not_turn_the_gain_up():
    model = live_model("MaskInference", level_db=-20.0)
    separator, loud = StreamingSeparator(model), music(2.0).T
    separator.process(loud)
    before = separator._separation._power
    separator.process(1e-4 * loud)
    assert separator._separation._power > 0.8 * before


def test_nothing_below_the_voice_is_a_source():
    torch.manual_seed(0)
    network = BandSplitMaskInference(2_049, 1, 6, 1, False, 0.0, 1)
    model = loaded(Layered(network), signal=SignalSettings(window_length=4_096, hop_length=1_024))
    vocals = run(StreamingSeparator(model), np.full((88_200, 2), 0.3))["vocals"]
    assert np.abs(vocals[20_000:-20_000]).max() < 0.003


def test_a_network_that_needs_the_whole_song_is_refused():
    with pytest.raises(ExtractionError, match=r"needs the whole song.*--preset live"):
        StreamingSeparator(remembering_model("BandSplitMaskInference"))


@pytest.mark.parametrize("block", [np.zeros(10), np.zeros((10, 3)), np.full((10, 2), np.nan), np.full((9, 2), 1e30)])
def test_blocks_that_are_none_are_refused_and_change_nothing(block):
    separator, song = StreamingSeparator(live_model("MaskInference")), music(0.5).T
    expected = run(separator, song)["vocals"]
    separator.reset()
    separator.process(song[:5_000])
    with pytest.raises(ExtractionError):
        separator.process(block)
    found = separator.process(song[5_000:], last=True)["vocals"]
    np.testing.assert_allclose(found, expected[5_000:], atol=1e-6)


def test_channels_beyond_stereo_are_refused():
    with pytest.raises(ExtractionError, match="one channel or two"):
        StreamingSeparator(live_model(), n_channels=3)
