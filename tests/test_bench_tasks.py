from __future__ import annotations

import ctypes
import dataclasses
import json
import weakref

import numpy as np
import pytest

from jaxgrad.bench import TASKS, child, compiler, measure
from jaxgrad.bench.batches import Batches, replayed
from jaxgrad.bench.contenders import Contender, LeftOutError, Prepared, Task, distance
from jaxgrad.bench.timing import interleaved
from jaxgrad.bench.values import Spread
from jaxgrad.errors import InputError, InputTypeError

needs_compiler = pytest.mark.skipif(compiler.find_compiler() is None, reason="needs a C compiler")


class Counting:
    """A task for tests: to return its units as an array."""

    data_bytes = 8

    def __init__(self, sizes):
        self.units = sizes["steps"]

    def error(self, prepared, answer):
        return distance(answer["sum"], np.float64(prepared.units))


def doing(run, units=None):
    def prepare(problem):
        count = problem.units if units is None else units
        return Prepared(lambda: run(count), lambda result: {"sum": np.float64(result)}, count)

    return prepare


def counting(**contenders):
    return Task(
        name="counting",
        title="{steps} steps",
        unit="step",
        sizes={"steps": 4},
        quick={"steps": 1},
        grows=("steps",),
        base="good",
        problem=Counting,
        contenders=tuple(Contender(name, prepare) for name, prepare in contenders.items()),
        truth="the count",
        tolerance=0.5,
    )


def measured(task, **options):
    return measure(task, memory=False, pause=0, turn=0, **options)


def test_what_is_short_runs_several_times_a_turn():
    runs = []

    def run(n):
        runs.append(n)
        return float(n)

    result = measure(counting(good=doing(run)), memory=False, pause=0, turn=0.01, repeats=2)
    assert result.entry("good").state == "measured"
    assert len(result.entry("good").seconds.all) == 2
    assert 10 < len(runs) <= 201  # the first run, then two turns of at most a hundred


def test_runs_take_turns():
    seen = []
    interleaved(
        {name: lambda name=name: seen.append(name) for name in "abc"},
        2,
        before=lambda name: seen.append(f"before {name}"),
        each=lambda name, seconds, result: seen.append(seconds >= 0),
        pause=0,
    )
    one_round = [each for name in "abc" for each in (f"before {name}", name, True)]
    assert seen == one_round * 2


def test_a_result_is_let_go_off_the_clock():
    alive = weakref.WeakSet()

    class Result:
        pass

    def run():
        assert not alive
        result = Result()
        alive.add(result)
        return result

    interleaved({"a": run, "b": run}, 2, each=lambda name, seconds, result: None, pause=0)


def test_a_wrong_answer_has_no_time():
    result = measured(counting(good=doing(float), bad=doing(lambda n: n + 1.0), nan=doing(lambda n: float("nan"))))
    assert result.entry("good").state == "measured"
    assert result.entry("good").error == 0
    for name in ("bad", "nan"):
        entry = result.entry(name)
        assert (entry.state, entry.seconds, entry.ratio) == ("wrong", None, None)
    assert "its answer is 1 from the count" in result.entry("bad").reason
    assert not result.good


def test_an_answer_that_goes_wrong_later_is_caught():
    answers = iter([4.0, 4.0, 5.0, 4.0])
    result = measured(counting(good=doing(float), late=doing(lambda n: next(answers))), repeats=3)
    assert result.entry("late").state == "wrong"
    assert result.entry("late").seconds is None


def test_a_contender_that_raises_costs_the_others_nothing():
    answers = iter([4.0])  # the second run finds none
    result = measured(
        counting(good=doing(float), broken=doing(lambda n: n / 0), later=doing(lambda n: next(answers))), repeats=2
    )
    assert result.entry("good").state == "measured"
    assert result.entry("broken").reason == "ZeroDivisionError: division by zero"
    assert result.entry("later").state == "failed"
    assert "StopIteration" in result.entry("later").reason


def test_one_that_does_less_is_counted_by_the_unit():
    result = measured(counting(good=doing(float), less=doing(float, units=2)), repeats=3)
    entry = result.entry("less")
    assert entry.units == 2
    assert entry.per_unit.all == pytest.approx([seconds / 2 for seconds in entry.seconds.all])
    base = result.entry("good").per_unit.all
    assert entry.ratio.all == pytest.approx(
        [mine / theirs for mine, theirs in zip(entry.per_unit.all, base, strict=True)]
    )


