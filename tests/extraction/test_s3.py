"""Catalogues on an S3 server that stands in for Amazon's on this machine, and that fails as storage does."""

import threading

import pytest
import requests
from extraction_models import ConstantMask, loaded
from test_catalogue import in_this_process, lines_at, put  # noqa: F401 - a fixture

from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction.catalogue import extract_catalogue

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
fsspec = pytest.importorskip("fsspec")

pytestmark = pytest.mark.usefixtures("one_thread", "in_this_process")

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@pytest.fixture(scope="module")
def model():
    return loaded(ConstantMask(0.25))


class Storage:
    """An S3 server, the first answers of which about a key may fail in some way."""

    def __init__(self):
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._app = DomainDispatcherApplication(create_backend_app)
        self.failures, self.late = [], threading.Event()
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __call__(self, environ, start_response):
        words = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        failure = next((each for each in self.failures if each[0] in words and each[2] > 0), None)
        if failure is None:
            return self._app(environ, start_response)
        failure[2] -= 1
        if failure[1] == "slow down":
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [SLOW_DOWN]
        if failure[1] == "late":
            self.late.wait(8)
            return self._app(environ, start_response)
        body = b"".join(self._app(environ, start_response))  # with the length of all of it
        return [body[: len(body) // 2]]

    def close(self):
        self._server.shutdown()


@pytest.fixture(scope="module")
def server():
    storage = Storage()
    for bucket in ("songs", "stems"):
        requests.put(f"{storage.url}/{bucket}", timeout=60).raise_for_status()
    yield storage
    storage.close()


@pytest.fixture
def storage(server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    quick = {"read_timeout": 4, "retries": {"max_attempts": 1}}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": server.url, "config_kwargs": quick})
    server.failures = []
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.retries = 1
    return system


@pytest.mark.parametrize(
    "failure",
    [["GET /songs/a.wav", "slow down", 2], ["GET /songs/a.wav", "cut", 1], ["GET /songs/a.wav", "late", 1],
     ["PUT /stems", "slow down", 3]],
    ids=lambda failure: f"{failure[0][:3]} {failure[1]}",
)  # fmt: skip
def test_what_passes_is_tried_again(storage, server, make_song, model, failure):
    song, output = make_song("a.wav", duration_s=1.0), f"s3://stems/{failure[0][:3]}-{failure[1]}"
    storage.pipe_file("songs/a.wav", song.read_bytes())
    server.failures = [failure]
    totals = extract_catalogue(["s3://songs/a.wav"], output, model=model, show=False)
    assert totals.failures == {}
    assert failure[2] == 0
    (line,) = lines_at(storage, f"{output}/manifest.jsonl")
    for stem in map(storage.cat_file, line["stems"].values()):
        assert int.from_bytes(stem[4:8], "little") + 8 == len(stem) > 88_000, "whole, and a second long"


def test_what_does_not_pass_is_a_sentence_and_the_rest_goes_on(storage, server, make_song, model):
    for name in "abc":
        storage.pipe_file(f"songs/{name}.wav", make_song(f"{name}.wav").read_bytes())
    server.failures = [["GET /songs/a.wav", "slow down", 1_000], ["GET /songs/b.wav", "cut", 1_000]]
    songs = [f"s3://songs/{name}.wav" for name in ("a", "b", "c", "vanished")] + ["s3://no-bucket/d.wav"]
    totals = extract_catalogue(songs, "s3://stems/rest", model=model, show=False)
    assert totals.done == 1
    reasons = {line["source"]: line["reason"] for line in lines_at(storage, "stems/rest/manifest.jsonl")}
    for song, words in zip(
        songs,
        ("refuses so many requests", "Look at the network", None, "not there", "bucket is not there"),
        strict=True,
    ):
        assert reasons[song] is None if words is None else words in reasons[song], reasons[song]


@pytest.mark.parametrize(
    "output, missing, words",
    [
        ("s3://no-bucket/stems", (), "bucket is not there"),
        ("s3://stems/x", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "Credentials are missing"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_begun(storage, monkeypatch, tmp_path, model, output, missing, words):
    for name in missing:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(ExtractionError, match=words):
        extract_catalogue(["s3://songs/a.wav"], output, model=model, show=False)
