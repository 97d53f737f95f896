"""What a run listens to: the order of mixtures, what is kept on disk, workers, and songs to validate on."""

import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile

import numpy as np
import pytest
import soundfile
import torch
from training_presets import tiny_preset, trainer_of

from vocal_extraction.atomic_files import StorageError
from vocal_extraction.data_augmentation import MixClosure, create_mix_closure
from vocal_extraction.presets import PRESETS
from vocal_extraction.rendering import RenderingError
from vocal_extraction.settings import STEMS, MixingSettings
from vocal_extraction.tracks import Track, TrackError
from vocal_extraction.training import TrainingError
from vocal_extraction.training.data_module import ValidationSong
from vocal_extraction.training.mixture_cache import MixtureCache, render_mixture
from vocal_extraction.training.mixtures import MixtureDataset, MixtureSampler, make_loader, worker_errors
from vocal_extraction.training.processes import Processes
from vocal_extraction.training.resources import in_threads, resources

SHORT = MixingSettings(duration_s=0.5)
VOCALS = ("vocals",)


@pytest.fixture
def closure(demo_dataset):
    return create_mix_closure(demo_dataset, "train", mixing=SHORT)


def load(mixtures, order, *, n_workers=0, batch_size=2):
    return make_loader(mixtures, order, batch_size=batch_size, n_workers=n_workers, pin_memory=False, seed=0)


@pytest.mark.parametrize("n_workers", [1, 3])
def test_mixtures_are_the_same_whoever_makes_them(closure, n_workers):
    order = MixtureSampler(tiny_preset(batches_per_epoch=4), seed=0)
    here = list(load(MixtureDataset(closure, VOCALS), order))
    there = list(load(MixtureDataset(closure, VOCALS), order, n_workers=n_workers))
    assert len(here) == 4
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one["address"], other["address"])
        assert torch.equal(one["sources"], other["sources"])


def test_batches_arrive_where_the_folder_for_temporary_files_has_a_long_name(closure, tmp_path, monkeypatch):
    """A socket's name has 107 bytes at most; the batches of a worker that finds no place for one never came."""
    folder = tmp_path / ("a" * 90)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    mixtures = MixtureDataset(closure, ("vocals",))
    loader = make_loader(mixtures, [(1, 0), (1, 1)], batch_size=2, n_workers=1, pin_memory=False, seed=0)
    loader.timeout = 60
    assert [len(batch["sources"]) for batch in loader] == [2]


@pytest.mark.parametrize("sources, stems", [(VOCALS, [3]), (("drums", "bass+vocals"), [1, [0, 3]]), (STEMS, range(4))])
def test_residual_and_targets_add_up_to_the_mixture(closure, sources, stems):
    mixture, _, _, audio = closure.mixture(3, 2)
    rendered = render_mixture(closure, (2, 3), sources)
    for target, which in zip(rendered[1:], stems, strict=True):
        np.testing.assert_array_equal(target, np.atleast_3d(np.stack(audio)[which].T).sum(axis=2))
    np.testing.assert_allclose(rendered.sum(axis=0), mixture.T, atol=2**-22)


def test_fresh_mixtures_never_repeat():
    order = MixtureSampler(tiny_preset(n_mixtures=None), seed=0)
    first, order.epoch = list(order), 2
    assert first == [(1, index) for index in range(6)]
    assert list(order) == [(2, index) for index in range(6)]


def test_fixed_set_is_drawn_without_repetition_and_anew_each_epoch():
    order = MixtureSampler(tiny_preset(n_mixtures=2_000, batches_per_epoch=100), seed=0)
    first, order.epoch = list(order), 2
    assert len(set(first)) == 200
    assert {epoch for epoch, _ in first} == {0}
    assert max(index for _, index in first) > 1_500
    assert list(order) != first
    again = MixtureSampler(tiny_preset(n_mixtures=2_000, batches_per_epoch=100), seed=0)
    assert list(again) == first
    assert list(MixtureSampler(tiny_preset(n_mixtures=2_000, batches_per_epoch=100), seed=1)) != first


