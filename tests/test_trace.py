from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

import jaxgrad
from jaxgrad import InputError, Trace, run_lesson
from jaxgrad.trace import AFTERWARDS, GIVEN, PER_STEP, SourceLine, compact, from_hexes, hexes, lines_of

NAMES = (*GIVEN, *PER_STEP, *AFTERWARDS)


def run(dtype="float32", steps=2, n=3, w_shape=(1,)) -> Trace:
    with jax.enable_x64(dtype == "float64"):
        random = np.random.default_rng(5)
        x, y = (jnp.asarray(random.standard_normal(n), dtype) for _ in "xy")
        w, b = (jnp.asarray(random.standard_normal(shape), dtype) for shape in (w_shape, ()))
        return run_lesson(x, y, w, b, learning_rate=0.01, steps=steps)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return run()


def test_all_values_are_there_in_their_shapes(trace):
    assert tuple(trace) == NAMES
    assert "Q again" in trace
    shapes = {name: trace[name].shape for name in NAMES}
    assert shapes == {
        **{"x": (3,), "y": (3,), "guess.w": (1,), "guess.b": ()},
        **{"Q": (2, 3), "loss": (2,), "w.grad": (2, 1), "w": (2, 1), "b.grad": (2,), "b": (2,)},
        **{"Q again": (3,), "loss again": ()},
    }
    assert (trace.steps, trace.dtype) == (2, np.float32)


def test_unknown_name_is_refused_with_those_that_there_are(trace):
    with pytest.raises(KeyError, match=r"a trace has no 'nope'; it has x, y, guess\.w, guess\.b, Q, loss, w\.grad"):
        trace["nope"]


def test_before_is_what_a_step_began_with(trace):
    assert trace.before(0) == (trace["guess.w"], trace["guess.b"])
    assert trace.before(1) == (trace["w"][0], trace["b"][0])


def test_arrays_are_copies_that_cannot_be_written():
    source = {name: np.array(run()[name]) for name in NAMES}
    kept = Trace(source, "f", "r", "hand", 0.1, "cpu")
    before = {name: value.copy() for name, value in source.items()}
    for name, value in source.items():
        value[...] = 0  # the writer rewrites its own arrays
        assert np.array_equal(kept[name], before[name])
        with pytest.raises(ValueError, match="read-only"):
            kept[name][...] = 0
    with pytest.raises(TypeError, match="does not support item assignment"):
        kept.values["Q"] = source["Q"]  # pyright: ignore[reportIndexIssue]
    with pytest.raises(dataclasses.FrozenInstanceError):
        kept.route = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_name_that_is_missing_is_refused_and_others_are_dropped(trace):
    values = dict(trace.values)
    assert tuple(dataclasses.replace(trace, values={**values, "extra": np.ones(1)})) == NAMES
    del values["Q again"]
    with pytest.raises(KeyError, match="Q again"):
        dataclasses.replace(trace, values=values)


# Equality, copies, and files: all in exact bits.


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("w_shape", [(), (1,), (3,)])
def test_json_brings_every_bit_back(dtype, w_shape):
    trace = run(dtype, w_shape=w_shape)
    back = Trace.from_data(json.loads(trace.to_json()))
    assert back == trace
    for name in NAMES:
        assert (back[name].dtype, back[name].shape) == (np.dtype(dtype), trace[name].shape)
        assert back[name].tobytes() == trace[name].tobytes()
    assert back.lines == trace.lines
    assert json.loads(trace.to_json()) == trace.to_data()


def test_values_that_are_not_finite_and_minus_zero_come_back(trace):
    odd = np.array([np.inf, -np.inf, np.nan, -0.0, 1e-45, np.finfo(np.float32).max], np.float32)
    values = {**trace.values, "x": odd, "y": odd, "Q": np.stack([odd, odd]), "Q again": odd}
    broken = dataclasses.replace(trace, values=values)
    back = Trace.from_data(json.loads(broken.to_json()))
    assert back["x"].tobytes() == odd.tobytes()
    assert back == broken


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda trace: pickle.loads(pickle.dumps(trace))])
def test_copies_are_equal_and_read_only(again, trace):
    copied = again(trace)
    assert copied == trace
    assert not copied["Q"].flags.writeable


def test_traces_are_equal_if_all_of_them_is(trace):
    assert trace == run()
    assert trace != run(steps=3)
    assert trace != "a trace"
    for change in ({"route": "jit"}, {"update": "sgd"}, {"learning_rate": 0.1}, {"framework": "f"}, {"lines": {}}):
        assert dataclasses.replace(trace, **change) != trace
    nudged = trace["Q"].copy()
    nudged[1, 2] = np.nextafter(nudged[1, 2], np.float32(np.inf))  # one bit of one entry
    assert dataclasses.replace(trace, values={**trace.values, "Q": nudged}) != trace
    with pytest.raises(TypeError, match="unhashable type: 'Trace'"):
        hash(trace)


