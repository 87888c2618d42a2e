from __future__ import annotations

import inspect
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import InputError, InputTypeError, optax_from_spec, optax_from_torch
from jaxgrad.torch_optim.specs import DEFAULTS, REFUSED, WITHOUT_MEANING


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_are_torchs(torch, name):
    given = inspect.signature(getattr(torch.optim, name)).parameters
    theirs = {key: each.default for key, each in given.items() if key not in ("params", *WITHOUT_MEANING)}
    assert theirs == {
        key: value for key, value in DEFAULTS[name].items() if (name, key) != ("AdamW", "decoupled_weight_decay")
    }


@pytest.mark.parametrize("name", [name for name in DEFAULTS])
def test_from_a_description_alone(name):
    params = {"w": jnp.ones((3, 4))}
    ours = optax_from_spec(name)
    updates, _ = ours.update({"w": jnp.full((3, 4), 0.5)}, ours.init(params), params)
    new = optax.apply_updates(params, updates)
    assert (new["w"] < 1).all()
    assert new["w"].dtype == jnp.float32


def test_what_has_no_meaning_in_jax_is_accepted(torch):
    module = torch.nn.Linear(2, 1)
    for options in ({"foreach": True}, {"fused": True}, {"differentiable": True}):
        optax_from_torch(torch.optim.Adam(module.parameters(), **options))
    assert optax_from_spec("AdamW", fused=True, capturable=True) is not None


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("Adams", {}, r"'Adams' is not translated. Expected one of SGD, Adam,"),
        ("LBFGS", {}, r"LBFGS is not translated: it evaluates the loss several times"),
        ("SparseAdam", {}, r"JAX's gradients are dense"),
        ("SGD", {"beta": 1}, r"SGD has no option 'beta' that is translated. Expected some of lr, momentum"),
        ("SGD", {"lr": -1}, r"SGD\(lr=-1\), expected at least 0"),
        ("SGD", {"lr": "fast"}, r"SGD\(lr='fast'\), expected at least 0"),
        ("SGD", {"lr": float("nan")}, r"not finite"),
        ("SGD", {"nesterov": True}, r"nesterov needs a momentum and no dampening"),
        ("SGD", {"nesterov": 1}, r"SGD\(nesterov=1\), expected True or False"),
        ("Adam", {"betas": (0.9, 1.0)}, r"two numbers of at least 0 and below 1"),
        ("Adam", {"betas": 0.9}, r"two numbers of at least 0 and below 1"),
        ("Adam", {"eps": -1e-8}, r"at least 0"),
        ("Rprop", {"etas": (1.2, 0.5)}, r"one between 0 and 1 and one above 1"),
        ("Muon", {"ns_steps": 2.5}, r"a whole number from 0 to 99"),
        ("Muon", {"adjust_lr_fn": "mine"}, r"None, 'original' or 'match_rms_adamw'"),
        ("Adafactor", {"eps": (None, -1)}, r"the first may be None"),
    ],
)
def test_what_is_not_translated_is_refused(name, options, says):
    with pytest.raises(InputError, match=says):
        optax_from_spec(name, **options)


def test_torch_refuses_what_is_refused_here(torch):
    for name in REFUSED:
        assert hasattr(torch.optim, name)
    module = torch.nn.Linear(2, 1)
    with pytest.raises(InputError, match=r"LBFGS is not translated"):
        optax_from_torch(torch.optim.LBFGS(module.parameters()))
    with pytest.raises(InputTypeError, match=r"expected a torch.optim.Optimizer"):
        optax_from_torch(module)

    class Mine(torch.optim.SGD):
        pass

    with pytest.raises(InputError, match=r"Mine is not one of torch.optim's own classes"):
        optax_from_torch(Mine(module.parameters()))


# --- as any optax transformation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", DEFAULTS)
def test_parameters_keep_their_dtype_under_jit_and_scan(name, dtype):
    params = {"w": jnp.ones((3, 4), dtype)}
    rate = 1.0 if name == "Adadelta" else 0.05  # enough to move a bfloat16 of one
    ours = optax_from_spec(name, lr=rate)

    def step(carry, _):
        params, state = carry
        grads = jax.tree.map(lambda p: (p * 0.5).astype(p.dtype), params)
        updates, state = ours.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (params, ours.init(params))
    (new, state), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, length=5))(start)
    assert new["w"].dtype == dtype
    assert np.isfinite(np.asarray(new["w"], np.float32)).all()
    assert (new["w"] != params["w"]).any()
    assert jax.tree.map(lambda leaf: leaf.dtype, state) == jax.tree.map(lambda leaf: leaf.dtype, start[1])


@pytest.mark.parametrize("name", DEFAULTS)
def test_vmap_over_runs(name):
    starts = jnp.linspace(0.5, 2.0, 3)[:, None, None] * jnp.ones((3, 3, 4))
    ours = optax_from_spec(name)

    def run(w):
        state = ours.init(w)
        for _ in range(3):
            updates, state = ours.update(w * 0.5, state, w)
            w = optax.apply_updates(w, updates)
        return w

    together, alone = jax.vmap(run)(starts), jnp.stack([run(w) for w in starts])
    np.testing.assert_allclose(together, alone, rtol=1e-2 if name == "Muon" else 1e-6)


def test_parameters_that_are_spread_over_devices():
    code = """
import jax, jax.numpy as jnp, numpy as np, optax
from jaxgrad.torch_optim.from_torch import optax_from_spec
from jaxgrad.torch_optim.specs import DEFAULTS
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(np.array(jax.devices()).reshape(4), ("rows",))
w = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
for name in DEFAULTS:
    ours = optax_from_spec(name, lr=0.1)
    step = jax.jit(lambda p, s: ours.update(p * 0.5, s, p))
    alone, _ = step(w, ours.init(w))
    spread = jax.device_put(w, NamedSharding(mesh, P("rows")))
    together, _ = step(spread, ours.init(spread))
    np.testing.assert_allclose(together, alone, rtol=1e-2 if name == "Muon" else 1e-5, err_msg=name)
    assert len(together.sharding.device_set) == 4, name
print("spread over", jax.device_count())
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **flags})
    assert done.stdout == "spread over 4\n", done.stderr


def test_it_composes_with_chain():
    ours = optax.chain(optax.clip_by_global_norm(1.0), optax_from_spec("ASGD", lr=0.1, lambd=0.1))
    params = jnp.ones(3)
    updates, _ = jax.jit(ours.update)(jnp.ones(3) * 10, ours.init(params), params)
    np.testing.assert_allclose(updates, -0.1 * 0.1 - 0.1 / np.sqrt(3), rtol=1e-5)


def test_what_needs_the_parameters_says_so():
    for name in ("ASGD", "Adafactor"):
        ours = optax_from_spec(name)
        with pytest.raises(ValueError, match=r"params is None"):
            ours.update(jnp.ones(3), ours.init(jnp.ones(3)))
    with pytest.raises(ValueError, match=r"params\['b'\] has shape \[3\], expected matrices"):
        optax_from_spec("Muon").init({"b": jnp.ones(3)})
