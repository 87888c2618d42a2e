from __future__ import annotations

import json

import numpy as np
import pytest

from jaxgrad.bench import TASKS
from jaxgrad.bench.contenders import Contender, Prepared, Task
from jaxgrad.cli import main


class Steps:
    data_bytes = 2**21

    def __init__(self, sizes):
        self.units = sizes["steps"]

    def error(self, prepared, answer):
        return float(answer["off"])


def off_by(error, note=None):
    return lambda problem: Prepared(lambda: error, lambda found: {"off": np.float64(found)}, problem.units, note)


def interrupted(problem):
    raise KeyboardInterrupt


def planted(*contenders):
    return Task(
        name="lesson",
        title="{steps} steps of nothing",
        unit="step",
        sizes={"steps": 640},
        quick={"steps": 64},
        grows=("steps",),
        base="good",
        problem=Steps,
        contenders=(Contender("good", off_by(0.0, "it does nothing")), *contenders),
        truth="nothing",
        tolerance=0.5,
        reads=True,
    )


@pytest.fixture
def plant(monkeypatch):
    return lambda name, *contenders: monkeypatch.setitem(TASKS, name, planted(*contenders))


def test_the_table(plant, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    plant("lesson")
    assert main(["bench", "lesson", "--quick", "--steps", "1234567", "--grow"]) == 0
    said = capsys.readouterr().out
    assert "1,234,567 steps of nothing" in said
    assert "Small sizes, for a first look" in said
    assert "good: it does nothing" in said
    assert "154,320  1,234,567" in said  # the growth: an eighth, and all
    assert max(map(len, said.splitlines())) <= 80


def test_json_has_all_that_was_measured(plant, capsys, tmp_path):
    plant("lesson")
    plant("rows")
    path = tmp_path / "found.json"
    assert main(["bench", "lesson", "rows", "--quick", "--grow", "--repeats", "3", f"--json={path}"]) == 0
    assert "steps of nothing" in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]
    assert found["schema"] == 1
    assert not found["interrupted"]
    assert set(found["machine"]) >= {"versions", "processor", "cores", "devices", "compiler"}
    assert found["machine"]["versions"]["jax"]
    first, _ = found["tasks"]
    assert (first["sizes"], first["repeats"], first["base"], first["order"]) == ({"steps": 64}, 3, "good", ["good"])
    (entry,) = first["entries"]
    assert (entry["state"], entry["units"], entry["error"]) == ("measured", 64, 0)
    assert len(entry["seconds"]["all"]) == 3
    assert entry["ratio"]["median"] == 1
    assert entry["gigabytes_per_second"] > 0
    growth = found["growth"][0]
    assert (growth["over"], growth["sizes"]) == ("steps", [1, 8, 64])
    assert len(growth["per_unit"]["good"]) == 3


def test_json_on_standard_output_is_alone(plant, capsys):
    plant("lesson")
    assert main(["bench", "lesson", "--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quick"]


def test_a_wrong_answer_ends_with_1(plant, capsys):
    plant("lesson", Contender("bad", off_by(2.0)), Contender("nan", off_by(float("nan"))))
    assert main(["bench", "lesson", "--quick"]) == 1
    said = capsys.readouterr().out
    assert "bad: wrong: its answer is 2 from nothing" in said
    assert main(["bench", "lesson", "--quick", "--json"]) == 1
    entries = json.loads(capsys.readouterr().out)["tasks"][0]["entries"]
    assert [entry["state"] for entry in entries] == ["measured", "wrong", "wrong"]
    assert entries[2]["error"] is None  # JSON has no NaN


def test_growth_says_why_a_time_is_missing(plant, capsys):
    def small_ones_fail(problem):
        return off_by(0.0 if problem.units == 64 else 3.0)(problem)

    plant("lesson", Contender("late", small_ones_fail))
    assert main(["bench", "lesson", "--quick", "--grow"]) == 0
    said = capsys.readouterr().out
    assert "late: wrong: its answer is 3 from nothing" in said


def test_an_interrupt_shows_what_was_measured(plant, capsys):
    plant("lesson")
    plant("rows", Contender("slow", interrupted))
    assert main(["bench", "lesson", "rows", "--quick", "--json"]) == 130
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert found["interrupted"]
    assert len(found["tasks"]) == 1
    assert "interrupted" in output.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dance"], "there is no task 'dance', expected lesson, rows"),
        (["lesson", "--rows", "5"], "lesson has no --rows. Leave it out"),
        (["lesson", "--steps", "0"], "steps is 0, expected a whole number"),
        (["lesson", "--repeats", "0"], "repeats is 0, expected a whole number"),
        (["batches", "--rows", "5"], "--batch-size 32 is more than the 5 rows"),
        (["lesson", "--layers", "2"], "--layers is for compare alone"),
        (["compare", "lesson"], "compare runs alone"),
        (["compare", "--grow"], "compare has no --grow"),
        (["--json", "lesson"], "Pass the tasks first, or --json=PATH"),
        (["lesson", "--json=/no/such/folder/found.json"], "in a folder that does not exist"),
        (["lesson", "--json=."], "is a folder, expected a file"),
    ],
)
def test_bad_input_ends_with_2_before_any_work(arguments, said, capsys, monkeypatch):
    def never(*given, **options):
        raise AssertionError("work has started")

    monkeypatch.setattr("jaxgrad.bench.measuring.measure", never)
    assert main(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err
