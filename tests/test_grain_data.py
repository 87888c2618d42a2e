"""The shuffled batches as grain's data set: those of each step, in threads and processes, and after a resume."""

from __future__ import annotations

import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxgrad import InputError, InputTypeError
from jaxgrad.data import batches
from jaxgrad.errors import MissingExtraError
from jaxgrad.grain_data import grain_dataset

ROWS = 50


def drawn(size: int = 8):
    return batches({"x": np.arange(2.0 * ROWS).reshape(ROWS, 2), "y": np.arange(ROWS)}, size, jax.random.key(3))


def same(one, other) -> bool:
    return all((one[name] == other[name]).all() for name in ("x", "y"))


@pytest.fixture(scope="module")
def grain():
    return pytest.importorskip("grain", reason="needs grain, whose data set it is")


def test_entry_by_entry_and_read_ahead_in_threads(grain):
    source = drawn()
    dataset = grain_dataset(source, 200)
    assert len(dataset) == 200
    assert all(same(dataset[step], source.at(step)) for step in (0, 150, 3, 199, 64, 63))
    entries = list(dataset.to_iter_dataset())
    assert len(entries) == 200
    assert all(same(entry, source.at(step)) for step, entry in enumerate(entries))
    assert source.step == 0


def test_its_iterator_goes_on_from_its_state(grain):
    dataset = grain_dataset(drawn(), 20).to_iter_dataset()
    first = iter(dataset)
    for _ in range(7):
        next(first)
    again = iter(dataset)
    again.set_state(first.get_state())
    rest = list(again)
    assert len(rest) == 13
    assert all(same(entry, drawn().at(step)) for step, entry in enumerate(rest, start=7))


def test_in_processes(grain):
    code = """
import numpy as np
import grain
from absl import flags
from jaxgrad.data import batches
from jaxgrad.grain_data import grain_dataset

if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    source = batches((np.arange(50.0), np.arange(50)), 8, 3)
    source.at(0)  # with its compiled function, too, it goes to the processes
    options = grain.multiprocessing.MultiprocessingOptions(num_workers=2)
    entries = list(grain_dataset(source, 30).to_iter_dataset().mp_prefetch(options))
    assert len(entries) == 30
    for step, entry in enumerate(entries):
        np.testing.assert_array_equal(entry, source.at(step))
    print("same")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "same\n", done.stderr


@pytest.mark.parametrize(
    ("source", "steps", "kind", "said"),
    [
        (iter([1]), 3, InputTypeError, "batches is list_iterator, expected shuffled batches"),
        (drawn(), 0, InputError, "steps=0, expected at least 1"),
        (drawn(), 2.5, InputTypeError, "steps is 2.5, expected a whole number"),
        (drawn(), True, InputTypeError, "steps is True, expected a whole number"),
    ],
)
def test_what_cannot_be_a_data_set_is_refused(source, steps, kind, said):
    with pytest.raises(kind, match=f"grain_dataset: {said}"):
        grain_dataset(source, steps)


def test_without_grain_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(MissingExtraError, match=r'needs grain.*pip install "jaxgrad\[data\]"'):
        grain_dataset(drawn(), 3)
