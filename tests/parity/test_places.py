"""The places and the sentences of a difference, in programs as people write them."""

from __future__ import annotations

import linecache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict
from jaxgrad.parity.source_lines import is_installed, library_line, users_line
from jaxgrad.parity.telling import parent_of

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 6)).astype(np.float32), RNG.normal(size=(5, 6)).astype(np.float32)


def line_of(site):
    return linecache.getline(site.file, site.line).strip()


def arrays(module):
    return {name: jnp.asarray(p.detach().numpy()) for name, p in module.named_parameters()}


def test_the_users_line_is_named_first_and_then_the_librarys():
    frames = [("/venv/lib/python3.11/site-packages/flax/linen/linear.py", 287), ("/home/me/port.py", 31)]
    assert users_line(frames) == ("/home/me/port.py", 31, "flax/linen/linear.py:287")
    assert users_line(frames[1:]) == ("/home/me/port.py", 31, "")
    assert users_line(frames[:1]) == (*frames[0], "")  # a package's own program
    assert users_line([]) == ("", 0, "")
    assert is_installed(np.__file__)
    assert is_installed(linecache.__file__)
    assert not is_installed(__file__)
    assert not is_installed("<stdin>")
    assert is_installed("<string>")
    assert library_line(linecache.__file__, 3) == "linecache.py:3"


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("['layers'][2]['kernel']", "layers/2"),
        (".layers[2].weight", "layers/2"),
        ("['blocks'][0]['norm']['scale'].value", "blocks/0/norm"),
        ("['fc.weight']", "fc"),
        ("['w']", ""),
    ],
)
def test_the_module_of_a_parameter(path, module):
    assert parent_of(path) == module


@pytest.fixture
def normed(torch):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(6), torch.nn.LayerNorm(6)])

        def forward(self, x):
            for norm in self.norms:
                x = torch.tanh(norm(x))
            return x

    torch.manual_seed(0)
    net = Net()
    for p in net.parameters():
        torch.nn.init.normal_(p)
    return net


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_layer_of_nnx_is_named_by_its_path_at_the_line_that_calls_it(torch, normed, wrong):
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self):
            eps = [1e-6 if i == wrong else 1e-5 for i in range(2)]
            self.norms = nnx.List([nnx.LayerNorm(6, epsilon=each, rngs=nnx.Rngs(0)) for each in eps])

        def __call__(self, x):
            for norm in self.norms:
                x = jnp.tanh(norm(x))  # the call
            return x

    net = Net()
    for ours, theirs in zip(normed.norms, net.norms, strict=True):
        theirs.scale[...] = jnp.asarray(ours.weight.detach().numpy())
        theirs.bias[...] = jnp.asarray(ours.bias.detach().numpy())
    graph, state = nnx.split(net)
    report = compare(
        TorchProgram(normed, lambda m, x, y: torch.nn.functional.mse_loss(m(x), y)),
        JaxProgram(state, lambda s, x, y: jnp.mean((nnx.merge(graph, s)(x) - y) ** 2)),
        [(X, Y)],
    )
    assert report.verdict is Verdict.DIFFERENT, str(report)
    first = report.first
    assert first.torch.module == f"norms.{wrong}"
    assert first.jax.module == f"norms/{wrong}", str(report)
    assert line_of(first.jax).endswith("# the call")
    assert first.jax.library.startswith("flax/nnx/nn/normalization.py:")
    assert f"torch's `norms.{wrong}` (layer_norm) gets the same as JAX's `norms/{wrong}` at " in first.message
    assert "its weight and its bias" in first.message
    assert "aten." not in str(report)
    assert report.effect.visible
    assert 0 < report.effect.loss < 1e-3


def test_what_jit_has_cached_is_named_at_the_call_that_runs_it(torch):
    net = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.GELU(), torch.nn.Linear(6, 6), torch.nn.SiLU())

    def loss(p, x, y):
        h = jax.nn.gelu(x @ p["0.weight"].T + p["0.bias"][None], False)
        h = jax.nn.gelu(h @ p["2.weight"].T + p["2.bias"][None], False)  # the second
        return jnp.mean((h - y) ** 2)

    report = compare(
        TorchProgram(net, lambda m, x, y: torch.nn.functional.mse_loss(m(x), y)),
        JaxProgram(arrays(net), loss),
        [(X, Y)],
    )
    assert report.verdict is Verdict.DIFFERENT
    assert report.first.torch.module == "3"
    assert line_of(report.first.jax).endswith("# the second"), str(report)


def test_a_backward_that_somebody_wrote_is_named_at_its_own_line(torch):
    class Ours(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, slope):
            return slope * ctx.saved_tensors[0].cos() * 0.5  # torch's

    net = torch.nn.Linear(6, 6)
    theirs = jax.custom_vjp(jnp.sin)

    def backward(x, slope):
        return (slope * jnp.cos(x),)

    theirs.defvjp(lambda x: (jnp.sin(x), x), backward)
    report = compare(
        TorchProgram(net, lambda m, x, y: torch.nn.functional.mse_loss(Ours.apply(m(x)), y)),
        JaxProgram(arrays(net), lambda p, x, y: jnp.mean((theirs(x @ p["weight"].T + p["bias"][None]) - y) ** 2)),
        [(X, Y)],
    )
    assert report.verdict is Verdict.DIFFERENT
    assert report.first.stage == "gradient"
    assert line_of(report.first.torch).endswith("# torch's"), str(report)
    assert "the losses agree and the gradients differ by up to 0.5" in str(report)


