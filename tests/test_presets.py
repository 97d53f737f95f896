"""Presets from TOML files: only what differs is written, and what is no setting is refused by name."""

import dataclasses

import pytest

from vocal_extraction.errors import SettingsError
from vocal_extraction.presets import PRESETS, SPECIFIED, Preset, find_preset
from vocal_extraction.settings import MixingSettings, NetworkSettings

CLASSIC = PRESETS["classic"]


@pytest.fixture
def preset(tmp_path):
    """Write a preset file and read it."""

    def read(text):
        (tmp_path / "my.toml").write_text(text)
        return find_preset(str(tmp_path / "my.toml"))

    return read


def test_names_of_presets_are_found():
    assert find_preset("classic") is CLASSIC


def test_a_file_changes_what_it_says_and_nothing_else(preset):
    read = preset(
        'based_on = "classic"\nsources = ["vocals", "drums"]\n[network]\nhidden_size = 96\n'
        '[training]\nlearning_rate = 1\ngradient_clip_norm = "none"\n[mixing]\nsnr_db = [-3, 3.5]\n'
    )
    training = dataclasses.replace(CLASSIC.training, learning_rate=1.0, gradient_clip_norm=None)
    assert read == Preset(
        "my",
        signal=CLASSIC.signal,
        mixing=dataclasses.replace(CLASSIC.mixing, snr_db=(-3.0, 3.5)),
        network=dataclasses.replace(CLASSIC.network, hidden_size=96),
        training=training,
        sources=("vocals", "drums"),
    )
    assert isinstance(read.training.learning_rate, float)


def test_an_empty_file_is_the_specified_preset(preset):
    assert preset("") == dataclasses.replace(SPECIFIED, name="my")


@pytest.mark.parametrize(
    "text, complaint",
    [
        (
            "[network]\nhiden_size = 3",
            r"my\.toml \[network\]: there is no setting 'hiden_size'; did you mean hidden_size",
        ),
        ("[netwrk]\nhidden_size = 3", "no setting 'netwrk'; did you mean network"),
        ("zzz = 1", "no setting 'zzz'; there are name, signal"),
        ("based_on = []", r"no preset '\[\]' to be based on"),
        ("[training]\nlearning_rate = " + "9" * 400, "learning_rate is 9+; expected float"),
        ('based_on = "studo"', "no preset 'studo' to be based on; did you mean studio"),
        ("network = 3", r"network is a table; write \[network\]"),
        ('[network]\nhidden_size = "big"', r"\[network\]: hidden_size is 'big'; expected int"),
        ("[network]\nbidirectional = 1", "bidirectional is 1; expected bool"),
        ("[mixing]\nsnr_db = 3", "snr_db is 3; expected"),
        ("[network]\nhidden_size = 0", "hidden size must be 1 to 4096"),
        ("[network", "is no preset that can be read"),
        ("sources = []", "sources must be 1 to 16 different names"),
    ],
)
def test_what_is_no_setting_is_refused_by_name(preset, text, complaint):
    with pytest.raises(SettingsError, match=complaint):
        preset(text)


def test_missing_files_and_names_are_told_apart(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.toml is no preset that can be read"):
        find_preset(str(tmp_path / "nowhere.toml"))
    with pytest.raises(SettingsError, match=r"no preset 'clasic'; did you mean classic.*\.toml"):
        find_preset("clasic")


def test_every_setting_can_be_written(preset):
    """A file with all settings of a preset is that preset."""
    lines = []
    for table in ("signal", "mixing", "network", "training"):
        lines.append(f"[{table}]")
        for name, value in dataclasses.asdict(getattr(CLASSIC, table)).items():
            value = list(value) if isinstance(value, tuple) else "none" if value is None else value
            lines.append(f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}")
    assert preset("\n".join(lines)) == dataclasses.replace(CLASSIC, name="my")
    assert preset("[network]\n").network == NetworkSettings()
    assert preset("").mixing == MixingSettings()
