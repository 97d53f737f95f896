"""Arrays in, arrays out: the estimate of a stream is the estimate of the whole, and the stems add up."""

import itertools
import os
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
    Masking,
    loaded,
    music,
    remembering_model,
    tiny_model,
    whole_song,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocal_extraction.checkpointing import load_checkpoint, shipped_checkpoint, shipped_checkpoints
from vocal_extraction.errors import ExtractionCancelledError, ExtractionError, SongTooLongError
from vocal_extraction.networks import NETWORKS, EnsembleMaskInference
from vocal_extraction.separation.estimation import Estimator
from vocal_extraction.separation.pieces import Shelf, cut, grouped, joined, sample_grid, spectral_grid
from vocal_extraction.separation.separation import Watch, resampled, separate, separate_stream, taped_bytes
from vocal_extraction.separation.tapes import Tape, Tapes
from vocal_extraction.settings import ExtractionSettings, SignalSettings
from vocal_extraction.spectrogram import analyze, griffin_lim, istft, stft, synthesis_weight, synthesize

SINGLE = [name for name in NETWORKS if name != EnsembleMaskInference.__name__]
KINDS = [*SINGLE, *(f"Ensemble of {kind}" for kind in SINGLE)]
RATES = (8_000, 11_025, 16_000, 22_050, 32_000, 37_800, 44_100, 48_000, 96_000)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def estimate(mixture, model, *, block=10_007, sample_rate=44_100, **options):
    """Separate in blocks of a length that fits nothing, with the given settings."""
    blocks = (mixture[:, start : start + block] for start in range(0, mixture.shape[1], block))
    estimator = Estimator(model, ExtractionSettings(**options))
    pairs = list(separate_stream(blocks, sample_rate, estimator=estimator))
    np.testing.assert_array_equal(np.concatenate([mixture for mixture, _ in pairs], axis=1), mixture)
    return np.concatenate([vocals for _, vocals in pairs], axis=1)


def decibels(error, reference):
    return 10 * np.log10(np.sum(np.square(error, dtype=np.float64)) / np.sum(np.square(reference, dtype=np.float64)))


