"""The JSON API as programs use it: jobs and their files, sessions, token, limits, and what is refused."""

import dataclasses
import io
import json
import re
import shutil
import socket
import subprocess
import time
import zipfile
from urllib.parse import quote

import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette", reason="the page's packages are not installed: pip install -r requirements-web.txt")

from serving import PATIENCE_S, Client, served

from vocal_extraction.checkpointing import named_checkpoint, save_checkpoint
from vocal_extraction.extraction import extract_vocals
from vocal_extraction.networks import create_model
from vocal_extraction.presets import SPECIFIED
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.web_page import api
from vocal_extraction.web_page.uploads import Limits

RATE = 44_100
TOKEN = "k" * 22


@pytest.fixture(scope="module")
def model():
    return named_checkpoint("classic")


@pytest.fixture(scope="module")
def wav():
    content = io.BytesIO()
    soundfile.write(
        content, np.random.default_rng(3).normal(0, 3_000, (2 * RATE, 2)).astype(np.int16), RATE, format="WAV"
    )
    return content.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory, model):
    reports = tmp_path_factory.mktemp("reports")
    (reports / "my run").mkdir()
    (reports / "my run" / "report.html").write_text("<h1>Scores</h1>")
    root = tmp_path_factory.mktemp("jobs")
    with served(root, {"classic": model}, Limits(upload_bytes=2**20, longest_s=60), reports=reports) as serving:
        yield serving


@pytest.fixture
def port(server):
    return server[1]


@pytest.fixture
def client(port):
    return Client(port)


# Jobs


@pytest.fixture(scope="module")
def done(server, wav):
    """Return a client and its job that is done."""
    client = Client(server[1])
    response = client.submit(wav, "name=A%20song.wav&format=flac&mask=binary")
    assert response.status == 201
    job = client.wait(response.json())
    assert job["state"] == "done", job
    return client, job


def test_a_job_gives_what_extraction_gives(done, model, wav, tmp_path):
    client, job = done
    (tmp_path / "A song.wav").write_bytes(wav)
    settings = ExtractionSettings(format="flac", mask="binary")
    extract_vocals(tmp_path / "A song.wav", tmp_path / "alone", settings=settings, model=model, device="cpu")
    assert job["name"] == "A song"
    assert set(job["stems"]) == {"vocals", "accompaniment"}
    for name in job["stems"]:
        response = client.get(f"/api/jobs/{job['id']}/stems/{name}")
        assert response.content == (tmp_path / "alone" / "A song" / f"{name}.flac").read_bytes()
        assert len(response.content) == job["stems"][name]["bytes"]
        assert f"A%20song%20-%20{name}.flac" in response.headers["content-disposition"]


def test_all_stems_come_as_one_zip_file(done):
    client, job = done
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/api/jobs/{job['id']}/all.zip").content))
    assert sorted(archive.namelist()) == ["A song/accompaniment.flac", "A song/song.json", "A song/vocals.flac"]
    assert archive.read("A song/vocals.flac") == client.get(f"/api/jobs/{job['id']}/stems/vocals").content


def test_the_mix_has_each_stem_at_its_gain(server, done):
    client, job = done
    address = f"/api/jobs/{job['id']}"
    mixture, vocals, accompaniment = (
        soundfile.read(io.BytesIO(client.get(f"{address}/{path}").content))[0]
        for path in ("mix.wav?vocals=0.5", "stems/vocals", "stems/accompaniment")
    )
    assert mixture == pytest.approx(0.5 * vocals + accompaniment, abs=2 / 2**15)  # rounded to 16 bits
    assert len(list((server[0].root / job["id"]).glob("*.wav"))) == 1, "mixes are removed when they are sent"
    for gain in ("-1", "5", "nan", "loud"):
        assert client.get(f"{address}/mix.wav?vocals={gain}").status == 400


FOUR = ("bass", "drums", "other", "vocals")


