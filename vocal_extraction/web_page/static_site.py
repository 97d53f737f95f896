"""The page as a static site, which separates songs in the user's own browser: docs/edge.md."""

import dataclasses
import hashlib
import json
import lzma
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from vocal_extraction.atomic_files import StorageError
from vocal_extraction.exporting import ExportError, export_model
from vocal_extraction.reports.style import COLOURS
from vocal_extraction.separation import stem_plan
from vocal_extraction.settings import ExtractionSettings

_SITE, _RUNTIME = (Path(__file__).with_name(name) for name in ("site", "onnxruntime"))
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)


def export_site(
    models: Sequence[str | Path],
    folder: str | Path,
    *,
    int8: bool = False,
    tracks: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a site that any host of files can serve, with some models: checkpoints, or names of those that ship.

    With `int8`, weights are of 8 bits, and each model is checked as `export_model` does it, on `tracks`.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not overwrite:
        raise StorageError(f"{folder} is there already. Name another place, or say --overwrite.")
    if folder.exists() and not (folder / "models.json").is_file():
        raise StorageError(f"{folder} holds something else than a site, and is not replaced. Name another place.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".site-") as temporary:
        site = Path(temporary) / folder.name
        shutil.copytree(_SITE, site, ignore=shutil.ignore_patterns("server_engine.js"))
        shutil.copytree(_RUNTIME, site / "onnxruntime")
        for packed in (site / "onnxruntime").glob("*.xz"):
            packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
            packed.unlink()
        described = [
            _described(export_model(model, site / f"models/{i}", int8=int8, tracks=tracks, check=int8), site, model)
            for i, model in enumerate(models)
        ]
        (site / "models.json").write_text(json.dumps(described))
        (site / "colours.css").write_text(COLOURS)
        policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        head, page = f'<html lang="en" data-engine="browser">\n{policy}', site / "index.html"
        page.write_text(page.read_text().replace('<html lang="en">', head))
        _list_files(site)
        if folder.exists():
            shutil.rmtree(folder)
        site.rename(folder)
    return folder


def _described(exported: Path, site: Path, model: str | Path) -> dict[str, Any]:
    """Return what the page knows of an exported model, with the plan of each choice of stems."""
    facts = json.loads((exported / "model.json").read_text())
    signal, sources, settings = facts["signal"], facts["sources"], ExtractionSettings()
    is_power_of_two = signal["window_length"] & (signal["window_length"] - 1) == 0
    if facts["n_channels"] > 2 or not is_power_of_two or signal["padding"] != "half":
        raise ExportError(
            f"The page in a browser cannot run {model}: it takes networks for one channel or two, windows of a power "
            "of two samples, and half a window of zeros beyond a song's ends."
        )
    plans = {"": stem_plan(sources), "stems=all": stem_plan(sources, ["all"])}
    plans |= {urlencode({"without": source}): stem_plan(sources, without=[source]) for source in sources}
    return {
        "name": facts["source"]["name"],
        "sources": sources,
        "folder": exported.relative_to(site).as_posix(),
        "sample_rate": signal["sample_rate"],
        "chunks": {"chunk_s": settings.chunk_s, "context_s": settings.context_s},
        "plans": {choice: [dataclasses.asdict(stem) for stem in plan.stems] for choice, plan in plans.items()},
    }


def _list_files(site: Path) -> None:
    """Tell the service worker what to store, under a version that changes with any of it."""
    files = sorted(path for path in site.rglob("*") if path.is_file() and path.name not in ("sw.js", "README.md"))
    version = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    names = ["./", *(path.relative_to(site).as_posix() for path in files)]
    worker = site / "sw.js"
    worker.write_text(worker.read_text().replace('["", []]', json.dumps([version, names])))
