"""What a run says and leaves, how it resumes with other songs, and songs that lack a stem."""

import json
import multiprocessing
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_presets import history_of, tiny_preset, trainer_of

from vocal_extraction.errors import SettingsError
from vocal_extraction.evaluation import evaluate_model
from vocal_extraction.presets import PRESETS
from vocal_extraction.settings import STEMS
from vocal_extraction.training import DataError, ResumeError, train_model
from vocal_extraction.training.losses import item_losses
from vocal_extraction.training.state import TrainingState, _fingerprint

CPU = torch.device("cpu")
RATE = 44_100


pytestmark = pytest.mark.usefixtures("own_folder", "one_core")


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    """They take most of the time of so small an epoch."""
    monkeypatch.setattr("vocal_extraction.training.run_folder.write_loss_plot", lambda *_: None)


def write_songs(folder, names, stems=("accompaniment", "vocals"), duration_s=1.0):
    for seed, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i, stem in enumerate(stems):
            audio = 0.1 * np.random.default_rng((seed, i)).standard_normal(int(duration_s * RATE))
            soundfile.write(folder / name / f"{stem}.wav", audio.astype(np.float32), RATE)


def train(folder, preset=None, **options):
    options = {"checkpoint_folder": "run", "n_workers": 0, "device": "cpu", "progress": False, **options}
    return train_model(8, preset=preset or tiny_preset(n_epochs=1), dataset_folder=folder, **options)


@pytest.fixture
def songs(tmp_path):
    write_songs(tmp_path / "songs", "abc")
    return tmp_path / "songs"


def test_presets_that_mix_anew_refuse_a_number_of_mixtures(songs):
    with pytest.raises(SettingsError, match="'tiny' mixes anew in every epoch, got 8 mixtures"):
        train(songs, tiny_preset(n_mixtures=None))


