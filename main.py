"""The specification's entrance: ``python main.py`` opens the menu, ``python main.py --help`` lists the commands.

From Python: ``from main import train_model, evaluate_model, create_model, extract_vocals``.
"""

import importlib
import sys
from typing import Any

import vocal_extraction
from vocal_extraction.__main__ import main

_FUNCTIONS = ("MaskInference", "create_model", "evaluate_model", "extract_vocals", "train_model")
_LIBRARIES = ("nussl", "torch")
__all__ = [*_FUNCTIONS, *_LIBRARIES, "main", "processing_device"]  # noqa: F822 - by __getattr__


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that the menu does not wait for torch and nussl.

    ``from main import *`` gives all that the specification's listings use: its functions, its network,
    ``processing_device`` (the device that 'auto' chooses), nussl and torch.
    """
    if name in _FUNCTIONS:
        return getattr(vocal_extraction, name)
    if name in _LIBRARIES:
        return importlib.import_module(name)
    if name == "processing_device":
        return importlib.import_module("vocal_extraction.device").choose_device()
    raise AttributeError(f"module 'main' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


if __name__ == "__main__":
    sys.exit(main())
