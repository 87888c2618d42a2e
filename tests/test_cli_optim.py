from __future__ import annotations

import json

import jax.numpy as jnp
import optax
import pytest

from jaxgrad.cli import main
from jaxgrad.cli.optim import parsed
from jaxgrad.errors import InputError


def test_where_stock_optax_is_the_same_it_is_what_is_printed(torch, capsys):
    assert main(["optim", "AdamW(lr=3e-4, betas=(0.9, 0.95))"]) == 0
    said = capsys.readouterr().out
    assert "optax.adamw(learning_rate=0.0003, b1=0.9, b2=0.95, eps=1e-08, weight_decay=0.01)" in said
    assert "the same as in torch" in said
    assert "torch_optim" not in said


def test_where_it_is_not_the_difference_and_the_reason_are_said(torch, capsys):
    assert main(["optim", "torch.optim.SGD(lr=0.1, momentum=0.9, dampening=0.1, weight_decay=1e-4)"]) == 0
    said = capsys.readouterr().out
    assert "from jaxgrad import torch_optim" in said
    assert "since optax.sgd has no dampening" in said
    assert "not the same: optax.chain(optax.add_decayed_weights(0.0001), optax.sgd(" in said


@pytest.mark.parametrize(
    "call",
    [
        "SGD(lr=0.1)",
        "SGD(lr=0.1, momentum=0.9, dampening=0.5, maximize=True)",
        "Adam(weight_decay=0.1)",
        "NAdam",
        "RMSprop(centered=True, momentum=0.5)",
        "Adafactor(eps=(None, 1e-2))",
        "Muon(nesterov=False)",
        "Rprop(etas=(0.4, 1.3))",
    ],
)
def test_the_printed_code_runs_and_is_that_optimizer(torch, call, capsys):
    assert main(["optim", call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    space: dict = {}
    exec("import optax\nfrom jaxgrad import torch_optim\noptimizer = " + found["code"], space)
    params = {"w": jnp.ones((2, 3))}
    updates, _ = space["optimizer"].update({"w": jnp.full((2, 3), 0.3)}, space["optimizer"].init(params), params)
    assert (optax.apply_updates(params, updates)["w"] != 1).all()
    best = found["naive"] if found["naive"]["same"] else found["exact"]
    assert best["difference"] <= (0.1 if call.startswith("Muon") else 1e-12)
    assert bool(found["reasons"]) != found["naive"]["same"]


def test_without_torch_the_translation_is_the_measure(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["optim", "RMSprop(alpha=0.9)"]) == 0
    said = capsys.readouterr().out
    assert "optax.scale_by_rms(decay=0.9, eps=1e-08, eps_in_sqrt=False)" in said
    assert "torch adds eps to the root" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Adam(lr=__import__('os').getpid())", r"lr=__import__\('os'\).getpid\(\) is not a literal"),
        ("Adam(0.1)", r"has an argument without a name"),
        ("Adam(lr=", r"is not Python"),
        ("os.system(lr=1)", r"os.system is not in torch.optim"),
        ("Adam(**{})", r"has \*\* or the same option twice"),
        ("1 + 1", r"is not a call"),
        ("(lambda: 1)()", r"is not a call"),
        ("", r"is not Python"),
    ],
)
def test_the_argument_is_data(text, says):
    with pytest.raises(InputError, match=says):
        parsed(text)


def test_names_and_literals():
    assert parsed("torch.optim.Adam(lr=-1, betas=[0.9, 0.99], fused=True)") == (
        "Adam",
        {"lr": -1, "betas": [0.9, 0.99], "fused": True},
    )
    assert parsed("SGD") == ("SGD", {})


def test_usage(capsys):
    assert main(["optim"]) == 2
    assert main(["optim", "Adamm(lr=1)"]) == 2
    said = capsys.readouterr().err
    assert "no optimizer" in said
    assert "'Adamm' is not translated" in said
    assert main(["optim", "--help"]) == 0
    assert 'jaxgrad optim "AdamW(lr=3e-4, betas=(0.9, 0.95))"' in capsys.readouterr().out


def test_the_table_has_a_row_an_optimizer(torch, monkeypatch, capsys):
    from jaxgrad.torch_optim import table

    monkeypatch.setattr(table, "ROWS", table.ROWS[2:4])
    assert main(["optim", "--table"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| `") for line in lines) == 2
    assert "optax.sgd has no dampening" in lines[-2]
    assert lines[-1].endswith("| the same |")
