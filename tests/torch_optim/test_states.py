from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("torch", reason="needs torch, which is run live beside JAX")

import numpy as np
import optax
import torch
from support.optimizers import OPTIONS, Run, apart, drawn, freely, model, run_torch
from torch.optim import lr_scheduler as lr

from jaxgrad import InputError, optax_from_torch, optax_state_from_torch, torch_state_from_optax

STEPS = 40


def _rest(run: Run, first: int) -> Run:
    return Run(run.params[first:], run.grads[first:], run.losses[first:])


def _seed(name):
    return next(seed for seed in range(100) if not drawn(name, seed).get("maximize"))


@pytest.mark.parametrize("name", OPTIONS)
def test_training_that_stopped_in_torch_goes_on_in_jax(name, x64):
    module, loss = model("network", 1, torch.float64, matrices=name == "Muon")
    optimizer = getattr(torch.optim, name)(module.parameters(), **drawn(name, _seed(name)))
    run_torch(module, loss, optimizer, steps=STEPS)
    params = [jnp.asarray(p.detach().numpy().copy()) for p in module.parameters()]
    ours = optax_from_torch(optimizer)
    state = optax_state_from_torch(optimizer, ours, params)
    run = run_torch(module, loss, optimizer, steps=STEPS)
    assert apart(freely(ours, run, state), run) <= (2e-2 if name == "Muon" else 1e-12)
    # Without the state it is another run, or the test shows nothing.
    options = drawn(name, _seed(name))
    stateless = name == "ASGD" or options.get("momentum", options.get("lr")) == 0
    if not stateless:
        assert apart(freely(ours, run), run) > 1e-9


@pytest.mark.parametrize("name", OPTIONS)
def test_training_that_stopped_in_jax_goes_on_in_torch(name, x64):
    module, loss = model("network", 1, torch.float64, matrices=name == "Muon")
    options = drawn(name, _seed(name))
    optimizer = getattr(torch.optim, name)(module.parameters(), **options)
    ours = optax_from_torch(optimizer)
    run_torch(module, loss, optimizer, steps=3)
    params = [jnp.asarray(p.detach().numpy().copy()) for p in module.parameters()]
    state = optax_state_from_torch(optimizer, ours, params)
    start = [p.detach().clone() for p in module.parameters()]
    run = run_torch(module, loss, optimizer, steps=STEPS)

    for grads in run.grads:
        updates, state = ours.update([jnp.asarray(g) for g in grads], state, params)
        params = optax.apply_updates(params, updates)
    other = [torch.nn.Parameter(torch.tensor(np.asarray(p))) for p in params]
    again = getattr(torch.optim, name)(other, **options)
    again.load_state_dict(torch_state_from_optax(state, again, params).optimizer)
    for p, s in zip(module.parameters(), start, strict=True):
        assert not torch.equal(p, s)
    after = run_torch(module, loss, optimizer, steps=STEPS)
    for grads in after.grads:
        for p, g in zip(other, grads, strict=True):
            p.grad = torch.tensor(g)
        again.step()
    for p, q in zip(other, module.parameters(), strict=True):
        difference = (p - q).abs().max() / q.abs().max()
        assert difference <= (2e-2 if name == "Muon" else 1e-11)


