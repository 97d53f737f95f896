"""Synthesised songs: reproducible, and with the pitches, spectra, levels and places that they promise."""

import numpy as np
import pytest
import scipy.signal
import soundfile

from vocal_extraction import demo_songs
from vocal_extraction.demo_songs import MIXTURE_PEAK, STEM_LEVELS_DB, synthesize_song, write_demo_songs
from vocal_extraction.demo_songs.players import hiss, pitch, pluck, vowel
from vocal_extraction.demo_songs.sound import add, compose, echo, hertz, pan, wave
from vocal_extraction.errors import SettingsError
from vocal_extraction.musdb_preparation import STREAMS, SUBSETS, song_names, song_paths
from vocal_extraction.settings import STEMS

SAMPLE_RATE = 44_100


def power(signal):
    return float(np.mean(np.square(signal)))


def decibels(ratio):
    return 10 * np.log10(ratio)


@pytest.fixture(scope="module")
def songs():
    return [synthesize_song(seed, 3.0) for seed in range(4)]


def test_song_has_four_stereo_stems_of_the_length_asked_for(songs):
    for stems in songs:
        assert tuple(sorted(stems)) == STEMS
        for signal in stems.values():
            assert signal.shape == (2, 3 * SAMPLE_RATE)
            assert np.isfinite(signal).all()


def test_same_seed_plays_the_same_song_whatever_was_played_before():
    first = synthesize_song(11, 1.0)
    synthesize_song(12, 1.0)
    again = synthesize_song(11, 1.0)
    for stem in STEMS:
        np.testing.assert_array_equal(first[stem], again[stem])


def test_other_seeds_play_other_songs(songs):
    for stem in STEMS:
        normalized = [stems[stem].ravel() / np.linalg.norm(stems[stem]) for stems in songs]
        correlations = [abs(a @ b) for i, a in enumerate(normalized) for b in normalized[:i]]
        # Two kicks on the first beat do look alike; the same song would have 1.
        assert max(correlations) < 0.8


def test_mixture_peaks_where_it_says_and_no_stem_drowns(songs):
    for stems in songs:
        mixture = sum(stems.values())
        assert np.abs(mixture).max() == pytest.approx(MIXTURE_PEAK)
        for stem, level_db in STEM_LEVELS_DB.items():
            # 6 dB: four draws of 1.5 dB standard deviation, of which the loudest moves the mixture too.
            assert decibels(power(stems[stem]) / power(mixture)) == pytest.approx(level_db, abs=6)


def test_stems_stand_at_different_places_in_the_stereo_picture(songs):
    def width_db(signal):
        left, right = signal
        return decibels(power(left - right) / power(left + right) + 1e-9)

    for stems in songs:
        assert width_db(stems["bass"]) < -60
        assert width_db(stems["vocals"]) < -3
        assert width_db(stems["other"]) > width_db(stems["bass"]) + 30


def test_spectra_are_those_of_the_instruments(songs):
    def share_below(signal, edge_hz):
        frequency_hz, density = scipy.signal.welch(signal.mean(axis=0), SAMPLE_RATE, nperseg=4_096)
        return density[frequency_hz < edge_hz].sum() / density.sum()

    for stems in songs:
        assert share_below(stems["bass"], 500) > 0.9
        assert share_below(stems["vocals"], 100) < 0.02
        assert share_below(stems["drums"], 200) > 0.05
        assert share_below(stems["drums"], 4_000) < 0.97


@pytest.mark.parametrize("seed, duration_s", [(-1, 7.0), (0, 0.5), (0, float("nan"))])
def test_impossible_song_is_refused(seed, duration_s):
    with pytest.raises(SettingsError, match="Demo songs need"):
        synthesize_song(seed, duration_s)


def sing_one_note(name, midi):
    contour = pitch(midi, 2.8, vibrato_hz=5.5, vibrato=0.5)
    return vowel(name, contour, np.random.default_rng(1))


