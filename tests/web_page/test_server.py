"""How the server starts and ends, and which reports and models it offers."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette", reason="the page's packages are not installed: pip install -r requirements-web.txt")

from serving import PATIENCE_S, Client

from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.web_page import server
from vocal_extraction.web_page.api import describe, reports_in
from vocal_extraction.web_page.server import ServingError, jobs_folder, serve_page

ROOT = Path(__file__).resolve().parents[2]


def test_the_folder_of_all_jobs_is_private_and_goes_away(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    abandoned = tmp_path / "vocal-extraction-page-killed"
    abandoned.mkdir()
    (abandoned / "in-use").touch()
    with jobs_folder() as root:
        assert root.stat().st_mode & 0o077 == 0
        assert not abandoned.exists()
        assert tempfile.gettempdir() == str(root), "covers and tags of songs lie there as well"
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # as in another process
        with jobs_folder():
            assert root.exists(), "a server that runs keeps its folder when another starts"
    assert not root.exists()


def test_reports_are_listed_newest_first_and_none_from_outside(tmp_path):
    import os

    inside = tmp_path / "inside"
    for age, name in ((30, "old/report.html"), (10, "new/comparison.html"), (20, "other/notes.html")):
        path = inside / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "report.html").write_text("x")
    (inside / "link").mkdir()
    (inside / "link" / "report.html").symlink_to(tmp_path / "secret" / "report.html")
    found = reports_in([inside, tmp_path / "missing"])
    assert [path.relative_to(inside).as_posix() for path in found.values()] == [
        "new/comparison.html",
        "old/report.html",
    ]


def test_a_report_is_described_by_what_lies_beside_it(tmp_path):
    made = {"date": "2026-11-29", "machine": "Linux", "commit": "abc", "preset": "studio"}
    for name, content in (("one", {"made": made}), ("two", {"models": {"a": {"made": made}, "b": {"made": {}}}})):
        (tmp_path / name).mkdir()
        file = "summary.json" if name == "one" else "comparison.json"
        (tmp_path / name / file).write_text(json.dumps(content))
    facts = {"date": "2026-11-29", "machine": "Linux", "commit": "abc"}
    assert describe(tmp_path / "one" / "report.html") == {"models": ["studio"], **facts}
    assert describe(tmp_path / "two" / "comparison.html") == {"models": ["studio", "b"], **facts}
    (tmp_path / "one" / "summary.json").write_text("[]")
    assert describe(tmp_path / "one" / "report.html")["models"] == ["one"]


def test_serving_leaves_sigterm_as_it_was(monkeypatch, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(server, "_models", lambda model: {"any": tmp_path})
    with pytest.raises(ServingError):
        serve_page(host="a..b", open_browser=False)
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_ends_a_job_and_leaves_no_files(tmp_path, model):
    song = np.random.default_rng(0).normal(0, 3_000, 240 * 8_000).astype(np.int16)
    content = io.BytesIO()
    soundfile.write(content, song, 8_000, format="WAV")
    command = [sys.executable, ROOT / "main.py", "serve", "--no-browser", "--device", "cpu", "--model", model]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        client = Client(int(re.search(r":(\d+)", process.stdout.readline())[1]))
        job = client.submit(content.getvalue(), "name=song.wav&phase=griffin-lim").json()
        assert job["state"] in ("queued", "working"), job
        assert len(list(tmp_path.glob("vocal-extraction-page-*/*/song.wav"))) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    assert list(tmp_path.glob("vocal-extraction-page-*")) == []


def test_a_port_that_is_taken_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(server, "_models", lambda model: {"any": tmp_path})
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServingError, match="Try another --port"):
        serve_page(port=taken.getsockname()[1], open_browser=False)


def test_without_a_port_a_free_one_is_found(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(server, "USUAL_PORT", taken.getsockname()[1])
        with server._listen("127.0.0.1", None) as listener:
            assert listener.getsockname()[1] != taken.getsockname()[1]


@pytest.mark.parametrize(
    "host, port, reason",
    [("not an address", None, "no address"), ("x" * 70, None, "no address"), ("a..b", None, "no address"),
],)  # fmt: skip
def test_addresses_that_cannot_be_are_one_sentence(host, port, reason):
    """A name with 70 letters between its dots was a UnicodeError, a port beyond 65535 an OverflowError."""
    with pytest.raises(ServingError, match=reason):
        server._listen(host, port)


def test_without_a_model_nothing_is_served(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "named_checkpoints", dict)
    with pytest.raises(ServingError, match="no model"):
        serve_page(open_browser=False)


def test_a_model_that_cannot_be_used_is_said_at_once(tmp_path):
    with pytest.raises(VocalExtractionError, match="missing"):
        serve_page(model=tmp_path / "missing.pth", open_browser=False)


def test_models_are_offered_best_first(monkeypatch, tmp_path):
    names = ("classic", "studio", "live", "low-latency", "mine", "spleeter-2stems")  # two are for live use
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "named_checkpoints", lambda: dict.fromkeys(names, Path("a")))
    Path("checkpoints").mkdir()
    Path("checkpoints/best.model.pth").touch()
    expected = ["studio", "spleeter-2stems", "classic", "mine", "checkpoints/best.model.pth"]
    assert list(server._models(None)) == expected
