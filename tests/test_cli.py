from __future__ import annotations

import dataclasses
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
from importlib import metadata

import jax
import numpy as np
import pytest

import jaxgrad.__main__
from jaxgrad import Verdict, cli, run_lesson
from jaxgrad.cli import lesson_output, main
from jaxgrad.frameworks import torch_recorded
from jaxgrad.parity.lesson import compare_lessons
from jaxgrad.trace import AFTERWARDS, PER_STEP

# Measured with torch: the table of the lesson in exact bits.
LESSON_BITS = {
    (1, "Q"): ["0x1p+3", "0x1.4p+3", "0x1.8p+3"],
    (1, "loss"): "0x1.d55556p+1",
    (1, "w.grad"): "0x1.555558p+0",
    (1, "b.grad"): "0x1p+1",
    (1, "w"): "0x1.dddddep+0",
    (1, "b"): "0x1.733334p+2",
    (2, "Q again"): ["0x1.eaaaacp+2", "0x1.311112p+3", "0x1.6cccccp+3"],
    (2, "loss again"): "0x1.a8c54p+1",
}
ROUTES = ("functional", "jit", "optax", "exact")
USAGE = "usage: jaxgrad lesson"


@pytest.fixture(autouse=True)
def threads_end_with_their_test():
    before = threading.enumerate()
    yield
    for thread in threading.enumerate():
        if thread not in before and not thread.daemon:
            thread.join()


@pytest.fixture
def without_torch(monkeypatch):
    """A Python in which torch cannot be imported."""
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def run(capsys):
    """Run the command line here; returns the exit code, the output with blanks made one, and the errors."""

    def ran(*arguments):
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, re.sub(r"\s+", " ", output.out).strip(), output.err

    return ran


