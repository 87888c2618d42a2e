"""Batches drawn ahead: the same ones, errors in their place, and no thread left, however it ends."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad import InputError, InputTypeError
from jaxgrad.data import batches
from jaxgrad.prefetching import prefetch


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("jaxgrad-prefetch")]


def soon(condition) -> bool:
    """Whether it comes true within some seconds."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


@pytest.fixture(autouse=True)
def no_thread_outlives():
    assert soon(lambda: not own_threads())
    yield
    assert soon(lambda: not own_threads())


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize("length", [0, 1, 2, 50])
def test_the_same_batches_in_the_same_order(size, length):
    drawn = prefetch(range(length), size)
    assert list(drawn) == list(range(length))
    assert next(drawn, "ended") == "ended"
    assert not own_threads()


@pytest.mark.parametrize("size", [1, 3])
def test_never_more_are_drawn_ahead_than_asked_for(size):
    made = []

    def source():
        for n in itertools.count():
            made.append(n)
            yield n

    with prefetch(source(), size) as drawn:
        for n in range(5):
            assert soon(lambda n=n: len(made) == n + size)
            time.sleep(0.01)
            assert len(made) == n + size
            assert next(drawn) == n
    assert len(made) <= 5 + size


def test_the_draw_runs_while_the_consumer_works():
    """Each side waits for the other to have begun: without a second thread that would never be."""
    begun = [threading.Event() for _ in range(4)]

    def source():
        for event in begun:
            event.set()
            yield event

    with prefetch(source()) as drawn:
        for n, _ in enumerate(drawn):
            assert begun[min(n + 1, 3)].wait(10)


@pytest.mark.parametrize("size", [1, 2, 10])
@pytest.mark.parametrize("good", [0, 1, 4])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_of_the_source_comes_in_its_place(size, good, kind):
    calls = []

    class Source:
        def __iter__(self):
            return self

        def __next__(self):
            calls.append(len(calls))
            if len(calls) > good:
                raise kind("no more")
            return len(calls)

    drawn = prefetch(Source(), size)
    assert [next(drawn) for _ in range(good)] == list(range(1, good + 1))
    with pytest.raises(kind, match="no more") as caught:
        next(drawn)
    assert "__next__" in "".join(traceback.format_tb(caught.tb)).split("raise kind")[0]
    assert len(calls) == good + 1  # and the source is left alone from then on
    assert not own_threads()
    with pytest.raises(StopIteration):
        next(drawn)


def test_closing_early_waits_for_the_draw_and_ends_the_iteration():
    finished = []

    def slow():
        for n in itertools.count():
            time.sleep(0.02)
            finished.append(n)
            yield n

    drawn = prefetch(slow(), 3)
    assert next(drawn) == 0
    drawn.close()
    assert not own_threads()
    seen = len(finished)
    time.sleep(0.05)
    assert len(finished) == seen
    assert list(drawn) == []
    drawn.close()


def test_an_error_of_the_consumer_leaves_no_thread():
    def consume():
        with prefetch(itertools.count()) as drawn:
            return [1 / (3 - n) for n in drawn]

    with pytest.raises(ZeroDivisionError):
        consume()
    assert not own_threads()


def test_without_close_the_thread_ends_when_nobody_holds_the_iterator():
    class Source:
        def __iter__(self):
            return self

        def __next__(self):
            return np.zeros(3)

    source = Source()
    drawn = prefetch(source)
    next(drawn)
    assert own_threads()
    gone = weakref.ref(source)
    del source, drawn
    gc.collect()
    assert soon(lambda: not own_threads())
    assert soon(lambda: gone() is None)


def test_without_close_no_more_is_drawn_than_was_begun():
    begun, go_on = [], threading.Event()

    def source():
        for n in itertools.count():
            begun.append(n)
            if n:
                go_on.wait(10)
            yield n

    drawn = prefetch(source(), 5)
    assert next(drawn) == 0
    assert soon(lambda: len(begun) == 2)
    del drawn
    gc.collect()
    go_on.set()
    assert soon(lambda: not own_threads())
    assert begun == [0, 1]


def test_ctrl_c_while_waiting_loses_no_batch():
    ready = threading.Event()

    def source():
        yield 0
        ready.wait(10)
        yield 1

    with prefetch(source()) as drawn:
        assert next(drawn) == 0
        timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            next(drawn)
        timer.join()
        ready.set()
        assert next(drawn) == 1
        assert next(drawn, "ended") == "ended"


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(3)", "drawn.close()"])
def test_a_program_that_forgets_it_ends(end):
    code = f"""
import itertools
from jaxgrad.prefetching import prefetch
drawn = prefetch(itertools.count())
assert next(drawn) == 0
{end}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (3 if "exit" in end.lower() else 0, "")


def test_batches_are_put_on_a_device_or_sharded():
    host = [(np.full((4, 2), n, np.float32), {"y": np.arange(4)}) for n in range(3)]
    device = jax.devices()[-1]
    for place in (device, jax.sharding.SingleDeviceSharding(device)):
        with prefetch(host, device=place) as drawn:
            for (x, rest), (host_x, host_rest) in zip(drawn, host, strict=True):
                assert isinstance(x, jax.Array)
                assert x.devices() == rest["y"].devices() == {device}
                np.testing.assert_array_equal(x, host_x)
                np.testing.assert_array_equal(rest["y"], host_rest["y"])
    with prefetch(host) as drawn:
        assert all(one is other for one, other in zip(drawn, host, strict=True))


def test_the_thread_has_the_settings_of_its_maker(x64):
    with prefetch((np.float64([1 / 3]) for _ in range(2)), device=jax.devices()[0]) as drawn:
        assert [batch.dtype for batch in drawn] == [jnp.float64] * 2
    with prefetch(jnp.float64(n) for n in range(2)) as drawn:
        assert [batch.dtype for batch in drawn] == [jnp.float64] * 2


def test_shuffled_batches_drawn_ahead_are_those_of_their_steps():
    data = np.arange(40.0).reshape(20, 2), np.arange(20)
    straight = batches(data, 8, 5)
    with prefetch(batches(data, 8, 5), device=jax.devices()[0]) as drawn:
        for step, (x, y) in enumerate(itertools.islice(drawn, 150)):  # past the row numbers of one compiled call
            np.testing.assert_array_equal(x, straight.at(step)[0])
            np.testing.assert_array_equal(y, straight.at(step)[1])


@pytest.mark.parametrize(
    ("source", "options", "kind", "said"),
    [
        ([], {"size": 0}, InputError, "size=0, expected at least 1"),
        ([], {"size": -3}, InputError, "size=-3, expected at least 1"),
        ([], {"size": 1.5}, InputTypeError, "size is 1.5, expected a whole number"),
        ([], {"size": True}, InputTypeError, "size is True, expected a whole number"),
        (3, {}, InputTypeError, r"batches is i32\[\], expected something to iterate over"),
        ([], {"device": "cpu"}, InputTypeError, "device is 'cpu', expected a device or a sharding"),
    ],
)
def test_what_cannot_be_drawn_ahead_is_refused(source, options, kind, said):
    with pytest.raises(kind, match=f"prefetch: {said}"):
        prefetch(source, **options)