def test_long_note_is_in_tune_and_vibrates():
    frequency_hz = float(hertz(48))
    voice = sing_one_note("a", 48)
    around = scipy.signal.butter(4, (0.8 * frequency_hz, 1.2 * frequency_hz), "bandpass", fs=SAMPLE_RATE, output="sos")
    phase = np.unwrap(np.angle(scipy.signal.hilbert(scipy.signal.sosfiltfilt(around, voice))))
    steady = slice(SAMPLE_RATE, int(2.6 * SAMPLE_RATE))
    semitones = 12 * np.log2(np.gradient(phase)[steady] * SAMPLE_RATE / (2 * np.pi) / frequency_hz)
    assert np.mean(semitones) == pytest.approx(0, abs=0.1)

    modulation = np.abs(np.fft.rfft((semitones - semitones.mean()) * np.hanning(len(semitones)), 8 * len(semitones)))
    rates_hz = np.fft.rfftfreq(8 * len(semitones), 1 / SAMPLE_RATE)
    assert rates_hz[modulation.argmax()] == pytest.approx(5.5, abs=0.1)  # Hz
    assert np.ptp(semitones) / 2 == pytest.approx(0.5, abs=0.2)  # semitones; the breath moves them, too


def test_vowels_have_their_formants():
    def level_db(name, low_hz, high_hz):
        frequency_hz, density = scipy.signal.welch(sing_one_note(name, 43), SAMPLE_RATE, nperseg=8_192)
        return decibels(density[(frequency_hz > low_hz) & (frequency_hz < high_hz)].sum())

    # Peterson and Barney: the second formant is at 1,090 Hz in "a" and at 2,290 Hz in "i", the first at 730 and 270 Hz.
    for name, there, elsewhere in [("a", (950, 1_250), (2_100, 2_500)), ("i", (2_100, 2_500), (950, 1_250))]:
        assert level_db(name, *there) > level_db(name, *elsewhere) + 10
    assert level_db("a", 600, 860) > level_db("a", 200, 340)
    assert level_db("i", 200, 340) > level_db("i", 600, 860)


def test_sibilant_hisses():
    frequency_hz, density = scipy.signal.welch(hiss("s", np.random.default_rng(1)), SAMPLE_RATE)
    assert density[frequency_hz > 4_000].sum() > 0.9 * density.sum()
    assert len(hiss("", np.random.default_rng(1))) == 0