def test_small_fixed_set_goes_round_evenly():
    counts = np.bincount([index for _, index in MixtureSampler(tiny_preset(n_mixtures=4, batches_per_epoch=5), seed=0)])
    assert set(counts) <= {2, 3}


def test_processes_share_every_batch():
    """The union of what two processes see in a step is the batch of one."""
    preset = tiny_preset(batch_size=4)
    whole = list(MixtureSampler(preset, seed=0))
    halves = [list(MixtureSampler(preset, seed=0, rank=rank, n_ranks=2)) for rank in (0, 1)]
    assert (
        [len(half) for half in halves]
        == [6, 6]
        == [len(MixtureSampler(preset, seed=0, rank=rank, n_ranks=2)) for rank in (0, 1)]
    )
    for step in range(3):
        batch = set(whole[4 * step : 4 * step + 4])
        assert {address for half in halves for address in half[2 * step : 2 * step + 2]} == batch


class _Dying:
    """Mixtures whose worker is killed at the fourth, as by a machine that has no memory left."""

    def __init__(self, mixtures):
        self.mixtures, self.parent = mixtures, os.getpid()

    def __getitem__(self, address):
        if os.getpid() != self.parent and address[1] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.mixtures[address]


def test_a_killed_worker_is_one_sentence(closure):
    loader = load(_Dying(MixtureDataset(closure, VOCALS)), [(0, i) for i in range(8)], n_workers=1)
    with (
        pytest.raises(TrainingError, match=r"A process that mixes was killed .* Train with --resume") as caught,
        worker_errors(),
    ):
        list(loader)
    assert "\n" not in str(caught.value)
    subprocess.run(["true"], check=True)  # torch's handler of ended children would raise again


@pytest.mark.parametrize("n_workers", [0, 1])
def test_what_a_worker_says_is_one_sentence(tmp_path, closure, n_workers):
    lost = {stem: (tmp_path / f"{stem}.wav",) for stem in STEMS}
    gone = MixClosure((dataclasses.replace(closure.tracks[0], sources=lost),), SHORT)
    with pytest.raises(RenderingError) as caught, worker_errors():
        list(load(MixtureDataset(gone, VOCALS), [(0, i) for i in range(2)], n_workers=n_workers))
    assert str(caught.value).startswith("Cannot read the stem")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("something else"), RenderingError("two\nlines")])
def test_other_errors_are_left_alone(error):
    with pytest.raises(type(error)) as caught, worker_errors():
        raise error
    assert caught.value is error


def rendered(closure, address):
    return torch.from_numpy(render_mixture(closure, address, VOCALS))


def kept_set(closure, parent, largest_bytes=10**9, **options):
    return MixtureCache(closure, VOCALS, parent=parent, largest_bytes=largest_bytes, **options)


def files_in(parent):
    return sorted(path.name for path in parent.rglob("*.npy"))


def test_cache_changes_nothing(closure, tmp_path):
    kept = kept_set(closure, tmp_path)
    for _ in range(2):  # made, then read
        for index in range(3):
            assert torch.equal(kept.fetch((0, index)), rendered(closure, (0, index)))
    assert files_in(tmp_path) == ["0.npy", "1.npy", "2.npy"]


def test_cache_is_read_and_not_made_again(closure, tmp_path, monkeypatch):
    kept = kept_set(closure, tmp_path)
    kept.fetch((0, 1))
    monkeypatch.setattr("vocal_extraction.training.mixture_cache.render_mixture", lambda *_: pytest.fail("mixed again"))
    assert kept.fetch((0, 1)).shape == (2, 1, 22_050)


def test_cache_stays_within_its_bound_whoever_fills_it(closure, tmp_path):
    """Room for two and a half: the first two by index are kept, in whatever order and by however many workers."""
    one = 2 * 22_050 * 4 + 128
    kept = kept_set(closure, tmp_path, largest_bytes=2.5 * one)
    list(load(MixtureDataset(closure, VOCALS, cache=kept), [(0, i) for i in range(6)], n_workers=2, batch_size=1))
    assert files_in(tmp_path) == ["0.npy", "1.npy"]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.npy")) <= 2.5 * one


