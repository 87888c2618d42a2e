from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad import InputError, InputTypeError, LinearParams, MissingExtraError, run_lesson
from jaxgrad.exact import SumOrder
from jaxgrad.frameworks import torch_autograd, torch_choice, torch_recorded, torch_sgd
from jaxgrad.trace import AFTERWARDS, PER_STEP, Trace

TORCH = {"hand": torch_autograd, "sgd": torch_sgd}


def f32(values: Any) -> Any:
    return np.asarray(values, np.float32)


X, Y = f32([1.0, 2.0, 3.0]), f32([5.0, 9.0, 13.0])
GUESS = LinearParams(f32(2.0), f32(6.0))


def same_values(a: Trace, b: Trace) -> list[str]:
    """The names whose values differ in dtype, shape or any bit."""
    return [
        name
        for name in a
        if (a[name].dtype, a[name].shape, a[name].tobytes()) != (b[name].dtype, b[name].shape, b[name].tobytes())
    ]


# The torch lesson, live.


def lesson_by_cells(torch, update, x, y, rate, steps):
    """The lesson written out cell by cell, as a person types it, without anything of jaxgrad."""
    w = torch.tensor([2.0], dtype=x.dtype, requires_grad=True)
    b = torch.tensor([6.0], dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.SGD([w, b], lr=rate)
    seen = {name: [] for name in PER_STEP}
    for _ in range(steps):
        Q = w * x + b
        loss = ((y - Q) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        for name, value in (("Q", Q), ("loss", loss), ("w.grad", w.grad), ("b.grad", b.grad)):
            seen[name].append(value.detach().clone())
        if update == "sgd":
            optimizer.step()
        else:
            with torch.no_grad():
                w -= rate * w.grad
                b -= rate * b.grad
        seen["w"].append(w.detach().clone())
        seen["b"].append(b.detach().clone())
    seen = {name: torch.stack(values) for name, values in seen.items()}
    Q = w * x + b
    return {**seen, "Q again": Q.detach(), "loss again": ((y - Q) ** 2).mean().detach()}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("update", TORCH)
def test_torch_lesson_is_the_lesson_as_a_person_types_it(torch, update, dtype):
    rows = np.random.default_rng(0).standard_normal((2, 13))
    x, y = torch.tensor(rows).to(getattr(torch, dtype))
    theirs = lesson_by_cells(torch, update, x, y, 0.1, 6)
    as_given = [np.asarray(value.double()).astype(jnp.dtype(dtype)) for value in (x, y)]
    guess = LinearParams(*(np.asarray([value]).astype(jnp.dtype(dtype)) for value in (2.0, 6.0)))
    trace = TORCH[update].run(guess, *as_given, 0.1, 6)
    for name, value in theirs.items():
        assert trace[name].dtype == jnp.dtype(dtype)
        assert np.array_equal(trace[name].astype(np.float64), value.double().numpy()), name


@pytest.mark.parametrize(("update", "route"), [("hand", "autograd"), ("sgd", "sgd")])
def test_torch_trace_says_what_made_it(torch, update, route):
    trace = TORCH[update].run(GUESS, X, Y, 0.1, 3)
    assert (trace.framework, trace.route, trace.update) == (f"torch {torch.__version__}", route, update)
    assert (trace.learning_rate, trace.device, trace.steps) == (0.1, "cpu", 3)
    assert set(trace.lines) == {*PER_STEP, *AFTERWARDS}
    assert "backward()" in trace.lines["w.grad"].code
    assert ("step()" if update == "sgd" else "w.grad") in trace.lines["w"].code


def test_torch_run_changes_nothing_that_it_was_given(torch):
    x, y, w, b = X.copy(), Y.copy(), f32([2.0]), f32([6.0])
    trace = torch_autograd.run(LinearParams(w, b), x, y, 0.1, 3)
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)
    assert (w.tolist(), b.tolist()) == ([2.0], [6.0])
    assert len({value.tobytes() for value in trace["w"]}) == 3  # a history, not three views of the last weights


def test_the_two_updates_round_differently(torch):
    one, other = (module.run(GUESS, X, Y, 0.1, 100) for module in TORCH.values())
    assert {"w", "b"} <= set(same_values(one, other))


@pytest.mark.parametrize("update", TORCH)
def test_torch_refuses_other_dtypes(torch, update):
    with pytest.raises(
        InputTypeError, match=r"got int64, expected one of float32, float64, float16, bfloat16\. Convert"
    ):
        TORCH[update].run(GUESS, np.array([1, 2, 3]), Y, 0.1, 1)


@pytest.mark.parametrize("update", TORCH)
def test_torch_is_asked_for_by_its_extra(update, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r'the live torch lesson: needs torch.*pip install "jaxgrad\[torch\]"'):
        TORCH[update].run(GUESS, X, Y, 0.1, 1)


def test_frameworks_load_torch_on_use_only():
    code = "import sys; from jaxgrad.frameworks import torch_autograd, torch_sgd, torch_recorded, torch_choice; "
    asked = "print('torch' in sys.modules)"
    one = subprocess.run([sys.executable, "-c", code + asked], capture_output=True, text=True, check=True)
    assert one.stdout.strip() == "False"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sum_order_is_found_by_test(torch, dtype, monkeypatch):
    with jax.enable_x64(dtype is np.float64):
        found = torch_autograd.sum_order(dtype)
        assert found is None or found.threads == torch.get_num_threads()
        monkeypatch.setattr(torch_autograd, "total", lambda values, order: jnp.sum(values))
        assert torch_autograd.sum_order(dtype) is None  # a sum in another order is not taken for torch's


# The recorded torch.


def release(version):
    return version.split("+")[0]


@pytest.fixture
def same_torch(torch):
    if release(metadata.version("torch")) != release(torch_recorded.version()):
        pytest.skip(f"torch {torch.__version__} is not the recorded {torch_recorded.version()}")


@pytest.mark.parametrize("update", TORCH)
def test_recording_is_live_torch_bit_for_bit(same_torch, update):
    ours = run_lesson(route="exact", update=update, steps=torch_recorded.STEPS)
    recorded = torch_recorded.run_like(ours)
    live = TORCH[update].run(LinearParams(ours["guess.w"], ours["guess.b"]), X, Y, 0.1, torch_recorded.STEPS)
    assert same_values(recorded, live) == []
    described = ("framework", "route", "update", "learning_rate", "device")
    assert [getattr(recorded, name) for name in described] == [getattr(live, name) for name in described]
    assert {name: line.code for name, line in recorded.lines.items()} == {
        name: line.code for name, line in live.lines.items()
    }


@pytest.mark.parametrize("steps", [1, 2, 999, 1000])
@pytest.mark.parametrize("update", TORCH)
def test_recording_cut_short_is_the_run_of_so_many_steps(same_torch, update, steps):
    ours = run_lesson(route="exact", update=update, steps=steps)
    live = TORCH[update].run(LinearParams(ours["guess.w"], ours["guess.b"]), X, Y, 0.1, steps)
    assert same_values(torch_recorded.run_like(ours), live) == []


@pytest.mark.parametrize("update", TORCH)
def test_recording_is_the_exact_route_also_without_torch(update):
    ours = run_lesson(route="exact", update=update, steps=1000)
    assert same_values(torch_recorded.run_like(ours), ours) == []


def test_recording_says_where_it_is_from():
    data = torch_recorded.recording()
    assert data["command"] == "python -m jaxgrad.frameworks.torch_recorded"
    assert torch_recorded.version() == data["torch"]
    assert torch_recorded.run_like(run_lesson()).framework == f"torch {data['torch']}"
    assert len(data["date"]) == len("2020-01-01")
    assert set(data["traces"]) == set(TORCH)


def test_a_guess_of_one_entry_is_covered_too():
    assert torch_recorded.run_like(run_lesson(w=[2.0], b=[6.0]))["loss"].tolist() == run_lesson()["loss"].tolist()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda: run_lesson([1.0, 2.0], [5.0, 9.0]),
            r"the lesson's x is \[1\.0, 2\.0\], recorded is \[1\.0, 2\.0, 3\.0\]",
        ),
        (lambda: run_lesson(X, Y + 1), r"the lesson's y is \[6\.0, 10\.0, 14\.0\], recorded is \[5\.0, 9\.0, 13\.0\]"),
        (lambda: run_lesson(w=2.5), r"the lesson's guess\.w is 2\.5, recorded is 2\.0"),
        (lambda: run_lesson(b=[7.0]), r"the lesson's guess\.b is \[7\.0\], recorded is 6\.0"),
        (lambda: run_lesson(learning_rate=0.05), r"the learning rate is 0\.05, recorded is 0\.1"),
        (lambda: run_lesson(steps=1001, route="jit"), "the lesson ran 1001 steps, recorded are 1000"),
        (lambda: run_lesson(*(jnp.asarray(v, jnp.bfloat16) for v in (X, Y))), "ran in bfloat16, recorded is float32"),
    ],
)
def test_other_runs_are_refused_by_what_differs(run, message):
    with pytest.raises(InputError, match=rf"recorded torch: .*{message}\. Only.*install torch.*pass --torch live"):
        torch_recorded.run_like(run())


