"""``python -m stress.fuzz [TARGET ...]``: feed every target its inputs, and print how many there were.

The inputs are Hypothesis's, from a fixed seed, so that a run can be repeated; what fails is shrunk and printed, and the
exit status is 1.
"""

import argparse
import datetime
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis

from benchmarks.__main__ import machine
from stress.audio_targets import AUDIO_TARGETS
from stress.file_targets import FILE_TARGETS
from stress.inputs import Target, scratch_folder
from stress.model_targets import MODEL_TARGETS
from stress.service_targets import SERVICE_TARGETS
from stress.typed_targets import TYPED_TARGETS

SEED = 8

ALL_TARGETS = (*AUDIO_TARGETS, *FILE_TARGETS, *TYPED_TARGETS, *MODEL_TARGETS, *SERVICE_TARGETS)
TARGETS = {target.name: target for target in ALL_TARGETS}


def trial(target: Target, folder: Path, *, n_inputs: int, seed: int = SEED) -> tuple[Callable[..., None], list[int]]:
    """Return a Hypothesis test of a target, and a list whose one number counts the inputs that it has taken."""
    count = [0]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=n_inputs,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    @hypothesis.given(target.inputs())
    def test(given: Any) -> None:
        count[0] += 1
        target.take(given, folder)

    return test, count


def fuzz(target: Target, *, n_inputs: int, seed: int = SEED) -> int:
    """Feed a target so many inputs; return how many it took."""
    with scratch_folder() as folder:
        test, count = trial(target, folder, n_inputs=n_inputs, seed=seed)
        test()
    return count[0]


def main() -> int:
    """Fuzz the targets that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m stress.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs of a full run")
    options = parser.parse_args()
    if unknown := sorted(set(options.targets) - TARGETS.keys()):
        parser.error(f"no target is called {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    print(f"{datetime.date.today().isoformat()}, {machine()}, seed {options.seed}")
    n_all, n_failed = 0, 0
    for name in options.targets or TARGETS:
        target, started = TARGETS[name], time.monotonic()
        # In a thread, which hands over whatever was raised: one target that fails must not keep the others from it.
        with ThreadPoolExecutor(1) as one:
            n_inputs = max(1, round(target.n_inputs * options.share))
            run = one.submit(fuzz, target, n_inputs=n_inputs, seed=options.seed)
        if failure := run.exception():
            n_failed += 1
            sys.excepthook(type(failure), failure, failure.__traceback__)
            print(f"{name:<20} FAILED: {type(failure).__name__}: {failure}", flush=True)
            continue
        n_all += run.result()
        print(f"{name:<20} {run.result():>8} inputs in {time.monotonic() - started:6.1f} s, no failure", flush=True)
    print(f"{'in all':<20} {n_all:>8} inputs, {n_failed} targets failed")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