@pytest.fixture
def points(tmp_path):
    def written(text, name="points.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


def process(*arguments, code=None, **options):
    """Run the program in a process of its own, with the buffered output that users have."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, *(["-c", code] if code else ["-m", "jaxgrad"]), *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(command, text=True, env=environment, timeout=120, check=False, **options)


# The lesson.


@pytest.mark.parametrize("source", ["recorded", "live", None])
def test_lesson_as_json_has_the_lessons_bits_on_both_sides(source, run, request):
    if source == "live":
        request.getfixturevalue("torch")
    code, out, err = run("lesson", "--json", *(["--torch", source] if source else []))
    data = json.loads(out)
    assert (code, err, data["verdict"]) == (0, "", "IDENTICAL")
    assert (data["first_difference"], data["steps_that_differ"]) == (None, [])
    found = {(row["step"], row["name"]): row for row in data["values"]}
    assert list(found) == list(LESSON_BITS)
    for place, bits in LESSON_BITS.items():
        row = found[place]
        assert row["jax_hex"] == row["torch_hex"] == bits
        assert row["same_bits"] is True
        assert row["rounding_units"] == 0.0
        assert row["jax"] == row["torch"] == np.vectorize(float.fromhex)(bits).tolist()
    assert {name: given["hex"] for name, given in data["given"].items()} == {
        "x": ["0x1p+0", "0x1p+1", "0x1.8p+1"],
        "y": ["0x1.4p+2", "0x1.2p+3", "0x1.ap+3"],
        "guess.w": "0x1p+1",
        "guess.b": "0x1.8p+2",
    }
    assert data["jax"]["framework"] == f"jax {jax.__version__}"
    assert data["torch"]["framework"].startswith("torch ")
    assert data["torch"]["source"] == source or source is None
    assert (data["steps"], data["learning_rate"], data["dtype"]) == (1, 0.1, "float32")


def test_lesson_as_text_shows_both_sides_the_lines_and_the_verdict(run):
    code, out, err = run("lesson", "--torch", "recorded")
    assert (code, err) == (0, "")
    assert out.startswith(
        f"the lesson's points, learning rate 0.1, float32 JAX jax {jax.__version__}, route functional"
    )
    assert f"torch torch {torch_recorded.version()}" in out
    assert f"updated by hand, recorded {torch_recorded.recording()['date']}" in out
    assert "1 Q 8, 10, 12 8, 10, 12 same bits loss 3.666667 3.666667 same bits" in out
    assert "w 1.866667 1.866667 same bits b 5.8 5.8 same bits" in out
    assert "2 Q again 7.666667, 9.533334, 11.4 7.666667, 9.533334, 11.4 same bits loss again 3.31852 3.31852" in out
    assert re.search(r"Q JAX w \* x \+ b \(jaxgrad/model\.py:\d+\) torch Q = w \* x \+ b", out)
    assert out.endswith("IDENTICAL the same computation, bit for bit: all 8 values have the same bits")


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_is_held_against_its_update(route, run):
    code, out, _ = run("lesson", "--steps", 20, "--route", route, "--torch", "recorded", "--json")
    data = json.loads(out)
    assert code == 0
    assert data["jax"]["route"] == route
    assert data["torch"]["update"] == data["jax"]["update"] == ("sgd" if route == "optax" else "hand")
    assert data["verdict"] == ("IDENTICAL" if route == "exact" else "ROUNDING")
    places = [(row["step"], row["name"]) for row in data["values"]]
    assert places == [
        *((step, name) for step in range(1, 21) for name in PER_STEP),
        *((21, name) for name in AFTERWARDS),
    ]
    differing = {row["step"] for row in data["values"] if not row["same_bits"]}
    assert data["steps_that_differ"] == sorted(differing)
    assert all((row["rounding_units"] > 0) == (row["same_bits"] is False) for row in data["values"])
    if differing:
        first = next(row for row in data["values"] if not row["same_bits"])
        assert (data["first_difference"]["step"], data["first_difference"]["name"]) == (first["step"], first["name"])
        assert set(data["first_difference"]["cause"]) == {"code", "explanation", "evidence"}


@pytest.mark.parametrize("update", ["hand", "sgd"])
def test_exact_route_follows_either_update(update, run):
    code, out, _ = run("lesson", "--steps", 5, "--route", "exact", "--update", update, "--torch", "recorded")
    assert code == 0
    assert ("torch.optim.SGD" if update == "sgd" else "updated by hand") in out
    assert "IDENTICAL" in out


def test_long_run_shows_its_first_difference_and_the_cause(run):
    code, out, _ = run("lesson", "--steps", 50, "--route", "jit", "--torch", "recorded")
    assert code == 0
    (first,) = re.findall(
        r"first difference: step (\d+), \S+, [\d.]+ rounding units \(\d of \d entries\); bits differ", out
    )
    assert re.search(r"cause: [a-z -]+: .* proof: .*0x1\..* ROUNDING the same computation; every difference", out)
    for step in (1, 2, 3, int(first), 50):
        assert f" {step} Q " in out
    assert re.search(r"\.\.\. \d+ more", out)
    assert " 49 Q " not in out
    assert " 51 Q again " in out


def test_long_run_shows_a_first_difference_wherever_it_is(run, monkeypatch):
    def nudged(like):
        theirs = recorded(like)
        loss = theirs["loss"].copy()
        loss[29] = np.nextafter(loss[29], np.float32(0))
        return dataclasses.replace(theirs, values={**theirs.values, "loss": loss})

    recorded = torch_recorded.run_like
    monkeypatch.setattr(torch_recorded, "run_like", nudged)
    code, out, _ = run("lesson", "--steps", 50, "--route", "exact", "--torch", "recorded")
    assert code == 0
    assert "first difference: step 30, loss, " in out
    assert "cause: none of the four reasons gives JAX's bits when this value is computed again" in out
    assert re.search(r" \.\.\. 26 more 30 Q .* \.\.\. 19 more 50 Q ", out)


def test_guess_rate_and_steps_are_those_given(run, torch):
    code, out, _ = run(
        *["lesson", "--w", 1, "--b=-2e-1", "--learning-rate", 1e-2, "--steps", 3, "--route", "exact", "--json"]
    )
    data = json.loads(out)
    assert (code, data["verdict"], data["torch"]["source"]) == (0, "IDENTICAL", "live")
    expected = run_lesson(w=1.0, b=-0.2, learning_rate=1e-2, steps=3, route="exact")
    assert [data["given"][f"guess.{name}"]["value"] for name in "wb"] == [1.0, float(np.float32(-0.2))]
    assert [row["jax"] for row in data["values"] if row["name"] == "loss"] == expected["loss"].tolist()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_own_points_are_read_and_compared(delimiter, run, points, torch):
    table = "time [s],height\n" + "".join(f"{x},{4 * x + 1}\n" for x in (0.5, 1.5, 2.5, 3.5, 4.5))
    path = points(table.replace(",", delimiter), "my [bold]points[red].csv")
    code, out, err = run("lesson", "--data", path, "--learning-rate", 1e-2, "--steps", 2, "--torch", "live")
    assert (code, err) == (0, "")
    assert "5 points, x is 'time [s]', y is 'height', learning rate 0.01, float32" in out
    assert path.name.replace(" ", "") in out.replace(" ", "")  # its brackets are shown, not taken for colours
    assert "x 0.5, 1.5, ..., 4.5 (5 values)" in out
    assert re.search("(IDENTICAL|ROUNDING) the same computation", out)


# Without torch, and what cannot be compared.


def test_own_run_needs_no_torch(run, without_torch):
    code, out, _ = run("lesson", "--steps", 1000, "--route", "exact", "--json")
    data = json.loads(out)
    assert (code, data["verdict"], data["torch"]["source"]) == (0, "IDENTICAL", "recorded")
    assert len(data["values"]) == 6002


@pytest.mark.parametrize("option", [("--w", 3), ("--learning-rate", 0.05), ("--steps", 1001, "--route", "jit")])
def test_another_run_without_torch_is_inconclusive(option, run, without_torch):
    code, out, err = run("lesson", *option)
    assert (code, err) == (3, "")
    assert out.endswith(
        "INCONCLUSIVE nothing to compare with: torch is not installed and this run is not the recorded one. "
        'Install it with: pip install "jaxgrad[torch]"'
    )
    assert "1 Q " in out
    code, out, err = run("lesson", *option, "--json")
    data = json.loads(out)
    assert (code, err, data["verdict"], data["torch"], data["steps_that_differ"]) == (3, "", "INCONCLUSIVE", None, None)
    assert "torch_hex" not in data["values"][0]
    assert "torch is not installed" in data["reason"]


def test_live_torch_that_is_not_installed_is_named_with_its_command(run, without_torch):
    code, out, err = run("lesson", "--torch", "live")
    assert (code, out) == (2, "")
    assert (
        err
        == 'jaxgrad: --torch live: needs torch, which is not installed. Install it with: pip install "jaxgrad[torch]"\n'
    )


def test_recorded_torch_refuses_a_run_that_is_not_recorded(run):
    code, _, err = run("lesson", "--torch", "recorded", "--w", 3)
    assert code == 2
    assert err.startswith(
        "jaxgrad: recorded torch: the lesson's guess.w is 3.0, recorded is 2.0. Only the lesson's own"
    )
    assert "pass --torch live" in err


def test_a_difference_that_rounding_does_not_explain_ends_with_one(run, monkeypatch):
    def half_the_loss(like):
        theirs = recorded(like)
        return dataclasses.replace(theirs, values={**theirs.values, "loss": theirs["loss"] / 2})

    recorded = torch_recorded.run_like
    monkeypatch.setattr(torch_recorded, "run_like", half_the_loss)
    code, out, _ = run("lesson", "--torch", "recorded")
    assert code == 1
    assert "DIFFERENT not the same computation: torch's loss at step 1 is" in out
    code, out, _ = run("lesson", "--torch", "recorded", "--json")
    assert (code, json.loads(out)["verdict"]) == (1, "DIFFERENT")


def test_numbers_that_are_not_finite_are_null_in_json():
    trace = run_lesson()
    broken = dataclasses.replace(trace, values={**trace.values, "Q": np.full((1, 3), np.inf, np.float32)})
    data = lesson_output.as_data(trace, broken, "live", compare_lessons(trace, broken))
    row = json.loads(json.dumps(data, allow_nan=False))["values"][0]
    assert (row["jax"], row["torch"], row["torch_hex"]) == ([8.0, 10.0, 12.0], 3 * [None], 3 * ["inf"])
    assert (row["same_bits"], row["rounding_units"]) == (False, None)


# Usage, bad input, divergence: one line that says what is wrong, never a traceback.

WRONG_USE = {
    "steps that are no number": (["--steps", "many"], USAGE, "argument --steps: invalid int value: 'many'"),
    "half a step": (["--steps", "1.5"], USAGE, "argument --steps: invalid int value: '1.5'"),
    "a rate that is no number": (["--learning-rate", "fast"], USAGE, "argument --learning-rate: invalid float"),
    "unknown route": (["--route", "scan"], USAGE, "argument --route: invalid choice: 'scan'"),
    "unknown update": (["--update", "adam"], USAGE, "argument --update: invalid choice: 'adam'"),
    "unknown source": (["--torch", "old"], USAGE, "argument --torch: invalid choice: 'old'"),
    "unknown option": (["--lr", "0.1"], "usage: jaxgrad", "unrecognized arguments: --lr 0.1"),
    "option without a value": (["--data"], USAGE, "argument --data: expected one argument"),
}


@pytest.mark.parametrize("name", WRONG_USE)
def test_wrong_use_ends_with_two_and_the_usage(name, run):
    arguments, usage, message = WRONG_USE[name]
    code, out, err = run("lesson", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(usage)
    assert message in err


WRONG_INPUT = {
    "no steps": (["--steps", "0"], "jaxgrad: run_lesson: steps is 0, expected at least 1. Pass steps=1"),
    "negative steps": (["--steps", "-3"], "jaxgrad: run_lesson: steps is -3, expected at least 1"),
    "no rate": (["--learning-rate", "0"], "jaxgrad: run_lesson: learning_rate is 0.0, expected a positive and finite"),
    "negative rate": (["--learning-rate", "-0.1"], "jaxgrad: run_lesson: learning_rate is -0.1, expected a positive"),
    "rate not a number": (["--learning-rate", "nan"], "jaxgrad: run_lesson: learning_rate is nan, expected a positive"),
    "infinite rate": (["--learning-rate", "inf"], "jaxgrad: run_lesson: learning_rate is inf, expected a positive"),
    "guess not a number": (["--w", "nan"], "jaxgrad: run_lesson: w is nan, expected finite numbers in float32"),
    "a guess too big": (["--w", "1e39"], "jaxgrad: run_lesson: w is 1e+39, expected finite numbers in float32"),
    "infinite guess": (["--b", "inf"], "jaxgrad: run_lesson: b is inf, expected finite numbers in float32"),
    "an update that the route lacks": (
        ["--route", "optax", "--update", "hand"],
        "jaxgrad: run_lesson: update is 'hand' and route 'optax' has sgd",
    ),
    "no file": (
        ["--data", "no/such/file.csv"],
        "jaxgrad: no/such/file.csv: cannot be read (No such file or directory)",
    ),
}


@pytest.mark.parametrize("name", WRONG_INPUT)
def test_wrong_input_ends_with_two_and_one_line(name, run):
    arguments, message = WRONG_INPUT[name]
    code, out, err = run("lesson", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,5\n2,nine\n", ", line 3, column 'y': 'nine', expected a finite number. Mend or remove that line."),
        ("x,y,z\n1,2,3\n", ", line 1: 3 columns, expected two: x, then y. Keep the two you want to fit."),
        ("1,5\n2,9\n", ", line 1: '1,5' is numbers, expected a header. Add a first line such as 'x,y'."),
        ("", ": is empty, expected a header and two columns of numbers."),
    ],
)
def test_bad_csv_ends_with_two_and_the_line(text, message, run, points):
    path = points(text)
    assert run("lesson", "--data", path) == (2, "", f"jaxgrad: {path}{message}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--learning-rate 0.25 --steps 3", "2: the loss was 3.66667 and is 4.54604 after it; learning rate 0.25"),
        ("--learning-rate 10 --steps 100", "11: a value is no longer finite; learning rate 10"),
        ("--learning-rate 1e30 --route jit", "1: the loss after it is no longer finite; learning rate 1e+30"),
    ],
)
def test_divergence_ends_with_one_and_names_step_and_largest_rate(arguments, message, run):
    code, out, err = run("lesson", *arguments.split())
    assert (code, out) == (1, "")
    assert err == (
        f"jaxgrad: the run diverges at step {message} is too big for this data, "
        "the largest stable one is 0.180295. Pass a smaller one.\n"
    )


# The program as a whole.


def test_help_explains_commands_options_and_exit_codes(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert out.startswith("usage: jaxgrad [-h] [--version] COMMAND")
    assert re.sub(r"\s+", " ", cli.EXIT_CODES).strip() in out
    code, out, err = run("lesson", "--help")
    assert (code, err) == (0, "")
    options = ("--steps", "--learning-rate", "--route", "--update", "--torch", "--w", "--b", "--data", "--json")
    assert all(f"{option} " in out for option in options)
    assert "examples: jaxgrad lesson" in out
    assert re.sub(r"\s+", " ", cli.EXIT_CODES).strip() in out


def test_exit_codes_are_those_of_the_verdicts():
    codes = {verdict.name: verdict.exit_code for verdict in Verdict}
    assert codes == {"IDENTICAL": 0, "ROUNDING": 0, "DIFFERENT": 1, "INCONCLUSIVE": 3}


def test_version_names_what_computes(run):
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("jaxgrad", "jax", "optax"))
    assert run("--version") == (0, versions, "")


def test_no_command_shows_the_help_and_ends_with_two(run):
    code, out, err = run()
    assert (code, err) == (2, "")
    assert out == run("--help")[1]


def test_unknown_command_ends_with_two(run):
    code, _, err = run("lessen")
    assert code == 2
    assert "invalid choice: 'lessen'" in err


def test_interrupt_ends_with_130(run, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxgrad.lesson.run_lesson", interrupted)
    assert run("lesson") == (130, "", "jaxgrad: interrupted\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk without space")
@pytest.mark.parametrize("arguments", [["--version"], ["lesson", "--json"], ["lesson", "--torch", "recorded"]])
def test_output_that_cannot_be_written_ends_with_two(arguments, monkeypatch, capsys):
    with monkeypatch.context() as patched, open("/dev/full", "w") as full:
        patched.setattr(sys, "stdout", full)
        code = main(arguments)
    assert code == 2
    assert capsys.readouterr().err == "jaxgrad: [Errno 28] No space left on device\n"


def test_a_reader_that_is_gone_is_no_error_where_output_is_no_file(run, monkeypatch):
    def broken(*arguments, **options):
        raise BrokenPipeError

    monkeypatch.setattr("jaxgrad.cli.lesson_output.show", broken)
    assert run("lesson", "--torch", "recorded")[0] == 0


def test_program_returns_the_exit_code_and_looks_for_garbage_seldom(monkeypatch, capsys):
    before = gc.get_threshold()
    monkeypatch.setattr(sys, "argv", ["jaxgrad", "lesson", "--steps", "0"])
    try:
        assert jaxgrad.__main__.program() == 2
        assert gc.get_threshold()[0] > before[0]
    finally:
        gc.set_threshold(*before)
    assert "steps is 0" in capsys.readouterr().err


# In processes of their own; each costs a second or two.


def test_script_and_module_are_the_same_program():
    (script,) = metadata.entry_points(group="console_scripts", name="jaxgrad")
    assert script.load() is jaxgrad.__main__.program
    done = process("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"jaxgrad {metadata.version('jaxgrad')}, jax ")


def test_own_run_loads_torch_only_if_it_is_asked_for():
    code = "import sys; from jaxgrad.cli import main; code = main(); sys.exit(9 if sys.modules.get('torch') else code)"
    done = process("lesson", "--torch", "recorded", code=code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("IDENTICAL  the same computation, bit for bit: all 8 values have the same bits\n")


@pytest.mark.parametrize("arguments", [["--learning-rate", "nan"], ["--learning-rate", "10"]])
def test_a_run_that_ends_early_waits_for_what_compiles_beside_it(arguments):
    done = process("lesson", *arguments)  # XLA in a thread that outlives the interpreter kills the process
    assert done.returncode == (2 if "nan" in arguments else 1)
    assert re.fullmatch(r"jaxgrad: .*learning.rate (is nan|10 is).*\n", done.stderr)


@pytest.mark.parametrize("arguments", ["lesson --torch recorded", "lesson --json", "--help", "--version"])
def test_a_reader_that_is_gone_ends_the_program_quietly(arguments):
    reading, writing = os.pipe()
    os.close(reading)  # as `| head -1` does once it has its line
    try:
        done = process(*arguments.split(), stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals as POSIX has them")
def test_control_c_ends_a_run_with_130_and_no_traceback():
    code = f"""
import os, sys, threading, time
from jaxgrad.__main__ import program

def interrupt():
    while "jaxgrad.cli.lesson_output" not in sys.modules:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(os.getpid(), {int(signal.SIGINT)})

threading.Thread(target=interrupt, daemon=True).start()
sys.exit(program())
"""
    done = process("lesson", "--steps", "100000000", "--learning-rate", "1e-9", code=code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "jaxgrad: interrupted\n")
