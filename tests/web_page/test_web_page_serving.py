"""The web page as it is served: the gate in front of Gradio, and what `serve` says when it cannot."""

import os
import re
import socket
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed, so the web page was not tested: make serve installs it")

from starlette.testclient import TestClient

from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.web_page import server
from vocal_extraction.web_page.gate import COOKIE
from vocal_extraction.web_page.jobs import Workshop
from vocal_extraction.web_page.layout import Service
from vocal_extraction.web_page.limits import Limits
from vocal_extraction.web_page.routes import reports_in
from vocal_extraction.web_page.server import ServingError, serve_page
from vocal_extraction.web_page.visitors import Visitors, new_token

ADDRESS = "http://127.0.0.1:7860"
UPLOAD = "/gradio_api/upload"


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    root, reports = tmp_path_factory.mktemp("visitors"), tmp_path_factory.mktemp("reports")
    (reports / "my run").mkdir()
    (reports / "my run" / "report.html").write_text("<h1>Scores</h1>")
    limits = Limits(upload_bytes=2**17)
    visitors = Visitors(root, limits)
    with pytest.MonkeyPatch.context() as patch, Workshop(visitors, limits, "cpu") as workshop:
        patch.setenv("GRADIO_TEMP_DIR", "")
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "")
        service = Service({"untrained": Path("untrained.pth")}, workshop, visitors, limits, reports)
        yield server._application(service, hosts=server._LOOPBACK)


@pytest.fixture
def visit(application):
    """Return a function that makes a visitor's client."""
    return lambda token=None: TestClient(application, base_url=ADDRESS, cookies={COOKIE: token or new_token()})


def upload(client, name, content, **kwargs):
    return client.post(UPLOAD, files={"files": (name, content)}, **kwargs)


def test_a_new_visitor_gets_a_cookie_that_scripts_cannot_read(application):
    answer = TestClient(application, base_url=ADDRESS).get("/")
    assert answer.status_code == 200
    assert re.fullmatch(rf"{COOKIE}=[\w-]{{43}}; Path=/; HttpOnly; SameSite=Lax", answer.headers["set-cookie"])


def test_a_token_that_nobody_gave_out_by_its_form_is_replaced(visit):
    assert COOKIE in visit("../../etc").get("/").headers["set-cookie"]
    assert "set-cookie" not in visit().get("/").headers


def test_the_page_asks_nobody_but_this_server(visit):
    answer = visit().get("/")
    fetched = re.findall(r'<(?:link|script|img|iframe)[^>]*?(?:href|src)="(https?:)?//', answer.text)
    assert fetched == []
    assert "fonts.googleapis" not in answer.text
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    for kind in ("default-src", "script-src", "style-src", "font-src", "connect-src", "img-src", "media-src"):
        assert "'self'" in policy[kind]
        assert not re.search(r"https?:|\*", policy[kind])


def test_analytics_are_off(visit):
    config = visit().get("/config").json()
    assert config["analytics_enabled"] is False


def test_an_upload_lies_in_the_visitors_folder_under_a_harmless_name(visit):
    client = visit()
    answer = upload(client, "../../../evil <b>name.wav", b"RIFF")
    assert answer.status_code == 200
    (path,) = map(Path, answer.json())
    assert path.read_bytes() == b"RIFF"
    assert path.name.endswith("name.wav")
    assert not set("/<>") & set(path.name)
    assert path.parent.parent.name == "uploads"


def test_a_visitor_fetches_his_own_upload_and_no_other_file(visit):
    one, other = visit(), visit()
    path = upload(one, "a.wav", b"mine").json()[0]
    assert one.get(f"/gradio_api/file={path}").content == b"mine"
    assert other.get(f"/gradio_api/file={path}").status_code == 404
    for foreign in ("/etc/passwd", f"{path}/../../../../../etc/passwd", "http://example.org/a.wav", "a%00b", ""):
        assert one.get(f"/gradio_api/file={foreign}").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/proxy=http://example.org", "/gradio_api/component_server", "/gradio_api/vibe-code", "/monitoring",
     "/gradio_api/stream/x", "/gradio_api/call/extract", "/gradio_api/file/etc/passwd", "/docs", "/login",
     "/results/x/vocals.wav", "/reports/../settings.py", "/page/../server.py", "/page/server.py"],
)  # fmt: skip
def test_what_the_page_does_not_use_is_not_there(visit, path):
    client = visit()
    assert client.get(path).status_code == 404
    assert client.post(path, json={}).status_code in (404, 405)


