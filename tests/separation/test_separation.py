"""Arrays in, arrays out: the estimate in chunks is that of the whole song, and the stems add up."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from extraction_models import (
    SIGNAL,
    ChannelMask,
    ConstantMask,
    HalvingAudio,
    Layered,
    Masking,
    loaded,
    music,
    remembering_model,
    tiny_model,
    whole_song,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocal_extraction.checkpointing import load_checkpoint
from vocal_extraction.errors import ExtractionCancelledError, ExtractionError
from vocal_extraction.networks import NETWORKS
from vocal_extraction.separation import DiskArray, Separator, separate
from vocal_extraction.separation.torch_runtime import layerwise_network
from vocal_extraction.settings import STEMS, ExtractionSettings, SignalSettings
from vocal_extraction.spectrogram import griffin_lim, istft, n_frames_of, stft

SINGLE = ["MaskInference", "BandSplitMaskInference", "OpenUnmix"]
ENSEMBLES = [f"Ensemble of {kind}" for kind in SINGLE]
STEREO = [("each", 1), ("each", 2), ("mid-side", 1), ("mid-side", 2)]
RATES = (8_000, 11_025, 16_000, 22_050, 32_000, 37_800, 44_100, 48_000, 96_000)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def estimate(mixture, model, *, sample_rate=44_100, source="vocals", **options):
    """Estimate a source with the given settings."""
    return Separator(model, ExtractionSettings(**options))(mixture.T, sample_rate)[source].T


def decibels(error, reference):
    return 10 * np.log10(
        max(np.sum(np.square(error, dtype=np.float64)), 1e-30) / np.sum(np.square(reference, dtype=np.float64))
    )


def assert_same(found, whole):
    """Hold an estimate to what is promised of it: overall, and in its worst tenth of a second."""
    assert decibels(found - whole, whole) < -80
    frame = 4_410
    for number in range(max(1, whole.shape[1] // frame)):
        span = slice(number * frame, (number + 1) * frame)
        assert decibels((found - whole)[:, span], whole[:, span]) < -60, f"frame {number}"


@pytest.mark.parametrize(
    "kind, stereo, n_together, duration_s",
    [
        *((kind, *stereo, 2.3) for kind in SINGLE for stereo in STEREO),
        *((kind, "mid-side", 2, 2.3) for kind in ENSEMBLES),
        *((kind, "mid-side", 1, 0.01) for kind in (*SINGLE, *ENSEMBLES)),
    ],
)
def test_a_network_that_remembers_all_gives_what_it_gives_on_the_whole_song(kind, stereo, n_together, duration_s):
    model = remembering_model(kind, stereo=stereo, n_channels=n_together)
    mixture = music(duration_s, n_channels=3)
    assert_same(estimate(mixture, model, chunk_s=1.0, context_s=0.0), whole_song(mixture, model))


def test_a_network_that_remembers_all_is_not_the_same_in_chunks():
    """The test above can fail: half a minute is forgotten by no context that one could afford."""
    model = remembering_model("MaskInference")
    mixture, hidden = music(8.0), loaded(Masking(model.network.layers["model"]))
    assert decibels(estimate(mixture, hidden, chunk_s=1.0, context_s=1.0) - whole_song(mixture, model), mixture) > -60


@pytest.mark.parametrize(
    "kind, options",
    [("MaskInference", {}), ("BandSplitMaskInference", {"lookahead": 3}), ("Ensemble of BandSplitMaskInference", {})],
)
def test_a_network_of_one_direction_gives_what_it_gives_on_the_whole_song(kind, options):
    model, mixture = remembering_model(kind, bidirectional=False, **options), music(2.3)
    assert_same(estimate(mixture, model, chunk_s=1.0), whole_song(mixture, model))


@pytest.mark.parametrize(
    "preset_name, runtime",
    [
        *(("classic", "torch"), ("classic", "onnxruntime"), ("band-split", "torch"), ("band-split", "onnxruntime")),
        ("low-latency", "onnxruntime"),
    ],
)
def test_models_that_ship_give_what_they_give_on_the_whole_song(preset_name, runtime, demo_dataset):
    """They forget within half a minute: their context would have to be longer than most chunks."""
    model, reference = (load_checkpoint(preset_name, runtime=each) for each in (runtime, "torch"))
    song, *_ = sorted((demo_dataset / "test/mixture").glob("*.wav"))
    mixture = soundfile.read(song, dtype="float32")[0].T[:, : 4 * 44_100]
    assert_same(estimate(mixture, model, chunk_s=1.0), whole_song(mixture, reference))


@pytest.fixture
def disk_arrays(monkeypatch):
    """All arrays on disk that are made from here on."""
    made, init = [], DiskArray.__init__

    def noted(array, *arguments, **options):
        init(array, *arguments, **options)
        made.append(array)

    monkeypatch.setattr(DiskArray, "__init__", noted)
    return made


@pytest.mark.parametrize("kind", ["BandSplitMaskInference", "Ensemble of BandSplitMaskInference"])
def test_features_of_a_layer_take_the_place_of_the_last_ones(kind, tmp_path, monkeypatch, disk_arrays):
    """Of a long song they fill gigabytes: no second array is made, and no output outlives its layer."""
    most, write = [0], DiskArray.__setitem__

    def measured(array, *rows):
        write(array, *rows)
        open_arrays = [each for each in disk_arrays if not each._file.closed]
        most[0] = max(most[0], sum(math.prod(each.shape) for each in open_arrays))

    model = remembering_model(kind, stereo="mid-side")
    network, n_frames = layerwise_network(model.network), n_frames_of(44_100, SIGNAL)
    features = network.encode(torch.ones(2, 1, SIGNAL.n_bins, 1)).shape
    outputs = max(layer.lstm.hidden_size * features[0] for layer in network.layers_over_time())
    with DiskArray((2,)) as song:
        song.append(music(1.0).T)
        monkeypatch.setattr(DiskArray, "__setitem__", measured)
        Separator(model, folder=tmp_path)(song, 44_100)["vocals"].close()
    # The song, its estimate, the features, the outputs of both directions.
    expected = 2 * 44_100 * 2 + n_frames * (features[0] * features[2] + 2 * outputs)
    assert most[0] == expected


@pytest.mark.parametrize("phase", ["mixture", "griffin-lim"])
def test_arrays_on_disk_give_what_arrays_in_memory_give(tmp_path, phase):
    model, mixture = remembering_model("MaskInference", stereo="mid-side", n_channels=2), music(2.1)
    separator = Separator(model, ExtractionSettings(phase=phase, chunk_s=1.0, context_s=0.25), folder=tmp_path)
    with DiskArray((2,)) as song:
        song.append(mixture.T)
        with separator(song, 48_000)["vocals"] as on_disk:
            np.testing.assert_array_equal(on_disk[:], separator(mixture.T, 48_000)["vocals"])
            assert on_disk.shape == song.shape
    assert list(tmp_path.iterdir()) == []


def test_arrays_are_closed_where_the_separation_ends_early(disk_arrays):
    with DiskArray((1,), n_rows=100_000) as song, pytest.raises(ExtractionCancelledError):
        Separator(remembering_model("MaskInference"))(song, 48_000, cancelled=lambda: True)
    assert len(disk_arrays) > 2
    assert all(array._file.closed for array in disk_arrays)


def test_four_sources_add_up_with_the_residual():
    torch.manual_seed(0)
    network = NETWORKS["BandSplitMaskInference"](SIGNAL.n_bins, 2, 6, 1, True, 0.0, 4)
    signal = SignalSettings(stereo="mid-side")
    model = loaded(Layered(network), n_channels=2, sources=STEMS, signal=signal)
    mixture = music(2.3)
    estimates = Separator(model, ExtractionSettings(chunk_s=1.0))(mixture.T, 44_100)
    assert set(estimates) == set(STEMS)
    for source, found in estimates.items():
        assert_same(found.T, whole_song(mixture, model, source))
    every = separate(mixture, 44_100, model=model, stems=["all"])
    assert set(every) == set(STEMS)
    some = separate(mixture, 44_100, model=model, stems=["drums", "bass"])
    assert set(some) == {"drums", "bass", "residual"}
    for stems in (every, some):
        np.testing.assert_allclose(sum(stems.values()), mixture, atol=5e-7)


class Convolution(torch.nn.Module):
    """A network that is only `forward`: each mask depends on two frames before and two behind."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv1d(SIGNAL.n_bins, SIGNAL.n_bins, kernel_size=5, dilation=20, padding=40)

    def forward(self, data):
        magnitudes = data["mix_magnitude"][..., 0].transpose(1, 2)  # (n_batch, n_bins, n_frames)
        return {"mask": (30 * self.layer(magnitudes)).sigmoid().transpose(1, 2)[..., None, None]}