def test_without_its_base_a_task_takes_the_fastest():
    def absent(problem):
        raise LeftOutError("it is not here")

    result = measured(counting(good=absent, other=doing(float)))
    assert result.base == "other"
    assert (result.entry("good").state, result.entry("good").reason) == ("left out", "it is not here")
    assert result.good


def test_an_interrupt_keeps_the_whole_rounds():
    turns = []

    def run(n):
        turns.append(n)
        if len(turns) == 4:  # the first run, then two rounds, then Ctrl-C
            raise KeyboardInterrupt
        return float(n)

    result = measured(counting(good=doing(float), late=doing(run)), repeats=5)
    assert result.interrupted
    assert len(result.entry("good").seconds.all) == len(result.entry("late").seconds.all) == 2


def test_an_interrupt_before_the_first_round_is_raised():
    def run(n):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(counting(good=doing(run)))


@pytest.mark.parametrize("name", ["lesson", "batches"])
def test_an_interrupt_within_fit_ends_the_measurement(name, monkeypatch):
    from jaxgrad import training

    fit, called = training.fit, []

    def interrupted_at_the_third(*arguments, **options):
        called.append(options["steps"])
        found = fit(*arguments, **options)
        return dataclasses.replace(found, stopped="interrupted") if len(called) == 3 else found

    monkeypatch.setattr(training, "fit", interrupted_at_the_third)
    result = measured(TASKS[name], sizes=QUICK[name], repeats=4, only=("jaxgrad fit",))
    assert result.interrupted
    assert len(result.entry("jaxgrad fit").seconds.all) == 1


@pytest.mark.parametrize("size", [0, -3])
def test_sizes_below_one_are_refused(size):
    with pytest.raises(InputError, match=f"bench lesson: steps is {size}, expected a whole number from 1 on"):
        measure(TASKS["lesson"], {"steps": size})


def test_bad_settings_are_refused():
    with pytest.raises(InputTypeError, match=r"steps is 2\.5, expected a whole number"):
        measure(TASKS["lesson"], {"steps": 2.5})
    with pytest.raises(InputError, match="bench lesson: has no rows, expected one of steps"):
        measure(TASKS["lesson"], {"rows": 3})
    with pytest.raises(InputError, match="repeats is 0"):
        measure(TASKS["lesson"], repeats=0)
    with pytest.raises(InputError, match="batch_size is 9, expected 1 to 8"):
        measure(TASKS["batches"], {"rows": 8, "batch_size": 9}, memory=False)
    with pytest.raises(InputError, match=r"rows need .* GB of memory, this machine has"):
        measure(TASKS["rows"], {"rows": 2**50}, memory=False)


QUICK = {
    "lesson": {"steps": 300},
    "rows": {"rows": 70_001},
    "sweep": {"runs": 100, "steps": 50},
    "batches": {"rows": 101, "batch_size": 8, "steps": 30},
}


@pytest.mark.parametrize("name", QUICK)
def test_what_needs_neither_torch_nor_c_is_right(name):
    task = TASKS[name]
    names = [each.name for each in task.contenders if "torch" not in each.name and each.name[0] != "C"]
    result = measured(task, sizes=QUICK[name], repeats=1, only=names)
    assert {entry.name: entry.reason for entry in result.entries} == dict.fromkeys(names)
    assert result.base == task.base


@needs_compiler
@pytest.mark.parametrize("name", QUICK)
def test_c_agrees_with_float64(name):
    task = TASKS[name]
    names = [each.name for each in task.contenders if each.name[0] == "C"]
    result = measured(task, sizes=QUICK[name], repeats=1, only=names)
    assert {entry.name: entry.reason for entry in result.entries} == dict.fromkeys(names)
    assert "-O3" in result.entries[0].note


@pytest.mark.parametrize("name", QUICK)
def test_torch_agrees_with_float64(name, torch):
    task = TASKS[name]
    names = [each.name for each in task.contenders if "torch" in each.name and each.name != "torch.compile"]
    result = measured(task, sizes=QUICK[name], repeats=1, only=names)
    assert {entry.name: entry.reason for entry in result.entries} == dict.fromkeys(names)


def test_a_missing_compiler_leaves_c_out(monkeypatch):
    monkeypatch.setattr(compiler, "find_compiler", lambda: None)
    compiler._library.cache_clear()
    result = measured(TASKS["rows"], sizes={"rows": 100}, repeats=1, only=("C", "NumPy"))
    compiler._library.cache_clear()
    assert result.entry("C").state == "left out"
    assert "no C compiler" in result.entry("C").reason
    assert result.entry("NumPy").state == "measured"
    assert compiler.compiler_version() is None


