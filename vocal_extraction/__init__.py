"""Music source separation: a song in, its stems out; the networks that do it, their training and their evaluation.

The public functions are imported when they are asked for, so that ``import vocal_extraction`` does not wait for torch
and nussl. From then on, ``import nussl`` works on current libraries, and torch reads nussl's checkpoints.
"""

import importlib
import os
import sys
from typing import Any

from vocal_extraction import compatibility

__version__ = "2.0.0"

_MODULES = {
    "train_model": "training",
    "evaluate_model": "evaluation",
    "create_model": "networks",
    "MaskInference": "networks",
    "extract_vocals": "extraction",
    "extract_songs": "extraction",
    "separate": "separation",
    "StreamingSeparator": "separation",
    "load_checkpoint": "checkpointing",
}

__all__ = ["__version__", *_MODULES]


def _register_networks() -> None:
    """Let nussl's own loader build this project's networks."""
    from vocal_extraction.compatibility import nussl
    from vocal_extraction.networks import NETWORKS

    for network in NETWORKS.values():
        nussl.ml.register_module(network)


compatibility.AFTER["nussl"].append(_register_networks)
compatibility.install()

# ONNX Runtime 1.29 and later send to its makers what runs, unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# torch takes large arrays in pages of 2 MB if this is set before the first of them. Networks of convolutions, whose
# memory goes back to the system after every layer, spend up to a third of their time on page faults otherwise.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def __getattr__(name: str) -> Any:
    """Import one of the public functions from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vocal_extraction.command_line.programs import put_programs_on_path

    put_programs_on_path()
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _compute_on_one_thread() -> None:
    """Keep a forked process from waiting for ever for threads of torch's pool, which only its parent has."""
    global LACKS_THREADS
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
        LACKS_THREADS = True


LACKS_THREADS = False  # whether this process was forked by one that had torch's threads, and has none of them


os.register_at_fork(after_in_child=_compute_on_one_thread)
