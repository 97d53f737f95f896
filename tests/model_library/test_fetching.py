"""Models fetched from a server on 127.0.0.1 that behaves well, badly and maliciously."""

import contextlib
import hashlib
import http.server
import re
import threading
from typing import ClassVar

import pytest
from foreign_models import write_open_unmix

from vocal_extraction.__main__ import main
from vocal_extraction.checkpointing import load_checkpoint
from vocal_extraction.model_library import LibraryError, LicenceError, fetch_model, fetching, known


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`, whole or from an offset; `cut` is how many bytes come before it hangs up."""

    files: ClassVar[dict[str, bytes]] = {}
    cut: int | None = None
    ranges = True
    requests: ClassVar[list[tuple[str, str, str | None]]] = []

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        asked = self.headers.get("Range")
        self.requests.append((self.command, self.path, asked))
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
            return
        contents = self.files.get(self.path[1:])
        if contents is None:
            self.send_error(404)
            return
        start = int(re.findall(r"\d+", asked)[0]) if asked and self.ranges else 0
        if start and start >= len(contents):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(contents) - start))
        self.end_headers()
        if body:
            with contextlib.suppress(OSError):
                self.wfile.write(contents[start:][: self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, weights, monkeypatch):
    """A server with one model, which is known as 'mine'; its address, and the handler's class."""
    folder = write_open_unmix(tmp_path / "umx", {name: weights[name] for name in ("vocals", "drums")})
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    handler = type("OwnHandler", (Handler,), {"files": files, "requests": []})
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http_server.serve_forever, daemon=True)
    thread.start()
    handler.url = f"http://127.0.0.1:{http_server.server_port}/"
    offer(monkeypatch, handler.url, files)
    yield handler
    http_server.shutdown()
    http_server.server_close()


def offer(monkeypatch, url, files, **changes):
    sums = {name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()} | changes
    terms = "https://example.org/licence"
    monkeypatch.setitem(
        known.KNOWN, "mine", known.KnownModel("someone", "CC0-1.0", terms, url, sums, ("drums", "vocals"))
    )


def test_a_model_is_fetched_once_its_licence_is_accepted(server, models_dir, capsys):
    assert main(["models", "fetch", "mine"]) == 1
    shown = capsys.readouterr().err
    n_bytes = sum(map(len, server.files.values()))
    assert f"mine: drums, vocals, by someone. {n_bytes / 1e6:.0f} MB." in shown
    assert "Licence: CC0-1.0, see https://example.org/licence" in shown
    assert "models fetch mine --accept-licence" in shown
    assert {method for method, _, _ in server.requests} == {"HEAD"}
    assert main(["models", "fetch", "mine", "--accept-licence"]) == 0
    assert "licence: CC0-1.0" in capsys.readouterr().out
    assert load_checkpoint("mine").sources == ("drums", "vocals")
    assert [*(models_dir / ".downloads").iterdir()] == []


def test_a_download_goes_on_where_it_broke_off(server, models_dir):
    server.cut = 10_000
    with pytest.raises(LibraryError, match=r"broke off at 10000 of \d+ bytes. Run it again"):
        fetch_model("mine", accept_licence=True)
    server.cut = None
    fetch_model("mine", accept_licence=True)
    first = next(iter(server.files))
    asked = [each for method, path, each in server.requests if method == "GET" and path == f"/{first}"]
    assert asked == [None, "bytes=10000-"]
    assert load_checkpoint("mine").sources == ("drums", "vocals")


def test_a_server_that_knows_no_ranges_begins_again(server):
    server.cut, server.ranges = 10_000, False
    with pytest.raises(LibraryError, match="broke off"):
        fetch_model("mine", accept_licence=True)
    server.cut = None
    assert fetch_model("mine", accept_licence=True).is_file()


def test_a_file_that_was_complete_is_not_asked_for_again_in_vain(server, models_dir):
    first, contents = next(iter(server.files.items()))
    path = models_dir / ".downloads" / "mine" / first
    path.parent.mkdir(parents=True)
    path.write_bytes(contents)
    assert fetch_model("mine", accept_licence=True).is_file()


def test_redirects_are_followed(server, monkeypatch):
    offer(monkeypatch, f"{server.url}moved/", server.files)
    assert fetch_model("mine", accept_licence=True).is_file()


def test_a_file_with_another_sum_is_deleted_before_anything_reads_it(server, models_dir, monkeypatch):
    first = next(iter(server.files))
    offer(monkeypatch, server.url, server.files, **{first: "0123"})
    monkeypatch.setattr("vocal_extraction.model_library.library.import_model", pytest.fail)
    with pytest.raises(LibraryError, match=r"is not the file that was published: .* expected 0123"):
        fetch_model("mine", accept_licence=True)
    assert not (models_dir / ".downloads" / "mine" / first).exists()


def test_a_server_that_is_not_there(server, monkeypatch, models_dir):
    offer(monkeypatch, "http://127.0.0.1:1/", server.files)
    with pytest.raises(LibraryError, match=r"cannot be reached .*models import PATH"):
        fetch_model("mine", accept_licence=True)
    offer(monkeypatch, f"{server.url}nowhere/", server.files)
    with pytest.raises(LibraryError, match="Not Found"):
        fetch_model("mine", accept_licence=True)
    assert not [*models_dir.glob("*.pth")]


def test_a_file_that_is_far_too_large(server, monkeypatch):
    monkeypatch.setattr(fetching, "LARGEST_BYTES", 1_000)
    with pytest.raises(LibraryError, match="at most 1000 are taken"):
        fetch_model("mine", accept_licence=True)


def test_models_that_nobody_publishes(server):
    with pytest.raises(LibraryError, match="No model 'umxxl' can be fetched; there are spleeter-2stems"):
        fetch_model("umxxl")
    with pytest.raises(LicenceError):
        fetch_model("mine")


def test_what_is_known_of_published_models():
    for name, model in known.KNOWN.items():
        assert model.url.startswith("https://"), name
        assert all(re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", each) for each in (*model.files.values(), *model.contents))
        assert model.is_of(f"{each}{'0' * (64 - len(each))}" for each in model.files.values())
        assert not model.is_of(["0" * 64])
