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
import zipfile

import pytest
from musdb_forms import COUNTS, make_hq_folder

from vocal_extraction import musdb_preparation
from vocal_extraction.atomic_files import StorageError
from vocal_extraction.musdb_preparation import PreparationError, prepare_musdb, sample_download
from vocal_extraction.musdb_preparation.sample_download import SAMPLE_URL, download_sample

SONGS = {"train/A - B.stem.mp4": b"first song" * 5_000, "test/Ç - D.stem.mp4": b"second song" * 5_000}


@pytest.fixture(autouse=True)
def _no_source_and_no_proxy(monkeypatch):
    monkeypatch.delenv("MUSDB_PATH", raising=False)
    monkeypatch.setenv("no_proxy", "*")


def zipped(files, compression=zipfile.ZIP_DEFLATED):
    """Return a zip; `atomic_files` has names or ZipInfos for keys."""
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
def server():
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
        yield state
        listening.shutdown()
        thread.join()


def fetch(server, folder, **options):
    return download_sample(folder, url=server.url, progress=False, **options)


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------ a good server


def test_sample_is_unpacked_and_the_zip_removed(server, tmp_path):
    assert fetch(server, tmp_path / "sample") == tmp_path / "sample"
    assert files_below(tmp_path) == {f"sample/{name}": content for name, content in SONGS.items()}


def test_address_is_the_one_that_musdb_uses():
    import musdb

    assert musdb.DB(root=".", subsets=[]).setup["sample-url"] == SAMPLE_URL


def test_second_call_asks_for_nothing(server, tmp_path):
    fetch(server, tmp_path / "sample")
    fetch(server, tmp_path / "sample")
    assert server.n_requests == 1


def test_length_need_not_be_announced(server, tmp_path):
    server.announced = None
    assert len(files_below(fetch(server, tmp_path / "sample"))) == 2


def test_progress_is_shown_on_stderr(server, tmp_path, capsys):
    download_sample(tmp_path / "sample", url=server.url, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "downloading: 100%" in shown.err


def test_preparation_downloads_and_decodes_where_nothing_else_is_given(server, tmp_path, monkeypatch):
    server.serve(zipped(files_below(make_hq_folder(tmp_path / "hq")), zipfile.ZIP_STORED))
    monkeypatch.setattr(
        musdb_preparation, "download_sample", functools.partial(sample_download.download_sample, url=server.url)
    )
    for _ in range(2):
        assert prepare_musdb(None, tmp_path / "dataset", progress=False) == COUNTS
    assert server.n_requests == 1
    # Killed while decoding: what is missing is decoded from the sample that was kept, without another download.
    shutil.rmtree(tmp_path / "dataset" / "test")
    assert prepare_musdb(None, tmp_path / "dataset", download=False, progress=False) == COUNTS
    assert server.n_requests == 1


# ------------------------------------------------------------------------------------------------- a bad network


def assert_fails_then_starts_afresh(server, tmp_path, complaint, error=PreparationError, **options):
    """The download fails, leaves nothing behind, and succeeds as soon as the server behaves."""
    with pytest.raises(error, match=complaint) as failure:
        fetch(server, tmp_path / "sample", **options)
    assert "MUSDB_PATH" in str(failure.value)
    assert files_below(tmp_path) == {}
    server.serve(zipped(SONGS), status=200, pause_s=0.0)
    assert len(files_below(fetch(server, tmp_path / "sample"))) == 2


@pytest.mark.parametrize("n_missing", [1, 10_000])
def test_server_that_breaks_off(server, tmp_path, n_missing):
    server.announced += n_missing
    assert_fails_then_starts_afresh(server, tmp_path, rf"sent \d+ bytes and had announced {server.announced}")


def test_server_that_says_no(server, tmp_path):
    server.status = 404
    assert_fails_then_starts_afresh(server, tmp_path, "could not be fetched .* 404: Not Found")


def test_server_that_falls_silent(server, tmp_path):
    server.pause_s = 1.0
    assert_fails_then_starts_afresh(server, tmp_path, "could not be fetched .* timed out", silence_limit_s=0.1)


def test_server_that_sends_a_page_instead(server, tmp_path):
    server.serve(b"<html>Please log in to this hotel's network</html>")
    assert_fails_then_starts_afresh(server, tmp_path, "is not a complete zip")


def test_zip_with_a_wrong_byte(server, tmp_path):
    body = bytearray(zipped(SONGS, zipfile.ZIP_STORED))
    body[body.index(b"song") + 1_000] ^= 1
    server.serve(bytes(body))
    assert_fails_then_starts_afresh(server, tmp_path, r"is damaged in 'train/A - B\.stem\.mp4'")


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_zip_that_is_only_begun(server, tmp_path, share):
    body = zipped(SONGS, zipfile.ZIP_STORED)
    server.serve(body[: int(share * len(body))])
    assert_fails_then_starts_afresh(server, tmp_path, "is not a complete zip")


def test_no_network_at_all(tmp_path):
    with pytest.raises(
        PreparationError, match=r"could not be fetched .* refused.*Set the environment variable MUSDB_PATH"
    ):
        download_sample(tmp_path / "sample", url="http://127.0.0.1:9/sample.zip", progress=False)
    assert files_below(tmp_path) == {}


def test_address_of_another_kind_is_refused(tmp_path):
    (tmp_path / "local.zip").write_bytes(zipped(SONGS))
    with pytest.raises(PreparationError, match="from an http or https address, not from file:"):
        download_sample(tmp_path / "sample", url=(tmp_path / "local.zip").as_uri(), progress=False)


def test_interrupted_unpacking_goes_on_from_the_zip(server, tmp_path, monkeypatch):
    n_begun = 0

    def stop_in_the_second(member, file):
        nonlocal n_begun
        n_begun += 1
        file.write(member.read(1_000 if n_begun == 2 else None))
        if n_begun == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample_download.shutil, "copyfileobj", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path / "sample")
    assert set(files_below(tmp_path)) == {"sample.zip", "sample/train/A - B.stem.mp4"}
    fetch(server, tmp_path / "sample")
    assert server.n_requests == 1
    assert files_below(tmp_path) == {f"sample/{name}": content for name, content in SONGS.items()}


