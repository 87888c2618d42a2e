"""``jaxgrad fit``: a line through the columns of a table, from the command line."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from jaxgrad.cli import main


@pytest.fixture
def houses(tmp_path):
    random = np.random.default_rng(0)
    size, rooms = random.uniform(30, 250, 200), random.integers(1, 7, 200)
    price = 1200 * size + 9000 * rooms + 20000 + random.normal(0, 15000, 200)
    path = tmp_path / "houses.csv"
    rows = "".join(f"{a},{b},{c}\n" for a, b, c in zip(size, rooms, price, strict=True))
    path.write_text(f"size,rooms,price\n{rows}")
    columns = np.c_[size, rooms, np.ones(200)]
    return path, columns, price


def run(capsys, *arguments):
    code = main(["fit", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_line_is_that_of_least_squares(houses, capsys):
    path, columns, price = houses
    code, out, _ = run(capsys, path, "--x", "size,rooms", "--y", "price", "--json")
    assert code == 0
    found = json.loads(out)
    w1, w2, b = np.linalg.lstsq(columns, price, rcond=None)[0]
    np.testing.assert_allclose([*np.ravel(found["w"]), *found["b"]], [w1, w2, b], rtol=1e-3)
    least = np.mean((columns @ [w1, w2, b] - price) ** 2)
    assert found["losses"][-1] == pytest.approx(least, rel=1e-4)
    assert len(found["losses"]) == len(found["learning_rates"]) == found["steps"] == 1000
    assert found["learning_rates"][0] == pytest.approx(0.1)


def test_the_text_says_what_was_done_and_found(houses, capsys):
    code, out, err = run(capsys, houses[0], "--x", "size", "--y", "price", "--batch-size", 20, "--steps", 300)
    assert (code, err) == (0, "")
    assert "houses.csv: 200 rows, x is 'size', y is 'price'\n" in out
    assert "SGD(lr=0.1), 300 steps of 20 shuffled rows, on 1 cpu device\n" in out
    assert out.splitlines()[-1].startswith("price = ")
    assert out.splitlines()[-1].endswith(" size")


def test_all_of_the_loops_options_at_once(houses, capsys):
    options = ["--batch-size", 16, "--optimizer", "AdamW(lr=0.05, weight_decay=0.0)", "--plateau", 2, "--accumulate", 2]
    options += ["--clip", 5, "--validate", 0.25, "--seed", 7, "--steps", 1200]
    code, out, _ = run(capsys, houses[0], "--x", "size,rooms", "--y", "price", *options, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["rows"] == 200
    rates = found["learning_rates"]
    assert rates[0] == pytest.approx(0.05)
    assert rates[-1] < 0.006
    assert found["validation"]["losses"][-1] < found["validation"]["losses"][0]
    assert min(found["validation"]["losses"]) < 5e8


def test_several_columns_to_predict(houses, capsys):
    path, columns, price = houses
    code, out, _ = run(capsys, path, "--x", "size", "--y", "rooms,price", "--json")
    found = json.loads(out)
    expected = np.linalg.lstsq(columns[:, [0, 2]], np.c_[columns[:, 1], price], rcond=None)[0]
    np.testing.assert_allclose([found["w"][0], found["b"]], expected, rtol=1e-3, atol=1e-4)
    assert code == 0


def test_it_stops_early_and_shows_the_best(houses, capsys):
    options = ["--validate", 0.3, "--patience", 0, "--learning-rate", 0.3]
    code, out, _ = run(capsys, houses[0], "--x", "size", "--y", "price", *options)
    assert code == 0
    assert "stopped early" in out
    assert "validation loss" in out


def test_a_run_resumes_from_its_checkpoints(houses, tmp_path, capsys):
    pytest.importorskip("orbax.checkpoint", reason="needs orbax-checkpoint, which writes the arrays")
    given = [houses[0], "--x", "size", "--y", "price", "--batch-size", 9, "--checkpoint", tmp_path / "kept", "--json"]
    whole = json.loads(run(capsys, *given[:-3], "--json", "--steps", 90)[1])
    assert run(capsys, *given, "--steps", 40)[0] == 0
    again = json.loads(run(capsys, *given, "--steps", 90, "--resume")[1])
    assert again["losses"] == whole["losses"]
    assert again["w"] == whole["w"]
    code, _, err = run(capsys, *given, "--steps", 90)
    assert code == 2
    assert "holds checkpoints already, the newest of step 90" in err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--x", "siz", "--y", "price"], 2, "Did you mean 'size'?"),
        (["--x", "size", "--y", "price", "--batch-size", "201"], 2, "batch_size=201, expected 1 to 200"),
        (["--x", "size", "--y", "price", "--steps", "0"], 2, "steps=0, expected 1 or more"),
        (["--x", "size", "--y", "price", "--learning-rate", "0"], 2, "--learning-rate 0, expected a positive"),
        (["--x", "size", "--y", "price", "--learning-rate", "3"], 1, "the run diverges at step"),
        (["--x", "size", "--y", "price", "--no-scale"], 1, "learning rate 0.1 is too big"),
        (["--x", "size", "--y", "price", "--optimizer", "Adam(lr=f())"], 2, "not a literal"),
        (["--x", "size", "--y", "price", "--optimizer", "Adam()", "--learning-rate", "1"], 2, "expected one of them"),
        (["--x", "size", "--y", "price", "--validate", "1"], 2, "a share between 0 and 1"),
        (["--x", "size", "--y", "price", "--validate", "0.001"], 2, "leaves none"),
        (["--x", "size", "--y", "price", "--patience", "3"], 2, "--patience without --validate"),
        (["--x", "size", "--y", "price", "--resume"], 2, "--resume without --checkpoint"),
        (["--x", "size", "--y", "price", "--processes", "0"], 2, "--processes 0"),
        (["--x", "size", "--y", "price", "--coordinator", "a:1"], 2, "belong together"),
        (["--x", "size", "--y", "price", "--clip", "-1"], 2, "expected a positive norm"),
        (["--x", "size"], 2, "--y"),
    ],
)
def test_what_cannot_be_done_is_one_line(houses, capsys, options, code, said):
    found = run(capsys, houses[0], *options)
    assert found[0] == code
    assert said in found[2]
    assert "Traceback" not in found[2]


def test_a_column_of_one_value_is_refused(tmp_path, capsys):
    (tmp_path / "flat.csv").write_text("x,y\n" + "3,1\n" * 5)
    code, _, err = run(capsys, tmp_path / "flat.csv", "--x", "x", "--y", "y")
    assert code == 2
    assert "column 'x' has the same value in all rows" in err


def test_rows_that_are_not_finite_are_refused_or_left_out(tmp_path, capsys):
    path = tmp_path / "holes.csv"
    path.write_text("x,y\n" + "".join(f"{i},{2 * i}\n" for i in range(20)) + "nan,3\n5,\n")
    code, _, err = run(capsys, path, "--x", "x", "--y", "y")
    assert code == 2
    assert "holes.csv, line 22" in err
    code, out, _ = run(capsys, path, "--x", "x", "--y", "y", "--drop", "--json")
    assert code == 0
    assert json.loads(out)["dropped"] == 2
    assert json.loads(out)["w"][0][0] == pytest.approx(2, rel=1e-4)


def program(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "jaxgrad", "fit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def test_devices_and_processes_give_the_same_losses(houses, capsys):
    given = [houses[0], "--x", "size", "--y", "price", "--batch-size", 16, "--steps", 50, "--json"]
    alone = json.loads(run(capsys, *given)[1])
    for options, devices, processes in ((["--devices", 4], 4, 1), (["--devices", 2, "--processes", 2], 4, 2)):
        done = program(*given, *options)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["devices"], found["processes"]) == (devices, processes)
        np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-4)


def test_what_processes_refuse_is_said_once(houses):
    done = program(houses[0], "--x", "size", "--y", "price", "--processes", 2, "--batch-size", 33)
    assert done.returncode == 2
    assert done.stderr.count("which 2 devices do not divide") == 1
    assert "Traceback" not in done.stderr


def test_devices_are_listed(capsys):
    assert main(["devices"]) == 0
    assert "cpu" in capsys.readouterr().out
    assert main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["platform"] == "cpu"
    assert found["devices"][0]["id"] == 0
    assert found["cores"] >= 1


def test_columns_far_from_zero_keep_their_digits(tmp_path, capsys):
    path = tmp_path / "times.csv"
    path.write_text("time,value\n" + "".join(f"{10**9 + i},{3 * i + 5e7}\n" for i in range(50)))
    code, out, _ = run(capsys, path, "--x", "time", "--y", "value", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["w"][0][0] == pytest.approx(3, rel=1e-4)
    at_start = found["w"][0][0] * 1e9 + found["b"][0]
    assert at_start == pytest.approx(5e7, rel=1e-6)


def test_an_optimizer_of_matrices_alone_is_refused_in_one_line(houses, capsys):
    code, _, err = run(capsys, houses[0], "--x", "size", "--y", "price", "--optimizer", "Muon(lr=0.01)")
    assert code == 2
    assert "expected matrices alone" in err
    assert err.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs signals as POSIX has them")
def test_processes_end_with_their_launcher(houses):
    command = [sys.executable, "-m", "jaxgrad", "fit", str(houses[0]), "--x", "size", "--y", "price"]
    for number in (signal.SIGTERM, signal.SIGINT):
        launcher = subprocess.Popen(
            [*command, "--batch-size", "8", "--steps", "100000000", "--processes", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        try:
            assert launcher.stdout.readline()  # the first process has begun
            launcher.send_signal(number)
            launcher.communicate(timeout=30)
            assert launcher.returncode != 0
        except BaseException:
            os.killpg(launcher.pid, signal.SIGKILL)
            raise
        with pytest.raises(ProcessLookupError):  # nobody is left in its session
            os.killpg(launcher.pid, 0)