def test_covers_agrees_with_what_run_like_refuses(x64):
    assert not torch_recorded.covers(2.0, 6.0, 0.1, 1)  # the lesson would run in float64
    with jax.enable_x64(False):
        assert torch_recorded.covers(2.0, 6.0, 0.1, 1000)
        for other in ((2.5, 6.0, 0.1, 1), (2.0, 6.5, 0.1, 1), (2.0, 6.0, 0.2, 1), (2.0, 6.0, 0.1, 1001)):
            assert not torch_recorded.covers(*other)


def test_recording_anew_gives_the_file_that_ships(same_torch, tmp_path):
    path = tmp_path / "anew.json"
    torch_recorded.record(path)
    anew, shipped = json.loads(path.read_text()), dict(torch_recorded.recording())
    for data in (anew, shipped):
        data.pop("date")
        data["torch"] = release(data["torch"])
        for trace in data["traces"].values():
            trace["lines"] = {name: line[2] for name, line in trace["lines"].items()}  # line numbers move
            trace["framework"] = release(trace["framework"])
    assert anew == shipped
    assert [file.name for file in tmp_path.iterdir()] == ["anew.json"]


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def half_written(self, text, *args, **kwargs):
    with self.open("w") as file:
        file.write(text[: len(text) // 2])
    raise OSError("no space left on device")


@pytest.mark.parametrize(
    ("place", "name", "failure", "kind"),
    [
        pytest.param(torch_sgd, "run", interrupted, KeyboardInterrupt, id="stopped in the second run"),
        pytest.param(Path, "write_text", half_written, OSError, id="stopped while writing"),
        pytest.param(torch_recorded.os, "replace", interrupted, KeyboardInterrupt, id="stopped before the last move"),
    ],
)
def test_a_recording_that_fails_leaves_the_old_file(torch, tmp_path, monkeypatch, place, name, failure, kind):
    path = tmp_path / "recording.json"
    path.write_text("the old one")
    monkeypatch.setattr(place, name, failure)
    with pytest.raises(kind):
        torch_recorded.record(path, steps=2)
    assert path.read_text() == "the old one"


def test_a_recording_that_succeeds_replaces_the_old_file(torch, tmp_path):
    path = tmp_path / "recording.json"
    path.write_text("the old one")
    torch_recorded.record(path, steps=2)
    assert Trace.from_data(json.loads(path.read_text())["traces"]["hand"]).steps == 2


# Which torch.


def test_installed_is_the_version_without_importing(torch):
    assert torch_choice.installed() == metadata.version("torch")
    code = (
        "import sys; from jaxgrad.frameworks.torch_choice import installed; print(installed(), 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [metadata.version("torch"), "False"]


def test_installed_where_there_is_none(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert torch_choice.installed() is None


def test_installed_without_a_distribution(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(metadata, "version", missing)
    assert torch_choice.installed() == "unknown"


RECORDED = release(torch_recorded.version())


@pytest.mark.parametrize(
    ("installed", "asked", "covered", "chosen"),
    [
        (RECORDED, None, True, "recorded"),  # its bits, without the import
        (RECORDED + "+cu130", None, True, "recorded"),
        (RECORDED, None, False, "live"),
        ("0.4.0", None, True, "live"),
        ("0.4.0", None, False, "live"),
        ("unknown", None, True, "live"),
        (None, None, True, "recorded"),
        (None, None, False, None),
        (None, "recorded", False, "recorded"),  # run_like then says what differs
        ("0.4.0", "recorded", True, "recorded"),
    ],
)
def test_choice_of_torch(monkeypatch, installed, asked, covered, chosen):
    monkeypatch.setattr(torch_choice, "installed", lambda: installed)
    assert torch_choice.choose(asked, recorded_covers=covered) == chosen


def test_live_torch_that_was_asked_for(torch):
    assert torch_choice.choose("live", recorded_covers=True) == "live"


def test_live_torch_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r'--torch live: needs torch.*pip install "jaxgrad\[torch\]"'):
        torch_choice.choose("live", recorded_covers=True)


@pytest.mark.parametrize("update", TORCH)
def test_each_source_gives_torchs_trace_with_the_update_of_the_lesson(same_torch, update):
    ours = run_lesson(route="exact", update=update, steps=200)
    live, recorded = (torch_choice.run(source, ours) for source in ("live", "recorded"))
    assert live.update == recorded.update == update
    assert same_values(live, recorded) == []
    with pytest.raises(InputError, match="recorded torch: the learning rate"):
        torch_choice.run("recorded", dataclasses.replace(ours, learning_rate=0.2))


def test_sum_order_is_that_of_the_source(torch):
    assert torch_choice.sum_order("live") == torch_autograd.sum_order()
    assert torch_choice.sum_order("recorded") == torch_choice.sum_order(None) == SumOrder(32, 1)
