"""``python -m stress [TRIAL [OPTION ...]]``: run one trial with its options, or all of them.

The trials: fuzz, guided_fuzz, kills, catalogue, resources, memory, soak. Exit status 1 if any of them found something.
"""

import importlib
import sys

TRIALS = ("fuzz", "guided_fuzz", "kills", "catalogue", "resources", "memory", "soak")


def main() -> int:
    """Run the trial that is named, or all."""
    name, *options = sys.argv[1:] or [""]
    if name and name not in TRIALS:
        print(f"There is no trial {name!r}; there are {', '.join(TRIALS)}", file=sys.stderr)
        return 2
    statuses = []
    for each in [name] if name else TRIALS:
        print(f"== {each}", flush=True)
        sys.argv = [each, *options]
        statuses.append(importlib.import_module(f"stress.{each}").main())
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
