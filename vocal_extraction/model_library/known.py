"""Models whose weights their makers publish: where, under which licence, and the SHA-256 of each file."""

import dataclasses
import tomllib
from collections.abc import Iterable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class KnownModel:
    by: str
    licence: str  # as an SPDX name
    terms: str  # where it stands
    url: str  # what comes before the names of the files
    files: dict[str, str]  # SHA-256 of each file, or as much of it as its makers publish
    stems: tuple[str, ...]
    contents: tuple[str, ...] = ()  # SHA-256 of the files in an archive, by which it is known however they were packed

    def is_of(self, sums: Iterable[str]) -> bool:
        """Whether all files with these SHA-256 are of this model."""
        published = (*self.files.values(), *self.contents)
        return all(each.startswith(published) for each in sums)


KNOWN = {  # models by the name that `models fetch` takes
    name: KnownModel(**{**facts, "stems": tuple(facts["stems"]), "contents": tuple(facts.get("contents", ()))})
    for name, facts in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}

VOCALS_DB = {  # mean SI-SDR of the vocals of the 24 test songs, where it was measured (docs/measurements.md)
    "classic": 2.61,
    "studio": 5.05,
    "ensemble": 5.29,
    "band-split": 4.28,
    "live": 3.19,
    "low-latency": 3.20,
    "spleeter-2stems": 5.86,
}
