"""The choice of a device: the best there is, or the one that was asked for."""

import pytest
import torch

from vocal_extraction.device import DeviceError, choose_device
from vocal_extraction.errors import VocalExtractionError


def test_auto_is_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("missing", ["cuda", "mps"])
def test_a_device_that_is_claimed_but_not_there_is_an_error(monkeypatch, missing):
    if missing == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA, so it cannot be missing")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: missing == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: missing == "mps")
    with pytest.raises(DeviceError, match=f"'{missing}' cannot be used"):
        choose_device()


@pytest.mark.parametrize(
    "name", ["", "gpu", "cuda:99", "meta", "hpu", "vulkan", "mkldnn", "cpu:x", None, 1.5, "\x1b[2J"]
)
def test_devices_that_are_not_there_are_named_with_the_remedy(name):
    with pytest.raises(DeviceError, match="Try --device auto or --device cpu") as caught:
        choose_device(name)
    assert isinstance(caught.value, VocalExtractionError)
    message = str(caught.value)
    assert repr(name) in message
    assert len(message) < 300
    assert message.isprintable()
