"""fit makes the steps of the loop written out: in JAX by make_step, in torch live."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import LinearParams, batches, fit, loss, make_step, torch_optim
from jaxgrad.torch_optim import optax_from_torch


def data(rows=40, features=3, seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, features)).astype(dtype)
    return x, (np.tanh(x @ random.standard_normal((features, 2))) + 0.1).astype(dtype)


def network(features=3, seed=1, dtype=np.float32):
    random = np.random.default_rng(seed)
    return {
        "hidden": [random.standard_normal((features, 8)).astype(dtype), np.zeros(8, dtype)],
        "out": [0.3 * random.standard_normal((8, 2)).astype(dtype), np.zeros(2, dtype)],
    }


def squared(params, x, y):
    (w1, b1), (w2, b2) = params["hidden"], params["out"]
    return jnp.mean((jnp.tanh(x @ w1 + b1[None]) @ w2 + b2[None] - y) ** 2)


def by_steps(params, optimizer, drawn, steps):
    step = make_step(
        squared, **({"learning_rate": optimizer} if isinstance(optimizer, float) else {"optimizer": optimizer})
    )
    opt_state = None if isinstance(optimizer, float) else optimizer.init(params)
    losses = []
    for number in range(steps):
        params, opt_state, value = step(params, opt_state, drawn(number))
        losses.append(float(value))
    return params, opt_state, losses


def assert_close(found, expected, rtol=2e-5):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol), found, expected)


OPTIMIZERS = {
    "by hand": lambda: 0.05,
    "sgd with momentum": lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adamw": lambda: optax.adamw(1e-2),
    "clipped": lambda: optax.chain(torch_optim.clip_grad_norm(0.1), optax.adam(1e-2)),
    "accumulated": lambda: torch_optim.accumulate(optax.sgd(0.05), 3),
    "line search": lambda: optax.lbfgs(memory_size=3),
    "lowered on plateau": lambda: torch_optim.reduce_on_plateau(
        optax.chain(optax.trace(0.5), torch_optim.scale_by_given_rate()),
        torch_optim.plateau_rates(0.1, 0.5, 0, 1e-8),
        patience=2,
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [None, 7])
def test_fit_makes_the_steps_of_the_loop_written_out(name, batch_size):
    if name == "line search" and batch_size:
        pytest.skip("a line search on changing batches amplifies rounding without bound")
    x, y = data()
    drawn = (lambda step: (x, y)) if batch_size is None else batches((x, y), batch_size, 5).at
    params, opt_state, losses = by_steps(network(), OPTIMIZERS[name](), drawn, 60)
    found = fit(squared, network(), (x, y), OPTIMIZERS[name](), steps=60, batch_size=batch_size, key=5)
    assert found.stopped == "finished"
    assert found.step == 60
    assert found.losses.shape == (60,)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)
    assert found.losses[-1] < found.losses[0]
    assert_close(found.params, params, 2e-4)
    assert jax.tree.structure(found.opt_state) == jax.tree.structure(opt_state)


def test_pieces_of_any_length_are_the_same_run():
    x, y = data()
    runs = [
        fit(squared, network(), (x, y), optax.adam(1e-2), steps=50, batch_size=6, chunk=chunk)
        for chunk in (1, 7, 50, 1000)
    ]
    for run in runs[1:]:
        assert np.array_equal(run.losses, runs[0].losses)
        jax.tree.map(np.testing.assert_array_equal, run.params, runs[0].params)


def test_what_was_given_is_not_changed():
    x, y = data()
    params = jax.tree.map(jnp.asarray, network())
    before = jax.tree.map(np.array, params)
    for donate in (False, True):
        fit(squared, params, (x, y), optax.adam(1e-2), steps=5, donate=donate)
        jax.tree.map(np.testing.assert_array_equal, params, before)


def test_donated_buffers_change_nothing():
    x, y = data()
    kept, given = (
        fit(
            squared,
            network(),
            (x, y),
            optax.adam(1e-2),
            steps=30,
            batch_size=8,
            chunk=7,
            donate=donate,
            validation=(x, y),
            validate_every=10,
        )
        for donate in (False, True)
    )
    assert np.array_equal(kept.losses, given.losses)
    jax.tree.map(np.testing.assert_array_equal, kept.params, given.params)
    jax.tree.map(np.testing.assert_array_equal, kept.best_params, given.best_params)


def test_numbers_of_python_and_other_dtypes_train():
    x = np.array([1.0, 2.0, 3.0])
    found = fit(loss, LinearParams(2.0, 6.0), (x, 4 * x + 1), 0.1, steps=1)
    assert found.params.w.dtype == found.losses.dtype == np.float32
    np.testing.assert_allclose([found.params.w, found.params.b, *found.losses], [1.8666667, 5.8, 3.6666667], rtol=1e-6)
    half = LinearParams(jnp.bfloat16(2), jnp.bfloat16(6))
    found = fit(loss, half, (jnp.bfloat16(x), jnp.bfloat16(4 * x + 1)), optax.adam(0.05), steps=40)
    assert found.params.w.dtype == jnp.bfloat16
    assert found.losses[-1] < found.losses[0]
    with jax.enable_x64(True):
        found = fit(loss, LinearParams(2.0, 6.0), (x, 4 * x + 1), optax.sgd(0.1), steps=3000)
        assert found.params.w.dtype == found.losses.dtype == np.float64
        np.testing.assert_allclose([found.params.w, found.params.b], [4, 1], rtol=1e-12)


def test_a_loss_and_an_optimizer_that_cannot_be_hashed_train():
    class Loss:
        __hash__ = None  # pyright: ignore[reportAssignmentType]

        def __call__(self, params, x, y):
            return loss(params, x, y)

    x = jnp.arange(3.0)
    assert fit(Loss(), LinearParams(2.0, 6.0), (x, 2 * x), 0.1, steps=3, validation=(x, x)).step == 3


def torch_network(torch, params):
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    with torch.no_grad():
        for layer, (w, b) in zip((module[0], module[2]), (params["hidden"], params["out"]), strict=True):
            layer.weight.copy_(torch.tensor(w.T))
            layer.bias.copy_(torch.tensor(b))
    return module


TORCH = {
    "SGD": ({"lr": 0.05, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}, None),
    "AdamW": ({"lr": 1e-2, "betas": (0.8, 0.95)}, ("StepLR", {"step_size": 10, "gamma": 0.5})),
    "RMSprop": ({"lr": 1e-3, "momentum": 0.5, "centered": True}, ("CosineAnnealingLR", {"T_max": 30})),
    "NAdam": ({"lr": 5e-3}, ("ReduceLROnPlateau", {"patience": 1, "factor": 0.3, "threshold": 0.3})),
}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("batch_size", [None, 9])
def test_fit_follows_torchs_loop_run_live(name, batch_size):
    torch = pytest.importorskip("torch")
    x, y = data(dtype=np.float64)
    params = network(dtype=np.float64)
    options, schedule = TORCH[name]
    module = torch_network(torch, params)
    optimizer = getattr(torch.optim, name)(module.parameters(), **options)
    scheduler = schedule and getattr(torch.optim.lr_scheduler, schedule[0])(optimizer, **schedule[1])
    with jax.enable_x64(True):
        translated = optax_from_torch(optimizer, scheduler)
        found = fit(squared, params, (x, y), translated, steps=60, batch_size=batch_size, key=3)
        drawn = batches((x, y), batch_size, 3) if batch_size else None
    losses, rates = [], []
    for number in range(60):
        one_x, one_y = map(torch.tensor, (x, y) if drawn is None else drawn.at(number))
        optimizer.zero_grad()
        value = torch.nn.functional.mse_loss(module(one_x), one_y)
        value.backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler:
            scheduler.step(*([value.detach()] if "Plateau" in schedule[0] else []))
        losses.append(value.item())
    np.testing.assert_allclose(found.losses, losses, rtol=1e-7)
    np.testing.assert_allclose(found.learning_rates, rates, rtol=1e-12)
    np.testing.assert_allclose(found.params["hidden"][0], module[0].weight.detach().numpy().T, rtol=1e-6)
    assert len(set(rates)) > 1 or schedule is None


class Scaled:
    """A loss that can be changed between two calls."""

    factor = 1.0

    def loss(self, params, x, y):
        return self.factor * loss(params, x, y)

    __call__ = loss


FACTOR = 1.0


def by_global(params, x, y):
    return (lambda: FACTOR)() * loss(params, x, y)


def test_a_loss_that_was_changed_is_compiled_again(monkeypatch):
    x = jnp.arange(3.0)

    def first(given):
        return float(fit(given, LinearParams(2.0, 6.0), (x, 2 * x), 0.01, steps=1).losses[0])

    scaled, box = Scaled(), [1.0]

    def by_list(params, x, y):
        return box[0] * loss(params, x, y)

    before = [first(scaled.loss), first(scaled), first(by_global), first(by_list)]
    scaled.factor = box[0] = 5.0
    monkeypatch.setitem(globals(), "FACTOR", 5.0)
    after = [first(scaled.loss), first(scaled), first(by_global), first(by_list)]
    np.testing.assert_allclose(after, 5 * np.array(before), rtol=1e-6)


def test_an_optimizer_with_a_random_key_trains():
    x = jnp.arange(3.0)
    noisy = optax.chain(optax.add_noise(0.1, 0.5, key=jax.random.key(1)), optax.sgd(0.1))
    for donate in (False, True):
        found = fit(loss, LinearParams(2.0, 6.0), (x, 2 * x), noisy, steps=5, donate=donate)
        assert found.losses[-1] < found.losses[0]
