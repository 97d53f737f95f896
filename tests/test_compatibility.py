"""Each bridge carries: what nussl and scaper ask of older libraries is there, and gives the right numbers."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import forged_checkpoints as forged
import librosa
import numpy as np
import pytest
import scipy.signal
import torch

from vocal_extraction import compatibility
from vocal_extraction.checkpointing import named_checkpoint
from vocal_extraction.compatibility import nussl, scaper
from vocal_extraction.networks import MaskInference

ROOT = Path(__file__).resolve().parent.parent
RATE = 44_100


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        _ = compatibility.torch


def test_libraries_are_imported_once():
    assert compatibility.nussl is nussl
    assert compatibility.scaper is scaper
    assert "nussl" in vars(compatibility)


def run_apart(tmp_path, code):
    """Run Python in a folder of its own, with this project to be found; return what it prints."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


def test_a_plain_import_has_all_bridges_and_threads_share_one_set(tmp_path):
    """A bridge laid twice would take two columns from every report card."""
    path = forged.old_checkpoint(tmp_path / "old.pth")
    code = f"""
import threading, model
from vocal_extraction import compatibility
laid, got = [], []
compatibility.AFTER["nussl"].append(lambda: laid.append(1))
def load():
    import nussl
    got.append(nussl)
threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(got), len(set(map(id, got))), len(laid), got[0] is compatibility.nussl)

import torch
transforms = torch.load({str(path)!r})["metadata"]["train_dataset"]["transforms"]
print(type(transforms) is got[0].datasets.transforms.Compose)

from vocal_extraction.networks import Network
Mine = type("Mine", (Network,), {{"forward": lambda self, data: {{"mask": data, "estimates": data}}}})
print(Mine.build().config["modules"]["model"]["class"], "of a class without a source file")
"""
    assert run_apart(tmp_path, code)[:6] == ["4", "1", "1", "True", "True", "Mine"]


LISTING = """
loaded_model = torch.load(path_to_trained_model, map_location=processing_device)
model = create_model()
model.load_state_dict(loaded_model['state_dict'])

separator = nussl.separation.deep.DeepMaskEstimation(
    nussl.AudioSignal(), model_path=None,
    device=processing_device,
)

# Manual model loading workaround - fixes tutorial issue #46
separator.device = processing_device
separator.model = model
separator.config = loaded_model['metadata']['config']
separator.metadata.update(loaded_model['metadata'])
separator.transform = separator._get_transforms(loaded_model['metadata']['train_dataset']['transforms'])
"""
"""The specification's, word by word."""

AFTERWARDS = """
import numpy
separator.audio_signal = nussl.AudioSignal(audio_data_array=numpy.ones((2, 4_410)), sample_rate=44_100)
print(*separator()[0].audio_data.shape)
"""


def test_the_specifications_listing_runs_as_printed(tmp_path, capsys):
    """With what ``from main import *`` gives, on a checkpoint of nussl's under torch 1.11 and NumPy 1."""
    config = {"num_features": 257, "hidden_size": 50}
    metadata = forged.old_metadata(stft_params=nussl.STFTParams(512, 128, "sqrt_hann"))
    metadata["config"] = forged.tutorial_config(**config)
    content = {"state_dict": forged.weights(**config), "config": json.dumps(metadata["config"]), "metadata": metadata}
    path = forged.old_checkpoint(tmp_path / "best.model.pth", content)
    listing = tmp_path / "listing.py"
    listing.write_text(f"from main import *\npath_to_trained_model = {str(path)!r}\n{LISTING}{AFTERWARDS}")
    runpy.run_path(str(listing))
    assert capsys.readouterr().out.split() == ["2", "4410"]


def test_nussl_is_imported_only_when_torch_reads_its_classes(tmp_path):
    """Not by importing this package, nor by its own reading of a checkpoint of 2022."""
    path = forged.old_checkpoint(tmp_path / "old.pth")
    code = f"""
import sys
from vocal_extraction import compatibility
print(len({{'nussl', 'scaper', 'museval', 'torch', 'numpy'}} & set(sys.modules)))
from vocal_extraction.checkpointing import load_checkpoint
model = load_checkpoint({str(path)!r})
print(model.signal.window_length, *model.sources, model.output, "nussl" in sys.modules)
import torch
for _ in range(2):
    metadata = torch.load({str(path)!r}, map_location="cpu")["metadata"]
    print(*(type(value).__name__ for value in metadata["train_dataset"]["transforms"].transforms[:2]))
import nussl
print(type(metadata["stft_params"]) is nussl.STFTParams, metadata["trainer.state_dict"]["output"]["loss"])
"""
    kinds = ["SumSources", "PhaseSensitiveSpectrumApproximation"]
    ours = ["0", str(forged.STFT[0]), "vocals", "mask", "False"]
    assert run_apart(tmp_path, code) == [*ours, *kinds, *kinds, "True", "0.25"]


