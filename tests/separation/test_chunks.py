"""The parts of a separation: arrays on disk, chunks, resampling, threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from extraction_models import music
from hypothesis import given, settings
from hypothesis import strategies as st

from vocal_extraction.separation.disk_array import DiskArray, Scratch
from vocal_extraction.separation.resampling import Resampler
from vocal_extraction.separation.song import chunks_of
from vocal_extraction.separation.workers import for_each


def test_rows_on_disk_are_read_as_they_were_written(tmp_path):
    rows = np.arange(60, dtype=np.float32).reshape(10, 2, 3)
    with DiskArray((2, 3), tmp_path) as array:
        array[4:10] = rows[4:]
        array[0:4] = rows[:4]
        assert (len(array), array.shape) == (10, (10, 2, 3))
        np.testing.assert_array_equal(array[:], rows)
        np.testing.assert_array_equal(array[3:5], rows[3:5])
        np.testing.assert_array_equal(array[8:20], rows[8:])
        assert array[5:5].shape == (0, 2, 3)
        array.append(rows[:1])
        np.testing.assert_array_equal(array[9:], rows[[9, 0]])
        assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_rows_that_were_not_written_are_zeros():
    with DiskArray((2,), n_rows=3) as array:
        array[1:2] = np.ones((1, 2))
        assert array[:].tolist() == [[0, 0], [1, 1], [0, 0]]


def test_other_types_and_orders_become_rows_of_floats():
    with DiskArray((2,)) as array:
        array.append(np.asfortranarray(np.arange(6).reshape(3, 2)))
        array.append(np.array([[0.1, 0.2]]))
        np.testing.assert_array_equal(array[:], np.float32([[0, 1], [2, 3], [4, 5], [0.1, 0.2]]))


def test_a_file_that_ends_early_is_no_array():
    with DiskArray((2,)) as array:
        array.append(np.ones((3, 2)))
        array._file.truncate(17)
        with pytest.raises(EOFError, match="3 rows on disk ends before row 3"):
            array[1:3]


def test_several_threads_write_rows_of_their_own():
    rows = np.random.default_rng(0).standard_normal((400, 50)).astype(np.float32)
    with DiskArray((50,), n_rows=400) as array, ThreadPoolExecutor(4) as pool:

        def write(start):
            array[start : start + 10] = rows[start : start + 10]

        for_each(pool, write, range(0, 400, 10))
        np.testing.assert_array_equal(array[:], rows)


@pytest.mark.parametrize("on_disk", [True, False])
def test_scratch_closes_what_is_not_released(on_disk):
    with Scratch(on_disk=on_disk) as scratch:
        first, second, third = (scratch.new(n, 4) for n in (1, 2, 3))
        scratch.close(first)
        assert scratch.release(second) is second
    assert second[:].shape == (2, 4)
    if on_disk:
        assert (first._file.closed, second._file.closed, third._file.closed) == (True, False, True)
        second.close()


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 500), size=st.integers(1, 200), context=st.integers(0, 50), step=st.integers(1, 40))
def test_chunks_cover_a_song_once_with_context(n, size, context, step):
    chunks = chunks_of(n, size=size, context=context, step=step)
    assert [i for chunk in chunks for i in range(n)[chunk.kept]] == list(range(n))
    for chunk in chunks:
        assert chunk.kept.stop - chunk.kept.start < size + step
        assert 0 <= chunk.computed.start <= max(chunk.kept.start - context, 0)
        assert min(chunk.kept.stop + context, n) <= chunk.computed.stop <= n
        assert chunk.computed.start % step == 0


@pytest.mark.parametrize("to_rate", [8_000, 22_050, 48_000, 192_000])
def test_resampling_in_blocks_is_resampling_at_once(to_rate):
    import soxr

    song, n_samples = music(3.7).T, -(-round(3.7 * to_rate) // 1)
    with Scratch(on_disk=False) as scratch:
        resampler = Resampler(song, (44_100, to_rate), scratch, n_samples=n_samples)
        for stop in (1, 70_000, 100_000, len(song)):
            resampler.read_to(stop)
        assert resampler.target.shape == (n_samples, 2)
        at_once = soxr.resample(song, 44_100, to_rate)
        assert abs(len(at_once) - n_samples) <= 1
        n = min(len(at_once), n_samples)
        np.testing.assert_allclose(resampler.target[:n], at_once[:n], atol=1e-6)


def test_resampling_goes_as_far_as_it_is_asked_to():
    song = music(9.0).T
    with Scratch(on_disk=False) as scratch:
        resampler = Resampler(song, (44_100, 22_050), scratch)
        resampler.write_to(50_000)
        assert resampler.target[:50_000].any(axis=1).all()
        assert not resampler.target[-50_000:].any()
        resampler.write_to(10**9)
        assert resampler.target[-50_000:-100].any(axis=1).all()
        assert Resampler(song, (44_100, 44_100), scratch).target is song


def test_the_first_error_ends_all_work():
    running, done = [], []

    def work(number):
        running.append(number)
        time.sleep(0.01)
        running.remove(number)
        if number in (3, 4):
            raise ValueError(number)

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(ValueError, match="3"):
            for_each(pool, work, range(1_000), done.append)
        assert running == [], "arrays may be closed now"
    assert done == [1, 2, 3]


def test_items_are_asked_for_a_few_ahead_only():
    asked, may_go_on = [], threading.Event()

    def items():
        for number in range(100):
            asked.append(number)
            yield number

    def stop(n_done):
        if n_done == 2:
            raise KeyboardInterrupt

    may_go_on.set()
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        for_each(pool, lambda number: may_go_on.wait(), items(), stop)
    assert len(asked) <= 7
