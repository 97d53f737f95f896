"""The page's parts: limits, upload validation, samples for the players, the job queue, and how the server starts."""

import secrets
import shutil
import threading
import time

import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette", reason="the page's packages are not installed: pip install -r requirements-web.txt")

from serving import PATIENCE_S

from vocal_extraction.audio_files.decoding import SongReader
from vocal_extraction.checkpointing import shipped_checkpoints
from vocal_extraction.errors import ExtractionCancelledError, SettingsError
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.web_page import jobs
from vocal_extraction.web_page.jobs import JobQueue, Options, safe_name
from vocal_extraction.web_page.uploads import Limits, RefusedError, validate_upload

RATE = 44_100
OPTIONS = Options("classic", ExtractionSettings())


@pytest.fixture
def open_queue(tmp_path):
    """Return a function that opens a queue with some limits."""
    return lambda **limits: JobQueue(tmp_path, Limits(**limits), shipped_checkpoints(), "cpu")


@pytest.fixture
def queue(open_queue):
    with open_queue(queue_length=2) as queue:
        yield queue


def upload(queue, name="a.wav", content=b"", *, duration_s=None):
    """Put a song where an upload would lie: bytes, or seconds of noise."""
    path = queue.root / secrets.token_hex(8) / name
    path.parent.mkdir()
    path.write_bytes(content)
    if duration_s is not None:
        noise = np.random.default_rng(3).normal(0, 3_000, (round(duration_s * RATE), 2)).astype(np.int16)
        soundfile.write(path, noise, RATE)
    return path


def wait(condition):
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def finished(queue, song, session="one"):
    job = queue.submit(session, song, OPTIONS)
    wait(lambda: job.is_over)
    return job


@pytest.mark.parametrize("bad", [{"upload_bytes": 0}, {"longest_s": float("inf")}, {"queue_length": -1}])
def test_limits_must_be_positive_numbers(bad):
    with pytest.raises(SettingsError, match=next(iter(bad))):
        Limits(**bad)


@pytest.mark.parametrize(
    "limits, reason",
    [
        ({"longest_s": 2.0}, r"too long.*At most 0.0333 minutes"),
        ({"decoded_bytes": 16 * RATE}, "of 2 channels at 44100"),
    ],
)
def test_a_song_that_says_it_is_too_long_is_refused(queue, limits, reason):
    """Many channels at a high rate count as length."""
    with pytest.raises(RefusedError, match=reason):
        validate_upload(upload(queue, duration_s=3.0), Limits(**limits))


# The queue


@pytest.mark.parametrize("declared_s", [0, 1], ids=["says nothing", "says a second"])
def test_a_song_that_is_longer_than_it_says_is_stopped(open_queue, monkeypatch, declared_s):
    decoded_s, blocks = [], SongReader.blocks

    def counted(reader):
        for block in blocks(reader):
            decoded_s.append(len(block) / reader.sample_rate)
            yield block

    monkeypatch.setattr(SongReader, "blocks", counted)
    with open_queue(longest_s=3.0) as queue:
        song = upload(queue, "a.flac")
        soundfile.write(song, np.random.default_rng(0).uniform(-0.1, 0.1, (30 * RATE, 2)), RATE)
        head = bytearray(song.read_bytes())
        head[21:26] = ((head[21] & 0xF0) << 32 | declared_s * RATE).to_bytes(5, "big")  # 36 bits count the samples
        song.write_bytes(head)
        job = finished(queue, song)
    assert job.error.startswith("a.flac is too long. At most 0.05 minutes are taken")
    assert 3.0 < sum(decoded_s) < 3.0 + 2 * max(decoded_s)
    assert not song.parent.exists()


class Gated:
    """A stand-in for `extract_vocals` that reports progress, and waits until it may go on or is cancelled."""

    def __init__(self):
        self.may_go_on = threading.Event()
        self.n_begun = 0
        self.n_cancelled = 0

    def __call__(self, song, folder, *, progress, cancelled, **_):
        if progress is not None:
            progress(30.0, 120.0)
        self.n_begun += 1
        while not self.may_go_on.wait(0.02):
            if cancelled():
                self.n_cancelled += 1
                raise ExtractionCancelledError
        raise RefusedError(f"{song}: as far as this test goes. See --keep-partial.")


@pytest.fixture
def gated(monkeypatch):
    gated = Gated()
    monkeypatch.setattr(jobs, "extract_vocals", gated)
    yield gated
    gated.may_go_on.set()


def test_the_state_tells_progress_and_what_is_left(queue, gated):
    job = queue.submit("one", upload(queue, duration_s=1.0), OPTIONS)
    wait(lambda: gated.n_begun)
    state = queue.state(job)
    assert (state["state"], state["stage"], state["done_s"], state["total_s"]) == ("working", "Separating", 30, 120)
    assert state["remaining_s"] >= 0


def test_messages_name_no_folder_of_the_server_and_options_as_the_page_does(queue, gated):
    gated.may_go_on.set()
    job = finished(queue, upload(queue, "my song.wav", duration_s=1.0))
    assert job.error.startswith("my song.wav: as far")
    assert "--" not in job.error


def test_the_queue_is_bounded_and_says_how_long_it_is(queue, gated):
    waiting = [queue.submit(session, upload(queue, duration_s=1.0), OPTIONS) for session in ("one", "two", "three")]
    assert [queue.state(job)["n_ahead"] for job in waiting] == [0, 1, 2]
    with pytest.raises(RefusedError, match="queue is full"):
        queue.new_song("four", "a.wav", 1)