def test_nussl_migrates_old_checkpoints(tmp_path):
    metadata = forged.old_metadata()
    metadata["trainer.state_dict"]["epoch_length"] = 10  # nussl's loader wants Python's integers
    path = forged.old_checkpoint(tmp_path / "old.pth", forged.content(metadata=metadata))
    network, metadata = nussl.ml.SeparationModel.load(str(path))
    assert type(network.layers["model"]) is MaskInference
    assert (metadata["nussl_version"], metadata["sample_rate"]) == ("1.1.9", 44_100)
    assert metadata["trainer.state.epoch_history"]["train/loss"] == [0.5, 0.25]


@pytest.mark.parametrize("preset, n_channels", [("classic", 1), ("band-split", 1), ("studio", 2)])
def test_nussls_separator_loads_the_models_that_ship(preset, n_channels):
    noise = np.random.default_rng(0).normal(0, 0.1, (n_channels, 8_820))
    signal = nussl.AudioSignal(audio_data_array=noise, sample_rate=RATE)
    separator = nussl.separation.deep.DeepMaskEstimation(signal, model_path=str(named_checkpoint(preset)))
    assert separator()[0].audio_data.shape == (n_channels, 8_820)


def test_scaper_draws_with_infinity():
    assert np.Inf == np.inf  # type: ignore[attr-defined]
    spec = scaper.Scaper(5.0, str(ROOT), str(ROOT))
    assert spec.duration == 5.0


def test_museval_catches_numpys_error_by_its_old_name():
    assert np.linalg.linalg.LinAlgError is np.linalg.LinAlgError  # type: ignore[attr-defined]
    assert compatibility.museval.metrics is not None


@pytest.mark.parametrize("name", ["hamming", "hann", "blackman"])
def test_windows_are_where_nussl_reads_them(name):
    assert np.array_equal(getattr(scipy.signal, name)(16), getattr(scipy.signal.windows, name)(16))


def test_nussl_resamples_a_tone():
    """`AudioSignal.resample` passes librosa the rates by position, which librosa 0.10 forbids."""
    time_s = np.arange(RATE) / RATE
    signal = nussl.AudioSignal(audio_data_array=np.sin(2 * np.pi * 440 * time_s), sample_rate=RATE)
    signal.resample(22_050)
    assert signal.sample_rate == 22_050
    assert signal.signal_length == 22_050
    tone = np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050)
    # The resampler's filter reaches over the ends; within, a thousandth is -60 dB.
    assert np.abs(signal.audio_data[0] - tone)[500:-500].max() < 1e-3