def assert_same(pieces, whole):
    """Hold an estimate to what is promised of it: overall, and in its worst tenth of a second."""
    assert decibels(pieces - whole, whole) < -80
    frame = 4_410
    for number in range(max(1, whole.shape[1] // frame)):
        span = slice(number * frame, (number + 1) * frame)
        assert decibels((pieces - whole)[:, span], whole[:, span]) < -60, f"frame {number}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stereo, n_together", [("each", 1), ("each", 2), ("mid-side", 1), ("mid-side", 2)])
@pytest.mark.parametrize("duration_s, n_channels", [(0.01, 2), (5.3, 3)])
def test_a_network_that_remembers_all_hears_the_whole_song(kind, stereo, n_together, duration_s, n_channels):
    model = remembering_model(kind, stereo=stereo, n_channels=n_together)
    mixture = music(duration_s, n_channels=n_channels)
    assert_same(estimate(mixture, model, chunk_s=1.0, context_s=0.0), whole_song(mixture, model))


def test_a_network_that_remembers_all_is_not_the_same_in_pieces():
    """The test above can fail: half a minute is forgotten by no context that one could afford."""
    model = remembering_model("MaskInference")
    mixture, hidden = music(8.0), loaded(Masking(model.network.layers["model"]))
    assert decibels(estimate(mixture, hidden, chunk_s=1.0, context_s=1.0) - whole_song(mixture, model), mixture) > -60


def test_a_network_of_one_direction_hears_the_whole_song():
    model, mixture = remembering_model("MaskInference", bidirectional=False), music(4.1)
    assert_same(estimate(mixture, model, chunk_s=1.0), whole_song(mixture, model))


@pytest.mark.parametrize("preset_name", sorted(shipped_checkpoints()))
def test_models_that_ship_hear_the_whole_song(preset_name, demo_dataset):
    """The studio network forgets within half a minute: its context would have to be longer than most chunks."""
    model = load_checkpoint(shipped_checkpoint(preset_name))
    songs = [
        soundfile.read(path, dtype="float32")[0].T for path in sorted((demo_dataset / "test/mixture").glob("*.wav"))
    ]
    mixture = np.concatenate(songs, axis=1)
    assert_same(estimate(mixture, model, chunk_s=2.0), whole_song(mixture, model))


@pytest.mark.parametrize("model", [remembering_model("MaskInference"), tiny_model()], ids=["by layers", "by pieces"])
def test_no_more_of_a_song_comes_in_than_its_limit(model):
    """Progress is a share of the work: a network that hears the whole song first took in five times the limit."""
    block, n_blocks = music(0.5), []

    def song(n_most):
        for number in range(n_most):
            n_blocks.append(number)
            yield block

    def separated(n_most):
        n_blocks.clear()
        watch = Watch(longest_s=2.0)
        return list(
            separate_stream(song(n_most), 44_100, estimator=Estimator(model, ExtractionSettings()), watch=watch)
        )

    assert sum(vocals.shape[1] for _, vocals in separated(4)) == 2 * 44_100
    with pytest.raises(SongTooLongError, match="longer than 2 s"):
        separated(100)
    assert len(n_blocks) == 5, "the block that is too much is the last that is asked for"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stereo, sample_rate, n_channels", [("mid-side", 44_100, 2), ("each", 8_000, 3)])
def test_tapes_take_what_is_counted_for_them(kind, stereo, sample_rate, n_channels, tmp_path, monkeypatch):
    running, sizes, new, write = [], [], Tapes.new, Tape.write

    def noted(tapes):
        running.append(new(tapes))
        return running[-1]

    def measured(tape, *rows):
        write(tape, *rows)
        sizes.append(sum(os.fstat(each._file.fileno()).st_size for each in running if not each._file.closed))

    monkeypatch.setattr(Tapes, "new", noted)
    monkeypatch.setattr(Tape, "write", measured)
    estimator = Estimator(remembering_model(kind, stereo=stereo), ExtractionSettings())
    song = music(4.0, sample_rate=sample_rate, n_channels=n_channels)
    list(separate_stream([song], sample_rate, estimator=estimator, tape_folder=tmp_path))
    monkeypatch.undo()
    counted = taped_bytes(estimator, sample_rate=sample_rate, n_channels=n_channels)
    assert max(sizes) == pytest.approx(4.0 * counted, rel=0.02)  # a song has a frame more than its length


def test_a_network_that_hears_pieces_needs_no_tape(model):
    assert taped_bytes(Estimator(model, ExtractionSettings()), sample_rate=44_100, n_channels=2) == 0


@pytest.mark.parametrize("phase", ["mixture", "griffin-lim"])
def test_tapes_on_disk_give_what_tapes_in_memory_give(tmp_path, phase):
    model, mixture = remembering_model("BandSplitMaskInference", stereo="mid-side", n_channels=2), music(3.3)
    estimator = Estimator(model, ExtractionSettings(phase=phase, chunk_s=1.0, context_s=0.5))
    runs = [
        np.concatenate(
            [vocals for _, vocals in separate_stream([mixture], 48_000, estimator=estimator, **where)], axis=1
        )
        for where in ({}, {"tape_folder": tmp_path})
    ]
    np.testing.assert_array_equal(*runs)
    assert list(tmp_path.iterdir()) == []


def test_a_tape_that_ends_early_is_no_song():
    tape = Tape(None)
    tape.write(0, np.ones((3, 2), np.float32))
    with pytest.raises(EOFError, match="3 rows ends before row 5"):
        tape.read(1, 5)


@pytest.mark.parametrize("duration_s, n_channels", [(0.01, 1), (4.9, 1), (4.9, 3), (9.3, 2)])
def test_pieces_with_context_give_what_the_whole_song_gives(model, duration_s, n_channels):
    mixture = music(duration_s, n_channels=n_channels)
    whole = whole_song(mixture, model)
    assert decibels(whole, mixture) < -3, "the mask does nothing"
    assert_same(estimate(mixture, model, chunk_s=1.5, context_s=2.0), whole)


def test_without_context_the_joints_are_heard(model):
    """The test above can fail."""
    mixture, whole = music(5.0), whole_song(music(5.0), model)
    assert decibels(estimate(mixture, model, chunk_s=1.0, context_s=0.0) - whole, whole) > -40


def test_griffin_lim_in_pieces_gives_what_it_gives_on_the_whole(model):
    mixture = music(4.2, n_channels=1)
    samples = torch.from_numpy(mixture)
    with torch.inference_mode():
        spectrum = stft(samples, signal=SIGNAL)
        mask = model.network({"mix_magnitude": spectrum.abs().unsqueeze(-1)})["mask"][..., 0, 0]
        whole = griffin_lim(spectrum.abs() * mask, phase_of=spectrum, n_samples=mixture.shape[1], signal=SIGNAL).numpy()
    pieces = estimate(mixture, model, phase="griffin-lim", chunk_s=1.0, context_s=1.0)
    assert decibels(pieces - whole, whole) < -40, "iterations amplify what the context leaves"
    assert decibels(pieces - whole_song(mixture, model), whole) > -40, "the phase is the mixture's"


@pytest.mark.parametrize("duration_s", [0.3, 2.0, 7.7])
def test_a_constant_mask_scales_the_song_without_joints(duration_s):
    mixture = music(duration_s)
    vocals = estimate(mixture, loaded(ConstantMask(0.25)), chunk_s=1.0, context_s=0.1)
    # 32-bit transforms there and back: a few units in the last place of 0.5.
    np.testing.assert_allclose(vocals, 0.25 * mixture, atol=5e-7)


@pytest.mark.parametrize("window_length, hop_length", [(512, 256), (512, 128), (512, 64), (16_384, 1_024)])
@pytest.mark.parametrize("context_s", [0.0, 0.016])
def test_no_joint_is_heard_wherever_the_song_ends(window_length, hop_length, context_s):
    """The last piece may have fewer frames than share samples with the one before; the longest windows outlast both."""
    signal = SignalSettings(sample_rate=8_000, window_length=window_length, hop_length=hop_length)
    model = loaded(ConstantMask(1.0), signal=signal)
    song = music(2 + 2 * window_length / 8_000, sample_rate=8_000, n_channels=1)
    for n_samples in range(16_000 - hop_length, song.shape[1] + 1, hop_length // 2):
        mixture = song[:, :n_samples]
        vocals = estimate(mixture, model, block=1_009, sample_rate=8_000, chunk_s=1.0, context_s=context_s)
        np.testing.assert_allclose(vocals, mixture, atol=1e-6, err_msg=f"{n_samples} samples")


@pytest.mark.parametrize("sample_rate", [8_000, 48_000, 96_000])
def test_another_sample_rate_keeps_time_and_level(sample_rate):
    t = np.arange(round(3.3 * sample_rate)) / sample_rate
    mixture = (0.5 * np.sin(2 * np.pi * 440 * t)[None]).astype(np.float32)
    vocals = estimate(mixture, loaded(ConstantMask(0.5)), sample_rate=sample_rate, chunk_s=1.0, context_s=0.1)
    inner = slice(sample_rate // 10, -sample_rate // 10)
    assert decibels((vocals - 0.5 * mixture)[:, inner], mixture[:, inner]) < -90


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n_samples=st.integers(0, 12_000),
    sample_rate=st.sampled_from(RATES),
    n_channels=st.integers(1, 9),
    level=st.sampled_from([0.0, 1e-30, 1e-4, 1.0, 30.0, 1e9]),
    mask=st.sampled_from(["soft", "binary"]),
    kind=st.sampled_from(["pieces", "each", "mid-side"]),
    seed=st.integers(0, 1_000),
)
def test_any_array_keeps_its_length_adds_up_and_stays_finite(
    model, n_samples, sample_rate, n_channels, level, mask, kind, seed
):
    if kind != "pieces":
        model = remembering_model("BandSplitMaskInference", stereo=kind, n_channels=1 + seed % 2)
    rng = np.random.default_rng(seed)
    mixture = (level * rng.uniform(-1, 1, (n_channels, n_samples))).astype(np.float32)
    vocals, accompaniment = separate(mixture, sample_rate, model=model, mask=mask)
    assert vocals.shape == accompaniment.shape == mixture.shape
    assert vocals.dtype == accompaniment.dtype == np.float32
    assert np.isfinite(vocals).all()
    assert np.isfinite(accompaniment).all()
    # The sum of two 32-bit floats is off by half a unit in the last place of the larger.
    np.testing.assert_allclose(vocals + accompaniment, mixture, rtol=0, atol=level * 5e-7)


def test_silence_stays_silence(model):
    vocals, accompaniment = separate(np.zeros((2, 50_000)), 44_100, model=model)
    assert not vocals.any()
    assert not accompaniment.any()


def test_channels_do_not_touch_each_other(model):
    left, right = music(2.0, n_channels=1, seed=1), music(2.0, n_channels=1, seed=2)
    both, _ = separate(np.concatenate([left, right]), 44_100, model=model)
    for channel, alone in enumerate((left, right)):
        vocals, _ = separate(alone, 44_100, model=model)
        # The order of additions within a batch differs.
        np.testing.assert_allclose(both[channel], vocals[0], atol=1e-6)


def test_binary_mask_of_one_source_cuts_at_a_half():
    mixture = music(1.0)
    for value, kept in ((0.51, mixture), (0.5, 0 * mixture), (0.1, 0 * mixture)):
        vocals, _ = separate(mixture, 44_100, model=loaded(ConstantMask(value)), mask="binary")
        np.testing.assert_allclose(vocals, kept, atol=1e-6)


@pytest.mark.parametrize("values, is_vocals", [((0.3, 0.4), True), ((0.9, 0.8), False)])
def test_binary_mask_of_several_sources_goes_to_the_largest(values, is_vocals):
    mixture = music(1.0)
    two = loaded(ConstantMask(*values), sources=("bass+drums+other", "vocals"))
    vocals, _ = separate(mixture, 44_100, model=two, mask="binary")
    np.testing.assert_allclose(vocals, mixture * is_vocals, atol=1e-6)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
def test_a_model_for_two_channels_hears_pairs(n_channels):
    mixture = music(1.0, n_channels=n_channels)
    vocals, _ = separate(mixture, 44_100, model=loaded(ChannelMask(), n_channels=2))
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
@pytest.mark.parametrize("hears", ["pieces", "whole songs"])
def test_progress_rises_to_the_end(model, hears, sample_rate):
    if hears == "whole songs":
        model = remembering_model("MaskInference")
    told = []
    separate(
        music(9.0, sample_rate=sample_rate),
        sample_rate,
        model=model,
        progress=lambda done_s, total_s: told.append((done_s, total_s)),
    )
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (9.0, 9.0)


@pytest.mark.parametrize("after", [0, 4, 7])
def test_cancelling_stops_at_any_stage(after):
    """Of a song of three pieces, three are taken in, three times the layers go on, and three are given out."""
    calls = itertools.count()
    model = remembering_model("MaskInference", bidirectional=False)
    with pytest.raises(ExtractionCancelledError):
        separate(np.zeros((1, 2_000_000)), 44_100, model=model, cancelled=lambda: next(calls) >= after)
    assert next(calls) == after + 1


def test_the_caller_keeps_its_number_of_threads(model):
    before = torch.get_num_threads()
    separate(music(1.0), 44_100, model=model)
    assert torch.get_num_threads() == before


@settings(max_examples=60, deadline=None)
@given(
    n_samples=st.integers(1, 30_000),
    block=st.integers(1, 9_000),
    chunk_s=st.floats(1.0, 1.2),
    context_s=st.floats(0.0, 0.1),
    spectral=st.booleans(),
)
def test_cutting_and_joining_gives_the_song_back(n_samples, block, chunk_s, context_s, spectral):
    """A rate of 8 kHz makes for many pieces; the estimate is the piece itself."""
    signal = type(SIGNAL)(sample_rate=8_000, window_length=256, hop_length=64)
    options = ExtractionSettings(chunk_s=chunk_s, context_s=context_s)
    grid = (spectral_grid if spectral else sample_grid)(signal, options)
    song = np.arange(1, n_samples + 1, dtype=np.float32)[None] / n_samples
    blocks = [song[:, start : start + block] for start in range(0, n_samples, block)]

    def kept(piece):
        if not spectral:
            end = None if piece.is_last else piece.kept.stop * grid.hop_length
            return piece.samples[:, piece.kept.start * grid.hop_length : end].copy()
        spectrum = analyze(torch.from_numpy(piece.samples), signal=signal)[:, piece.kept]
        n_beside = [0 if edge else 3 for edge in (piece.is_first, piece.is_last)]
        n_frames = spectrum.shape[1]
        weight = synthesis_weight(n_frames + sum(n_beside), signal=signal, device=spectrum.device)
        start = n_beside[0] * grid.hop_length
        return (synthesize(spectrum, signal=signal) / weight[start : start + grid.samples_of(n_frames)]).numpy()

    pieces = list(cut(iter(blocks), grid))
    assert [piece.is_first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    back = np.concatenate(list(joined(map(kept, pieces), grid)), axis=1)[:, :n_samples]
    np.testing.assert_allclose(back, song, atol=1e-5)


def test_groups_hold_neighbours_of_equal_length():
    grid = spectral_grid(SIGNAL, ExtractionSettings(chunk_s=1.0, context_s=0.5))
    pieces = list(cut([music(9.0, n_channels=2)], grid))
    groups = list(grouped(iter(pieces), lambda n_channels: 6 // n_channels))
    assert [piece for group in groups for piece in group] == pieces
    assert max(map(len, groups)) == 3
    assert all(len({piece.n_frames for piece in group}) == 1 for group in groups)


def test_no_song_gives_no_piece():
    grid = spectral_grid(SIGNAL, ExtractionSettings())
    assert list(cut([], grid)) == []
    assert list(cut([np.zeros((2, 0), np.float32)], grid)) == []
    assert list(joined([], grid)) == []


def test_a_shelf_gives_back_what_passed():
    shelf = Shelf()
    blocks = [np.full((1, n), n, np.float32) for n in (3, 5, 1)]
    assert len(list(shelf.passing(blocks))) == 3
    assert (shelf.n_passed, shelf.n_held) == (9, 9)
    np.testing.assert_array_equal(shelf.take(4), [[3, 3, 3, 5]])
    np.testing.assert_array_equal(shelf.take(5), [[5, 5, 5, 5, 1]])
    assert shelf.n_held == 0


@pytest.mark.parametrize("to_rate", [8_000, 22_050, 48_000, 192_000])
def test_resampling_in_blocks_is_resampling_at_once(to_rate):
    song = music(0.7)
    blocks = [song[:, start : start + 1_001] for start in range(0, song.shape[1], 1_001)]
    in_blocks = np.concatenate(list(resampled(blocks, 44_100, to_rate)), axis=1)
    at_once = np.concatenate(list(resampled([song], 44_100, to_rate)), axis=1)
    np.testing.assert_allclose(in_blocks, at_once, atol=1e-6)
    assert abs(in_blocks.shape[1] - song.shape[1] * to_rate / 44_100) <= 1


def test_istft_is_the_limit_of_one_piece():
    """Whatever the settings, a song shorter than a piece is transformed as `spectrogram` transforms it."""
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
