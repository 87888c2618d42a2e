"""The compiled program: what a compiler gets wrong is found and cut down; what it rounds otherwise is right."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import JaxProgram, TorchProgram, Verdict, compare
from jaxgrad.parity import compiled, engine
from jaxgrad.parity.flat_jaxpr import flatten, part_of, results, run
from jaxgrad.parity.promote_jax import bind
from jaxgrad.parity.random_rounding import RandomRounding, spread

pytestmark = pytest.mark.usefixtures("torch")

X = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)


class Planted:
    """A compiler that changes what one primitive makes, unless an option is given."""

    def __init__(self, primitive, change, cured_by=None):
        self.primitive, self.change, self.cured_by = primitive, change, cured_by
        self.calls = 0

    def __call__(self, function, given, options):
        self.calls += 1
        flat = flatten(jax.make_jaxpr(function)(*given))
        cured = self.cured_by is not None and self.cured_by in (options or {})

        def apply(eqn, values):
            made = bind(eqn, values)
            if eqn.primitive.name == self.primitive and not cured:
                made = [self.change(each) for each in made]
            return made

        return lambda *values: results(flat, values, apply)


def one_entry(factor):
    """One entry times a factor."""
    return lambda array: jnp.asarray(array).reshape(-1).at[0].multiply(factor).reshape(np.shape(array))


@pytest.fixture
def programs(torch):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    params = {name: jnp.asarray(p.detach().numpy().copy()) for name, p in module.named_parameters()}

    def loss(p, x, y):
        h = x @ p["0.weight"].T + p["0.bias"][None]
        h = jnp.tanh(h)
        return jnp.mean((h @ p["2.weight"].T + p["2.bias"][None] - y) ** 2)

    return TorchProgram(module, lambda m, x, y: ((m(x) - y) ** 2).mean()), JaxProgram(params, loss)


@pytest.fixture
def compiling_with(monkeypatch):
    def use(compiler):
        monkeypatch.setattr(engine, "CompiledPrograms", partial(compiled.CompiledPrograms, compiler=compiler))
        return compiler

    return use


def test_what_a_compiler_gets_wrong_is_found_and_cut_down_to_one_operation(programs, compiling_with):
    compiling_with(Planted("tanh", one_entry(1 + 1e-3), cured_by="xla_backend_optimization_level"))
    report = compare(*programs, [(X, Y)])
    assert report.verdict is Verdict.DIFFERENT, str(report)
    first = report.first
    assert first.stage == "compiled"
    assert first.message.startswith("the port is right, what XLA made of it is not")
    assert "{'xla_backend_optimization_level': 0}) removes it" in first.message
    assert first.cause.code == "miscompiled"
    assert first.cause.explanation.startswith("1 of the ")
    assert "tanh" in first.cause.explanation
    assert first.jax.op == "tanh"
    with open(first.jax.file) as source:
        assert "jnp.tanh(h)" in source.read().splitlines()[first.jax.line - 1]


@pytest.mark.parametrize(("primitive", "wrong"), [("dot_general", 1e-4), ("reduce_sum", 1e-4), ("mul", 1e-3)])
def test_other_operations_and_what_is_within_rounding(programs, compiling_with, primitive, wrong):
    compiling_with(Planted(primitive, lambda array: array * (1 + wrong)))
    report = compare(*programs, [(X, Y)])
    assert report.first.stage == "compiled", str(report)
    assert primitive in report.first.cause.explanation
    compiling_with(Planted(primitive, lambda array: array * (1 + 2e-7)))
    report = compare(*programs, [(X, Y)])
    assert report.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING), str(report)


def test_the_fault_is_looked_for_inside_a_loop(torch, compiling_with):
    torch.manual_seed(0)
    module = torch.nn.Linear(5, 5)

    def torch_loss(m, x):
        h = x
        for _ in range(3):
            h = torch.sin(m(h))
        return (h**2).mean()

    def loss(p, x):
        def body(h, _):
            return jnp.sin(h @ p["weight"].T + p["bias"][None]), None

        return jnp.mean(jax.lax.scan(body, x, length=3)[0] ** 2)

    params = {name: jnp.asarray(p.detach().numpy().copy()) for name, p in module.named_parameters()}
    compiling_with(Planted("sin", one_entry(1.01)))
    report = compare(TorchProgram(module, torch_loss), JaxProgram(params, loss), [(X,)])
    assert report.first.stage == "compiled", str(report)
    assert report.first.jax.op == "sin"
    assert report.first.cause.explanation.startswith("1 of the ")


def test_only_the_loss_alone_may_be_wrong(programs, compiling_with):
    """Compiled without its gradients a loss is another program."""

    class WithoutGradients(Planted):
        def __call__(self, function, given, options):
            several = len(jax.make_jaxpr(function)(*given).out_avals) > 3  # the loss, and four gradients
            planted = Planted("none" if several else self.primitive, self.change)
            return planted(function, given, options)

    compiling_with(WithoutGradients("tanh", lambda array: array * 1.01))
    report = compare(*programs, [(X, Y)])
    assert report.first.stage == "compiled", str(report)
    assert "the loss is off" in report.first.message


class Wavering:
    """Changes a value anew each time."""

    def __init__(self, size):
        self.random, self.size = np.random.default_rng(0), size

    def __call__(self, array):
        return array * np.float32(1 + self.size * self.random.uniform(0.5, 1.5))


def test_a_program_that_gives_other_numbers_each_time_is_told(programs, compiling_with):
    compiling_with(Planted("tanh", Wavering(1e-3)))
    report = compare(*programs, [(X, Y)])
    assert report.first.stage == "compiled"
    assert "it is not deterministic" in report.first.message
    compiling_with(Planted("tanh", Wavering(2e-7)))
    report = compare(*programs, [(X, Y)])
    assert report.verdict is Verdict.ROUNDING, str(report)
    assert any("other bits each time it is run, within rounding" in note for note in report.notes), report.notes


# --- what rounding explains -------------------------------------------------------------------------------------------


class RoundsOtherwise:
    """A compiler whose programs round at random, by four units: what a right one may do at most."""

    def __init__(self, seed):
        self.seed = seed

    def __call__(self, function, given, options):
        flat = flatten(jax.make_jaxpr(function)(*given))
        rounding = RandomRounding(self.seed, units=4.0)
        return lambda *values: results(flat, values, rounding)


def _tipping(torch, kind):
    """Programs in which rounding decides: the larger of two sums of the same numbers, a relu of what cancels."""
    torch.manual_seed(0)
    module = torch.nn.Linear(6, 1, bias=False)
    turned = torch.arange(5, -1, -1)
    backwards = np.arange(5, -1, -1)

    def torch_loss(m, x):
        a, b = (x * m.weight).sum(1), (x[:, turned] * m.weight[:, turned]).sum(1)
        if kind == "the larger":
            return torch.maximum(a, b * 1.0).pow(2).mean() + (m.weight**3).sum()
        return (torch.relu(a - b) * 1e3 + (m.weight * x).sum(1)).pow(2).mean()

    def loss(p, x):
        w = p["weight"]
        a, b = jnp.sum(x * w, axis=1), jnp.sum(x[:, backwards] * w[:, backwards], axis=1)
        if kind == "the larger":
            return jnp.mean(jnp.maximum(a, b * 1.0) ** 2) + jnp.sum(w**3)
        return jnp.mean((jax.nn.relu(a - b) * 1e3 + jnp.sum(w * x, axis=1)) ** 2)

    x = np.random.default_rng(2).normal(size=(32, 6)).astype(np.float32)
    params = {"weight": jnp.asarray(module.weight.detach().numpy().copy())}
    return torch_loss, module, JaxProgram(params, loss), x


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["the larger", "relu"])
def test_a_decision_that_rounding_tips_is_no_fault_of_the_compiler(torch, kind, seed):
    _, _, program, x = _tipping(torch, kind)
    closed = jax.make_jaxpr(jax.value_and_grad(program.loss))(program.params, x)
    given = [*jax.tree.leaves(program.params), jnp.asarray(x)]
    own = [np.asarray(each) for each in results(flatten(closed), given)]
    target = compiled.Target("loss and gradients", closed, given, ["the loss", "the gradient"], own, own)
    judge = compiled.CompiledPrograms(True, RoundsOtherwise(seed)).judge
    assert judge(1, target, compiled.Site("loss", "", "", 0), []) == []


@pytest.mark.parametrize("seed", range(6))
def test_a_compiler_that_rounds_otherwise_is_right(programs, compiling_with, seed):
    compiling_with(RoundsOtherwise(seed))
    report = compare(*programs, [(X, Y)])
    assert report.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING), str(report)


def test_long_sums_may_be_added_up_in_any_order():
    """One term after the other, 2**20 float32 terms lose some 1e-5 of their sum."""
    x = jnp.asarray(np.random.default_rng(0).random(2**20).astype(np.float32))
    closed = jax.make_jaxpr(jnp.sum)(x)
    own = results(flatten(closed), [x])
    loop = np.cumsum(np.asarray(x), dtype=np.float32)[-1]
    assert abs(float(loop) - float(own[0])) <= 2 * spread(flatten(closed), [x], own)[0]


# --- when it is judged ------------------------------------------------------------------------------------------------


def test_it_can_be_left_out(programs, compiling_with):
    compiler = compiling_with(Planted("tanh", one_entry(1.5)))
    report = compare(*programs, [(X, Y)], compiled=False)
    assert report.verdict is Verdict.ROUNDING
    assert compiler.calls == 0


def test_large_programs_are_left_out_unless_asked_for(programs, compiling_with, monkeypatch):
    monkeypatch.setattr(compiled, "MOST_EQUATIONS", 5)
    compiling_with(Planted("tanh", one_entry(1.5)))
    report = compare(*programs, [(X, Y)])
    assert report.verdict is Verdict.ROUNDING
    assert any("Pass compiled=True" in note for note in report.notes), report.notes
    assert compare(*programs, [(X, Y)], compiled=True).first.stage == "compiled"


def test_a_program_that_calls_back_is_not_run_again(programs, compiling_with):
    ours, theirs = programs
    compiler = compiling_with(Planted("tanh", one_entry(1.5)))

    def loss(p, x, y):
        value = theirs.loss(p, x, y)
        jax.debug.callback(lambda v: None, value)
        return value

    report = compare(ours, JaxProgram(theirs.params, loss), [(X, Y)])
    assert compiler.calls == 0
    assert any("calls back into Python" in note for note in report.notes), report.notes


def test_one_program_is_compiled_once_for_all_batches_and_judged_on_each(programs, compiling_with):
    calls = []

    def only_later(array):
        calls.append(1)
        return array * (1.01 if len(calls) > 6 else 1)  # three runs with gradients and three without

    compiler = compiling_with(Planted("tanh", only_later))
    report = compare(*programs, [(X, Y), (X[::-1] * 2, Y)])
    assert report.first.stage == "compiled"
    assert report.first.step == 2
    assert compiler.calls >= 2


# --- the real one -----------------------------------------------------------------------------------------------------


def _miscompiled_here():
    """The CPU compiler of jaxlib 0.10.2, at this size: some of 40,001 rows get others' sums."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(40001, 3)), jnp.float32)
    each = jax.vmap(lambda r: jnp.sum((w @ r) ** 2))
    return bool(jnp.any(jnp.abs(jax.jit(each)(rows) - each(rows)) > 1e-3 * each(rows)))


