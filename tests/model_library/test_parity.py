"""Imported models estimate what their makers' programs would, stated here once more; see `foreign_models`."""

import norbert
import numpy as np
import pytest
import torch
from foreign_models import (
    FILTERS,
    FOUR,
    inverse,
    open_unmix_estimates,
    open_unmix_spectra,
    spleeter_arrays,
    spleeter_estimates,
    write_open_unmix,
    write_tensorflow_checkpoint,
)

from vocal_extraction.checkpointing import load_checkpoint
from vocal_extraction.errors import ExtractionError
from vocal_extraction.exporting import export_model
from vocal_extraction.model_library import import_model
from vocal_extraction.separation import DiskArray, Separator
from vocal_extraction.settings import ExtractionSettings

pytestmark = pytest.mark.filterwarnings("ignore:.*serialization.*")


def decibels(estimate, reference):
    error, power = (np.sum(np.square(values, dtype=float)) for values in (estimate - reference, reference))
    return 10 * np.log10(max(error, 1e-30) / power)


@pytest.fixture(scope="module")
def umx(weights, tmp_path_factory):
    return imported(write_open_unmix(tmp_path_factory.mktemp("umx"), weights))


@pytest.fixture(scope="module")
def spleeter(arrays, tmp_path_factory):
    return imported(write_tensorflow_checkpoint(tmp_path_factory.mktemp("spleeter"), arrays))


def imported(path, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOCAL_EXTRACTION_MODELS", str(path / "models"))
        patch.setattr("vocal_extraction.networks.spleeter.N_FILTERS", FILTERS)
        return load_checkpoint(import_model(path, **options))


@pytest.mark.parametrize("n_samples", [14 * 44_100 + 345, 2_100, 4 * 1024])
def test_open_unmix_as_its_makers_compute_it(umx, weights, song, n_samples):
    assert umx.sources == FOUR
    found = Separator(umx)(song[:n_samples], 44_100)
    expected = open_unmix_estimates(song[:n_samples], weights)
    for source in FOUR:
        assert decibels(found[source], expected[source]) < -100, source


def test_one_target_of_open_unmix_alone_is_estimated_without_the_others(umx, tmp_path, weights, song):
    used = []
    song = song[: 3 * 44_100]
    for source, member in zip(FOUR, umx.network.layers["model"].members, strict=True):
        member.fc3.register_forward_hook(lambda *_, source=source: used.append(source))
    found = Separator(umx)(song, 44_100, sources=["vocals"])
    assert set(used) == {"vocals"}
    alone = imported(write_open_unmix(tmp_path / "alone", {"vocals": weights["vocals"]}, old=False))
    assert alone.sources == ("vocals",)
    np.testing.assert_array_equal(Separator(alone)(song, 44_100)["vocals"], found["vocals"])


# ONNX Runtime's sigmoid errs by 1e-8, and these U-Nets, whose weights are drawn, give values as small: those that its
# makers trained differ by -122 dB.
@pytest.mark.parametrize("name, most_db", [("umx", -100), ("spleeter", -30)])
def test_their_exports_estimate_what_they_do(name, most_db, request, song, tmp_path):
    model = request.getfixturevalue(name)
    exported = load_checkpoint(export_model(model.path, tmp_path / "model.onnx", check=False))
    found, expected = (Separator(each)(song, 44_100) for each in (exported, model))
    for source in model.sources:
        assert decibels(found[source], expected[source]) < most_db, source


def test_a_song_on_disk_gives_what_one_in_memory_gives(umx, spleeter, song):
    with DiskArray((2,)) as on_disk:
        on_disk.append(song)
        for model, source in ((umx, "drums"), (spleeter, "vocals")):
            in_memory = Separator(model)(song, 48_000, sources=[source])[source]
            with Separator(model)(on_disk, 48_000, sources=[source])[source] as estimate:
                np.testing.assert_array_equal(estimate[:], in_memory)


@pytest.mark.parametrize("n_sources, high", [(2, "average"), (4, "zeros")])
def test_spleeter_as_its_makers_compute_it(tmp_path, song, n_sources, high):
    arrays, song = spleeter_arrays(n_sources, n_sources), song[: 3 * 44_100]
    model = imported(write_tensorflow_checkpoint(tmp_path / "s", arrays), high=high)
    assert model.sources == {2: ("vocals", "accompaniment"), 4: ("vocals", "drums", "bass", "other")}[n_sources]
    found = Separator(model)(song, 44_100)
    expected = spleeter_estimates(song, arrays, model.sources, high=high)
    for source in model.sources:
        assert decibels(found[source], expected[source]) < -80, source


@pytest.mark.parametrize("n_samples", [1, 900, 508 * 1024 + 1])
def test_spleeter_at_the_ends_of_songs_and_blocks(spleeter, arrays, song, n_samples):
    found = Separator(spleeter)(song[:n_samples], 44_100)["vocals"]
    expected = spleeter_estimates(song[:n_samples], arrays, spleeter.sources)["vocals"]
    assert decibels(found, expected) < -80


def test_griffin_lim_takes_spleeters_masks_on_chunks(spleeter, song):
    song = song[: 2 * 44_100]
    found = Separator(spleeter, ExtractionSettings(phase="griffin-lim", chunk_s=1.0, context_s=0.2))(song, 44_100)[
        "vocals"
    ]
    assert found.shape == song.shape
    assert np.isfinite(found).all()
    masked = Separator(spleeter)(song, 44_100)["vocals"]
    assert 0.5 < np.square(found).sum() / np.square(masked).sum() < 2


def test_the_wiener_filter_is_norberts_on_stretches_of_300_frames(umx, weights, song):
    song = song[: 8 * 44_100]
    mixture, estimates = open_unmix_spectra(song, weights)
    x = mixture.permute(2, 1, 0).numpy().astype(complex)
    magnitudes = np.stack([estimates[source].abs().permute(2, 1, 0).numpy() for source in FOUR], axis=-1)
    filtered = [
        norbert.wiener(magnitudes[s : s + 300], x[s : s + 300].copy(), 1, use_softmask=False, eps=1e-10)
        for s in range(0, len(x), 300)
    ]
    found = Separator(umx, ExtractionSettings(wiener=1))(song, 44_100)
    for i, source in enumerate(FOUR):
        expected = inverse(torch.from_numpy(np.concatenate(filtered)[..., i]).permute(2, 1, 0), len(song))
        assert decibels(found[source], expected) < -90, source
        assert decibels(inverse(estimates[source], len(song)), expected) > -40, "the filter changes something"


def test_the_wiener_filter_takes_several_sources(tmp_path, weights, song):
    one = imported(write_open_unmix(tmp_path / "umx", {"vocals": weights["vocals"]}))
    with pytest.raises(ExtractionError, match="two sources or more"):
        Separator(one, ExtractionSettings(wiener=1))
