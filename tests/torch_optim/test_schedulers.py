from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("torch", reason="needs torch, which is run live beside JAX")

import numpy as np
import optax
import torch
from support.optimizers import apart, freely, model, run_torch
from torch.optim import lr_scheduler as lr

from jaxgrad import InputError, optax_from_torch
from jaxgrad.torch_optim.rates import plateau_rates

STEPS = 300

SCHEDULERS = {
    "StepLR": lambda o: lr.StepLR(o, 7, gamma=0.9),
    "MultiStepLR": lambda o: lr.MultiStepLR(o, [3, 30, 30, 200], gamma=0.5),
    "ConstantLR": lambda o: lr.ConstantLR(o, factor=0.3, total_iters=11),
    "ConstantLR, never": lambda o: lr.ConstantLR(o, factor=0.3, total_iters=0),
    "LinearLR": lambda o: lr.LinearLR(o, 0.1, 0.7, total_iters=40),
    "ExponentialLR": lambda o: lr.ExponentialLR(o, 0.97),
    "PolynomialLR": lambda o: lr.PolynomialLR(o, total_iters=120, power=1.7),
    "CosineAnnealingLR": lambda o: lr.CosineAnnealingLR(o, 37, eta_min=1e-3),
    "CosineAnnealingLR, T_max 1": lambda o: lr.CosineAnnealingLR(o, 1),
    "CosineAnnealingWarmRestarts": lambda o: lr.CosineAnnealingWarmRestarts(o, 10, T_mult=2, eta_min=1e-4),
    "OneCycleLR": lambda o: lr.OneCycleLR(o, 0.4, total_steps=STEPS + 1, cycle_momentum=False),
    "OneCycleLR, three phases": lambda o: lr.OneCycleLR(
        o, 0.4, total_steps=STEPS + 1, three_phase=True, anneal_strategy="linear", cycle_momentum=False
    ),
    "CyclicLR": lambda o: lr.CyclicLR(o, 1e-3, 0.2, step_size_up=13, step_size_down=21, cycle_momentum=False),
    "CyclicLR, triangular2": lambda o: lr.CyclicLR(
        o, 1e-3, 0.2, step_size_up=13, mode="triangular2", cycle_momentum=False
    ),
    "CyclicLR, exp_range": lambda o: lr.CyclicLR(
        o, 1e-3, 0.2, step_size_up=13, mode="exp_range", gamma=0.99, cycle_momentum=False
    ),
    "LambdaLR": lambda o: lr.LambdaLR(o, lambda t: 0.95**t),
    "LambdaLR, traceable": lambda o: lr.LambdaLR(o, lambda t: jnp.exp(-0.01 * t)),
    "MultiplicativeLR": lambda o: lr.MultiplicativeLR(o, lambda t: 0.99),
    "SequentialLR": lambda o: lr.SequentialLR(
        o, [lr.LinearLR(o, 0.1, total_iters=20), lr.CosineAnnealingLR(o, 100), lr.ExponentialLR(o, 0.9)], [20, 150]
    ),
    "SequentialLR, settles": lambda o: lr.SequentialLR(
        o, [lr.ConstantLR(o, 0.1, total_iters=20), lr.MultiStepLR(o, [5, 50])], [20]
    ),
    "ChainedScheduler": lambda o: lr.ChainedScheduler(
        [lr.ConstantLR(o, 0.1, total_iters=20), lr.CosineAnnealingLR(o, 60, eta_min=1e-3), lr.ExponentialLR(o, 0.99)]
    ),
    "ChainedScheduler, settles": lambda o: lr.ChainedScheduler(
        [lr.LinearLR(o, 0.1, total_iters=20), lr.MultiStepLR(o, [50, 90])]
    ),
}


def _sgd(rate=0.1, **options):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], rate, **options)


def _torch_rates(optimizer, scheduler, steps, losses=None, every=1):
    found = []
    for t in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if (t + 1) % every == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if losses is None:
                    scheduler.step()
                else:
                    scheduler.step(float(np.mean(losses[t + 1 - every : t + 1])))
    return np.asarray(found)