def test_a_model_of_four_sources_gives_the_stems_that_are_asked_for(tmp_path, wav):
    preset = dataclasses.replace(SPECIFIED, sources=FOUR)
    path = save_checkpoint(tmp_path / "four.pth", create_model(preset), preset=preset)
    (tmp_path / "jobs").mkdir()
    (damaged := tmp_path / "damaged.pth").write_bytes(b"nothing")
    with served(tmp_path / "jobs", {"four": path, "damaged": damaged}, Limits()) as (_, port):
        client = Client(port)
        facts = {"licence": "not stated", "is_imported": False, "vocals_db": None, "real_time_factor": None}
        assert client.get("/api/models").json() == [{"name": "four", "sources": list(FOUR), **facts}]
        assert "guitar" in client.submit(wav, "stems=guitar").json()["error"]
        queries = {"stems=all": set(FOUR), "without=drums": {"no_drums"}, "format=stem.mp4": set(FOUR)}
        jobs = {query: client.submit(wav, query).json() for query in queries}
        for query, stems in queries.items():
            job = client.wait(jobs[query])
            assert set(job["track"]["stems"]) == stems, job
            assert set(job["stems"]) == ({"stems"} if "mp4" in query else stems)
        content = client.get(f"/api/jobs/{job['id']}/stems/stems").content
        (tmp_path / "a.stem.mp4").write_bytes(content)
        probed = subprocess.run(
            ["ffprobe", "-v", "error", "-show_streams", "-of", "json", tmp_path / "a.stem.mp4"],
            capture_output=True,
            check=True,
        )
        assert [one["codec_name"] for one in json.loads(probed.stdout)["streams"]] == ["aac"] * 5
        mix, drums = (
            np.frombuffer(client.get(f"/api/jobs/{job['id']}/{path}").content, "<i2", offset=offset)[: 2 * RATE]
            for path, offset in (("mix.wav?vocals=0&bass=0&other=0", 78), (f"{job['track']['folder']}/drums.pcm", 0))
        )
        np.testing.assert_allclose(mix, drums, atol=1)


def test_samples_to_play_are_fetched_by_position(done):
    client, job = done
    track = job["track"]
    assert (track["sample_rate"], track["n_samples"], job["duration_s"]) == (RATE, 2 * RATE, 2.0)
    address = f"/api/jobs/{job['id']}/{track['folder']}/vocals"
    response = client.get(f"{address}.pcm", Range="bytes=4000-7999")
    written, _ = soundfile.read(io.BytesIO(client.get(f"/api/jobs/{job['id']}/stems/vocals").content), dtype="int16")
    assert response.status == 206
    np.testing.assert_array_equal(np.frombuffer(response.content, "<i2").reshape(-1, 2), written[1000:2000])
    assert client.get(f"{address}.png").content.startswith(b"\x89PNG")
    assert max(job["peaks"]) == 100


