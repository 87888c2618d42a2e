"""What a batch and the parameters may hold: numbers, integers, keys, loaders, whole states."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict
from jaxgrad.errors import InputError, InputTypeError, ProgramError

pytestmark = pytest.mark.usefixtures("torch")

SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


@pytest.fixture
def module(torch):
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


@pytest.fixture
def params(module):
    return {name: jnp.asarray(p.detach().numpy().copy()) for name, p in module.named_parameters()}


def line(p, x):
    return x @ p["weight"].T + p["bias"][None]


def ours(m, x, y, *rest):
    return ((m(x) - y) ** 2).mean()


def theirs(p, x, y, *rest):
    return jnp.mean((line(p, x) - y) ** 2)


# --- Python numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0.5, 0.1, 1e-3, 3, True])
def test_a_python_number_is_one_on_both_sides(module, params, number):
    def torch_loss(m, x, y, k):
        assert type(k) is type(number)
        return ours(m, x, y) * k

    for factor, verdicts in ((1, SAME), (1 + 1e-6, (Verdict.DIFFERENT,))):
        report = compare(
            TorchProgram(module, torch_loss),
            JaxProgram(params, lambda p, x, y, k, factor=factor: theirs(p, x, y) * k * factor),
            [(X, Y, number)],
        )
        assert report.verdict in verdicts, str(report)


def test_a_python_number_does_not_widen_what_it_meets(module, params):
    seen = []

    def jax_loss(p, x, y, k):
        seen.append((x * k).dtype)
        return theirs(p, x, y) * k

    compare(TorchProgram(module, lambda m, x, y, k: ours(m, x, y) * k), JaxProgram(params, jax_loss), [(X, Y, 0.1)])
    assert seen[0] == jnp.float32


@pytest.mark.parametrize("number", [True, 3])
def test_a_python_number_may_decide(module, params, number):
    """As a static argument of jax.jit would."""
    report = compare(
        TorchProgram(module, lambda m, x, y, n: sum(ours(m, x, y) for _ in range(n)) if n else ours(m, x, y)),
        JaxProgram(params, lambda p, x, y, n: sum(theirs(p, x, y) for _ in range(n)) if n else theirs(p, x, y)),
        [(X, Y, number)],
    )
    assert report.verdict in SAME, str(report)


# --- integers, booleans, keys -----------------------------------------------------------------------------------------

LABELS = np.asarray([0, 2, 1, 1, 0, 2])


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.int64])
@pytest.mark.parametrize(("change", "verdicts"), [(0, SAME), (1, (Verdict.DIFFERENT,))])
def test_labels_of_any_integer_dtype_reach_torchs_losses(torch, module, params, dtype, change, verdicts):
    def torch_loss(m, x, labels):
        return torch.nn.functional.cross_entropy(m(x), labels)

    def jax_loss(p, x, labels):
        labels = (labels + change) % 3
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(line(p, x)), labels[:, None].astype(int), 1))

    report = compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [(X, LABELS.astype(dtype))])
    assert report.verdict in verdicts, str(report)
    assert any("batch[1] as int64" in note for note in report.notes) == (dtype is not np.int64)


def test_a_mask_of_booleans(torch, module, params):
    mask = np.asarray([True, True, False, True, False, True])
    for flip, verdicts in ((False, SAME), (True, (Verdict.DIFFERENT,))):
        report = compare(
            TorchProgram(module, lambda m, x, y, mask: (((m(x) - y) ** 2).mean(1) * mask).mean()),
            JaxProgram(
                params,
                lambda p, x, y, mask, flip=flip: jnp.mean(jnp.mean((line(p, x) - y) ** 2, 1) * (mask ^ flip)),
            ),
            [(X, Y, mask)],
        )
        assert report.verdict in verdicts, str(report)


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(2**31)], ids=["typed", "raw"])
def test_a_random_key_that_is_not_used_is_harmless(module, params, key):
    report = compare(TorchProgram(module, ours), JaxProgram(params, theirs), [(X, Y, key)])
    assert report.verdict in SAME, str(report)


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0)], ids=["typed", "raw"])
def test_a_random_key_that_one_side_draws_with_is_told(module, params, key):
    def jax_loss(p, x, y, key):
        keep = jax.random.bernoulli(key, 0.5, (6, 3))
        return jnp.mean((jnp.where(keep, line(p, x) * 2, 0) - y) ** 2)

    report = compare(TorchProgram(module, ours), JaxProgram(params, jax_loss), [(X, Y, key)])
    assert report.verdict is Verdict.INCONCLUSIVE, str(report)
    assert "random" in report.reason


# --- where batches come from ------------------------------------------------------------------------------------------


def test_a_data_loader_is_taken_for_its_first_batches(torch, module, params):
    tensors = torch.utils.data.TensorDataset(torch.tensor(np.tile(X, (4, 1))), torch.tensor(np.tile(Y, (4, 1))))
    loader = torch.utils.data.DataLoader(tensors, batch_size=4, shuffle=True)
    before = torch.random.get_rng_state()
    report = compare(TorchProgram(module, ours), JaxProgram(params, theirs), loader)
    assert report.verdict in SAME, str(report)
    assert report.steps == 3
    assert any("the first 3 batches of the DataLoader" in note for note in report.notes), report.notes
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_iterator_without_an_end_does_not_hang(module, params):
    report = compare(TorchProgram(module, ours), JaxProgram(params, theirs), ((X, Y) for _ in itertools.count()))
    assert report.verdict in SAME, str(report)
    assert report.steps == 3


def test_a_short_iterator_is_taken_whole_and_a_list_always(module, params):
    report = compare(TorchProgram(module, ours), JaxProgram(params, theirs), iter([(X, Y), (Y @ Y.T @ X, Y)]))
    assert report.steps == 2
    assert not any("batches" in note for note in report.notes)
    assert compare(TorchProgram(module, ours), JaxProgram(params, theirs), [(X, Y)] * 4).steps == 4


def test_an_iterator_that_is_empty_or_raises_is_told(module, params):
    with pytest.raises(InputError, match=r"batches is empty"):
        compare(TorchProgram(module, ours), JaxProgram(params, theirs), iter([]))
    with pytest.raises(ProgramError, match=r"batches, a generator, raised ZeroDivisionError"):
        compare(TorchProgram(module, ours), JaxProgram(params, theirs), (1 / 0 for _ in range(2)))


def test_a_batch_that_is_a_dictionary_is_told_what_to_pass(module, params):
    with pytest.raises(InputTypeError, match=r"batches\[0\] is a dict.*\[\(batch,\)\] where it is one argument"):
        compare(TorchProgram(module, ours), JaxProgram(params, theirs), [{"x": X, "y": Y}])


def test_tuples_and_dictionaries_inside_a_batch(torch, module, params):
    batch = ({"pixels": (torch.tensor(X), {"weight": 0.5})}, [torch.tensor(Y)])
    for place, verdicts in (("weight", SAME), ("none", (Verdict.DIFFERENT,))):
        report = compare(
            TorchProgram(module, lambda m, b, y: ours(m, b["pixels"][0], y[0]) * b["pixels"][1]["weight"]),
            JaxProgram(
                params,
                lambda p, b, y, place=place: theirs(p, b["pixels"][0], y[0]) * b["pixels"][1].get(place, 1.0),
            ),
            [batch],
        )
        assert report.verdict in verdicts, str(report)


# --- parameters with others among them --------------------------------------------------------------------------------


def _step(torch, module):
    return TorchProgram(module, ours, torch.optim.Adam(module.parameters(), 1e-2))


@pytest.mark.parametrize(
    "others",
    [
        {"count": jnp.uint32(3)},
        {"key": jax.random.key(0)},
        {"key": jax.random.PRNGKey(0), "steps": np.int64(4), "table": jnp.arange(12).reshape(2, 6)},
        {"train": jnp.asarray(True), "name": "linear", "act": jnp.tanh},
    ],
    ids=["count", "typed key", "raw key, count and table", "flag, text and function"],
)
@pytest.mark.parametrize(("eps", "verdicts"), [(1e-8, SAME), (1e-4, (Verdict.DIFFERENT,))])
def test_what_is_no_parameter_is_handed_to_the_loss_untouched(torch, module, params, others, eps, verdicts):
    def jax_loss(p, x, y):
        for name, other in others.items():
            assert p["others"][name] is other
        return theirs(p, x, y)

    theirs_step = JaxProgram(params | {"others": others}, jax_loss, optax.adam(1e-2, eps=eps))
    report = compare(_step(torch, module), theirs_step, [(X, Y)])
    assert report.verdict in verdicts, str(report)


def test_integers_where_a_parameter_is_wanted_are_refused(module, params):
    params["weight"] = jnp.arange(12).reshape(3, 4)
    with pytest.raises(InputTypeError, match=r"params\['weight'\] is i32\[3,4\]; expected floating or complex arrays"):
        compare(TorchProgram(module, ours), JaxProgram(params, theirs), [(X, Y)])


def test_a_whole_nnx_state(torch, module, params):
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.line = nnx.Linear(4, 3, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.line(x), deterministic=True)

    model = Model(nnx.Rngs(0))
    model.line.kernel = nnx.Param(params["weight"].T)
    model.line.bias = nnx.Param(params["bias"])
    graph, state = nnx.split(model)

    for factor, verdicts in ((1.0, SAME), (0.5, (Verdict.DIFFERENT,))):

        def jax_loss(state, x, y, factor=factor):
            return jnp.mean((nnx.merge(graph, state)(x) * factor - y) ** 2)

        report = compare(_step(torch, module), JaxProgram(state, jax_loss, optax.adam(1e-2)), [(X, Y)])
        assert report.verdict in verdicts, str(report)


def test_params_wrapped_by_nnx(module, params):
    nnx = pytest.importorskip("flax.nnx")
    wrapped = {name: nnx.Param(each) for name, each in params.items()}

    def jax_loss(p, x, y):
        return theirs({name: each.get_value() for name, each in p.items()}, x, y)

    report = compare(TorchProgram(module, ours), JaxProgram(wrapped, jax_loss), [(X, Y)])
    assert report.verdict in SAME, str(report)
