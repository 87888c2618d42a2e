from __future__ import annotations

import json

import pytest

from jaxgrad.cli import main

PORT = """
import jax, jax.numpy as jnp, numpy as np, torch
from jaxgrad import JaxProgram, TorchProgram
from beside import SIZE

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, SIZE), torch.nn.GELU(), torch.nn.Linear(SIZE, 2))

def torch_program():
    return TorchProgram(net, lambda module, x, y: torch.nn.functional.cross_entropy(module(x), y))

def jax_program():
    params = {name: jnp.asarray(p.detach().numpy()) for name, p in net.named_parameters()}

    def loss(p, x, y):
        h = jax.nn.gelu(x @ p["0.weight"].T + p["0.bias"][None], approximate=APPROXIMATE)
        logits = h @ p["2.weight"].T + p["2.bias"][None]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))

    return JaxProgram(params, loss)

def batches():
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(5, 3)).astype(np.float32), np.array([0, 1, 0, 1, 1]))]
"""


@pytest.fixture
def port(tmp_path, torch):
    (tmp_path / "beside.py").write_text("SIZE = 8\n")

    def write(text):
        path = tmp_path / "port.py"
        path.write_text(text)
        return str(path)

    return write


def test_a_correct_port_exits_with_0_and_a_wrong_one_with_1_naming_both_lines(port, capsys):
    assert main(["compare", port(PORT.replace("APPROXIMATE", "False"))]) == 0
    assert capsys.readouterr().out.startswith("ROUNDING")
    assert main(["compare", port(PORT.replace("APPROXIMATE", "True"))]) == 1
    said = capsys.readouterr().out
    assert said.startswith("DIFFERENT")
    assert "torch's `1` (gelu) gets the same as JAX" in said
    assert "gelu in 1 (" in said
    assert "approximate=True" in said


def test_json_and_html(port, capsys, tmp_path):
    path = port(PORT.replace("APPROXIMATE", "True"))
    assert main(["compare", path, "--json", "--html", str(tmp_path / "report.html")]) == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["verdict"], data["first"]["stage"], data["first"]["torch"]["module"]) == ("DIFFERENT", "forward", "1")
    assert "DIFFERENT" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("option", [(), ("--compiled",), ("--no-compiled",)])
def test_whether_the_compiled_program_is_judged(port, monkeypatch, option):
    from jaxgrad.parity import engine

    wanted = []
    monkeypatch.setattr(engine, "CompiledPrograms", lambda compiled: wanted.append(compiled) or Judge())
    assert main(["compare", port(PORT.replace("APPROXIMATE", "False")), *option]) == 0
    assert wanted == {(): [None], ("--compiled",): [True], ("--no-compiled",): []}[option]


class Judge:
    def judge(self, step, target, torch, notes):
        return []


def test_a_file_that_is_not_there_or_defines_too_little_is_refused(port, capsys):
    assert main(["compare", "nowhere.py"]) == 2
    assert "nowhere.py: no such file. Pass a Python file that defines torch_program" in capsys.readouterr().err
    assert main(["compare", port("def batches(): return []")]) == 2
    assert "defines no torch_program, jax_program(). Define torch_program" in capsys.readouterr().err
    assert main(["compare", port(PORT)]) == 2  # APPROXIMATE is no name
    said = capsys.readouterr().err
    assert "the JAX loss raised NameError" in said
    assert "port.py" in said  # with its own traceback
    assert main(["compare", port("1 / 0")]) == 2
    said = capsys.readouterr().err
    assert "raised ZeroDivisionError: division by zero" in said
    assert "Traceback" in said
    assert main(["compare", port("def f(:")]) == 2
    assert "raised SyntaxError" in capsys.readouterr().err


def test_usage(capsys):
    assert main(["compare"]) == 2
    assert main(["compare", "--help"]) == 0
    assert "jaxgrad compare port.py" in capsys.readouterr().out