def test_events_tell_every_state_until_the_end(client, wav):
    job = client.submit(wav).json()
    response = client.get(f"/api/jobs/{job['id']}/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [part.splitlines() for part in response.text.strip().split("\n\n")]
    states = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert [name.removeprefix("event: ") for name, _ in events] == [state["state"] for state in states]
    assert states[-1]["state"] == "done"
    assert states[-1]["id"] == job["id"]


def test_a_session_sees_its_own_jobs_alone(done, port):
    client, job = done
    assert [one["id"] for one in client.get("/api/jobs").json()] == [job["id"]]
    other = Client(port)
    assert other.get("/api/jobs").json() == []
    for path in ("", "/events", "/stems/vocals", "/all.zip", f"/{job['track']['folder']}/vocals.pcm"):
        assert other.get(f"/api/jobs/{job['id']}{path}").status == 404
    assert other.send("DELETE", f"/api/jobs/{job['id']}").status == 404


def test_a_deleted_job_leaves_nothing(server, client, wav):
    job = client.wait(client.submit(wav).json())
    assert (server[0].root / job["id"]).is_dir()
    assert client.send("DELETE", f"/api/jobs/{job['id']}").status == 204
    assert not (server[0].root / job["id"]).exists()
    assert client.get(f"/api/jobs/{job['id']}").status == 404


def test_a_song_that_fails_is_a_sentence_and_leaves_nothing(server, client):
    job = client.wait(client.submit(b"No song, just words. " * 200, "name=../../words.mp3").json())
    assert (job["state"], job["name"]) == ("failed", "words")
    assert job["error"].startswith("words.mp3 holds no audio")
    assert not (server[0].root / job["id"]).exists()


@pytest.mark.parametrize(
    "query, reason",
    [("model=missing", "No model 'missing'"), ("format=exe", "format must be"),
     ("format=stem.mp4", "a file of four stems"), ("mask=hard", "mask must be"),
     ("bitrate_kbps=9999", "bitrate kbps must be"), ("bitrate_kbps=many", "many"), ("from_s=9&to_s=1", "to s must be")],
)  # fmt: skip
def test_an_option_that_does_not_exist_is_refused_in_words(client, query, reason):
    response = client.submit(b"RIFF", query)
    assert response.status == 400
    assert reason in response.json()["error"].replace("_", " ")


@pytest.mark.parametrize("start", ["-1", "99", "nan", "soon"])
def test_a_preview_begins_within_the_song(done, start):
    client, job = done
    assert client.send("POST", f"/api/jobs/{job['id']}/preview?from={start}").status == 400


def test_an_upload_has_a_length_and_a_limit(server, client):
    assert client.submit(iter([b"x" * 10])).status == 411
    response = client.submit(b"x" * (2**20 + 1))
    assert response.status == 413
    assert "at most 1 MB" in response.json()["error"]


def test_an_upload_that_breaks_off_leaves_nothing(server, client):
    before = set(server[0].root.iterdir())
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        head = f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {client.cookie}\r\nContent-Length: 1000\r\n\r\nx"
        connection.sendall(head.encode())
    deadline_s = time.monotonic() + PATIENCE_S
    while set(server[0].root.iterdir()) != before:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert client.get("/api/jobs").json() == []


def test_an_upload_in_chunks_is_no_longer_than_it_says(server, client):
    before = set(server[0].root.iterdir())
    headers = {"Content-Length": "3", "Transfer-Encoding": "chunked"}
    response = client.send("POST", "/api/jobs", b"a\r\n" + b"x" * 10 + b"\r\n0\r\n\r\n", headers)
    assert response.status == 400
    assert "longer than its Content-Length" in response.json()["error"]
    assert set(server[0].root.iterdir()) == before


def test_an_upload_that_stands_still_leaves_nothing(server, client, monkeypatch):
    monkeypatch.setattr(api, "STANDSTILL_S", 0.1)
    before = set(server[0].root.iterdir())
    with socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE_S) as connection:
        head = f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {client.cookie}\r\nContent-Length: 1000\r\n\r\nx"
        connection.sendall(head.encode())
        assert connection.recv(2**16).startswith(b"HTTP/1.1 400")
    assert set(server[0].root.iterdir()) == before


def test_a_request_of_another_kind_is_a_sentence(client):
    response = client.send("PUT", "/api/jobs")
    assert response.status == 405
    assert "does not take such requests" in response.json()["error"]


def test_models_and_reports_are_listed(client):
    assert [model["name"] for model in client.get("/api/models").json()] == ["classic"]
    (report,) = client.get("/api/reports").json()
    assert report["path"].endswith("my run/report.html")
    assert report["models"] == ["my run"]


def test_a_report_is_shown_as_it_is_and_may_not_ask_for_anything(client):
    (report,) = client.get("/api/reports").json()
    response = client.get(f"/reports/{quote(report['path'])}")
    assert response.text == "<h1>Scores</h1>"
    assert response.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")


