"""What the four jobs of `hardening.victims` read, made once for all tests that run them."""

from pathlib import Path

from stress.victims import JOBS

_made: dict[str, Path] = {}


def inputs_of(name, tmp_path_factory):
    """Return the folder of a job's inputs; read only, never write into it."""
    if name not in _made:
        folder = tmp_path_factory.mktemp(name) / "inputs"
        JOBS[name].make_inputs(folder)
        _made[name] = folder
    return _made[name]
