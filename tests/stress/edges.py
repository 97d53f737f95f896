"""An edge of the program under trial: its inputs, what takes them, and what may come of it.

A target may refuse an input with an error of this project's, whose text is there to be read. Anything else that is
raised is a fault, and so is a result that is not what it should be.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from vocal_extraction.errors import VocalExtractionError


@dataclasses.dataclass(frozen=True)
class Target:
    """One edge of the program."""

    name: str
    inputs: Callable[[], "st.SearchStrategy[Any]"]
    """Makes the strategy that draws inputs."""
    take: Callable[[Any, Path], None]
    """Feeds one input to the edge; the path is an empty folder of the target's own."""
    n_inputs: int
    """Of a full run."""
    n_guided: int = 0
    """Inputs of a full run that coverage guides; none where most of the time is spent in libraries."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Let errors of this project pass, if they say anything."""
    try:
        yield
    except VocalExtractionError as error:
        if not str(error).strip():
            raise AssertionError("an error without a text") from error


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder, in memory where that is possible, with a few levels above it that are empty, too."""
    shared = Path("/dev/shm")  # noqa: S108 - a parent for a temporary folder, if it is there
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=shared if os.access(shared, os.W_OK) else None) as folder:
        inner = Path(folder) / "a" / "b"
        inner.mkdir(parents=True)
        before = Path.cwd()
        os.chdir(inner)
        try:
            yield inner
        finally:
            os.chdir(before)
