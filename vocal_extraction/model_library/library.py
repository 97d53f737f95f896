"""The models on this machine: import, fetch, remove, list and describe them."""

import dataclasses
import hashlib
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from vocal_extraction.atomic_files import remove_leftovers, sha256_of
from vocal_extraction.checkpointing import CheckpointError, licence_of, load_checkpoint, named_checkpoint, read_metadata
from vocal_extraction.checkpointing.archive import reason_of
from vocal_extraction.checkpointing.shipped import ENDING, member_paths, named_checkpoints, shipped_checkpoints
from vocal_extraction.errors import SettingsError
from vocal_extraction.model_library.fetching import LibraryError, LicenceError, download, size_of
from vocal_extraction.model_library.files import files_at, read
from vocal_extraction.model_library.known import KNOWN, VOCALS_DB
from vocal_extraction.presets import PRESETS
from vocal_extraction.separation import real_time_factor
from vocal_extraction.settings import PRETRAINED_FOLDER, models_folder

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}"


def import_model(path: str | Path, *, name: str | None = None, high: str = "zeros") -> Path:
    """Import open-unmix's or Spleeter's weights from a file, a folder or an archive; return the checkpoint's path.

    `name` is what the model is called from now on; None is the name that it is published under. `high` is what
    Spleeter's mask is above 11 kHz: 'zeros', or 'average', the mean of the frame's others. After a LibraryError nothing
    is installed.
    """
    from vocal_extraction.checkpointing import save_network
    from vocal_extraction.model_library.formats import FORMATS

    path = Path(path)
    remove_leftovers(models_folder())
    try:
        with files_at(path) as files:
            found = next((model for convert in FORMATS if (model := convert(files, high)) is not None), None)
            if found is None:
                raise CheckpointError("there are no weights of open-unmix (.pth) or Spleeter (.index and .data) in it")
            sums = {each: hashlib.sha256(read(files, each)).hexdigest() for each in found.files}
    except (CheckpointError, SettingsError) as error:
        raise LibraryError(f"{path} was not imported: {reason_of(error).rstrip('.')}.") from error
    archive = {path.name: sha256_of(path)} if path.is_file() else {}
    known = next((each for each in KNOWN if any(KNOWN[each].is_of(s.values()) for s in (sums, archive) if s)), None)
    name = _free_name(name if name is not None else known or found.metadata.preset or "")
    licence, source = (KNOWN[known].licence, KNOWN[known].terms) if known else ("unknown: ask its makers", path.name)
    imported = {"source": source, "files": sums | archive}
    metadata = dataclasses.replace(found.metadata, preset=name, licence=licence, imported=imported)
    return save_network(models_folder() / f"{name}{ENDING}", found.network, metadata)


def _free_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise LibraryError(f"{name!r} cannot be a model's name. Give another of letters and digits: --name NAME.")
    if name in PRESETS or name in named_checkpoints():
        raise LibraryError(f"There is a model {name!r} already. Give another --name, or remove that one first.")
    return name


def fetch_model(name: str, *, accept_licence: bool = False, **options: Any) -> Path:
    """Download a model from its makers' address and import it; `options` are those of `import_model`, errors too."""
    if name not in KNOWN:
        raise LibraryError(f"No model {name!r} can be fetched; there are {', '.join(KNOWN)}.")
    known, options = KNOWN[name], {"name": name, **options}
    _free_name(options["name"])
    n_bytes = sum(size_of(known.url + file) for file in known.files)
    print(f"{name}: {', '.join(known.stems)}, by {known.by}. {n_bytes / 1e6:.0f} MB.", file=sys.stderr)
    print(f"Licence: {known.licence}, see {known.terms}", file=sys.stderr)
    if not accept_licence:
        raise LicenceError(f"Nothing was downloaded. If you accept the licence: models fetch {name} --accept-licence")
    folder = models_folder() / ".downloads" / name
    for file, sha256 in known.files.items():
        download(known.url + file, folder / file, sha256)
    checkpoint = import_model(folder if len(known.files) > 1 else folder / next(iter(known.files)), **options)
    shutil.rmtree(folder)
    return checkpoint


def remove_model(name: str) -> Path:
    """Remove an imported model and return where it was; a LibraryError says that there is none."""
    path = named_checkpoints().get(name)
    if path is None or name in shipped_checkpoints():
        raise LibraryError(f"{name!r} cannot be removed: it {'ships' if path else 'was not imported'}.")
    path.unlink()
    return path


def models_table(*, measure: bool = False) -> list[dict[str, Any]]:
    """Return what is known of each model that is here or can be fetched; `measure`: also how fast it is here."""
    here = named_checkpoints()
    rows = [_row(name, path, measure=measure) for name, path in here.items()]
    for name, known in KNOWN.items():
        if name not in here:
            facts = {"stems": known.stems, "licence": known.licence, "from": f"not here: models fetch {name}"}
            rows.append({"model": name, "vocals_db": VOCALS_DB.get(name), **facts})
    speed = ("times_real_time",) if measure else ()
    columns = ("model", "stems", "vocals_db", "mb", *speed, "licence", "from")
    return [{column: row.get(column) for column in columns} for row in rows]


def _row(name: str, path: Path, *, measure: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name, "vocals_db": VOCALS_DB.get(name)}
    try:
        row["mb"] = round(sum(each.stat().st_size for each in member_paths(path)) / 1e6, 1)
        metadata = read_metadata(path)
        row |= {"times_real_time": round(1 / real_time_factor(load_checkpoint(path)), 1)} if measure else {}
    except (CheckpointError, SettingsError) as error:
        return row | {"from": reason_of(error)}
    source = metadata.imported.get("source", "ships with this program")
    return row | {"stems": metadata.sources, "licence": licence_of(path, metadata.licence), "from": source}


def model_card(name: str) -> str:
    """Return what is known of a model: of one that ships its section of the model card; raises CheckpointError."""
    path = named_checkpoint(name)
    if name in shipped_checkpoints():
        sections = re.split(r"^(?=## )", (PRETRAINED_FOLDER / "README.md").read_text(encoding="utf-8"), flags=re.M)
        return "\n".join(each.rstrip() for each in sections if each.startswith((f"## {name}\n", "## Data")))
    model, db = load_checkpoint(path), VOCALS_DB.get(name)
    imported = model.metadata.imported
    n_weights = sum(weights.numel() for weights in model.network.parameters())
    facts = {
        "licence": licence_of(path, model.metadata.licence),
        "from": imported.get("source"),
        "stems": ", ".join(model.sources),
        "vocals": f"{db} dB SI-SDR on the 24 test songs of docs/measurements.md" if db else None,
        "weights": f"{n_weights:,}",
        "file": f"{path}, {path.stat().st_size / 1e6:.0f} MB, SHA-256 {model.sha256}",
        **{f"SHA-256 of {file}": sha256 for file, sha256 in imported.get("files", {}).items()},
    }
    return "\n".join([f"## {name}", *(f"- {what}: {value}" for what, value in facts.items() if value)])
