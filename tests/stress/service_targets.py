"""What data sets and other programs give: folders of tracks, manifests, lists of songs, PCM, requests to the API."""

import asyncio
import contextlib
import functools
import io
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from stress import inputs
from stress.inputs import Target, refusing

_NAMES = (
    *("train", "valid", "test", "foreground", "background", "vocals", "drums", "mixture", "A - B", "vocals_only"),
    *("vocals.wav", "accompaniment.wav", "drums.flac", "mixture.wav", "other.WAV", ".hidden.wav", "a.stem.mp4", "up"),
)


def _wav(n_samples: int, n_channels: int, rate: int) -> bytes:
    import numpy as np
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.full((n_samples, n_channels), 0.1), rate, format="WAV")
    return buffer.getvalue()


@functools.cache
def _contents() -> tuple[bytes, ...]:
    return (_wav(50, 1, 44_100), _wav(60, 2, 44_100), _wav(50, 1, 22_050), _wav(0, 1, 44_100), b"", b"RIFF\0\0\0\0WAVE")


def _trees() -> st.SearchStrategy[dict[str, bytes]]:
    """Files by their paths; a path that ends with 'up' is a link to the folder above."""
    paths = st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4).map("/".join)
    return st.dictionaries(paths, st.sampled_from(_contents()), min_size=1, max_size=6)


def _take_tree(tree: dict[str, bytes], folder: Path) -> None:
    from vocal_extraction.tracks import find_tracks

    with tempfile.TemporaryDirectory(dir=folder) as place:
        for name, contents in tree.items():
            path = Path(place, name)
            with contextlib.suppress(OSError):  # a file where a folder is, or the other way round
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.name == "up":
                    path.symlink_to("..")
                else:
                    path.write_bytes(contents)
        for subset in ("train", "test"):
            with refusing():
                for track in find_tracks(place, subset=subset, sample_rate=44_100):
                    assert track.read().shape == (len(track.sources), track.n_channels, track.n_samples)


_LINE = {
    "file": "a.wav",
    "outcome": "done",
    "seconds": 1.0,
    "reason": None,
    "duration_s": 2.0,
    "scale": 1.0,
    "stems": {"vocals": "a/vocals.wav"},
    "source": "/a.wav",
    "source_sha256": "0" * 64,
    "model_sha256": "1" * 64,
    "made_of": {"vocals": "vocals"},
    "written": {"vocals": [10, 10]},
    "format": "wav16",
    "notes": [],
}


def _ends_of_manifests() -> st.SearchStrategy[bytes]:
    """What a crash or a full disk leaves behind the last whole line."""
    line = json.dumps(_LINE).encode() + b"\n"
    return st.one_of(st.integers(0, len(line)).map(lambda n: line[:n]), st.binary(max_size=60), inputs.nasty_json)


def _take_manifest(data: bytes, folder: Path) -> None:
    from vocal_extraction.extraction.catalogue import ShardManifest, merge_manifests
    from vocal_extraction.extraction.manifest import Manifest

    name = "manifest-00000-of-00002.jsonl"
    (folder / name).write_bytes(json.dumps(_LINE).encode() + b"\n" + data + b"\n")
    with refusing(), contextlib.suppress(RecursionError):  # as above: no line nests deeply
        assert isinstance(Manifest(folder, name).owners, dict)
        assert "/b.wav" not in ShardManifest(folder, name, {"format": "wav24"}, folder)
        assert merge_manifests(folder).done <= 2


def _take_list(data: bytes, folder: Path) -> None:
    from vocal_extraction.extraction.addresses import songs_listed

    (folder / "songs.txt").write_bytes(data)
    with refusing():
        assert all(songs_listed(folder / "songs.txt", folder))


def _take_pcm(data: bytes, folder: Path) -> None:
    from vocal_extraction.live.pcm import PcmInput

    with refusing():
        found = PcmInput(io.BytesIO(data), sample_rate=44_100, n_channels=2)
        assert all(block.shape[1] == found.n_channels for block in found.blocks())


def _take_gains(text: str, folder: Path) -> None:
    from vocal_extraction.live.mixing import Mixer, parse_gains

    with refusing():
        Mixer(("vocals", "accompaniment"), 44_100, gains_db=parse_gains(text))


@functools.cache
def _application() -> Any:
    """A server's application, which lives as long as the process."""
    from vocal_extraction.checkpointing import named_checkpoints
    from vocal_extraction.web_page.api import Api
    from vocal_extraction.web_page.jobs import JobQueue
    from vocal_extraction.web_page.sessions import SessionMiddleware
    from vocal_extraction.web_page.uploads import Limits

    queue = JobQueue(Path(tempfile.mkdtemp(prefix="api-")), Limits(upload_bytes=1_000), named_checkpoints(), "cpu")
    return SessionMiddleware(Api(queue, [Path()]).application(), hosts=("127.0.0.1",), token="t")  # noqa: S106 - of nothing


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, str, bytes, dict[str, str], bytes]:
    parts = st.one_of(
        st.sampled_from(
            ("api", "jobs", "models", "reports", "stems", "events", "all.zip", "mix.wav", "..", "%2e%2e", "0", "")
        ),
        inputs.texts,
    )
    path = "/" + "/".join(draw(st.lists(parts, max_size=5)))
    names = st.sampled_from(
        ("name", "preset", "stems", "start_s", "stop_s", "format", "bitrate_kbps", "token", "vocals")
    )
    pairs = draw(st.lists(st.tuples(names, inputs.texts), max_size=4))
    query = "&".join(f"{name}={value}" for name, value in pairs).encode(errors="replace")
    headers = {"host": "127.0.0.1", "authorization": "Bearer t"}
    kinds = st.sampled_from(("range", "content-length", "cookie", "origin", "host", "content-type", "authorization"))
    headers |= draw(st.dictionaries(kinds, inputs.texts, max_size=2))
    return (
        draw(st.sampled_from(("GET", "POST", "DELETE", "HEAD", "PUT"))),
        path,
        query,
        headers,
        draw(st.binary(max_size=60)),
    )


def _take_request(drawn: tuple[str, str, bytes, dict[str, str], bytes], folder: Path) -> None:
    method, path, query, headers, body = drawn
    application = _application()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.encode(errors="replace").decode(),
        "raw_path": path.encode(errors="replace"),
        "query_string": query,
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    statuses: list[int] = []
    arriving = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(arriving, {"type": "http.disconnect"})

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status", 0))

    with ThreadPoolExecutor(1) as elsewhere:  # a browser that is being tested may have a loop in this thread
        elsewhere.submit(asyncio.run, application(scope, receive, send)).result()
    assert 200 <= statuses[0] < 500, f"{method} {path!r}: {statuses[0]}"


SERVICE_TARGETS = (
    Target("folders of tracks", _trees, _take_tree, 5_000),
    Target("manifests", _ends_of_manifests, _take_manifest, 6_000),
    Target("lists of songs", lambda: st.binary(max_size=80), _take_list, 4_000, n_guided=2_000),
    Target("pcm", lambda: st.one_of(inputs.wav_files(), st.binary(max_size=60)), _take_pcm, 10_000, n_guided=4_000),
    Target("gains", lambda: st.one_of(inputs.texts, inputs.texts.map("vocals={}".format)), _take_gains, 5_000),
    Target("requests", _requests, _take_request, 4_000),
)
