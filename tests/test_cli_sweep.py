"""``jaxgrad sweep``: the loss by the learning rate, from the command line."""

import json

import numpy as np
import pytest

from jaxgrad import LinearParams, fit, largest_stable_rate, loss, plots, sweep
from jaxgrad.cli import main

X = np.array([1.0, 2.0, 3.0], np.float32)


def run(capsys, *arguments):
    code = main(["sweep", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_lessons_rates_beside_the_stable_one(capsys):
    code, out, _ = run(capsys, "--rates", "1e-3:1:7", "--steps", 60)
    assert code == 0
    assert "the lesson's points: 7 runs of 60 steps" in out
    assert f"stable below {largest_stable_rate(X, LinearParams(2.0, 6.0)):.6g}" in out
    assert "best: a loss of" in out


def test_each_loss_is_that_of_its_own_run(capsys):
    code, out, _ = run(capsys, "--rates", "1e-3:0.15:4", "--steps", 40, "--starts", 3, "--json")
    assert code == 0
    found = json.loads(out)
    assert np.shape(found["losses"]) == (4, 3)
    for rate, losses in zip(found["learning_rates"], found["losses"], strict=True):
        alone = fit(loss, LinearParams(2.0, 6.0), (X, 4 * X + 1), rate, steps=40)
        assert losses[0] == pytest.approx(float(alone.losses[-1]), rel=1e-3)


def test_runs_that_diverge_are_null_and_all_of_them_exit_with_1(capsys):
    code, out, _ = run(capsys, "--rates", "1:10:3", "--steps", 300, "--json")
    assert code == 1
    found = json.loads(out)
    assert found["losses"] == [[None]] * 3
    assert found["best"] is None
    code, out, _ = run(capsys, "--rates", "1:10:3", "--steps", 300)
    assert "all runs diverge" in out


def test_a_table_and_torchs_optimizers(tmp_path, capsys):
    random = np.random.default_rng(0)
    a, b = random.uniform(0, 100, 60), random.standard_normal(60)
    rows = "".join(f"{one},{two},{3 * one - 50 * two + 7}\n" for one, two in zip(a, b, strict=True))
    (tmp_path / "t.csv").write_text("a,b,c\n" + rows)
    given = [tmp_path / "t.csv", "--x", "a,b", "--y", "c", "--rates", "1e-3:0.3:5", "--json", "--steps", 200]
    for optimizer in (None, "Adam(betas=(0.8, 0.99))", "SGD(momentum=0.5)", "RMSprop"):
        code, out, err = run(capsys, *given, *(["--optimizer", optimizer] if optimizer else []))
        assert code == 0, err
        assert json.loads(out)["best"]["loss"] < 1e-2


def test_the_picture_is_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs matplotlib, which draws")
    path = tmp_path / "rates.png"
    code, _, _ = run(capsys, "--rates", "1e-3:1:7", "--starts", 5, "--picture", path)
    assert code == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [each.name for each in tmp_path.iterdir()] == ["rates.png"]


def test_the_picture_shows_every_run(capsys):
    pytest.importorskip("matplotlib", reason="needs matplotlib, which draws")
    rates = np.geomspace(1e-3, 1, 6).astype(np.float32)
    result = sweep(loss, LinearParams(2.0, 6.0), (X, 4 * X + 1), steps=200, learning_rates=rates)
    axes = plots.loss_by_rate(result, stable=0.18)
    dots = axes.lines[0].get_ydata()
    assert np.isfinite(dots).sum() == (~result.diverged).sum() < 6
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "runs diverge" in labels
    assert "largest stable rate 0.18" in labels
    assert any(label.startswith("best: ") for label in labels)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rates", "1:2"], "--rates 1:2, expected LOW:HIGH:N"),
        (["--rates", "0:1:5"], "expected LOW:HIGH:N"),
        (["--rates", "1:0.1:5"], "expected LOW:HIGH:N"),
        (["--rates", "a:b:c"], "expected LOW:HIGH:N"),
        (["--starts", "0"], "--starts 0"),
        (["--steps", "0"], "steps"),
        (["--x", "a"], "belong together"),
        (["t.csv"], "belong together"),
        (["--optimizer", "Adam(lr=0.1)"], "has an lr, which is what is swept"),
        (["--optimizer", "Adm()"], "Adm"),
        (["--picture", "a.txt"], "expected a name that ends in .png"),
        (["--picture", "/no/such/a.png"], "is no folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(capsys, options, said):
    code, _, err = run(capsys, *options)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