def test_nussl_reports_scores_of_named_songs(tmp_path):
    """pandas 3 refuses to average the column of names that nussl leaves in."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(2):
        scores = {"vocals": {metric: list(rng.normal(size=2)) for metric in ("SI-SDR", "SI-SIR", "SI-SAR")}}
        path = tmp_path / f"song{i}.json"
        path.write_text(json.dumps(scores))
        paths.append(str(path))
    frame = nussl.evaluation.aggregate_score_files(paths)
    card = nussl.evaluation.report_card(frame, report_each_source=True)
    mean = frame["SI-SDR"].mean()
    assert f"{mean:.2f}" in card or f"{mean:.3f}" in card


def test_waveplot_is_waveshow():
    import librosa.display

    assert librosa.display.waveplot is librosa.display.waveshow  # type: ignore[attr-defined]


def noise(n_channels=1, n_samples=RATE, seed=0):
    data = np.random.default_rng(seed).normal(0, 0.1, (n_channels, n_samples))
    return nussl.AudioSignal(audio_data_array=data, sample_rate=RATE)


def test_loudness_over_time_is_that_of_the_samples():
    """`AudioSignal.rms` passes librosa the samples by position, which librosa 0.10 forbids."""
    signal = noise(2)
    over_time = signal.rms(win_len=1_024, hop_len=512)
    assert over_time.shape == (2, RATE // 512 + 1)
    expected = np.sqrt(np.mean(signal.audio_data[:, 5_120 - 512 : 5_120 + 512] ** 2, axis=1))
    assert np.allclose(over_time[:, 10], expected, rtol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_mel_projections_hold_librosas_filters(direction):
    """`MelProjection` passes librosa the rate by position."""
    projection = nussl.ml.networks.modules.MelProjection(RATE, 257, 40, direction=direction, clamp=False)
    filters = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=40)
    filters = filters / (filters.sum(axis=1, keepdims=True) + 1e-8)
    expected = filters if direction == "forward" else np.linalg.pinv(filters)
    assert np.allclose(projection.transform.weight.detach().numpy(), expected, atol=1e-6)
    n_in, n_out = (257, 40) if direction == "forward" else (40, 257)
    assert projection(torch.rand(2, 3, n_in, 1)).shape == (2, 3, n_out, 1)


@pytest.mark.parametrize("y_axis", ["linear", "log", "mel"])
def test_spectrograms_and_masks_are_drawn(y_axis):
    """librosa 0.11 wants two parameters more for an axis, and the samples by name for mels."""
    import matplotlib.pyplot as plt

    sources = {"loud": noise(seed=1), "quiet": noise(seed=2).apply_gain(0.1)}
    figure = plt.figure()
    nussl.utils.visualize_sources_as_masks(sources, y_axis=y_axis)
    assert len(figure.axes[0].images) == 2
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["loud", "quiet"]
    plt.figure()
    nussl.utils.visualize_spectrogram(sources["loud"], y_axis=y_axis)
    assert len(plt.gca().collections) == 1
    plt.close("all")


def test_waveforms_are_drawn():
    import matplotlib.pyplot as plt

    figure = plt.figure()
    nussl.utils.visualize_sources_as_waveform({"one": noise(seed=1), "two": noise(seed=2)})
    assert figure.axes[0].collections
    plt.close("all")


class Drawn(nussl.datasets.BaseDataset):  # type: ignore[name-defined]
    """A data set whose items change with every drawing, so that what comes from a cache is seen."""

    n_drawn = 0

    def get_items(self, folder):
        return list(range(3))

    def process_item(self, item):
        self.n_drawn += 1
        return {"item": item, "drawn": self.n_drawn, "array": np.full(4, item, dtype=np.float32)}


def test_datasets_are_cached(tmp_path):
    """zarr 3 has no `ThreadSynchronizer`, and no arrays of objects."""
    transforms = nussl.datasets.transforms

    def dataset(*, populated):
        cache = transforms.Cache(str(tmp_path / "cache"), cache_size=3, overwrite=not populated)
        return Drawn("", transform=transforms.Compose([cache]), cache_populated=populated)

    first = dataset(populated=False)
    written = [first[index] for index in range(3)]
    first.cache_populated = True
    again = dataset(populated=True)
    for data in (first, again):
        assert [data[index]["drawn"] for index in range(3)] == [item["drawn"] for item in written]
        assert np.array_equal(data[2]["array"], np.full(4, 2, dtype=np.float32))
    assert (first.n_drawn, again.n_drawn) == (4, 1), "nussl draws one item of each data set to look at it"


def test_an_item_that_was_not_cached_is_missed(tmp_path):
    transforms = nussl.datasets.transforms
    transforms.Cache(str(tmp_path / "cache"), cache_size=2, overwrite=True)({"index": 0, "a": 1})
    cache = transforms.Cache(str(tmp_path / "cache"))
    assert cache({"index": 0})["a"] == 1
    with pytest.raises(transforms.TransformException, match="not a dictionary"):
        cache({"index": 1})
    assert cache.info


def test_signals_without_data_are_compared():
    """NumPy 2.2 refuses the truth of an empty array."""
    with pytest.warns(UserWarning, match="has no data"):
        empty = nussl.separation.base.SeparationBase(nussl.AudioSignal()).audio_signal
    none = nussl.AudioSignal()
    assert none == nussl.AudioSignal()
    assert none != noise()
    assert noise() == noise()
    assert noise(seed=1) != noise(seed=2)
    for one, other in ((none, empty), (empty, none), (empty, noise())):
        assert isinstance(one == other, bool)


def test_signals_are_unequal_to_what_is_none():
    for other in (None, "song.wav", 3):
        assert noise() != other
        assert other not in [noise()]
    named = noise()
    named.place = "on the left"
    assert named != noise()
    assert noise() != named


def test_duet_separates_and_windows_overlap():
    """NumPy 2 removed `np.mat`, SciPy the window called hanning."""
    mixture = noise(2)
    assert len(nussl.separation.spatial.Duet(mixture, 2)()) == 2
    filtered = nussl.separation.benchmark.HighLowPassFilter(noise(), 100)
    low, high = nussl.separation.composite.OverlapAdd(filtered, window_duration=0.3)()
    assert np.allclose(low.audio_data + high.audio_data, noise().audio_data, atol=1e-3)


GUFUNC = """
import numba

@numba.guvectorize(["void(float64[:], float64[:])"], "(n)->(n)", nopython=True, cache=True)
def double(values, out):
    for i in range(len(values)):
        out[i] = 2 * values[i]
"""
FIRST = "import numba; numba.njit(lambda x: x + 1)(1); "
COMPILE = "import vocal_extraction, numba, numpy, gufunc; print(gufunc.double(numpy.arange(3.0)))"


def test_what_two_processes_cache_at_once_does_not_end_the_next(tmp_path):
    """As when each writes one of the two files of librosa's beat tracker."""
    (tmp_path / "gufunc.py").write_text(GUFUNC)

    def compiled(cache, code):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / cache), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
        return sorted((tmp_path / cache).rglob("*.nbc"))

    (outer, inner), (others, _) = compiled("a", COMPILE), compiled("b", FIRST + COMPILE)
    assert outer.name == others.name == f"guf-{inner.name}"
    outer.write_bytes(others.read_bytes())
    compiled("a", COMPILE)