@pytest.mark.skipif(not _miscompiled_here(), reason="this jaxlib compiles it rightly")
def test_a_reduction_that_xla_miscompiles(torch):
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 3, bias=False)
    rows = np.random.default_rng(0).normal(size=(40001, 3)).astype(np.float32)
    wanted = np.random.default_rng(1).normal(size=40001).astype(np.float32)

    def loss(p, x, y):
        return jnp.mean((jax.vmap(lambda r: jnp.sum((p["weight"] @ r) ** 2))(x) - y) ** 2)

    programs = (
        TorchProgram(module, lambda m, x, y: (((m(x) ** 2).sum(1) - y) ** 2).mean()),
        JaxProgram({"weight": jnp.asarray(module.weight.detach().numpy().copy())}, loss),
    )
    report = compare(*programs, [(rows, wanted)])
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "compiled"
    assert "xla_cpu_experimental_ynn_fusion_type" in report.first.message
    assert "dot_general, integer_pow, reduce_sum" in report.first.cause.explanation
    fewer = compare(*programs, [(rows[:400], wanted[:400])])
    assert fewer.verdict is Verdict.ROUNDING, str(fewer)
    assert compare(*programs, [(rows, wanted)], compiled=False).verdict is Verdict.ROUNDING


# --- flat jaxprs ------------------------------------------------------------------------------------------------------