SCHEDULERS = {
    "StepLR": lambda o: lr.StepLR(o, 7, gamma=0.9),
    "CosineAnnealingLR": lambda o: lr.CosineAnnealingLR(o, 37, eta_min=1e-3),
    "SequentialLR": lambda o: lr.SequentialLR(o, [lr.LinearLR(o, 0.1, total_iters=9), lr.ExponentialLR(o, 0.9)], [9]),
    "ReduceLROnPlateau": lambda o: lr.ReduceLROnPlateau(o, patience=1, factor=0.5, cooldown=2),
    "OneCycleLR": lambda o: lr.OneCycleLR(o, 1e-2, total_steps=200),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_scheduler_goes_on_in_torch_where_jax_left_it(name, x64):
    module, loss = model("network", 1, torch.float64)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    scheduler = SCHEDULERS[name](optimizer)
    ours = optax.with_extra_args_support(optax_from_torch(optimizer, scheduler))
    params = [jnp.asarray(p.detach().numpy().copy()) for p in module.parameters()]
    state = ours.init(params)
    fresh, _ = model("network", 1, torch.float64)
    stand_in = torch.optim.AdamW(fresh.parameters(), 1e-2)
    before = SCHEDULERS[name](stand_in)

    run = run_torch(module, loss, optimizer, scheduler, steps=STEPS)
    for grads, value in zip(run.grads, run.losses, strict=True):
        updates, state = ours.update([jnp.asarray(g) for g in grads], state, params, value=value)
        params = optax.apply_updates(params, updates)
    with torch.no_grad():
        for p, new in zip(fresh.parameters(), params, strict=True):
            p.copy_(torch.tensor(np.asarray(new)))
    found = torch_state_from_optax(state, stand_in, params, before)
    stand_in.load_state_dict(found.optimizer)
    before.load_state_dict(found.scheduler)
    assert stand_in.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert stand_in.param_groups[0]["betas"] == optimizer.param_groups[0]["betas"]
    for value in np.linspace(1, 3, 20):
        for each in (scheduler, before):
            each.step(value) if name == "ReduceLROnPlateau" else each.step()
        assert stand_in.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert before.last_epoch == scheduler.last_epoch


# --- pytrees, layouts, groups -----------------------------------------------------------------------------------------


class Layer(NamedTuple):
    kernel: Any
    bias: Any


def _network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2))


def _trees(module):
    arrays = {name: jnp.asarray(p.detach().numpy().copy()) for name, p in module.named_parameters()}
    first, second = (Layer(arrays[f"{i}.weight"].T, arrays[f"{i}.bias"]) for i in "02")
    return {
        "flat dict": arrays,
        "named tuples, transposed": {"body": first, "head": second},
        "list": [second.bias, first.kernel, (second.kernel, {"b": first.bias})],
    }


@pytest.mark.parametrize("kind", ["flat dict", "named tuples, transposed", "list"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "Adafactor"])
def test_groups_and_states_find_their_leaves_in_any_tree_and_layout(kind, name):
    module = _network()
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(torch.optim, name)(
        [
            {"params": [module[0].weight, module[2].weight], "weight_decay": 0.1},
            {"params": [module[2].bias], "lr": 1e-3},
            {"params": [module[0].bias]},
        ],
        1e-2,
        **options,
    )
    loss = _quadratic(module)
    _step(module, optimizer, loss)
    tree = _trees(module)[kind]
    ours = optax_from_torch(optimizer, params=tree)
    state = optax_state_from_torch(optimizer, ours, tree)
    before = {p: p.detach().clone() for p in module.parameters()}
    grads = _step(module, optimizer, loss)
    mine = _like(tree, before, grads)
    updates, _ = jax.jit(ours.update)(mine, state, tree)
    new = optax.apply_updates(tree, updates)
    theirs = _like(tree, before, {p: p.detach() for p in module.parameters()})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-9), new, theirs)


def _quadratic(module):
    x = torch.tensor(np.random.default_rng(0).normal(size=(6, 5)), dtype=torch.float32)
    return lambda: (module(x) ** 2).mean()


def _step(module, optimizer, loss):
    optimizer.zero_grad()
    loss().backward()
    grads = {p: p.grad.clone() for p in module.parameters()}
    optimizer.step()
    return grads


def _like(tree, before, values):
    """A tree like another, with other values of the same parameters."""

    def leaf(old):
        for p, was in before.items():
            for turn in (lambda a: a, lambda a: a.T):
                if turn(was.numpy()).shape == old.shape and np.array_equal(turn(was.numpy()), old):
                    return jnp.asarray(turn(values[p].numpy().copy()))
        raise AssertionError("no such parameter")

    return jax.tree.map(leaf, tree)


def test_groups_need_the_parameters_or_labels():
    module = _network()
    optimizer = torch.optim.SGD([{"params": [module[0].weight]}, {"params": [module[0].bias], "lr": 1.0}], 0.1)
    with pytest.raises(InputError, match=r"groups differ.*params=.*labels="):
        optax_from_torch(optimizer)
    params = {"w": jnp.zeros((7, 5)), "b": jnp.zeros(7)}
    ours = optax_from_torch(optimizer, labels={"w": 0, "b": 1})
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = ours.update(ones, ours.init(params), params)
    assert float(updates["w"][0, 0]) == pytest.approx(-0.1)
    assert float(updates["b"][0]) == -1.0


