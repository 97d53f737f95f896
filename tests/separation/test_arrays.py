"""What people give to `separate`: soundfile's axes, integers, tensors, models by name."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from extraction_models import ConstantMask, loaded, music

from vocal_extraction import load_checkpoint
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.separation import separate

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 44_100


@pytest.fixture(scope="module")
def model():
    return loaded(ConstantMask(0.25))


@pytest.fixture(scope="module")
def mixture():
    return music(0.2)


def test_the_axes_of_soundfile_are_refused_with_the_remedy(tmp_path, mixture, model):
    soundfile.write(tmp_path / "song.wav", mixture.T, RATE)
    samples, rate = soundfile.read(tmp_path / "song.wav")
    with pytest.raises(VocalExtractionError, match=r"\(8820, 2\).*mixture\.T"):
        separate(samples, rate, model=model)
    assert separate(samples.T, rate, model=model)["vocals"].shape == (2, 8820)


@pytest.mark.parametrize(
    "dtype, scale, zero, step",
    [("int16", 2**15, 0, 4e-5), ("int32", 2**31, 0, 1e-6), ("int8", 2**7, 0, 1e-2), ("uint8", 2**7, 2**7, 1e-2)],
)
def test_integers_are_converted_by_their_range(mixture, model, dtype, scale, zero, step):
    given = np.rint(mixture.astype(np.float64) * scale + zero).astype(dtype)
    for array in (given, torch.from_numpy(given)):
        vocals = separate(array, RATE, model=model)["vocals"]
        np.testing.assert_allclose(vocals, 0.25 * mixture, atol=step)


@pytest.mark.parametrize("dtype", ["int64", "uint16", "bool", "complex64", "object", "U8"])
def test_what_has_no_full_scale_is_refused(mixture, model, dtype):
    with pytest.raises(VocalExtractionError, match="floats from -1 to 1"):
        separate(mixture.astype(dtype), RATE, model=model)


def test_masked_samples_are_refused(mixture, model):
    with pytest.raises(VocalExtractionError, match=r"mixture\.filled\(0\)"):
        separate(np.ma.masked_greater(mixture, 0.1), RATE, model=model)
    separate(np.ma.masked_greater(mixture, 10), RATE, model=model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors_are_taken(mixture, model, dtype):
    tensor = torch.from_numpy(mixture).to(dtype).requires_grad_()
    expected = tensor.detach().float().numpy()
    vocals = separate(tensor, RATE, model=model)["vocals"]
    assert isinstance(vocals, np.ndarray)
    np.testing.assert_allclose(vocals, 0.25 * expected, atol=1e-6)


@pytest.mark.parametrize(
    "given, remedy",
    [
        *(
            (np.zeros(9), r"mixture\[None\]"),
            (np.zeros((1, 2, 9)), "of one song"),
            ([[1.0], [1.0, 2.0]], "no array"),
        ),
        *(
            ("song.wav", "is a str, .* for extract_vocals"),
            (Path("song.wav"), "is a PosixPath"),
            (b"RIFF", "is a bytes"),
        ),
        *((None, "is a NoneType"), ({"mix": np.zeros((2, 9))}, "is a dict")),
    ],
)
def test_other_shapes_are_refused_with_a_remedy(model, given, remedy):
    with pytest.raises(VocalExtractionError, match=remedy):
        separate(given, RATE, model=model)


@pytest.mark.parametrize("rate", [0, -1, 0.5, 44_100.5, float("nan"), float("inf"), "44100", None, True, 48, 999])
def test_what_is_no_sample_rate_is_named(mixture, model, rate):
    with pytest.raises(VocalExtractionError, match="sample rate"):
        separate(mixture, rate, model=model)


@pytest.mark.parametrize("rate", [44_100.0, np.float64(22_050), np.int32(8_000)])
def test_a_whole_rate_may_be_of_any_type(mixture, model, rate):
    np.testing.assert_array_equal(
        separate(mixture, rate, model=model)["vocals"], separate(mixture, int(rate), model=model)["vocals"]
    )


def test_a_model_is_loaded_by_its_name_or_path(mixture, tmp_path):
    by_name = load_checkpoint("classic")
    expected = separate(mixture, RATE, model=by_name)["vocals"]
    for model in ("classic", by_name.path, str(by_name.path)):
        np.testing.assert_array_equal(separate(mixture, RATE, model=model)["vocals"], expected)
    with pytest.raises(VocalExtractionError, match="nothing"):
        separate(mixture, RATE, model="nothing")
    with pytest.raises(VocalExtractionError, match=r"is a ConstantMask, expected the path .*classic"):
        separate(mixture, RATE, model=ConstantMask(0.5))


def test_one_stem_may_be_named_without_a_list(mixture, model):
    assert list(separate(mixture, RATE, model=model, stems="accompaniment")) == ["accompaniment"]
    assert list(separate(mixture, RATE, model=model, stems=[])) == ["vocals", "accompaniment"]