@pytest.mark.parametrize("duration_s, n_channels", [(0.3, 1), (3.7, 2)])
def test_a_convolution_in_chunks_gives_what_it_gives_on_the_whole(duration_s, n_channels):
    model, mixture = loaded(Convolution()), music(duration_s, n_channels=n_channels)
    # 40 frames that the mask depends on, and two beside the kept ones that reach into their samples.
    context_s = 42.0 * SIGNAL.hop_length / SIGNAL.sample_rate
    assert_same(estimate(mixture, model, chunk_s=1.0, context_s=context_s), whole_song(mixture, model))
    if duration_s > 1.0:
        without = estimate(mixture, model, chunk_s=1.0, context_s=0.0)
        assert decibels(without - whole_song(mixture, model), mixture) > -100


def test_chunks_go_through_the_network_together_where_they_are_small():
    """As on an accelerator, which takes more at once."""
    n_together = []

    class Watched(ConstantMask):
        def forward(self, data):
            n_together.append(len(data["mix_magnitude"]))
            return super().forward(data)

    signal = SignalSettings(sample_rate=8_000, window_length=64, hop_length=32)
    mixture = music(9.3, sample_rate=8_000)
    found = estimate(mixture, loaded(Watched(0.5), signal=signal), sample_rate=8_000, chunk_s=1.0, context_s=0.1)
    np.testing.assert_allclose(found, 0.5 * mixture, atol=5e-7)
    assert sorted(n_together) == [2, 2, 2, 14], "of 10 chunks of two channels, three have less context"


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_network_that_halves_time_does_not_depend_on_where_chunks_begin(runtime):
    model = load_checkpoint("studio", runtime=runtime)
    mixture = music(5.0, n_channels=2)
    whole = whole_song(mixture, load_checkpoint(model.path, runtime="torch"))
    found = estimate(mixture, model, chunk_s=1.3, context_s=1.0)
    assert decibels(found - whole, whole) < -50, "-20 where chunks begin at any frame"