def test_a_session_has_its_share_of_the_queue(open_queue, gated):
    with open_queue(jobs_per_session=1) as queue:
        job = queue.submit("one", upload(queue, duration_s=1.0), OPTIONS)
        queue.new_song("two", "a.wav", 1)
        with pytest.raises(RefusedError, match="Your other songs"):
            queue.new_song("one", "a.wav", 1)
        queue.remove(job)
        queue.new_song("one", "a.wav", 1)
        wait(lambda: job.is_over and not job.folder.exists())
        assert job.state == "cancelled"


def test_a_job_that_waits_is_cancelled_at_once(queue, gated):
    first, second = (queue.submit("one", upload(queue, duration_s=1.0), OPTIONS) for _ in range(2))
    queue.remove(second)
    assert second.state == "cancelled"
    assert not second.folder.exists()
    assert queue.find("one", second.id) is None
    assert queue.find("one", first.id) is first
    assert queue.find("two", first.id) is None


def test_closing_the_queue_cancels_its_jobs(open_queue, gated):
    with open_queue() as queue:
        job = queue.submit("one", upload(queue, duration_s=1.0), OPTIONS)
        wait(lambda: gated.n_begun)
    assert job.state == "cancelled"
    assert gated.n_cancelled == 1
    assert not job.folder.exists()


def test_a_long_song_has_a_preview_first_and_where_one_asks(queue, monkeypatch):
    monkeypatch.setattr(jobs, "PREVIEWS_S", (0.2, 0.5))
    monkeypatch.setattr(jobs, "_SHORTEST_PREVIEWED_S", 1.0)
    extract, may_go_on = jobs.extract_vocals, threading.Event()

    def slowly(song, folder, **options):
        if folder.name == "stems":
            may_go_on.wait(PATIENCE_S)
        return extract(song, folder, **options)

    monkeypatch.setattr(jobs, "extract_vocals", slowly)
    job = queue.submit("one", upload(queue, duration_s=4.0), OPTIONS)
    wait(lambda: len(job.previews) == 2)
    assert [(track.start_s, track.n_samples) for track in job.previews] == [(0, RATE // 5), (0, RATE // 2)]
    queue.request_preview(job, 1.0)  # given up for the next
    queue.request_preview(job, 2.0)
    wait(lambda: job.previews[-1].start_s == 2.0 and job.previews[-1].n_samples == RATE // 2)
    assert len(list(job.folder.glob("preview-*"))) == 2, "of earlier previews, one is kept, which may still be playing"
    may_go_on.set()
    wait(lambda: job.is_over)
    assert (job.previews[-1].stems, job.state, job.preview_error) == (job.track.stems, "done", None)


def test_a_preview_that_fails_does_not_fail_the_job(queue, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "_SHORTEST_PREVIEWED_S", 0.5)
    extract, errors, said = jobs.extract_vocals, [RefusedError("Nothing comes of this."), ValueError("a bug")], []

    def fail(song, folder, **options):
        if folder.name != "stems":
            raise errors.pop(0)
        job = next(iter(queue.jobs()))
        wait(lambda: not errors and "bug" in (job.preview_error or ""))
        said.append(job.preview_error)
        return extract(song, folder, **options)

    monkeypatch.setattr(jobs, "extract_vocals", fail)
    job = finished(queue, upload(queue, duration_s=1.0))
    assert (job.state, job.error) == ("done", None)
    assert said == [f"The preview failed: {jobs._BUG}"]
    assert "ValueError: a bug" in capsys.readouterr().err


def test_a_model_that_went_away_is_said(tmp_path):
    with JobQueue(tmp_path, Limits(), {"classic": tmp_path / "gone.pth"}, "cpu") as queue:
        assert "gone.pth" in finished(queue, upload(queue, duration_s=1.0)).error


def test_a_bug_is_called_a_bug(queue, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "prepare_listening", lambda *_, **__: 1 / 0)
    job = finished(queue, upload(queue, duration_s=1.0))
    assert job.error.startswith("This is a bug of the program")
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_full_disk_is_said_before_the_work(open_queue):
    with open_queue(storage_bytes=10**6) as queue:
        assert "disk is full" in finished(queue, upload(queue, duration_s=2.0)).error


def test_room_is_counted_while_files_come_and_go(queue):
    over = threading.Event()

    def come_and_go():
        while not over.is_set():
            shutil.rmtree(upload(queue).parent)

    others = [threading.Thread(target=come_and_go) for _ in range(2)]
    for other in others:
        other.start()
    try:
        songs = [queue.new_song("one", "a.wav", 1) for _ in range(100)]
    finally:
        over.set()
        for other in others:
            other.join()
    assert all(song.parent.is_dir() for song in songs)


def test_what_is_over_its_time_goes_away_by_itself(open_queue):
    with open_queue(lifetime_s=0.2) as queue:
        job = finished(queue, upload(queue, content=b"no song"))
        wait(lambda: queue.find("one", job.id) is None)
    assert not job.folder.exists()


@pytest.mark.parametrize(
    "name, safe",
    [("../../a.wav", "a.wav"), ("C:\\a b.mp3", "a b.mp3"), ("", "song"), ("..", "song"), ("a\0\nb.wav", "ab.wav"),
     ("ö" * 200 + ".wav", "ö" * 60 + ".wav"), (".hidden", "hidden")],
)  # fmt: skip
def test_an_upload_has_a_harmless_name(name, safe):
    assert safe_name(name) == safe


def test_the_time_that_a_model_takes_is_measured(queue):
    assert queue.metadata("classic").sources == ("vocals",)
    queue.models = {"classic": queue.models["classic"]}
    queue.measure_models()
    assert queue.real_time_factors["classic"] > 0