def _optax_rates(transformation, steps, losses=None, state=None):
    transformation = optax.with_extra_args_support(transformation)
    params = jnp.zeros(1)

    def step(state, value):
        updates, state = transformation.update(jnp.ones(1), state, params, value=value)
        return state, -updates[0]

    state = transformation.init(params) if state is None else state
    _, rates = jax.lax.scan(step, state, jnp.zeros(steps) if losses is None else jnp.asarray(losses))
    return np.asarray(rates)


def _agree(ours, theirs, within=1e-15):
    np.testing.assert_allclose(ours, theirs, rtol=within, atol=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rates_are_torchs(name, x64):
    optimizer = _sgd()
    scheduler = SCHEDULERS[name](optimizer)
    ours = optax_from_torch(optimizer, scheduler, steps=STEPS + 1)
    _agree(_optax_rates(ours, STEPS), _torch_rates(optimizer, scheduler, STEPS))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_in_the_middle_of_its_way_goes_on_from_there(name, x64):
    optimizer = _sgd()
    scheduler = SCHEDULERS[name](optimizer)
    _torch_rates(optimizer, scheduler, 45)
    saved = scheduler.state_dict()
    again = _sgd()
    resumed = SCHEDULERS[name](again)
    resumed.load_state_dict(saved)
    again.load_state_dict(optimizer.state_dict())
    ours = optax_from_torch(again, resumed, steps=STEPS)
    _agree(_optax_rates(ours, 250), _torch_rates(optimizer, scheduler, 250))


@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR", "OneCycleLR", "SequentialLR"])
def test_the_scheduler_itself_is_not_moved(name):
    optimizer = _sgd()
    scheduler = SCHEDULERS[name](optimizer)
    before, rate = scheduler.state_dict().__repr__(), optimizer.param_groups[0]["lr"]
    optax_from_torch(optimizer, scheduler, steps=50)
    assert scheduler.state_dict().__repr__() == before
    assert optimizer.param_groups[0]["lr"] == rate


def test_stepped_once_an_epoch(x64):
    optimizer = _sgd()
    scheduler = lr.StepLR(optimizer, 2, gamma=0.5)
    ours = optax_from_torch(optimizer, scheduler, updates_per_step=5)
    _agree(_optax_rates(ours, 60), _torch_rates(optimizer, scheduler, 60, every=5))


def test_beyond_its_table_a_rate_is_not_a_number_rather_than_wrong(x64):
    optimizer = _sgd()
    rates = _optax_rates(optax_from_torch(optimizer, lr.ExponentialLR(optimizer, 0.9), steps=10), 20)
    assert np.isfinite(rates[:11]).all()
    assert np.isnan(rates[11:]).all()


def test_a_scheduler_that_settles_needs_no_number_of_steps(x64):
    optimizer = _sgd()
    scheduler = lr.MultiStepLR(optimizer, [3, 500])
    rates = _optax_rates(optax_from_torch(optimizer, scheduler, steps=2), 600)
    _agree(rates, _torch_rates(optimizer, scheduler, 600))


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Muon"])
@pytest.mark.parametrize("kind", ["OneCycleLR", "CyclicLR"])
def test_schedulers_that_cycle_the_momentum_too(name, kind, x64):
    module, loss = model("network", 3, torch.float64, matrices=name == "Muon")
    optimizer = getattr(torch.optim, name)(
        module.parameters(), 1e-3, **({"momentum": 0.9} if name in ("SGD", "RMSprop") else {})
    )
    if kind == "OneCycleLR":
        scheduler = lr.OneCycleLR(optimizer, 1e-2, total_steps=200)
    else:
        scheduler = lr.CyclicLR(optimizer, 1e-4, 1e-2, step_size_up=30)
    ours = optax_from_torch(optimizer, scheduler, steps=200)
    run = run_torch(module, loss, optimizer, scheduler, steps=150)
    # Muon rounds to bfloat16: single units of it differ, as without a scheduler.
    assert apart(freely(ours, run), run) <= (2e-2 if name == "Muon" else 1e-12)


# --- when improvement slows -------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
LOSSES = {
    "improving": 3 * 0.97 ** np.arange(STEPS),
    "flat": np.full(STEPS, 0.7),
    "noisy": 3 * 0.98 ** np.arange(STEPS) + 0.1 * RNG.random(STEPS),
    "NaN": np.where(RNG.random(STEPS) < 0.2, np.nan, 3 * 0.98 ** np.arange(STEPS)),
    "growing": np.arange(STEPS) + 1.0,
    "negative": -np.sqrt(np.arange(STEPS)),
    "infinite at first": np.where(np.arange(STEPS) < 4, np.inf, 1.0),
}
PLATEAUS = [
    {},
    {"patience": 0},
    {"patience": 3, "cooldown": 4, "factor": 0.5},
    {"patience": 2, "threshold": 0.05},
    {"patience": 2, "threshold": 0.05, "threshold_mode": "abs"},
    {"patience": 2, "mode": "max"},
    {"patience": 2, "mode": "max", "threshold_mode": "abs", "threshold": 0.0},
    {"patience": 1, "min_lr": 1e-3, "factor": 0.3},
    {"patience": 1, "eps": 1e-3, "factor": 0.3},
    {"patience": 0, "factor": 0.0},
]


@pytest.mark.parametrize("options", PLATEAUS, ids=str)
@pytest.mark.parametrize("losses", LOSSES)
def test_the_plateau_is_torchs(losses, options, x64):
    optimizer = _sgd()
    scheduler = lr.ReduceLROnPlateau(optimizer, **options)
    ours = optax_from_torch(optimizer, scheduler)
    _agree(_optax_rates(ours, STEPS, LOSSES[losses]), _torch_rates(optimizer, scheduler, STEPS, LOSSES[losses]))


def test_a_plateau_in_the_middle_goes_on_from_there(x64):
    optimizer = _sgd()
    scheduler = lr.ReduceLROnPlateau(optimizer, patience=4, cooldown=3, factor=0.5)
    losses = LOSSES["noisy"]
    _torch_rates(optimizer, scheduler, 101, losses[:101])
    ours = optax_from_torch(optimizer, scheduler)
    _agree(_optax_rates(ours, 199, losses[101:]), _torch_rates(optimizer, scheduler, 199, losses[101:]))


def test_a_plateau_stepped_once_an_epoch_sees_the_mean(x64):
    optimizer = _sgd()
    scheduler = lr.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    ours = optax_from_torch(optimizer, scheduler, updates_per_step=4)
    losses = np.tile([1.0, 2.0, 3.0, 2.0], 30)
    _agree(_optax_rates(ours, 120, losses), _torch_rates(optimizer, scheduler, 120, losses, every=4))


@pytest.mark.parametrize("name", ["SGD", "AdamW", "ASGD", "Adafactor", "Rprop"])
def test_a_plateau_drives_every_kind_of_optimizer(name, x64):
    module, loss = model("network", 5, torch.float64)
    optimizer = getattr(torch.optim, name)(module.parameters(), 1e-2)
    scheduler = lr.ReduceLROnPlateau(optimizer, patience=2, factor=0.5)
    ours = optax_from_torch(optimizer, scheduler)
    run = run_torch(module, loss, optimizer, scheduler)
    assert apart(freely(ours, run), run) <= 1e-12
    if name != "Rprop":
        assert optimizer.param_groups[0]["lr"] < 1e-2 / 4


def test_a_plateau_without_a_loss_says_what_to_pass():
    optimizer = _sgd()
    ours = optax_from_torch(optimizer, lr.ReduceLROnPlateau(optimizer))
    with pytest.raises(InputError, match=r"value=loss"):
        ours.update(jnp.ones(1), ours.init(jnp.ones(1)), jnp.ones(1))


def test_reductions_end_where_the_rate_stays():
    assert plateau_rates(1.0, 0.1, 0.05, 1e-8).tolist() == [1.0, 0.1, 0.05]
    assert plateau_rates(1.0, 0.5, 0.0, 0.3).tolist() == [1.0, 0.5]


def test_a_scheduler_of_another_optimizer_is_refused():
    with pytest.raises(InputError, match=r"belongs to another optimizer"):
        optax_from_torch(_sgd(), lr.StepLR(_sgd(), 3))