def test_mixtures_that_never_come_again_are_not_kept(closure, tmp_path):
    kept_set(closure, tmp_path).fetch((1, 0))
    assert files_in(tmp_path) == []


def test_validation_set_keeps_half_the_bytes_and_gives_what_it_keeps(closure, tmp_path):
    kept = kept_set(closure, tmp_path, half_precision=True)
    made, read = kept.fetch((0, 0)), kept.fetch((0, 0))
    exact = rendered(closure, (0, 0))
    assert torch.equal(made, read)
    assert made.dtype == torch.float32
    assert (made - exact).abs().max() <= exact.abs().max() * 2**-11
    assert next(tmp_path.rglob("*.npy")).stat().st_size == 2 * 22_050 * 2 + 128


def test_validation_mixtures_are_made_once_and_kept(demo_dataset, tmp_path, monkeypatch):
    """Every epoch, and every later run, has the same ones; none is mixed a second time."""
    dataset = tmp_path / "dataset"
    shutil.copytree(demo_dataset, dataset)
    made = []

    def counted(closure, address, sources):
        made.append(address)
        return render_mixture(closure, address, sources)

    monkeypatch.setattr("vocal_extraction.training.mixture_cache.render_mixture", counted)

    def validation_sources():
        data = trainer_of(tiny_preset(), dataset, tmp_path / "run").data
        epochs = [torch.cat([read()["sources"] for read in data.validation_batches()]) for _ in range(2)]
        assert torch.equal(*epochs)
        return epochs[0]

    first = validation_sources()
    assert sorted(made) == [(0, 0), (0, 1), (0, 2)]
    assert torch.equal(validation_sources(), first)
    assert len(made) == 3
    assert files_in(dataset / "valid" / "rendered") == ["0.npy", "1.npy", "2.npy"]
    assert not (dataset / "train" / "rendered").exists(), "without a cache, nothing else is kept"


@pytest.mark.parametrize("n_mixtures, n_made", [(None, 12), (4, 4)], ids=["fresh", "fixed"])
def test_an_epoch_has_fresh_mixtures_or_those_of_the_fixed_set(demo_dataset, n_mixtures, n_made):
    """Two epochs of six: twelve that differ as audio, or four of them again and again."""
    preset = tiny_preset(n_mixtures=n_mixtures)
    order = MixtureSampler(preset, seed=0)
    loader = load(MixtureDataset(create_mix_closure(demo_dataset, "train", mixing=SHORT), VOCALS), order)
    seen = []
    for order.epoch in (1, 2):
        seen += [sources.numpy().tobytes() for batch in loader for sources in batch["sources"]]
    assert len(seen) == 12
    assert len(set(seen)) == n_made


def test_sets_of_other_settings_are_removed(closure, demo_dataset, tmp_path):
    old = kept_set(create_mix_closure(demo_dataset, "train", mixing=SHORT, seed=1), tmp_path)
    old.fetch((0, 0))
    (old.folder / ".partial-999999999-0.npy").touch()
    new = kept_set(closure, tmp_path)
    new.fetch((0, 0))
    new.remove_others()
    assert [path.name for path in tmp_path.iterdir()] == [new.folder.name]
    assert old.folder != new.folder


def test_damaged_file_is_made_again(closure, tmp_path):
    kept = kept_set(closure, tmp_path)
    expected = kept.fetch((0, 0))
    (kept.folder / "0.npy").write_bytes(b"\x93NUMPY, but no more")
    assert torch.equal(kept.fetch((0, 0)), expected)
    assert torch.equal(kept.fetch((0, 0)), expected)


def test_full_disk_costs_time_and_not_the_run(closure, tmp_path, monkeypatch):
    def full(path):
        raise StorageError(f"Cannot write {path}. The disk is full.")

    monkeypatch.setattr("vocal_extraction.training.mixture_cache.whole_file", full)
    assert torch.equal(kept_set(closure, tmp_path).fetch((0, 0)), rendered(closure, (0, 0)))