DAMAGE = {
    "no dtype": (lambda data: data.pop("dtype"), "KeyError: 'dtype'"),
    "no values": (lambda data: data.pop("values"), "KeyError: 'values'"),
    "no lines": (lambda data: data.pop("lines"), "KeyError: 'lines'"),
    "a value is missing": (lambda data: data["values"].pop("w.grad"), r"KeyError: 'w\.grad'"),
    "unknown dtype": (lambda data: data.update(dtype="float33"), "TypeError: .*float33"),
    "integer dtype": (lambda data: data.update(dtype="int32"), "ValueError: dtype is int32, not floating"),
    "dtype that is too narrow": (lambda data: data.update(dtype="bfloat16"), "has entries that bfloat16 does not hold"),
    "overflow": (lambda data: data["values"].update(y=3 * ["0x1p+200"]), "y has entries that float32 does not hold"),
    "too big for a double": (lambda data: data["values"].update(y=3 * ["0x1p+9999"]), "OverflowError"),
    "no number": (lambda data: data["values"]["x"].__setitem__(0, "twelve"), "ValueError: invalid hexadecimal"),
    "a decimal": (lambda data: data["values"]["x"].__setitem__(0, 1.5), "TypeError"),
    "null": (lambda data: data["values"].update(x=None), "TypeError"),
    "ragged": (lambda data: data["values"]["Q"][0].pop(), "ValueError"),
    "a point less": (lambda data: data["values"]["y"].pop(), r"y has shape \(2,\), expected \(3,\)"),
    "a step less": (lambda data: data["values"]["b"].pop(), r"b has shape \(1,\), expected \(2,\)"),
    "loss of no steps": (lambda data: data["values"].update(loss="0x1p+0"), r"loss has shape \(\), expected \(1,\)"),
    "rate that is no number": (lambda data: data.update(learning_rate="fast"), "could not convert string to float"),
    "line of two parts": (lambda data: data["lines"].update(Q=["file.py", 3]), "TypeError"),
    "lines that are a list": (lambda data: data.update(lines=[]), "AttributeError"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_data_is_refused(name, trace):
    damage, message = DAMAGE[name]
    data = json.loads(trace.to_json())
    damage(data)
    with pytest.raises(InputError, match=rf"Trace\.from_data: .*{message}.*expected what Trace\.to_data wrote"):
        Trace.from_data(data)


@pytest.mark.parametrize("data", [None, [], "text", 3, {}])
def test_other_data_is_refused(data):
    with pytest.raises(InputError, match=r"Trace\.from_data: .*expected what Trace\.to_data wrote\. Record it anew"):
        Trace.from_data(data)


# Hexadecimal numbers.


@given(arrays.arrays(np.float64, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0), elements=st.floats()))
def test_hexadecimal_numbers_are_exact(values):
    back = np.asarray(from_hexes(json.loads(json.dumps(hexes(values)))), np.float64).reshape(values.shape)
    assert np.array_equal(back, values, equal_nan=True)
    assert np.array_equal(np.signbit(back), np.signbit(values)) or np.isnan(values).any()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0x0p+0"),
        (-0.0, "-0x0p+0"),
        (2.0, "0x1p+1"),
        (np.float32(11) / np.float32(3), "0x1.d55556p+1"),
        (1e-45, "0x1.6d601ad376ab9p-150"),
        (float("inf"), "inf"),
    ],
)
def test_hexadecimal_numbers_are_as_short_as_exact(value, text):
    assert hexes(value) == text
    assert from_hexes(text) == value


# Text.


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        (np.array(2.0), {}, "2"),
        (np.array([1 / 3, 2.0]), {}, "0.333333, 2"),
        (np.arange(4.0), {}, "0, 1, 2, 3"),
        (np.arange(9.0), {}, "0, 1, ..., 8 (9 values)"),
        (np.arange(6.0).reshape(2, 3), {}, "0, 1, ..., 5 (6 values)"),
        (np.array([1 / 3]), {"digits": 3}, "0.333"),
        (np.arange(9.0), {"most": 9}, "0, 1, 2, 3, 4, 5, 6, 7, 8"),
        (jnp.array([0.1], jnp.bfloat16), {}, "0.100098"),
    ],
)
def test_an_array_on_one_line(value, options, text):
    assert compact(value, **options) == text


def test_text_names_every_value_of_a_short_run(trace):
    text = str(trace)
    assert text.splitlines()[0] == f"jax {jax.__version__}, functional, {trace.device}, learning rate 0.01"
    assert [line for line in text.splitlines() if not line.startswith("  ")][1:] == ["step 1", "step 2", "afterwards"]
    assert all(f"  {name:<10} " in text for name in NAMES)


def test_text_leaves_out_the_middle_of_a_long_run():
    lines = str(run(steps=9)).splitlines()
    assert [line for line in lines if line.startswith("step")] == [f"step {number}" for number in (1, 2, 3, 8, 9)]
    assert "  ... 4 more steps ..." in lines


# Lines of code.


def test_lines_are_those_of_the_file(trace):
    root = Path(jaxgrad.__file__).parent
    assert set(trace.lines) == {*PER_STEP, *AFTERWARDS}
    for name, line in trace.lines.items():
        text = (root.parent / line.file).read_text().splitlines()[line.line - 1]
        assert line.code in text
        assert name in text.split("# -> ")[1].split(", ")
    assert str(SourceLine("a/b.py", 3, "w * x")) == "w * x  (a/b.py:3)"


def example(x):
    y = x + 1  # -> y
    if x:
        return y, 2  # -> first, second
    return None  # no arrow


def test_lines_of_a_function_are_found_by_their_comments():
    found = lines_of(example)
    assert {name: line.code for name, line in found.items()} == {"y": "y = x + 1", "first": "y, 2", "second": "y, 2"}
    assert {line.file for line in found.values()} == {"tests/test_trace.py"}
