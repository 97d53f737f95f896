"""Single steps: the learning rate, clipping, averages of weights, precision, what is compiled, and all presets."""

import dataclasses
import math
import types

import pytest
import torch
from training_presets import tiny_preset, trainer_of

from vocal_extraction.presets import PRESETS
from vocal_extraction.settings import ACCOMPANIMENT, STEMS
from vocal_extraction.training.resources import has_bfloat16
from vocal_extraction.training.state import TrainingState

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("own_folder", "one_core")


def test_cosine_schedule_rises_and_falls_to_nothing():
    preset = tiny_preset(learning_rate_schedule="cosine", learning_rate=0.5, n_epochs=10, batches_per_epoch=100)
    run, rates = TrainingState(preset, seed=0, device=CPU), []
    for run.n_steps in range(1_000):
        rates.append(run.set_learning_rate())
    n_rise = 20  # 2% of 1,000
    assert rates[:n_rise] == pytest.approx([0.5 * (i + 1) / n_rise for i in range(n_rise)])
    assert rates[n_rise + 490] == pytest.approx(0.25, rel=1e-9)  # half-way down
    assert rates[n_rise:] == sorted(rates[n_rise:], reverse=True)
    assert rates[-1] < 1e-5
    assert run.optimizer.param_groups[0]["lr"] == rates[-1]


def test_constant_schedule_is_constant():
    run = TrainingState(tiny_preset(), seed=0, device=CPU)
    assert {run.set_learning_rate() for run.n_steps in (0, 10, 10_000)} == {1e-3}


@pytest.mark.parametrize("largest_norm", [1e-4, None])
def test_gradient_is_clipped(dataset, tmp_path, largest_norm):
    training = trainer_of(tiny_preset(gradient_clip_norm=largest_norm, loss="waveform"), dataset, tmp_path)
    training.train_epoch([training.data.training_mixtures.batch([(0, 0), (0, 1)])])
    gradients = [weights.grad for weights in training.state.network.parameters()]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    assert (norm <= 1e-4 * (1 + 1e-5)) == (largest_norm is not None)


def test_weights_are_averaged_with_a_decay_that_rises():
    """By the recursion written out: after the first copy, share 1 - min(decay, (1 + n) / (10 + n)) of what is new."""
    run = TrainingState(tiny_preset(weight_average_decay=0.5), seed=0, device=CPU)
    assert run.average is not None
    weights = next(run.network.parameters())
    expected = None
    for n in range(12):
        with torch.no_grad():
            weights.fill_(float(n))
        run.average.update_parameters(run.network)
        share = 1 - min(0.5, (1 + n) / (10 + n))
        expected = float(n) if expected is None else expected + share * (n - expected)
    averaged = next(run.result.parameters())
    assert averaged.flatten()[0].item() == pytest.approx(expected, rel=1e-5)
    assert run.result is not run.network


@pytest.mark.parametrize("has_it", [True, False])
def test_mixed_precision_is_used_where_the_device_has_bfloat16(dataset, tmp_path, monkeypatch, has_it):
    """The precision that is chosen, with a stand-in for the network: a CPU without bfloat16 refuses to run one."""
    chosen = []

    def losses(network, sources, **_):
        chosen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
        return next(network.parameters()).sum().expand(len(sources))

    monkeypatch.setattr("vocal_extraction.training.trainer.has_bfloat16", lambda device: has_it)
    monkeypatch.setattr("vocal_extraction.training.trainer.item_losses", losses)
    for mixed_precision in (True, False):
        training = trainer_of(tiny_preset(mixed_precision=mixed_precision), dataset, tmp_path)
        training.train_epoch([training.data.training_mixtures.batch([(0, 0)])])
    assert chosen == [has_it, False]


@pytest.mark.skipif(not has_bfloat16(CPU), reason="this CPU has no bfloat16, so training would not use it")
def test_mixed_precision_trains(dataset, tmp_path):
    losses = []
    for mixed_precision in (True, False):
        training = trainer_of(tiny_preset(mixed_precision=mixed_precision, dropout=0.0), dataset, tmp_path)
        losses.append(training.train_epoch([training.data.training_mixtures.batch([(0, 0), (0, 1)])])["train_loss"])
    mixed, full = losses
    assert mixed != full
    assert mixed == pytest.approx(full, rel=0.02)  # bfloat16 has 8 bits


@pytest.mark.parametrize("compiles", [True, False])
def test_network_is_compiled_where_that_is_chosen(dataset, tmp_path, monkeypatch, compiles):
    """As above: the path of CUDA, with a stand-in for the compiler."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    monkeypatch.setattr("vocal_extraction.training.trainer._COMPILING_DEVICES", ("cpu",))
    training = trainer_of(tiny_preset(compile_network=compiles), dataset, tmp_path)
    assert compiled == [training.state.network] * compiles
    assert training.model is training.state.network


def test_share_of_waiting_is_the_time_between_steps(dataset, tmp_path, monkeypatch):
    """By a clock that only the loader and the step move: 3 s for each batch, 1 s for each step."""
    now_s = [0.0]

    def pass_time(duration_s):
        now_s[0] += duration_s
        return 0.0

    def slow_losses(*_, **__):
        pass_time(1.0)
        return losses

    training = trainer_of(tiny_preset(batch_size=2), dataset, tmp_path)
    batch = training.data.training_mixtures.batch([(0, 0), (0, 1)])
    losses = next(training.state.network.parameters()).sum().expand(2)
    monkeypatch.setattr("vocal_extraction.training.trainer.time", types.SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr("vocal_extraction.training.trainer.item_losses", slow_losses)
    row = training.train_epoch(pass_time(3.0) or batch for _ in range(3))
    assert row["data_wait_share"] == 0.75
    assert row["mixtures_per_s"] == 0.5


@pytest.mark.parametrize("sources", [(ACCOMPANIMENT, "vocals"), STEMS])
@pytest.mark.parametrize("loss", ["magnitude_l1", "waveform"])
def test_networks_of_several_sources_train(dataset, tmp_path, sources, loss):
    preset = tiny_preset(sources=sources, activation="softmax", loss=loss)
    training = trainer_of(preset, dataset, tmp_path)
    batch = training.data.training_mixtures.batch([(0, 0), (0, 1)])
    assert batch["sources"].shape[1] == 1 + len(sources)
    assert batch["known"].all()
    losses = [training.train_epoch([batch])["train_loss"] for _ in range(8)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_presets_make_a_step(dataset, tmp_path, preset):
    mixing = dataclasses.replace(preset.mixing, duration_s=0.5)
    training = trainer_of(dataclasses.replace(preset, mixing=mixing), dataset, tmp_path)
    addresses = list(training.data.sampler)[:2]
    assert math.isfinite(training.train_epoch([training.data.training_mixtures.batch(addresses)])["train_loss"])
