"""Which device computes: CUDA, Apple's MPS or the CPU."""

import torch

from vocal_extraction.errors import VocalExtractionError


class DeviceError(VocalExtractionError):
    """The device asked for is not there."""


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to compute on; raise DeviceError if it is not there.

    `name` is 'auto' (CUDA when there is one, then Apple's MPS, else the CPU) or a name that torch knows, as 'cuda:1'.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        known = str(name).partition(":")[0] in ("cpu", "cuda", "mps")  # torch itself lists all that it was built with
        reason = "it was not found" if known else "there are auto, cpu, cuda, cuda:1 and mps"
        raise DeviceError(f"Device {name!r} cannot be used: {reason}. Try --device auto or --device cpu.") from error
    return device