@pytest.mark.parametrize("duration_s, n_channels", [(0.01, 1), (2.9, 3), (6.7, 2)])
def test_chunks_with_context_give_what_the_whole_song_gives(model, duration_s, n_channels):
    mixture = music(duration_s, n_channels=n_channels)
    whole = whole_song(mixture, model)
    assert decibels(whole, mixture) < -3, "the mask does nothing"
    assert_same(estimate(mixture, model, chunk_s=1.5, context_s=2.0), whole)


def test_without_context_the_joints_show(model):
    """The test above can fail."""
    mixture, whole = music(5.0), whole_song(music(5.0), model)
    assert decibels(estimate(mixture, model, chunk_s=1.0, context_s=0.0) - whole, whole) > -60


def test_griffin_lim_in_chunks_gives_what_it_gives_on_the_whole(model):
    mixture = music(2.6, n_channels=1)
    samples = torch.from_numpy(mixture)
    with torch.inference_mode():
        spectrum = stft(samples, signal=SIGNAL)
        mask = model.network({"mix_magnitude": spectrum.abs().unsqueeze(-1)})["mask"][..., 0, 0]
        whole = griffin_lim(spectrum.abs() * mask, phase_of=spectrum, n_samples=mixture.shape[1], signal=SIGNAL).numpy()
    found = estimate(mixture, model, phase="griffin-lim", chunk_s=1.0, context_s=1.0)
    assert decibels(found - whole, whole) < -30, "iterations with momentum amplify what the context leaves"
    assert decibels(found - whole_song(mixture, model), whole) > -20, "the phase is the mixture's"


@pytest.mark.parametrize("duration_s", [0.3, 2.0, 3.7])
def test_a_constant_mask_scales_the_song_without_joints(duration_s):
    mixture = music(duration_s)
    vocals = estimate(mixture, loaded(ConstantMask(0.25)), chunk_s=1.0, context_s=0.1)
    # 32-bit transforms there and back: a few units in the last place of 0.5.
    np.testing.assert_allclose(vocals, 0.25 * mixture, atol=5e-7)


