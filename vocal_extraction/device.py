"""Which device computes: CUDA, Apple's MPS or the CPU."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from vocal_extraction.errors import VocalExtractionError

_ACCELERATORS = ("nvidiactl", "dxg", "kfd")  # device files of NVIDIA's, Windows' below Linux, AMD's


class DeviceError(VocalExtractionError):
    """The device asked for is not there."""


def choose_device(name: str = "auto") -> Any:
    """Return the `torch.device` of a name, 'auto' for CUDA, MPS or the CPU; raise DeviceError if it is not there."""
    import torch

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


def known_device(name: Any) -> Any:
    """Return what `choose_device` returns, or 'cpu', for which torch is not imported."""
    if name == "auto":
        has_accelerator = sys.platform != "linux" or any(Path("/dev", each).exists() for each in _ACCELERATORS)
        name = "auto" if has_accelerator and importlib.util.find_spec("torch") else "cpu"
    if str(name) == "cpu":
        return "cpu"
    return choose_device(name) if isinstance(name, str) else name