def test_tensorboard_has_audio_spectrogram_and_settings(songs):
    train(songs)
    events = EventAccumulator("run/tensorboard", size_guidance={"audio": 0, "images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    assert sorted(tags["audio"]) == sorted(tags["images"]) == ["estimate", "mixture", "target"]
    (sound,) = events.Audio("estimate")
    assert sound.sample_rate == RATE
    assert sound.length_frames == RATE
    (picture,) = events.Images("mixture")
    assert (picture.height, picture.width) == (257, -(-RATE // 128) + 1)
    (settings,) = events.Tensors("settings/text_summary")
    written = json.loads(settings.tensor_proto.string_val[0])
    assert written["network"]["hidden_size"] == 8
    assert (written["seed"], written["device"], written["tracks"]) == (0, "cpu", ["songs"])
    (row,) = history_of("run")
    assert events.Scalars("validation_si_sdr_db")[0].value == pytest.approx(row["validation_si_sdr_db"])


def test_tensorboard_names_the_checkpoint_that_a_run_started_from(songs):
    train(songs, checkpoint_folder="first")
    train(songs, start_from="first/best.model.pth")
    events = EventAccumulator("run/tensorboard", size_guidance={"tensors": 0}).Reload()
    (settings,) = events.Tensors("settings/text_summary")
    assert json.loads(settings.tensor_proto.string_val[0])["start_from"] == "best.model.pth"


def test_a_number_of_processes_that_is_none_is_refused(songs):
    with pytest.raises(SettingsError, match=r"n_workers is 1\.5; expected int"):
        train(songs, n_workers=1.5)
    with pytest.raises(SettingsError, match="number of workers is -2; expected 0 or more"):
        train(songs, n_workers=-2)


def test_epoch_line_has_digits_that_move_and_si_sdr_and_a_pipe_gets_no_bar(songs, capsys):
    train(songs, progress=True)
    (row,) = history_of("run")
    printed = capsys.readouterr().err
    assert f"training loss {row['train_loss']:.5g}, validation loss {row['validation_loss']:.5g} (best)" in printed
    assert f"SI-SDR {row['validation_si_sdr_db']:.2f} dB" in printed
    assert "\r" not in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("change", ["added", "removed", "another length", "other sound"])
def test_resuming_with_other_songs_is_refused_unless_asked_for(songs, tmp_path, change):
    shutil.copytree(songs, tmp_path / "split/train")
    shutil.copytree(songs, tmp_path / "split/valid")
    songs, preset = tmp_path / "split", tiny_preset(n_epochs=2)
    train(songs, preset, n_epochs=1)
    if change == "added":
        write_songs(songs / "train", "d")
    else:
        shutil.rmtree(songs / "train/a")
    if change == "another length":
        write_songs(songs / "train", "a", duration_s=2.0)
    if change == "other sound":
        shutil.copytree(songs / "train/b", songs / "train/a")
    sentence = {
        "added": r"1 added \(as train/d",
        "removed": r"1 removed \(as train/a",
        "another length": "1 added .* 1 removed",
        "other sound": r"1 replaced \(as train/a",
    }
    with pytest.raises(ResumeError, match=sentence[change] + ".*--resume --changed-data"):
        train(songs, preset, resume=True)
    train(songs, preset, resume=True, changed_data=True)
    assert len(history_of("run")) == 2


def test_a_run_that_knew_no_songs_and_no_sources_can_be_resumed(tmp_path):
    """As the first version left it: the number of sources among the network's settings, and no list of songs."""
    state = TrainingState(PRESETS["specified"], seed=3, device=CPU)
    state.save(tmp_path)
    path = tmp_path / "training_state.pth"
    content = torch.load(path, weights_only=True)
    facts, seed = json.loads(content["fingerprint"])
    del facts["sources"], content["songs"]
    facts["network"]["num_sources"] = 1
    torch.save({**content, "fingerprint": json.dumps([facts, seed], sort_keys=True)}, path)
    state.songs = {"train/a (1)": 0}
    state.load(tmp_path)
    facts["network"]["num_sources"] = 2
    torch.save({**content, "fingerprint": json.dumps([facts, seed], sort_keys=True)}, path)
    with pytest.raises(ResumeError, match="other settings"):
        state.load(tmp_path)
    assert json.loads(_fingerprint(PRESETS["specified"], 3))[1] == 3


@pytest.mark.parametrize("loss", ["magnitude_l1", "waveform"])
def test_a_stem_that_a_song_lacks_is_left_out_of_the_loss(songs, loss):
    """The loss of vocals and drums on songs without drums is that of the vocals."""
    preset = tiny_preset(sources=("vocals", "drums"), loss=loss)
    trainer = trainer_of(preset, songs, "run")
    batch = trainer.data.training_mixtures.batch([(0, 0), (0, 1)])
    assert batch["known"].tolist() == [[True, False]] * 2
    network = trainer.state.network.eval()
    losses = item_losses(network, batch["sources"], preset=preset, known=batch["known"])
    every = item_losses(network, batch["sources"], preset=preset)
    drums = 2 * every - losses  # the mean over both, less one of them
    assert torch.isfinite(losses).all()
    assert not torch.isclose(losses, drums).any()
    none = item_losses(network, batch["sources"], preset=preset, known=torch.zeros(2, 2, dtype=torch.bool))
    assert none.tolist() == [0.0, 0.0]


def test_songs_without_any_of_the_sources_are_named(songs):
    with pytest.raises(DataError, match=r"train songs have accompaniment, vocals, but none of drums, bass"):
        train(songs, tiny_preset(sources=("drums", "bass")))


@pytest.mark.parametrize("n_validation", [3, None])
def test_four_sources_train_on_songs_of_several_kinds(tmp_path, n_validation):
    write_songs(tmp_path / "whole", "abc", STEMS)
    write_songs(tmp_path / "two", "de")
    write_songs(tmp_path / "voices", ["f", "g"], ["lead"])
    preset = tiny_preset(sources=("vocals", "drums", "bass", "other"), n_validation_mixtures=n_validation, n_epochs=1)
    train("dataset", preset, tracks=["whole=2", "two", "voices:vocals=0.5"])
    from vocal_extraction.checkpointing import load_checkpoint

    assert load_checkpoint("run/best.model.pth").sources == preset.sources
    (row,) = history_of("run")
    assert np.isfinite(row["train_loss"])
    assert not (tmp_path / "dataset/train").exists(), "MUSDB18 is not asked for"


def _train_elsewhere(folder):
    train(folder, checkpoint_folder="forked")


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_training_works_in_a_process_that_was_forked_after_torch_was_used(songs, monkeypatch):
    """torch's threads do not survive a fork: a network that asks for them waits for ever."""
    monkeypatch.setattr("vocal_extraction.training.resources._n_cores", lambda: 2)
    train(songs)
    torch.rand(500, 500) @ torch.rand(500, 500)
    process = multiprocessing.get_context("fork").Process(target=_train_elsewhere, args=(songs,))
    process.start()
    process.join(120)
    try:
        assert process.exitcode == 0
    finally:
        process.kill()
    (forked,), (row,) = history_of("forked"), history_of("run")
    assert forked == pytest.approx(row, rel=1e-3)  # on another number of threads, sums have other last bits


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are UTF-8 there")
def test_songs_whose_names_are_no_utf8_are_trained_on_and_scored(tmp_path):
    names = ["Caf\udce9", "b", "c"]
    write_songs(tmp_path / "songs", names)
    checkpoint = train(tmp_path / "songs")
    found = evaluate_model(
        checkpoint, tracks="songs", metrics="scale", baselines=False, n_jobs=1, progress=False, show=False
    )
    assert found.summary["songs"] == ["Caf\udce9", "b", "c"]