@pytest.mark.parametrize(
    "window_length, hop_length, context_s",
    [*((512, hop, context_s) for hop in (256, 128, 64) for context_s in (0.0, 0.016)), (16_384, 1_024, 0.016)],
)
def test_no_joint_shows_wherever_the_song_ends(window_length, hop_length, context_s):
    """The last chunk may have fewer frames than share samples with the one before; the longest windows outlast both."""
    signal = SignalSettings(sample_rate=8_000, window_length=window_length, hop_length=hop_length)
    model = loaded(ConstantMask(1.0), signal=signal)
    song = music(2 + 2 * window_length / 8_000, sample_rate=8_000, n_channels=1)
    for n_samples in range(16_000 - hop_length, song.shape[1] + 1, hop_length // 2):
        mixture = song[:, :n_samples]
        vocals = estimate(mixture, model, sample_rate=8_000, chunk_s=1.0, context_s=context_s)
        np.testing.assert_allclose(vocals, mixture, atol=1e-6, err_msg=f"{n_samples} samples")


@pytest.mark.parametrize("sample_rate", [8_000, 48_000, 96_000])
def test_another_sample_rate_keeps_time_and_level(sample_rate):
    t = np.arange(round(3.3 * sample_rate)) / sample_rate
    mixture = (0.5 * np.sin(2 * np.pi * 440 * t)[None]).astype(np.float32)
    vocals = estimate(mixture, loaded(ConstantMask(0.5)), sample_rate=sample_rate, chunk_s=1.0, context_s=0.1)
    inner = slice(sample_rate // 10, -sample_rate // 10)
    assert decibels((vocals - 0.5 * mixture)[:, inner], mixture[:, inner]) < -90


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n_samples=st.integers(0, 5_000),
    sample_rate=st.sampled_from(RATES),
    n_channels=st.integers(1, 9),
    level=st.sampled_from([0.0, 1e-30, 1e-4, 1.0, 30.0, 1e9]),
    mask=st.sampled_from(["soft", "binary"]),
    kind=st.sampled_from(["chunks", "each", "mid-side"]),
    seed=st.integers(0, 1_000),
)
def test_any_array_keeps_its_length_adds_up_and_stays_finite(
    model, n_samples, sample_rate, n_channels, level, mask, kind, seed
):
    if kind != "chunks":
        model = remembering_model("BandSplitMaskInference", stereo=kind, n_channels=1 + seed % 2)
    rng = np.random.default_rng(seed)
    mixture = (level * rng.uniform(-1, 1, (n_channels, n_samples))).astype(np.float32)
    stems = separate(mixture, sample_rate, model=model, mask=mask)
    assert list(stems) == ["vocals", "accompaniment"]
    vocals, accompaniment = stems.values()
    assert vocals.shape == accompaniment.shape == mixture.shape
    assert vocals.dtype == accompaniment.dtype == np.float32
    assert np.isfinite(vocals).all()
    assert np.isfinite(accompaniment).all()
    # The sum of two 32-bit floats is off by half a unit in the last place of the larger.
    np.testing.assert_allclose(vocals + accompaniment, mixture, rtol=0, atol=level * 5e-7)


def test_silence_stays_silence(model):
    stems = separate(np.zeros((2, 50_000)), 44_100, model=model)
    assert not any(stem.any() for stem in stems.values())


def test_channels_do_not_touch_each_other(model):
    left, right = music(2.0, n_channels=1, seed=1), music(2.0, n_channels=1, seed=2)
    both = separate(np.concatenate([left, right]), 44_100, model=model)["vocals"]
    for channel, alone in enumerate((left, right)):
        vocals = separate(alone, 44_100, model=model)["vocals"]
        # The order of additions within a batch differs.
        np.testing.assert_allclose(both[channel], vocals[0], atol=1e-6)


def test_binary_mask_of_one_source_cuts_at_a_half():
    mixture = music(1.0)
    for value, kept in ((0.51, mixture), (0.5, 0 * mixture), (0.1, 0 * mixture)):
        vocals = separate(mixture, 44_100, model=loaded(ConstantMask(value)), mask="binary")["vocals"]
        np.testing.assert_allclose(vocals, kept, atol=1e-6)


@pytest.mark.parametrize("values, is_vocals", [((0.3, 0.4), True), ((0.9, 0.8), False)])
def test_binary_mask_of_several_sources_goes_to_the_largest(values, is_vocals):
    mixture = music(1.0)
    two = loaded(ConstantMask(*values), sources=("bass+drums+other", "vocals"))
    vocals = separate(mixture, 44_100, model=two, mask="binary")["vocals"]
    np.testing.assert_allclose(vocals, mixture * is_vocals, atol=1e-6)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
def test_a_model_for_two_channels_takes_pairs(n_channels):
    mixture = music(1.0, n_channels=n_channels)
    vocals = separate(mixture, 44_100, model=loaded(ChannelMask(), n_channels=2))["vocals"]
    expected = mixture * (np.arange(n_channels) % 2 == 0)[:, None]
    np.testing.assert_allclose(vocals, expected, atol=1e-6)


@pytest.mark.parametrize("n_samples", [1, 1_000, 100_001])
def test_an_audio_model_is_used_as_such(n_samples):
    model = loaded(HalvingAudio(), output="audio", sources=("bass+drums+other", "vocals"))
    mixture = music(4.0)[:, :n_samples]
    np.testing.assert_array_equal(estimate(mixture, model, chunk_s=1.0, context_s=0.2), 0.5 * mixture)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("sample_rate", [22_050, 44_100])
def test_what_is_no_sample_is_refused_with_its_place(model, value, sample_rate):
    mixture = music(3.0, sample_rate=sample_rate)
    mixture[1, 2 * sample_rate] = value
    with pytest.raises(ExtractionError, match=r"at 2\.000 s"):
        separate(mixture, sample_rate, model=model)


@pytest.mark.parametrize("mixture", [np.zeros(10), np.zeros((0, 10)), np.zeros((1, 2, 3))])
def test_other_shapes_are_refused(model, mixture):
    with pytest.raises(ExtractionError, match="expected \\(n_channels, n_samples\\)"):
        separate(mixture, 44_100, model=model)


def test_a_sample_rate_of_nothing_is_refused(model):
    with pytest.raises(ExtractionError, match="sample rate is 0"):
        separate(np.zeros((1, 10)), 0, model=model)


@pytest.mark.parametrize("sample_rate", [44_100, 48_000])
@pytest.mark.parametrize("network", ["in chunks", "by layers"])
def test_progress_rises_to_the_end(model, network, sample_rate):
    if network == "by layers":
        model = remembering_model("MaskInference")
    calls = []
    separator = Separator(model, ExtractionSettings(chunk_s=1.0))
    progress = lambda done_s, total_s: calls.append((done_s, total_s))  # noqa: E731
    separator(music(5.0, sample_rate=sample_rate).T, sample_rate, progress=progress)
    assert len(calls) > 4
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (5.0, 5.0)


@pytest.mark.parametrize("after", [0, 14, 28])
def test_cancelling_stops_at_any_stage(after):
    """A song of several chunks, encoded, taken through the layers and decoded."""
    calls = itertools.count()
    model = remembering_model("MaskInference", bidirectional=False)
    with pytest.raises(ExtractionCancelledError):
        separate(np.zeros((1, 2_000_000)), 44_100, model=model, cancelled=lambda: next(calls) >= after)
    assert next(calls) == after + 1


def test_the_caller_keeps_its_number_of_threads(model):
    before = torch.get_num_threads()
    separate(music(1.0), 44_100, model=model)
    assert torch.get_num_threads() == before


def test_istft_is_the_limit_of_one_chunk():
    """Whatever the settings, a song shorter than a chunk is transformed as `spectrogram` transforms it."""
    mixture = music(1.0, n_channels=1)
    spectrum = stft(torch.from_numpy(mixture), signal=SIGNAL)
    expected = istft(0.5 * spectrum, n_samples=mixture.shape[1], signal=SIGNAL).numpy()
    np.testing.assert_allclose(estimate(mixture, loaded(ConstantMask(0.5))), expected, atol=1e-7)


def test_reading_a_model_needs_neither_nussl_nor_the_compiler(tmp_path):
    """Each takes longer to import than the extraction of a song, and memory beside."""
    code = """
import sys, torch
from vocal_extraction.networks import MaskInference, BandSplitMaskInference
from vocal_extraction import checkpointing, extraction
for kind in (MaskInference, BandSplitMaskInference):
    with torch.device("meta"):
        kind(257, 1, 8, 1, True, 0.0, 1)
print([name for name in ("nussl", "torch._dynamo", "sympy", "scipy", "librosa", "matplotlib") if name in sys.modules])
"""
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.strip() == "[]"
