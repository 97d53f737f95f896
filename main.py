"""The specification's entrance: ``python main.py`` opens the menu, ``python main.py --help`` lists the commands.

From Python: ``from main import train_model, evaluate_model, create_model, extract_vocals``.
"""

import sys
from typing import Any

import vocal_extraction
from vocal_extraction.__main__ import main

__all__ = ["create_model", "evaluate_model", "extract_vocals", "main", "train_model"]  # noqa: F822 - by __getattr__


def __getattr__(name: str) -> Any:
    """Import a function when it is asked for, so that the menu does not wait for torch and nussl."""
    if name not in __all__:
        raise AttributeError(f"module 'main' has no attribute {name!r}")
    return getattr(vocal_extraction, name)


def __dir__() -> list[str]:
    return __all__


if __name__ == "__main__":
    sys.exit(main())
