"""Shards: which of many machines does a song, by a hash of its address, so that no list has to be divided."""

import dataclasses
import hashlib
import os
import re

from vocal_extraction.errors import SettingsError

_INDEX_VARIABLES = ("SLURM_ARRAY_TASK_ID", "AWS_BATCH_JOB_ARRAY_INDEX", "JOB_COMPLETION_INDEX")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `n_shards` parts of any list of songs."""

    index: int  # from 0
    n_shards: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read 'I/N' with I from 0 to N - 1, or 'auto/N' or 'auto', where the scheduler's variables say the rest.

        'auto' alone takes the size from SLURM, which must then have all tasks of the array from the first to the last.
        A SettingsError says that it is neither, or there is no such variable.

        >>> Shard.parse("3/100")
        Shard(index=3, n_shards=100)
        """
        found = re.fullmatch(r"(auto|\d{1,9})(?:/(\d{1,9}))?", text)
        if found is None or (found[1] != "auto" and found[2] is None):
            raise SettingsError(f"The shard is {text!r}, expected I/N, as 0/8 to 7/8, auto/N or auto.")
        index, n_shards = found[1], int(found[2] or 0)
        if index == "auto":
            index = next((os.environ[name] for name in _INDEX_VARIABLES if os.environ.get(name, "").isdecimal()), "")
            if not index:
                raise SettingsError(f"--shard {text} needs one of {', '.join(_INDEX_VARIABLES)}. Name it: --shard I/N.")
            if not n_shards:
                names = ("MIN", "MAX", "COUNT")
                first, last, count = (int(os.environ.get(f"SLURM_ARRAY_TASK_{name}") or -1) for name in names)
                if min(first, last) < 0 or last - first + 1 != count:
                    raise SettingsError("The size of the array is not known. Name it: --shard auto/N, from task 0 on.")
                index, n_shards = str(int(index) - first), count
        if int(index) >= n_shards:
            raise SettingsError(f"Shard {index} of {n_shards} does not exist: they are counted from 0.")
        return cls(int(index), n_shards)

    def has(self, address: str) -> bool:
        digest = hashlib.sha256(address.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.n_shards == self.index