def test_a_bias_left_out_is_said_to_be_missing(torch):
    net = torch.nn.Linear(6, 6)
    report = compare(
        TorchProgram(net, lambda m, x, y: torch.nn.functional.mse_loss(m(x), y)),
        JaxProgram(arrays(net), lambda p, x, y: jnp.mean((x @ p["weight"].T - y) ** 2)),
        [(X, Y)],
    )
    assert report.verdict is Verdict.DIFFERENT
    assert report.first.message.endswith("; JAX's does not depend on `bias`"), str(report)
    assert report.first.jax_value.startswith("float32[5,6]")


def test_a_sum_for_a_mean_is_said_with_both_values(torch):
    net = torch.nn.Linear(6, 6)
    report = compare(
        TorchProgram(net, lambda m, x, y: torch.nn.functional.mse_loss(m(x), y)),
        JaxProgram(arrays(net), lambda p, x, y: jnp.sum((x @ p["weight"].T + p["bias"][None] - y) ** 2)),
        [(X, Y)],
    )
    first = report.first
    assert first.stage == "loss"
    assert first.error == pytest.approx(29 / 30)
    assert report.effect.loss == pytest.approx(29 / 30)
    assert float(first.jax_value.split()[-1]) == pytest.approx(30 * float(first.torch_value.split()[-1]), rel=1e-4)


def test_a_correct_port_is_said_to_round_and_not_to_be_at_fault(torch, normed):
    def loss(p, x, y):
        for i in range(2):
            z = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
            x = jnp.tanh(z * p[f"norms.{i}.weight"][None] + p[f"norms.{i}.bias"][None])
        return jnp.mean((x - y) ** 2)

    report = compare(
        TorchProgram(normed, lambda m, x, y: torch.nn.functional.mse_loss(m(x), y)),
        JaxProgram(arrays(normed), loss),
        [(X, Y)],
    )
    assert report.verdict is Verdict.ROUNDING
    assert report.effect is None
    assert report.rounding.gradient_of in arrays(normed)
    assert 0 < report.rounding.gradient < 1e-4
    assert "in float64 both agree, so that is rounding" in report.reason
    assert "units" not in str(report)


@pytest.mark.parametrize("split", ["JAX", "torch"])
def test_uneven_pieces_of_a_batch_part_in_the_loss_where_their_means_are_averaged(torch, split):
    net = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 6))

    def model(p, x):
        for i in "02":
            x = x @ p[f"{i}.weight"].T + p[f"{i}.bias"][None]  # one line for both layers
            x = jnp.tanh(x) if i == "0" else x
        return x

    def mean_of_means(one, x, y):
        means = [one(x[i : i + 2], y[i : i + 2]) for i in range(0, 5, 2)]  # 2, 2 and 1 rows
        return sum(means) / len(means)

    def ours(m, x, y):
        one = lambda x, y: torch.nn.functional.mse_loss(m(x), y)  # noqa: E731
        return mean_of_means(one, x, y) if split == "torch" else one(x, y)

    def theirs(p, x, y):
        one = lambda x, y: jnp.mean((model(p, x) - y) ** 2)  # noqa: E731
        return mean_of_means(one, x, y) if split == "JAX" else one(x, y)

    report = compare(TorchProgram(net, ours), JaxProgram(arrays(net), theirs), [(X, Y)])
    assert report.verdict is Verdict.DIFFERENT
    assert report.first.stage == "loss", str(report)
    assert "in 3 pieces" in report.first.message, str(report)


def test_even_pieces_of_a_batch_are_the_same_and_a_fault_in_a_layer_of_pieces_stays_there(torch):
    net = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 6))

    def program(size, slope):
        def one(p, x, y):
            h = jnp.tanh(slope * (x @ p["0.weight"].T + p["0.bias"][None]))
            return ((h @ p["2.weight"].T + p["2.bias"][None] - y) ** 2).sum()

        def loss(p, x, y):
            return sum(one(p, x[i : i + size], y[i : i + size]) for i in range(0, 5, size)) / y.size

        return compare(
            TorchProgram(net, lambda m, x, y: torch.nn.functional.mse_loss(m(x), y)),
            JaxProgram(arrays(net), loss),
            [(X, Y)],
        )

    assert program(2, 1.0).verdict is Verdict.ROUNDING  # weighted by their sizes
    wrong = program(2, 1.001)
    assert wrong.verdict is Verdict.DIFFERENT
    assert (wrong.first.stage, wrong.first.torch.module) == ("forward", "1"), str(wrong)