def test_a_request_may_name_only_files_of_its_visitor(visit):
    one, other = visit(), visit()
    path = upload(one, "a.wav", b"mine").json()[0]
    for client, named, status in ((other, path, 403), (one, "/etc/passwd", 403), (one, "http://example.org/a", 403)):
        body = {"data": [{"path": named, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "x"}
        assert client.post("/gradio_api/queue/join", json=body).status_code == status


@pytest.mark.parametrize("body", [b"no json", b"[" * 60_000, b'{"data": "' + b"x" * 70_000 + b'"}'])
def test_a_malformed_or_huge_request_is_refused(visit, body):
    answer = visit().post("/gradio_api/queue/join", content=body)
    assert answer.status_code in (400, 413)


def test_an_upload_beyond_the_limit_is_refused_before_it_is_stored(visit, application):
    answer = upload(visit(), "a.wav", b"x" * 200_000)
    assert answer.status_code == 413
    assert "at most 0.125 MB" in answer.text


def test_an_upload_that_hides_its_length_is_refused(visit):
    answer = visit().post(UPLOAD, content=iter([b"x" * 10]), headers={"Content-Type": "multipart/form-data"})
    assert answer.status_code == 411


@pytest.mark.parametrize("content", [b"", b"no form", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"])
def test_an_upload_that_is_no_form_is_refused_in_words(visit, content):
    answer = visit().post(UPLOAD, content=content, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code in (200, 400)
    assert answer.status_code == 400 or answer.json() == []


def test_another_site_may_not_use_the_server(visit):
    client = visit()
    for host in ("evil.example", "127.0.0.1.evil.example:7860", "["):
        assert client.get("/", headers={"Host": host}).status_code == 403
    assert client.post("/gradio_api/reset", json={}, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/gradio_api/reset", json={}, headers={"Origin": ADDRESS}).status_code != 403


def test_a_report_is_shown_as_it_is_and_may_not_ask_for_anything(visit):
    answer = visit().get("/reports/my%20run/report.html")
    assert answer.text == "<h1>Scores</h1>"
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")


def test_reports_are_listed_newest_first_and_none_from_outside(tmp_path):
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
    assert [name for name, _ in reports_in(inside)] == ["new/comparison.html", "old/report.html"]
    assert list(reports_in(tmp_path / "missing")) == []


def test_what_is_over_its_time_goes_away_by_itself(tmp_path):
    limits = Limits(lifetime_s=0.1)
    visitors = Visitors(tmp_path, limits)
    song = visitors.uploads(new_token()) / "0123" / "song.wav"
    song.parent.mkdir(parents=True)
    song.write_bytes(b"RIFF")
    with server._cleaning(visitors, limits):
        deadline_s = time.monotonic() + 60
        while song.exists() and time.monotonic() < deadline_s:
            time.sleep(0.02)
    assert not song.exists()


# What `serve` says when it cannot


def test_a_port_that_is_taken_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(server, "_models", lambda model: {"any": tmp_path})
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServingError, match="Try another --port"):
        serve_page(port=taken.getsockname()[1], open_browser=False)


def test_without_a_port_a_free_one_is_found(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(server, "USUAL_PORT", taken.getsockname()[1])
        with server._listen("127.0.0.1", None) as listener:
            assert listener.getsockname()[1] != taken.getsockname()[1]


def test_an_address_that_does_not_exist_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(server, "_models", lambda model: {"any": tmp_path})
    with pytest.raises(ServingError, match="no address 'not an address'"):
        serve_page(host="not an address", open_browser=False)


def test_without_a_model_nothing_is_served(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "shipped_checkpoints", dict)
    with pytest.raises(ServingError, match="no model"):
        serve_page(open_browser=False)


def test_a_model_that_cannot_be_used_is_said_at_once(tmp_path):
    with pytest.raises(VocalExtractionError, match="missing"):
        serve_page(model=tmp_path / "missing.pth", open_browser=False)


def test_models_are_offered_best_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "shipped_checkpoints", lambda: {"classic": Path("c"), "studio": Path("s")})
    Path("checkpoints").mkdir()
    Path("checkpoints/best.model.pth").touch()
    assert list(server._models(None)) == ["studio", "classic", "checkpoints/best.model.pth"]


@pytest.mark.parametrize(
    "host, port, reason",
    [("x" * 70, None, "no address"), ("a..b", None, "no address"), ("127.0.0.1", 70_000, "no port 70000")],
)
def test_addresses_that_cannot_be_are_one_sentence(host, port, reason):
    """A name with 70 letters between its dots was a UnicodeError, a port beyond 65535 an OverflowError."""
    with pytest.raises(ServingError, match=reason):
        server._listen(host, port)