def test_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "dataset").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="Cannot write"):
        fetch(server, tmp_path / "dataset" / "sample")


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
        {"C:/evil.stem.mp4": b"1"},
        link("train/link.stem.mp4", "/etc/passwd"),
        link("train", ".."),
    ],
    ids=lambda files: getattr(next(iter(files)), "filename", next(iter(files))),
)
def test_zip_that_would_write_elsewhere_is_refused(server, tmp_path, files):
    server.serve(zipped({**SONGS, **files}))
    assert_fails_then_starts_afresh(server, tmp_path, "would write outside its folder")


def test_zip_that_unpacks_beyond_the_bound_is_refused_unread(server, tmp_path, monkeypatch):
    server.serve(zipped({"train/bomb.stem.mp4": bytes(1_000_000)}))
    monkeypatch.setattr(sample_download, "LIMIT_BYTES", 999_999)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("the bomb was unpacked to test it"))
    with pytest.raises(PreparationError, match="would unpack to 1000000 bytes, more than 999999"):
        fetch(server, tmp_path / "sample")
    assert files_below(tmp_path) == {}


def test_zip_that_lies_about_its_size_is_refused(server, tmp_path, monkeypatch):
    body = zipped({"train/bomb.stem.mp4": bytes(1_000_000)})
    server.serve(body.replace((1_000_000).to_bytes(4, "little"), (1_000).to_bytes(4, "little")))
    monkeypatch.setattr(sample_download, "LIMIT_BYTES", 999_999)
    with pytest.raises(PreparationError, match=r"is damaged|is not a complete zip"):
        fetch(server, tmp_path / "sample")
    assert files_below(tmp_path) == {}


def test_download_without_end_is_given_up(server, tmp_path, monkeypatch):
    server.serve(bytes(1_000_000), announced=None)
    monkeypatch.setattr(sample_download, "LIMIT_BYTES", 100_000)
    with pytest.raises(PreparationError, match=r"sent 1[0-9]{5} bytes"):
        fetch(server, tmp_path / "sample")
    assert files_below(tmp_path) == {}


def test_encrypted_zip_is_refused(server, tmp_path):
    body = bytearray(zipped(SONGS))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(signature) + offset] |= 1
    server.serve(bytes(body))
    assert_fails_then_starts_afresh(server, tmp_path, "is not a complete zip: .*encrypted")
