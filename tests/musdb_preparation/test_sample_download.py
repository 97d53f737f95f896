"""The download of the 7 s sample, from servers on 127.0.0.1 that behave well, badly and maliciously."""

import contextlib
import dataclasses
import functools
import http.server
import io
import shutil
import stat
import threading
import time
import urllib.request
import zipfile

import musdb
import pytest
from musdb_forms import COUNTS

from vocal_extraction.musdb_preparation import PreparationError, prepare_musdb, sources
from vocal_extraction.musdb_preparation.sources import download_sample

SONGS = {"train/A - B.stem.mp4": b"first song" * 5_000, "test/Ç - D.stem.mp4": b"second song" * 5_000}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def zipped(files, compression=zipfile.ZIP_DEFLATED):
    """Return a zip; `files` has names or ZipInfos for keys."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@dataclasses.dataclass
class Server:
    """What is served, and how often it was asked for."""

    url: str = ""
    body: bytes = b""
    announced: int | None = None
    """Length that the header claims; None sends no such header."""
    status: int = 200
    pause_s: float = 0.0
    """Wait in the middle of the body."""
    n_requests: int = 0

    def serve(self, body, **changes):
        for name, value in {"body": body, "announced": len(body), **changes}.items():
            setattr(self, name, value)


@pytest.fixture
def server(monkeypatch):
    """A server that `musdb` is sent to instead of its own."""
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.n_requests += 1
            self.send_response(state.status)
            if state.announced is not None:
                self.send_header("Content-Length", str(state.announced))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                half = len(state.body) // 2
                self.wfile.write(state.body[:half])
                self.wfile.flush()
                time.sleep(state.pause_s)
                self.wfile.write(state.body[half:])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{listening.server_port}/MUSDB18-7-STEMS.zip"
        state.serve(zipped(SONGS))
        monkeypatch.setattr(musdb, "urlopen", lambda request: urllib.request.urlopen(state.url))  # noqa: S310 (an address of this machine)
        yield state
        listening.shutdown()
        thread.join()


fetch = functools.partial(download_sample, progress=False)


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------ a good server


def test_sample_is_unpacked_and_nothing_else_left(server, tmp_path, capsys):
    for _ in range(2):
        assert fetch(tmp_path / "sample") == tmp_path / "sample"
    assert files_below(tmp_path) == {f"sample/{name}": content for name, content in SONGS.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]
    assert server.n_requests == 1
    assert "".join(capsys.readouterr()) == ""


def test_length_need_not_be_announced(server, tmp_path):
    server.announced = None
    assert len(files_below(fetch(tmp_path / "sample"))) == 2


def test_progress_is_shown_on_stderr(server, tmp_path, capsys):
    download_sample(tmp_path / "sample", progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Downloading" in shown.err
    assert "%" not in shown.err, "a bar is for a terminal"


def test_preparation_downloads_and_decodes_where_nothing_else_is_given(server, hq_folder, tmp_path):
    server.serve(zipped(files_below(hq_folder), zipfile.ZIP_STORED))
    for _ in range(2):
        assert prepare_musdb(None, tmp_path / "dataset", progress=False) == COUNTS
    assert server.n_requests == 1
    # Killed while decoding: what is missing is decoded from the sample that was kept, without another download.
    shutil.rmtree(tmp_path / "dataset" / "test")
    assert prepare_musdb(None, tmp_path / "dataset", download=False, progress=False) == COUNTS
    assert server.n_requests == 1


# ------------------------------------------------------------------------------------------------- a bad network


def assert_fails_then_starts_afresh(server, tmp_path, complaint=""):
    """The download fails, leaves nothing behind, and succeeds as soon as the server behaves."""
    with pytest.raises(PreparationError, match="sample could not be fetched.*" + complaint) as failure:
        fetch(tmp_path / "sample")
    assert "MUSDB_PATH" in str(failure.value)
    assert list(tmp_path.iterdir()) == []
    server.serve(zipped(SONGS), status=200, pause_s=0.0)
    assert len(files_below(fetch(tmp_path / "sample"))) == 2


@pytest.mark.parametrize("share, is_announced", [(0.3, True), (0.999, False)])
def test_server_that_breaks_off(server, tmp_path, share, is_announced):
    body = zipped(SONGS, zipfile.ZIP_STORED)
    announced = len(body) if is_announced else None
    server.serve(body[: int(share * len(body))], announced=announced)
    assert_fails_then_starts_afresh(server, tmp_path)


def test_server_that_says_no(server, tmp_path):
    server.status = 404
    assert_fails_then_starts_afresh(server, tmp_path, "404: Not Found")


def test_server_that_falls_silent(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SILENCE_LIMIT_S", 0.1)
    server.pause_s = 0.3
    with pytest.raises(PreparationError, match="timed out"):
        fetch(tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []


def test_server_that_sends_a_page_instead(server, tmp_path):
    server.serve(b"<html>Please log in to this hotel's network</html>")
    assert_fails_then_starts_afresh(server, tmp_path, "not a zip file")


def test_zip_with_a_wrong_byte(server, tmp_path):
    body = bytearray(zipped(SONGS, zipfile.ZIP_STORED))
    body[body.index(b"song") + 1_000] ^= 1
    server.serve(bytes(body))
    assert_fails_then_starts_afresh(server, tmp_path, "CRC-32")


def test_no_network_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(musdb, "urlopen", lambda request: urllib.request.urlopen("http://127.0.0.1:9/sample.zip"))
    with pytest.raises(PreparationError, match=r"refused.*Set the environment variable MUSDB_PATH"):
        fetch(tmp_path / "dataset" / "sample")
    assert list(tmp_path.iterdir()) == []


def test_interruption_leaves_nothing(server, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extractall", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "dataset").write_text("a file where the folder should be")
    with pytest.raises(PreparationError, match=r"File exists|Not a directory"):
        fetch(tmp_path / "dataset" / "sample")


# -------------------------------------------------------------------------------------------------- a hostile zip


def link(name, target):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return {info: target}


@pytest.mark.parametrize(
    "files",
    [
        {"../evil.stem.mp4": b"1"},
        {"train/../../evil.stem.mp4": b"1"},
        {"/tmp/evil.stem.mp4": b"1"},  # noqa: S108 (where it would go)
        {"..\\evil.stem.mp4": b"1"},
        link("train/link.stem.mp4", "/etc/passwd"),
    ],
    ids=lambda files: getattr(next(iter(files)), "filename", next(iter(files))),
)
def test_zip_that_would_write_elsewhere_stays_in_its_folder(server, tmp_path, files):
    server.serve(zipped({**SONGS, **files}))
    sample = fetch(tmp_path / "sample")
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]
    assert not any(path.is_symlink() for path in sample.rglob("*"))


def test_zip_that_lies_about_its_size_is_refused(server, tmp_path):
    body = zipped({"train/bomb.stem.mp4": bytes(1_000_000)})
    server.serve(body.replace((1_000_000).to_bytes(4, "little"), (1_000).to_bytes(4, "little")))
    assert_fails_then_starts_afresh(server, tmp_path)


def test_encrypted_zip_is_refused(server, tmp_path):
    body = bytearray(zipped(SONGS))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(signature) + offset] |= 1
    server.serve(bytes(body))
    assert_fails_then_starts_afresh(server, tmp_path, "encrypted")