def test_groups_that_do_not_differ_need_nothing():
    module = _network()
    optimizer = torch.optim.SGD([{"params": [p]} for p in module.parameters()], 0.1)
    assert optax_from_torch(optimizer).init({"any": jnp.zeros(3)}) is not None


def test_equal_leaves_in_different_groups_are_told_apart_by_name_or_refused():
    module = _network()
    torch.nn.init.zeros_(module[0].bias)
    module.register_parameter("other", torch.nn.Parameter(torch.zeros(7)))
    named = dict(module.named_parameters())
    groups = [
        {"params": [(n, p) for n, p in named.items() if n != "other"]},
        {"params": [("other", named["other"])], "lr": 1.0},
    ]
    params = {name: jnp.asarray(p.detach().numpy().copy()) for name, p in named.items()}
    ours = optax_from_torch(torch.optim.SGD(groups, 0.1), params=params)
    updates, _ = ours.update(jax.tree.map(jnp.ones_like, params), ours.init(params), params)
    assert float(updates["other"][0]) == -1.0
    assert float(updates["0.bias"][0]) == pytest.approx(-0.1)

    nameless = [
        {"params": [p for n, p in named.items() if n != "other"]},
        {"params": [named["other"]], "lr": 1.0},
    ]
    with pytest.raises(InputError, match=r"different groups.*labels="):
        optax_from_torch(torch.optim.SGD(nameless, 0.1), params=params)


def test_parameters_with_other_numbers_are_refused():
    module = _network()
    optimizer = torch.optim.Adam([{"params": [module[0].weight]}, {"params": [module[0].bias], "lr": 1.0}])
    with pytest.raises(InputError, match=r"params\['w'\] \[7, 5\] has the entries of no parameter"):
        optax_from_torch(optimizer, params={"w": jnp.ones((7, 5)), "b": jnp.asarray(module[0].bias.detach().numpy())})


def test_a_fresh_optimizer_has_a_fresh_state():
    module = _network()
    optimizer = torch.optim.Adam(module.parameters())
    params = _trees(module)["flat dict"]
    ours = optax_from_torch(optimizer)
    state = optax_state_from_torch(optimizer, ours, params)
    jax.tree.map(np.testing.assert_array_equal, state, ours.init(params))


def test_a_frozen_dict_and_an_equinox_module_are_trees_as_any():
    flax = pytest.importorskip("flax", reason="needs the extra ports")
    eqx = pytest.importorskip("equinox", reason="needs the extra ports")
    module = _network()
    arrays = {name: jnp.asarray(p.detach().numpy().copy()) for name, p in module.named_parameters()}
    model = eqx.nn.MLP(5, 2, 7, 1, key=jax.random.key(0))
    for number, name in enumerate("02"):
        parts = (arrays[f"{name}.weight"], arrays[f"{name}.bias"])
        model = eqx.tree_at(lambda m, n=number: (m.layers[n].weight, m.layers[n].bias), model, parts)
    frozen = flax.core.freeze({"a": {"kernel": arrays["0.weight"].T, "bias": arrays["0.bias"]}})
    optimizer = torch.optim.AdamW(
        [
            {"params": [module[0].weight, module[2].weight], "weight_decay": 0.1},
            {"params": [module[0].bias, module[2].bias], "weight_decay": 0.0},
        ],
        1e-2,
    )
    _step(module, optimizer, _quadratic(module))
    for tree in (eqx.filter(model, eqx.is_array), frozen):
        stale = jax.tree.map(lambda leaf: leaf, tree)
        named = {name: jnp.asarray(p.detach().numpy().copy()) for name, p in module.named_parameters()}
        now = _replaced(stale, arrays, named)
        ours = optax_from_torch(optimizer, params=now)
        state = optax_state_from_torch(optimizer, ours, now)
        updates, _ = ours.update(jax.tree.map(jnp.zeros_like, now), state, now)
        moved = optax.apply_updates(now, updates)
        assert jax.tree.structure(moved) == jax.tree.structure(tree)
        assert all((a != b).any() for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(now), strict=True))


def _replaced(tree, before, after):
    def leaf(old):
        for name, was in before.items():
            for turn in (lambda a: a, lambda a: a.T):
                if turn(was).shape == old.shape and (turn(was) == old).all():
                    return turn(after[name])
        raise AssertionError("no such parameter")

    return jax.tree.map(leaf, tree)