def test_other_songs_are_another_set(closure, tmp_path):
    fewer = MixClosure(closure.tracks[1:], SHORT)
    before = kept_set(closure, tmp_path).folder
    assert kept_set(closure, tmp_path).folder == before
    assert kept_set(fewer, tmp_path).folder != before


def validation_song(folder, *, sources=VOCALS, n_samples=100, **options):
    for stem in ("drums", "vocals"):
        soundfile.write(folder / f"{stem}.wav", np.full((n_samples, 2), 0.25), 44_100)
    track = Track("song", {stem: (folder / f"{stem}.wav",) for stem in ("drums", "vocals")}, 44_100, 2, n_samples)
    return ValidationSong(track, sources, **options)


def test_targets_that_a_song_lacks_are_silent(tmp_path):
    mixture, targets = validation_song(tmp_path, sources=("bass", "drums", "drums+vocals")).read()
    assert mixture.shape == (2, 100)
    assert targets[:, 1, 50].tolist() == [0.0, 0.25, 0.5]


def test_an_excerpt_is_the_middle_of_a_song(tmp_path):
    mixture, targets = validation_song(tmp_path, n_samples=44_100, longest_s=0.5).read()
    assert mixture.shape == (2, 22_050)
    assert targets.shape == (1, 2, 22_050)


def test_a_song_that_cannot_be_read_is_named(tmp_path):
    song = validation_song(tmp_path)
    (tmp_path / "vocals.wav").unlink()
    with pytest.raises(TrackError, match=r"vocals\.wav cannot be read.*Prepare"):
        song.read()


def test_threads_keep_the_order_and_the_number_of_threads():
    before = torch.get_num_threads()
    assert list(in_threads(lambda n: n * n, range(20), device=torch.device("cpu"))) == [n * n for n in range(20)]
    assert torch.get_num_threads() == before


def test_an_error_in_a_thread_reaches_the_caller():
    def fail(n):
        raise TrainingError(f"item {n}")

    with pytest.raises(TrainingError, match="item 0"):
        list(in_threads(fail, range(5), device=torch.device("cpu")))


@pytest.mark.parametrize("n_cores, n_workers, n_threads", [(1, 0, 1), (2, 1, 1), (8, 4, 4)])
def test_cores_are_shared_by_network_and_workers(monkeypatch, n_cores, n_workers, n_threads):
    monkeypatch.setattr("vocal_extraction.training.resources._n_cores", lambda: n_cores)
    with resources(torch.device("cpu"), None) as n_used:
        assert (n_used, torch.get_num_threads()) == (n_workers, n_threads)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_batches_for_cuda_are_pinned_and_made_ahead(demo_dataset, tmp_path, device):
    data = trainer_of(tiny_preset(), demo_dataset, tmp_path, device=device, n_workers=2).data
    for loader in (data.training_loader, data.validation_loader):
        assert loader.pin_memory == (device == "cuda")
        assert loader.prefetch_factor == 4


def test_two_processes_share_the_validation_mixtures(demo_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "wrap", lambda self, network, device: network)  # there is but one to talk to
    preset = tiny_preset(n_validation_mixtures=5)
    data = [trainer_of(preset, demo_dataset, tmp_path, processes=Processes(rank, 2)).data for rank in (0, 1)]
    assert sorted(data[0].validation_addresses + data[1].validation_addresses) == [(0, i) for i in range(5)]


def test_resources_are_given_back():
    before = torch.get_num_threads()
    with resources(torch.device("cpu"), 3) as n_workers:
        assert n_workers == 3
    assert torch.get_num_threads() == before
    with resources(torch.device("cpu"), None) as n_workers:
        assert n_workers >= 0


def test_cores_are_shared_by_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with resources(torch.device("cpu"), None) as n_workers:
        assert n_workers == 2


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_the_mixtures_of_a_preset_have_its_length(demo_dataset, preset):
    closure = create_mix_closure(demo_dataset, "train", mixing=preset.mixing)
    n_channels = 2 if preset.mixing.channels == "stereo" else 1
    assert rendered(closure, (1, 0)).shape == (2, n_channels, int(preset.mixing.duration_s * 44_100))