def _nested(w, x):
    @jax.checkpoint
    def layer(x):
        return jax.jit(lambda a: jnp.where(a > 0, jnp.sin(a), a))(x @ w)

    def body(state):
        return state[0] + 1, layer(state[1])

    x = jax.lax.while_loop(lambda s: s[0] < 3, body, (0, x))[1]
    x, rows = jax.lax.scan(lambda c, r: (c * 0.5 + r, c @ w), x, jnp.stack([x, 2 * x]), reverse=True)
    return jax.lax.cond(x.sum() > 0, jnp.cos, jnp.tanh, x).sum() + rows.sum()


def test_a_flat_jaxpr_computes_what_the_nested_one_does():
    w, x = jnp.asarray(X[:5] / 3), jnp.asarray(X)
    closed = jax.make_jaxpr(_nested)(w, x)
    flat = flatten(closed)
    with jax.disable_jit():
        expected = _nested(w, x)
    assert results(flat, [w, x])[0] == pytest.approx(float(expected), rel=1e-6)
    assert all(step.eqn.primitive.name not in ("jit", "pjit", "checkpoint", "remat2") for step in flat.steps)
    env = run(flat, [w, x])
    for start in range(len(flat.steps)):
        part = part_of(flat, range(start, len(flat.steps)))
        assert set(flat.outputs) <= set(part.outputs)
        assert results(part, [env[i] for i in part.inputs])[part.outputs.index(flat.outputs[0])] == env[flat.outputs[0]]


# --- the update -------------------------------------------------------------------------------------------------------


def _with_adam(torch, programs):
    ours, theirs = programs
    optimizer = torch.optim.Adam(ours.module.parameters(), 1e-2)
    return TorchProgram(ours.module, ours.loss, optimizer), JaxProgram(theirs.params, theirs.loss, optax.adam(1e-2))


def test_an_update_that_is_miscompiled_is_found(torch, programs, compiling_with):
    compiling_with(Planted("sqrt", one_entry(1.01)))  # of which only Adam has one
    report = compare(*_with_adam(torch, programs), [(X, Y)] * 2)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "compiled"
    assert "under jax.jit the new ['" in report.first.message
    assert report.first.jax.op == "sqrt"


def test_an_update_that_rounds_otherwise_is_right(torch, programs, compiling_with):
    compiling_with(RoundsOtherwise(0))
    report = compare(*_with_adam(torch, programs), [(X, Y)] * 2)
    assert report.verdict is Verdict.ROUNDING, str(report)