def test_a_compiler_that_fails_leaves_c_out(monkeypatch):
    monkeypatch.setenv("CC", "false")
    compiler._library.cache_clear()
    result = measured(TASKS["rows"], sizes={"rows": 100}, repeats=1, only=("C",))
    compiler._library.cache_clear()
    assert result.entry("C").state == "left out"
    assert "false cannot compile rows.c" in result.entry("C").reason


def test_missing_torch_is_left_out(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    result = measured(TASKS["lesson"], sizes={"steps": 5}, repeats=1, only=("torch.optim.SGD", "NumPy"))
    assert result.entry("torch.optim.SGD").state == "left out"
    assert 'pip install "jaxgrad[torch]"' in result.entry("torch.optim.SGD").reason


@needs_compiler
def test_c_does_not_switch_denormal_numbers_off():
    compiler.library("lesson", POINTS=3)
    tiny = np.float32(1e-38)
    assert tiny * np.float32(0.1) > 0


@needs_compiler
def test_pointers_are_to_contiguous_arrays():
    with pytest.raises(ValueError, match="contiguous"):
        compiler.pointer(np.zeros(6)[::2])
    assert isinstance(compiler.pointer(np.zeros(3)), ctypes.c_void_p)


def test_batches_that_take_a_row_twice_are_wrong():
    problem = Batches({"rows": 10, "batch_size": 2, "steps": 5})
    rows = np.arange(10).reshape(5, 2)
    prepared = Prepared(lambda: None, lambda found: {}, 5)

    def error_of(rows, at=None):
        x, y = problem.columns.x[rows], problem.columns.y[rows]
        losses, params = replayed(x, y)
        taken = {"rows": rows} if at is None else {"x": x, "y": y + at}
        return problem.error(prepared, {"losses": losses, "params": params, **taken})

    assert error_of(rows) == 0
    assert error_of(rows, at=0) == 0  # found again by their values
    twice = rows.copy()
    twice[3, 1] = 0
    assert error_of(twice) == float("inf")
    assert error_of(twice, at=0) == float("inf")
    assert error_of(rows, at=np.float32(0.5)) == float("inf")  # no such points
    assert error_of(rows[:4]) == float("inf")


def test_the_replay_is_descent():
    random = np.random.default_rng(3)
    x, y = random.standard_normal((2, 3, 4))
    losses, params = replayed(x, y)
    w, b = 2.0, 6.0
    for step in range(3):
        off = w * x[step] + b - y[step]
        assert losses[step] == pytest.approx(np.mean(off**2), rel=1e-12)
        w, b = w - 1e-2 * 2 * np.mean(off * x[step]), b - 1e-2 * 2 * np.mean(off)
    assert params == pytest.approx([w, b], rel=1e-12)


def test_spreads():
    spread = Spread.of([4.0, 1.0, 3.0, 2.0])
    assert (spread.median, spread.low, spread.high, spread.quartiles) == (2.5, 1.0, 4.0, (1.75, 3.25))
    assert spread.times(2).all == (8.0, 2.0, 6.0, 4.0)
    assert spread.over(spread).all == (1.0,) * 4


def test_memory_is_that_of_the_data_and_more():
    found = child.call("memory", "rows", "NumPy", json.dumps({"rows": 2**21}))
    assert found["data"] == 2**24
    assert found["peak"] - found["before"] >= found["data"]


def test_a_child_that_fails_says_why():
    with pytest.raises(child.ChildError, match="KeyError: 'nothing'"):
        child.call("time", "nothing", "NumPy", "{}", "1")
    with pytest.raises(child.ChildError):
        child.call("dance")


def test_first_results_of_fresh_processes():
    task = TASKS["first"]
    result = measured(task, sizes={"steps": 20, "rows": 5}, repeats=1, only=("jaxgrad fit",))
    assert result.entry("jaxgrad fit").state == "measured"
    assert result.good


def test_a_child_tells_memory_and_first_results(capsys):
    assert child.main(["memory", "rows", "NumPy", json.dumps({"rows": 5000})]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["data"] == 40_000
    assert found["peak"] >= found["before"] > 0
    for way in ("step", "scan", "fit"):
        assert child.main(["first", way, json.dumps({"rows": 10, "steps": 20})]) == 0
        assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["params"]) == 2
    assert child.main(["nonsense"]) == 2