def test_the_api_is_documented(client):
    document = client.get("/api").json()
    assert document["openapi"].startswith("3.")
    assert {"get", "post"} == set(document["paths"]["/api/jobs"])
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            names = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert names == set(re.findall(r"{(\w+)}", path))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_is_client_enough(port, wav, tmp_path):
    (tmp_path / "song.wav").write_bytes(wav)
    jar = tmp_path / "cookies"
    curl = ["curl", "-sS", "-f", "-b", jar, "-c", jar]
    address = f"http://127.0.0.1:{port}/api/jobs"
    sent = subprocess.run(
        [*curl, "--data-binary", f"@{tmp_path}/song.wav", f"{address}?name=song.wav"], capture_output=True, check=True
    )
    job = f"{address}/{json.loads(sent.stdout)['id']}"
    subprocess.run([*curl, f"{job}/events"], capture_output=True, check=True)
    stem = subprocess.run([*curl, f"{job}/stems/vocals"], capture_output=True, check=True)
    assert stem.stdout.startswith(b"RIFF")


# Who may come in


def test_a_new_session_gets_a_cookie_that_scripts_cannot_read(port):
    response = Client(port, with_session=False).get("/")
    assert response.status == 200
    assert re.fullmatch(
        r"session=[\w-]{43}\.[0-9a-f]{64}; Path=/; HttpOnly; SameSite=Lax", response.headers["set-cookie"]
    )


@pytest.mark.parametrize("cookie", ["session=../../etc", "session=" + "a" * 43 + "." + "0" * 64, "session=bearer"])
def test_a_cookie_that_this_server_did_not_sign_is_replaced(port, client, cookie):
    assert "set-cookie" in Client(port, cookie=cookie).get("/").headers
    assert "set-cookie" not in client.get("/").headers


def test_another_site_may_not_use_the_server(client):
    for host in ("evil.example", "127.0.0.1.evil.example:7860", "["):
        assert client.get("/", Host=host).status == 403
    assert client.send("POST", "/api/jobs", b"x", {"Origin": "http://evil.example"}).status == 403
    assert client.get("/", Origin=f"http://127.0.0.1:{client.port}").status == 200


def test_the_page_asks_nobody_but_this_server(client):
    response = client.get("/")
    assert re.findall(r'(?:href|src)="(?!\w+\.(?:css|js)"|data:,|#)', response.text) == []
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    ["/docs", "/api.py", "/../api.py", "/%2e%2e/api.py", "/reports/../settings.py", "/reports/a",
     "/api/jobs/x", "/api/jobs/x/stems/vocals", "/api/jobs/..%2f..%2fetc/passwd/x"],
)  # fmt: skip
def test_what_is_not_there_is_404(client, path):
    assert client.get(path).status == 404
    assert client.send("POST", path, b"").status in (404, 405)


def test_files_beside_the_track_are_not_served(done):
    client, job = done
    for path in ("track/vocals.wav", "stems/vocals.flac", "stems/manifest", "track/..%2fall.zip", "A%20song.wav/x"):
        assert client.get(f"/api/jobs/{job['id']}/{path}").status == 404


def test_with_a_token_only_who_brings_it_comes_in(tmp_path, model):
    with served(tmp_path, {"classic": model}, Limits(), token=TOKEN) as (_, port):
        stranger = Client(port, with_session=False)
        for path in ("/", "/api", "/page.js", "/?token=other"):
            assert stranger.get(path).status == 401
        assert stranger.get("/api/jobs", Authorization=f"Bearer {TOKEN}").json() == []
        assert stranger.get("/api/jobs", Authorization="Bearer other").status == 401
        response = stranger.get(f"/?token={TOKEN}")
        assert response.status == 200
        opened = Client(port, cookie=response.headers["set-cookie"].partition(";")[0])
        assert opened.get("/api/jobs").status == 200