@pytest.mark.parametrize("midi", [40, 57, 69])
def test_plucked_string_rings_at_its_pitch_and_dies_away(midi):
    sound = pluck(midi, np.random.default_rng(0), brightness_hz=3_000)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 18))
    frequency_hz = np.fft.rfftfreq(1 << 18, 1 / SAMPLE_RATE)
    near = abs(frequency_hz / hertz(midi) - 1) < 0.4
    peak_hz = frequency_hz[near][spectrum[near].argmax()]
    assert 1_200 * np.log2(peak_hz / hertz(midi)) == pytest.approx(0, abs=5)  # cents
    assert power(sound[-SAMPLE_RATE // 5 :]) < 0.1 * power(sound[: SAMPLE_RATE // 5])


def test_wave_is_the_sum_of_its_harmonics():
    signal = wave(np.full(SAMPLE_RATE, 441.0), top_hz=900.0)
    angle = 2 * np.pi * 441 * np.arange(1, SAMPLE_RATE + 1) / SAMPLE_RATE
    # 1e-5: a straight line between two of 4,096 points of a sine misses it by (2 pi / 4,096)^2 / 8 at most.
    np.testing.assert_allclose(signal, np.sin(angle) + 0.5 * np.sin(2 * angle), atol=1e-5)


def test_panning_keeps_the_power():
    signal = np.random.default_rng(0).standard_normal(1_000)
    for position in (-1, -0.3, 0, 1):
        assert power(pan(signal, position)) == pytest.approx(power(signal) / 2)
    assert np.abs(pan(signal, -1)[1]).max() < 1e-12


def test_echo_is_added_at_its_level_and_nothing_before():
    click = np.zeros((2, SAMPLE_RATE))
    click[:, 1_000] = 1
    added = echo(click, np.random.default_rng(0), decay_s=0.5, wet_db=-12) - click
    assert np.abs(added[:, :1_500]).max() < 1e-9
    assert decibels(np.sum(added**2, axis=1)) == pytest.approx([-12, -12], abs=0.1)


def test_adding_cuts_what_hangs_over():
    track = np.zeros((2, 10))
    add(track, -2, np.ones(5))
    add(track, 8, np.full((2, 5), 2.0))
    add(track, 30, np.ones(5))
    np.testing.assert_array_equal(track, [[1, 1, 1, 0, 0, 0, 0, 0, 2, 2]] * 2)


def test_chords_are_triads_of_the_key():
    for seed in range(20):
        score = compose(np.random.default_rng(seed), 10 * SAMPLE_RATE)
        for bar in range(score.n_bars):
            root, third, fifth = map(score.midi, score.chord(bar))
            assert third - root in (3, 4)
            assert fifth - root in (6, 7)
        assert score.sample(score.n_bars) >= score.n_samples


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder, **changes):
    return write_demo_songs(folder, **{"n_train": 2, "n_valid": 1, "n_test": 1, "duration_s": 1.0, **changes})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    assert write(folder) == {"train": 2, "valid": 1, "test": 1}
    return folder


def test_files_hold_the_stems_and_their_sum(written):
    for subset in SUBSETS:
        assert (written / subset / "background").is_dir()
        for name in song_names(subset, written):
            signals = {}
            for stream, path in song_paths(written, subset, name).items():
                info = soundfile.info(path)
                assert (info.samplerate, info.channels, info.frames, info.subtype) == (44_100, 2, 44_100, "FLOAT")
                signals[stream] = soundfile.read(path)[0]
            total = sum(signals[stem] for stem in STREAMS[1:])
            np.testing.assert_allclose(signals["mixture"], total, atol=1e-6)  # five roundings to 24 bits


def test_no_song_is_in_two_subsets(written):
    mixtures = [path.read_bytes() for subset in SUBSETS for path in (written / subset / "mixture").iterdir()]
    assert len(set(mixtures)) == 4


def test_second_run_makes_nothing(written, monkeypatch):
    monkeypatch.setattr(demo_songs, "synthesize_song", lambda *_: pytest.fail("a song was made twice"))
    assert write(written) == {"train": 2, "valid": 1, "test": 1}


def test_interrupted_run_goes_on_and_ends_the_same(tmp_path, written, monkeypatch):
    def interrupted(seed, duration_s, n_left=[2]):  # noqa: B006 (a counter that lives as long as the patch)
        n_left[0] -= 1
        if n_left[0] < 0:
            raise KeyboardInterrupt
        return synthesize_song(seed, duration_s)

    with monkeypatch.context() as patch:
        patch.setattr(demo_songs, "synthesize_song", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path)
    assert sum(len(song_names(subset, tmp_path)) for subset in SUBSETS) == 2
    write(tmp_path)
    assert contents(tmp_path) == contents(written)


def test_song_that_lacks_a_file_or_has_another_length_is_made_again(tmp_path, written):
    write(tmp_path)
    song_paths(tmp_path, "train", song_names("train", tmp_path)[0])["bass"].unlink()
    write(tmp_path)
    assert contents(tmp_path) == contents(written)
    write(tmp_path, duration_s=1.5)
    assert {soundfile.info(path).frames for path in tmp_path.rglob("*.wav")} == {66_150}


def test_more_songs_leave_the_first_ones_as_they_are(tmp_path, written):
    write(tmp_path, n_train=3)
    assert contents(written).items() <= contents(tmp_path).items()


@pytest.mark.parametrize(
    "changes",
    [{"n_train": -1}, {"n_test": 10_001}, {"duration_s": 0.2}, {"seed": -1}],
    ids=lambda changes: str(changes),
)
def test_impossible_dataset_is_refused_before_anything_is_written(tmp_path, changes):
    with pytest.raises(SettingsError, match="Demo songs need"):
        write(tmp_path / "dataset", **changes)
    assert not (tmp_path / "dataset").exists()
