"""Catalogues: songs by the million, from lists or storage, divided into shards, on processes or a Ray cluster.

Where a song's stems go depends on its contents and the options alone, ``ab/ab12.../<song>/<stem>.wav`` by their
SHA-256, so that machines need not agree on names, and a song that is done twice has the same stems. What is done is
known from the shard's manifest, without a look at the stems; docs/scale.md.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from vocal_extraction import atomic_files
from vocal_extraction.checkpointing import LoadedModel
from vocal_extraction.errors import ExtractionCancelledError, ExtractionError, VocalExtractionError
from vocal_extraction.extraction import addresses
from vocal_extraction.extraction.addresses import is_address, plain
from vocal_extraction.extraction.batch import plan_of
from vocal_extraction.extraction.manifest import MANIFEST_NAME, Manifest, options_of
from vocal_extraction.extraction.naming import STANDARD_INPUT, choose_paths, find_songs, path_key
from vocal_extraction.extraction.outcome import DONE, FAILED, Outcome, ProgressBars, Totals
from vocal_extraction.extraction.shards import Shard
from vocal_extraction.extraction.song import extract_song
from vocal_extraction.extraction.workers import ExtractionWork, Tries, do_all, engine_of
from vocal_extraction.separation import Cancelled, Separator, load_model, worker_pool
from vocal_extraction.settings import EXTRACTION_FOLDER, ExtractionSettings

_UPLOAD_EVERY_S = 30.0
_UPLOAD_SHARE = 20  # a manifest is uploaded again after so many times what that took; it grows
_Result = tuple[Outcome, str | None]  # of a song, with its SHA-256


@dataclasses.dataclass(frozen=True)
class CatalogueWork(ExtractionWork):
    scratch: Path  # a folder for what is temporary, on the machine that gives out the songs

    def prepare(self, stopped: Cancelled) -> Callable[[str], _Result | None]:
        model = self.load()
        separator = Separator(model, self.settings, pool=worker_pool(model, n_beside=self.n_workers))
        options = options_of(self.settings, model.sha256, self.plan)
        name, scratch_folder = model.name, self.scratch if self.scratch.is_dir() else None

        def extract(song: str) -> _Result | None:
            started, sha256, local = time.monotonic(), None, Path(song)
            with contextlib.ExitStack() as stack:
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="song-", dir=scratch_folder))
                try:
                    local = addresses.fetch(song, Path(scratch)) if is_address(song) else local
                    sha256 = atomic_files.sha256_of(local) if local.is_file() else None
                    key = hashlib.sha256(json.dumps([sha256, options], sort_keys=True).encode()).hexdigest()
                    below = f"{key[:2]}/{key[:32]}"
                    base = Path(scratch, "stems") if is_address(self.output) else Path(self.output, below)
                    # When the song is done, since the encoder of a worker that was killed may still have written a bit.
                    stack.callback(atomic_files.remove_leftovers, base)
                    own: dict[str, Any] = {"owners": {}, "inputs": {path_key(local)}}
                    paths = choose_paths(local, self.plan.names, base, self.settings, name, **own)
                    outcome = extract_song(local, paths, self.plan, separator, cancelled=stopped)
                    stems: dict[str, Any] = outcome.stems
                    if is_address(self.output):
                        for stem, path in paths.items():
                            stems[stem] = f"{self.output}/{below}/{path.relative_to(base)}"
                            addresses.store(path, stems[stem])
                    seconds = time.monotonic() - started
                    return dataclasses.replace(outcome, file=song, stems=stems, seconds=seconds), sha256
                except ExtractionCancelledError:
                    return None
                except (VocalExtractionError, OSError) as error:
                    reason = str(error).replace(str(local), song)
                    return Outcome(song, FAILED, time.monotonic() - started, reason), sha256

        return extract


class ShardManifest(Manifest):
    """The manifest of a shard, which knows the songs that were done with these `options`.

    At an address, a local copy in the folder `scratch` goes there often.
    """

    def __init__(self, output: str | Path, name: str, options: Mapping[str, Any], scratch: Path) -> None:
        self._options, self._done, self._due_s = options, set[str](), time.monotonic() + _UPLOAD_EVERY_S
        self._address = f"{output}/{name}" if is_address(output) else None
        if self._address is not None:
            (scratch / name).write_text(addresses.read_text(self._address), encoding="utf-8")
        super().__init__(Path(output) if self._address is None else scratch, name)
        self._path.touch()  # of a shard without songs, too

    def __contains__(self, song: str) -> bool:
        return song in self._done

    def _learn(self, text: str) -> None:
        with contextlib.suppress(ValueError, AttributeError):  # what a crash cut off
            line = json.loads(text)
            if line.get("outcome") == DONE and all(line.get(name) == value for name, value in self._options.items()):
                self._done.add(str(line.get("source")))

    def upload(self, *, at_once: bool = False) -> None:
        """Bring the copy to its address, if it is time; what fails then will be tried again, but `at_once`."""
        if self._address is None or not (at_once or time.monotonic() >= self._due_s):
            return
        began_s = time.monotonic()
        try:
            addresses.store(self._path, self._address)
        except addresses.AddressError:
            if at_once:
                raise
        took_s = time.monotonic() - began_s
        self._due_s = time.monotonic() + max(_UPLOAD_EVERY_S, _UPLOAD_SHARE * took_s)


def extract_catalogue(
    songs: Sequence[str | Path] = (),
    output_folder: str | Path = EXTRACTION_FOLDER,
    *,
    list_path: str | Path | None = None,
    shard: str | None = None,
    engine: str = "processes",
    cluster: str | None = None,
    gpu_share: float = 0.0,
    price_per_core_hour: float | None = None,
    stems: Sequence[str] | None = None,
    without: Sequence[str] | None = None,
    settings: ExtractionSettings = ExtractionSettings(),
    model: str | Path | LoadedModel | None = None,
    preset_name: str | None = None,
    device: str = "auto",
    runtime: str = "auto",
    n_jobs: int = 1,
    show: bool = True,
    results: TextIO | None = None,
) -> Totals:
    """Extract the stems of a catalogue, or of a shard of it.

    `songs` are files, folders and addresses of both, `list_path` names more (`addresses.songs_listed`). The stems of a
    song lie in `output_folder`, which may be an address, below the SHA-256 of its contents and the options. `shard`
    says which part of the songs, see `shards.Shard.parse`; None is all. The `engine` is 'processes' of this machine or
    'ray': `cluster` is the address of a Ray cluster, 'auto' for the one that this machine is of, None starts one here;
    `gpu_share` is that of each of its workers. There are `n_jobs` workers, each with the model loaded and one song in
    hand; `price_per_core_hour`, of this machine's cores or of Ray's workers, gives the cost. The others are those of
    `batch.extract_songs`. A VocalExtractionError says why nothing can be begun, or nothing be recorded any more.
    """
    output: str | Path = plain(output_folder)
    output = output.rstrip("/") if is_address(output) else Path(output)
    part = None if shard is None else Shard.parse(shard)
    loaded = load_model(model, preset_name=preset_name, device=device, runtime=runtime)
    plan = plan_of(loaded.sources, stems, without, settings.format)
    options = options_of(settings, loaded.sha256, plan)
    name = MANIFEST_NAME if part is None else f"manifest-{part.index:05}-of-{part.n_shards:05}.jsonl"
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(atomic_files.private_folder("vocal-extraction-catalogue-"))
        work = CatalogueWork.of(loaded, model, device, runtime, n_jobs, plan, settings, output, scratch)
        hire, n_paid = engine_of(engine, work, cluster=cluster, gpu_share=gpu_share)
        totals = Totals(price_per_core_hour, n_paid)
        if isinstance(output, Path):
            lock = ".lock" if part is None else f".{name}.lock"
            stack.enter_context(atomic_files.sole_writer(output, doing="extracting", name=lock))
        manifest = ShardManifest(output, name, options, scratch)
        stack.callback(manifest.upload, at_once=True)
        in_hand = output / f".{name}.in-hand" if isinstance(output, Path) else f"{output}/.{name}.in-hand"
        tries = stack.enter_context(contextlib.closing(Tries(in_hand, afresh=settings.overwrite)))
        bars = stack.enter_context(contextlib.closing(ProgressBars(None, show=show, results=results, totals=totals)))

        def to_do() -> Iterator[str]:
            for song in _all_songs(songs, list_path, output, scratch):
                if part is None or part.has(song):
                    if song in manifest and not settings.overwrite:
                        totals.skipped += 1
                    else:
                        yield song

        def record(song: str, result: _Result | ExtractionError) -> None:
            failure = (Outcome(song, FAILED, reason=str(result)), None)
            outcome, sha256 = failure if isinstance(result, ExtractionError) else result
            manifest.add(outcome, {}, {"source": song, "source_sha256": sha256, **options})
            manifest.upload()
            bars.report(outcome)

        do_all(to_do(), hire, n_workers=n_jobs, tries=tries, name=str, done=record)
    return totals


def _all_songs(
    songs: Iterable[str | Path], list_path: str | Path | None, output: str | Path, scratch: Path
) -> Iterator[str]:
    """Yield the addresses and absolute paths of all songs that were named or listed."""
    for given in map(plain, songs):
        if given == STANDARD_INPUT:
            raise ExtractionError("A catalogue takes songs by path or address. A list comes from a pipe: --list -.")
        if is_address(given):
            yield from addresses.songs_at(given)
        else:
            folder = output if isinstance(output, Path) else scratch
            yield from (os.path.abspath(song) for song in find_songs(given, output_folder=folder))  # noqa: PTH100
    if list_path is not None:
        yield from addresses.songs_listed(list_path, scratch)


def merge_manifests(output_folder: str | Path) -> Totals:
    """Join the manifests of all shards below a folder or an address; a shard without one counts as a failure."""
    output = str(plain(output_folder)).rstrip("/")
    found = addresses.files_below(output, "manifest-*-of-*.jsonl")
    if not found:
        raise ExtractionError(f"There are no manifests of shards in {output}: --shard makes them.")
    totals, lines, seen = Totals(started_s=None), list[str](), set[str]()
    shards = [[int(number) for number in path[:-6].rsplit("-", 3)[1::2]] for path in found]  # index and n_shards
    n_shards = max(n for _, n in shards)
    for index in set(range(n_shards)) - {index for index, _ in shards}:
        totals.failures[f"the manifest of shard {index} of {n_shards} is missing"] += 1
    for path in [*sorted(found), f"{output}/{MANIFEST_NAME}"]:
        last: dict[str, dict[str, Any]] = {}
        for text in addresses.read_text(path).split("\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # what a crash cut off
                line = json.loads(text)
                if last.get(line["source"], line)["outcome"] != DONE or line["outcome"] == DONE:
                    last[line["source"]] = line
        for source in last.keys() - seen:
            line = last[source]
            lines.append(json.dumps(line, ensure_ascii=False))
            seen.add(source)
            totals.add(Outcome(source, line["outcome"], line["seconds"], line["reason"], line["duration_s"]))
    addresses.write_text(f"{output}/{MANIFEST_NAME}", "".join(f"{line}\n" for line in lines))
    return totals
