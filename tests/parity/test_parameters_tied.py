"""One parameter on one side, two that begin equal on the other: other programs; copies that are not read are not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.comparing import compare
from support.porting import F, fresh, normal, params_of, torch

from jaxgrad import JaxProgram, TorchProgram
from jaxgrad.report.values import Verdict

SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)
IDS, LABELS = np.array([[1, 4, 9], [2, 10, 3]]), np.array([[4, 9, 1], [10, 3, 2]])


class Words(torch.nn.Module):
    """A table of words, and a head that may be the same parameter, or begin as a copy of it."""

    def __init__(self, tied: bool):
        super().__init__()
        self.table, self.head = torch.nn.Embedding(11, 8), torch.nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.table(ids)))


def _words(tied: bool, seed: int = 0):
    module = fresh(Words(tied), seed)
    if not tied:
        with torch.no_grad():
            module.head.weight.copy_(module.table.weight)
    params = params_of(module)
    return module, {"table": params["table.weight"], "head": params["table.weight"] + 0}


def _torch_loss(module, ids, labels):
    return F.cross_entropy(module(ids).flatten(0, 1), labels.flatten())


def _jax_loss(p, ids, labels, head="head"):
    z = jnp.tanh(p["table"][ids]) @ p[head].T
    return -jnp.take_along_axis(jax.nn.log_softmax(z), labels[..., None], -1).mean()


def _compared(module, torch_loss, params, jax_loss, batch, optimizers=None):
    ours, theirs = optimizers or (None, None)
    made = ours(module.parameters()) if ours is not None else None
    return compare(TorchProgram(module, torch_loss, made), JaxProgram(params, jax_loss, theirs), [batch])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tied_torch", [True, False])
@pytest.mark.parametrize("tied_jax", [True, False])
def test_tied_on_both_sides_or_on_none_is_the_same_and_on_one_is_not(tied_torch, tied_jax, seed):
    module, params = _words(tied_torch, seed)
    if tied_jax:
        del params["head"]
    head = "table" if tied_jax else "head"
    report = _compared(module, _torch_loss, params, lambda p, *b: _jax_loss(p, *b, head=head), (IDS, LABELS))
    if tied_torch == tied_jax:
        assert report.verdict in SAME, str(report)
        return
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "params"
    for said in ("table.weight", "['table']", "head.weight" if tied_jax else "['head']", "[11, 8]"):
        assert said in report.first.message, said


@pytest.mark.parametrize("optimizers", [None, (lambda p: torch.optim.SGD(p, 0.1), optax.sgd(0.1))])
def test_a_copy_that_the_loss_does_not_read_is_harmless(optimizers):
    module, params = _words(True)
    programs = module, _torch_loss, params, lambda p, *b: _jax_loss(p, *b, head="table")
    report = _compared(*programs, (IDS, LABELS), optimizers)
    assert report.verdict in SAME, str(report)
    assert any("['head']" in note and "copy" in note for note in report.notes), report.notes


def test_a_copy_in_torch_that_the_loss_does_not_read_is_harmless():
    module, params = _words(False)
    del params["head"]

    def loss(m, ids, labels):
        return F.cross_entropy((torch.tanh(m.table(ids)) @ m.table.weight.T).flatten(0, 1), labels.flatten())

    report = _compared(module, loss, params, lambda p, *b: _jax_loss(p, *b, head="table"), (IDS, LABELS))
    assert report.verdict in SAME, str(report)


def test_two_leaves_of_which_one_is_read_twice_are_not_two_parameters():
    module, params = _words(False)
    report = _compared(module, _torch_loss, params, lambda p, *b: _jax_loss(p, *b, head="table"), (IDS, LABELS))
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "params"
    assert "head.weight" in report.first.message


def test_a_tied_head_whose_gradient_is_stopped_is_found():
    module, params = _words(True)

    def loss(p, ids, labels):
        return _jax_loss({"table": p["table"], "head": jax.lax.stop_gradient(p["table"])}, ids, labels)

    report = _compared(module, _torch_loss, {"table": params["table"]}, loss, (IDS, LABELS))
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "gradient"


class Shared(torch.nn.Module):
    """One layer used at each depth, or one layer each that begin equal; its norm begins with ones and zeros."""

    def __init__(self, depth: int, shared: bool):
        super().__init__()
        layers = [torch.nn.Linear(6, 6) for _ in range(depth)]
        norms = [torch.nn.LayerNorm(6) for _ in range(depth)]
        for layer in layers[1:]:
            layer.load_state_dict(layers[0].state_dict())
        self.layers = torch.nn.ModuleList(layers[:1] * depth if shared else layers)
        self.norms = torch.nn.ModuleList(norms[:1] * depth if shared else norms)

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.tanh(layer(norm(x)))
        return x


def _deep(shared_torch: bool, shared_jax: bool, stacked: bool, depth: int = 3, seed: int = 0):
    torch.manual_seed(seed)
    module = Shared(depth, shared_torch)
    arrays = [
        [t.detach().numpy() for t in (a.weight.T, a.bias, n.weight, n.bias)]
        for a, n in zip(module.layers, module.norms, strict=True)
    ]
    if shared_jax:
        params = dict(zip(("kernel", "bias", "scale", "shift"), map(jnp.asarray, arrays[0]), strict=True))
    elif stacked:
        columns = zip(*arrays, strict=True)
        names = ("kernel", "bias", "scale", "shift")
        params = {name: jnp.stack(each) for name, each in zip(names, columns, strict=True)}
    else:
        params = [dict(zip(("kernel", "bias", "scale", "shift"), map(jnp.asarray, a), strict=True)) for a in arrays]

    def layer(x, p):
        mean = x.mean(-1, keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5)
        return jnp.tanh((x * p["scale"][None] + p["shift"][None]) @ p["kernel"] + p["bias"][None])

    def loss(p, x, y):
        for i in range(depth):
            x = layer(x, p if shared_jax else jax.tree.map(lambda a, i=i: a[i], p) if stacked else p[i])
        return jnp.mean((x - y) ** 2)

    batch = normal(5, 6), normal(5, 6, seed=1)
    return module, lambda m, x, y: ((m(x) - y) ** 2).mean(), params, loss, batch


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("shared", "stacked"), [(True, False), (False, True), (False, False)])
def test_layers_that_are_shared_or_begin_equal_on_both_sides_are_the_same(shared, stacked, seed):
    report = _compared(*_deep(shared, shared, stacked, seed=seed))
    assert report.verdict in SAME, str(report)


@pytest.mark.parametrize("stacked", [True, False])
def test_a_layer_that_is_shared_in_torch_alone_is_named(stacked):
    report = _compared(*_deep(True, False, stacked))
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "params"
    assert "layers.0.weight" in "".join(each.message for each in report.divergences)


def test_a_layer_that_is_shared_in_jax_alone_is_named():
    report = _compared(*_deep(False, True, stacked=False))
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "params"
    assert "['kernel']" in "".join(each.message for each in report.divergences)
