"""Every complaint of every settings dataclass is reached, all are gathered in one message, and the presets hold."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest

from vocal_extraction import settings
from vocal_extraction.errors import SettingsError, VocalExtractionError
from vocal_extraction.presets import PRESETS, SPECIFIED, Preset
from vocal_extraction.settings import (
    ExtractionSettings,
    MixingSettings,
    NetworkSettings,
    SignalSettings,
    TrainingSettings,
)

CLASSIC, STUDIO = PRESETS["classic"], PRESETS["studio"]

CLASSES = (SignalSettings, MixingSettings, NetworkSettings, TrainingSettings, ExtractionSettings)
NAN, INFINITY = math.nan, math.inf

WRONG: dict[type, list[tuple[str, str, tuple]]] = {
    SignalSettings: [
        ("sample rate must be between 8 and 192 kHz", "sample_rate", (7_999, 192_001, -44_100)),
        ("window length must be even and 16 to 16384", "window_length", (14, 513, 16_386, 0, -512)),
        ("hop length must divide window length into 2 or more", "hop_length", (0, -128, 100, 512, 257)),
        ("window type must be sqrt hann or hann", "window_type", ("hamming", "")),
        ("stereo must be each or mid side", "stereo", ("side", "")),
        ("padding must be half whole or reflect", "padding", ("", "mirror")),
        ("input level db must be none or minus 60 to 0", "input_level_db", (-61.0, 1.0, NAN)),
    ],
    MixingSettings: [
        ("duration s must be between half a second and a minute", "duration_s", (0.4, 61, NAN)),
        (
            "pitch shift semitones must lie within an octave",
            "pitch_shift_semitones",
            ((-13, 0), (2, -2), (NAN, 1), ()),
        ),
        ("time stretch must lie between a half and two", "time_stretch", ((0.4, 1), (1, 2.1), (1.2, 0.8), (1,), ())),
        ("snr db must be a finite range", "snr_db", ((5, -5), (-INFINITY, 5), (0, 1, 2))),
        ("offset s must be a range from 0 up", "offset_s", ((-1, 7), (7, 0), (0, INFINITY), ())),
        ("ref db must lie between minus 60 and 0", "ref_db", (-61, 1, NAN)),
        ("coherent probability must lie between 0 and 1", "coherent_probability", (-0.1, 1.1, NAN)),
        ("coherent gain db must be none or 0 to 60", "coherent_gain_db", (-1, INFINITY, NAN)),
        ("level db must be a finite range", "level_db", ((3, -12), (NAN, 0))),
        ("band limits hz must be positive", "band_limits_hz", ((8_000, 0), (NAN,))),
        ("equalizer db must be 0 to 24", "equalizer_db", (-1, 25, NAN)),
        ("channels must be mid any or stereo", "channels", ("left",)),
    ],
    NetworkSettings: [
        ("num audio channels must be 1 to 8", "num_audio_channels", (0, 9)),
        ("hidden size must be 1 to 4096", "hidden_size", (0, 10**9)),
        ("num layers must be 1 to 24", "num_layers", (0, 25)),
        ("dropout must be at least 0 and below 1", "dropout", (-0.1, 1.0, NAN)),
        ("activation must be sigmoid or softmax", "activation", ("relu",)),
        ("lookahead must be 0 to 64", "lookahead", (-1, 65)),
    ],
    TrainingSettings: [
        ("n epochs must be 1 to a million", "n_epochs", (0, 10**6 + 1, 10**400)),
        ("batches per epoch must be at least 1", "batches_per_epoch", (0,)),
        ("batch size must be at least 1", "batch_size", (0,)),
        ("an epoch must have at most a million mixtures", "batches_per_epoch", (10**6,)),
        ("n mixtures must be none or 1 to a million", "n_mixtures", (0, -1, 10**13)),
        ("n validation mixtures must be none or 1 to a million", "n_validation_mixtures", (0, 10**13)),
        ("loss must be magnitude l1 waveform waveform batch or spectrum batch", "loss", ("l2",)),
        ("source weights must be positive", "source_weights", ((0.0,),)),
        ("learning rate must be positive", "learning_rate", (0, -1e-3, INFINITY, NAN)),
        ("learning rate schedule must be constant or cosine", "learning_rate_schedule", ("linear",)),
        ("gradient clip norm must be none or positive", "gradient_clip_norm", (0, INFINITY)),
        ("weight average decay must be none or between 0 and 1", "weight_average_decay", (0, 1, NAN)),
        ("early stopping epochs must be none or at least 1", "early_stopping_epochs", (0,)),
    ],
    ExtractionSettings: [
        ("format must be one of wav16 wav24 float flac mp3 ogg m4a stem.mp4", "format", ("wav", "aiff")),
        ("bitrate kbps must be 16 to 512", "bitrate_kbps", (15, 513)),
        ("mask must be soft or binary", "mask", ("hard",)),
        ("phase must be mixture or griffin lim", "phase", ("griffin lim",)),
        (
            "output template must hold {song} or {title}, and {stem} and {ext}",
            "output_template",
            ("{folder}/{song}.{ext}", ""),
        ),
        (
            "output template must have names in pairs of braces, such as {stem}, and nothing else in them",
            "output_template",
            ("{song", "}", "{song:d}{stem}{ext}"),
        ),
        (
            "output template may hold {folder} {song} {stem} {ext} {artist} {title} {album} {track} {model} only",
            "output_template",
            ("{song}{stem}{ext}{Artist}", "{song.__class__}{stem}{ext}", "{song}{stem}{ext}{}", "{song}{stem}{ext}{0}"),
        ),
        ("chunk s must be 1 to 600", "chunk_s", (0.5, 601, NAN)),
        ("track must be a number from 1 or a language", "track", ("", "0")),
        ("wiener must be 0 to 10", "wiener", (-1, 11)),
        ("context s must be 0 to 30", "context_s", (-1, 31, NAN)),
        ("from s must be 0 or more", "from_s", (-1, NAN, INFINITY)),
        ("to s must be more than from s", "to_s", (-1, 0, NAN, INFINITY)),
    ],
}
CASES = [
    pytest.param(cls, complaint, field, values, id=f"{cls.__name__}-{complaint}")
    for cls, rows in WRONG.items()
    for complaint, field, values in rows
]


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_are_in_range_and_frozen(cls):
    default = cls()
    field = dataclasses.fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(default, field, getattr(default, field))
    assert default == cls()
    assert hash(default) == hash(cls())


@pytest.mark.parametrize("cls, complaint, field, values", CASES)
def test_each_complaint_is_made(cls, complaint, field, values):
    for value in values:
        with pytest.raises(SettingsError, match=re.escape(complaint)) as caught:
            cls(**{field: value})
        assert cls.__name__ not in str(caught.value), "nobody has typed that"
        got = str(caught.value).replace(".0", "")
        assert repr(value).replace(".0", "") in got, "the message says what was got"


@pytest.mark.parametrize(
    "cls, wrong",
    [
        (TrainingSettings, {"n_mixtures": "100"}),
        (TrainingSettings, {"n_mixtures": 10.5}),
        (SignalSettings, {"sample_rate": NAN}),
        (TrainingSettings, {"n_epochs": True}),
        (TrainingSettings, {"learning_rate": None}),
        (TrainingSettings, {"mixed_precision": 1}),
        (SignalSettings, {"window_type": 3}),
        (MixingSettings, {"snr_db": 3.0}),
        (MixingSettings, {"snr_db": ("a", "b")}),
        (ExtractionSettings, {"track": 2}),
        (ExtractionSettings, {"output_template": Path("{song}/{stem}.{ext}")}),
        (Preset, {"name": "mine", "signal": None}),
    ],
)
def test_values_of_other_types_are_refused_by_name(cls, wrong):
    *_, (name, value) = wrong.items()
    value = value[0] if isinstance(value, tuple) else value
    with pytest.raises(SettingsError, match=re.escape(f"{name} is {value!r}; expected ")):
        cls(**wrong)


def test_numbers_of_numpy_and_lists_are_taken():
    settings = MixingSettings(duration_s=np.float32(5), snr_db=[-5, np.int64(5)], coherent_gain_db=np.int64(3))
    assert settings == MixingSettings(coherent_gain_db=3.0)
    assert {type(value) for value in (settings.duration_s, *settings.snr_db, settings.coherent_gain_db)} == {float}


@pytest.mark.parametrize("cls", CLASSES)
def test_the_table_above_knows_every_complaint(cls):
    body = (
        Path(settings.__file__).read_text(encoding="utf-8").split(f"class {cls.__name__}(Checked):")[1].split("\n@")[0]
    )
    checks = re.findall(r"^ {12}(\w+)=", body, flags=re.MULTILINE)
    checks += re.findall(r'^ {16}"(.+)":', body, flags=re.MULTILINE)  # those with braces
    # The formats are named in a table of their own, where more may be added.
    expected = [complaint for complaint, field, _ in WRONG[cls] if field != "format"]
    assert sorted(check.replace("_", " ") for check in checks) == sorted(expected)


@pytest.mark.parametrize("cls", CLASSES)
def test_all_complaints_come_in_one_message(cls):
    wrong = {field: values[0] for _, field, values in reversed(WRONG[cls])}
    expected = [complaint for complaint, field, values in WRONG[cls] if wrong[field] == values[0]]
    with pytest.raises(SettingsError) as caught:
        cls(**wrong)
    assert [complaint for complaint in expected if complaint not in str(caught.value)] == []


def test_errors_have_one_root():
    assert issubclass(SettingsError, VocalExtractionError)
    assert issubclass(SettingsError, ValueError)


def test_bins_of_a_window():
    assert SignalSettings().n_bins == 257
    assert SignalSettings(window_length=4_096, hop_length=1_024).n_bins == 2_049


def test_specified_preset_has_the_specifications_numbers():
    assert SPECIFIED == Preset("specified")
    assert SPECIFIED.signal == SignalSettings(44_100, 512, 128, "sqrt_hann")
    mixing = SPECIFIED.mixing
    assert (mixing.pitch_shift_semitones, mixing.time_stretch) == ((-2, 2), (0.8, 1.2))
    assert (mixing.snr_db, mixing.offset_s, mixing.duration_s) == ((-5, 5), (0, 7), 5)
    assert SPECIFIED.network == NetworkSettings("MaskInference", 1, 50, 2, True, 0.3, "sigmoid")
    assert SPECIFIED.sources == ("vocals",)
    training = SPECIFIED.training
    assert (training.n_epochs, training.batches_per_epoch, training.batch_size) == (25, 32, 10)
    assert (training.n_mixtures, training.learning_rate, training.loss) == (1_000, 1e-3, "magnitude_l1")


def test_presets_are_found_by_their_names():
    assert list(PRESETS) == ["specified", "classic", "band-split", "studio", "live", "low-latency"]
    assert [preset.name for preset in PRESETS.values()] == list(PRESETS)
    assert CLASSIC.network == SPECIFIED.network
    assert dataclasses.replace(CLASSIC.signal, stereo="each", input_level_db=None) == SPECIFIED.signal


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_presets_are_within_their_own_bounds(preset):
    for part in (preset.signal, preset.mixing, preset.network, preset.training):
        assert dataclasses.replace(part) == part  # runs every check again
    assert preset.mixing.duration_s * preset.signal.sample_rate > preset.signal.window_length


def test_studio_differs_from_classic_where_it_says_so():
    assert STUDIO.network.kind == "UNetMaskInference"
    assert STUDIO.signal.n_bins > CLASSIC.signal.n_bins
    assert (STUDIO.training.loss, CLASSIC.training.loss) == ("spectrum_batch", "waveform")


@pytest.mark.parametrize("sources", [(), ("vocals", "vocals"), ("",), (1,), tuple("abcdefghijklmnopq")])
def test_sources_of_a_preset_are_different_names(sources):
    with pytest.raises(SettingsError, match=r"sources must be 1 to 16 different names|sources is 1; expected str"):
        Preset("mine", sources=sources)


def test_source_weights_are_one_for_each_source():
    training = dataclasses.replace(SPECIFIED.training, source_weights=(1.0, 2.0))
    with pytest.raises(SettingsError, match="one for each source"):
        Preset("mine", training=training)


def test_softmax_is_over_several_sources():
    network = NetworkSettings(activation="softmax")
    with pytest.raises(SettingsError, match="softmax needs two sources or more"):
        Preset("mine", network=network)
    assert Preset("mine", sources=("drums", "vocals"), network=network).network == network
