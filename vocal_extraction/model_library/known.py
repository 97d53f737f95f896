"""Models whose weights their makers publish: where, under which licence, and the SHA-256 of each file."""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class KnownModel:
    """One model."""

    by: str
    licence: str
    """As an SPDX name."""
    terms: str
    """Where it stands."""
    url: str
    """What comes before the names of the files."""
    files: dict[str, str]
    """SHA-256 of each file, or as much of it as its makers publish."""
    stems: tuple[str, ...]
    contents: tuple[str, ...] = ()
    """SHA-256 of the files in an archive, by which it is known however they were packed."""

    def is_of(self, sums: Iterable[str]) -> bool:
        """Whether all files with these SHA-256 are of this model."""
        published = (*self.files.values(), *self.contents)
        return all(each.startswith(published) for each in sums)


def _open_unmix(record: int, licence: str, **sums: str) -> KnownModel:
    page = f"https://zenodo.org/records/{record}"
    files = {f"{source}-{known[:8]}.pth": known for source, known in sums.items()}
    makers = "Stöter, Uhlich, Liutkus and Mitsufuji (Inria, Sony)"
    return KnownModel(makers, licence, page, f"{page}/files/", files, tuple(sums))


def _spleeter(stems: tuple[str, ...], archive: str, *contents: str) -> KnownModel:
    page, file = "https://github.com/deezer/spleeter", f"{len(stems)}stems.tar.gz"
    makers, url = "Hennequin, Khlif, Voituret and Moussallam (Deezer)", f"{page}/releases/download/v1.4.0/"
    return KnownModel(makers, "MIT", f"{page}/blob/master/LICENSE", url, {file: archive}, stems, contents)


KNOWN = {
    "spleeter-2stems": _spleeter(
        ("vocals", "accompaniment"),
        "f3a90b39dd2874269e8b05a48a86745df897b848c61f3958efc80a39152bd692",
        "55661a09f79c86071fc7077b44b4cf1f01b6d82bbbb83ed94cb68a2f9944e378",
        "7747f9fd2c782306dbec1504360fbb645a097a48446f23486c3ff9c89bc11788",
    ),
    "spleeter-4stems": _spleeter(
        ("vocals", "drums", "bass", "other"), "3adb4a50ad4eb18c7c4d65fcf4cf2367a07d48408a5eb7d03cd20067429dfaa8"
    ),
    "umxhq": _open_unmix(
        3370489,
        "MIT",
        vocals="b62c91cedbc7a066f1778ead5b5cecb377aa3a46a31af1cce7c5c8769339d083",
        drums="9619578f",
        bass="8d85a5bd",
        other="b52fbbf7",
    ),
    "umx": _open_unmix(3370486, "MIT", vocals="c8df74a5", drums="5a48008b", bass="646024d3", other="f8e132cc"),
    "umxl": _open_unmix(
        5069601, "CC-BY-NC-SA-4.0", vocals="bccbd9aa", drums="69e0ebd4", bass="2ca1ce51", other="c8c5b3e6"
    ),
}
"""Models by the name that `models fetch` takes."""

VOCALS_DB = {"classic": 2.49, "studio": 4.24, "four-stems": 4.28, "live": 3.19, "spleeter-2stems": 5.86}
"""Mean SI-SDR of the vocals of the 24 test songs, where it was measured (docs/measurements.md)."""
