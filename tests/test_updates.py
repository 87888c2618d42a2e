from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import InputError, InputTypeError, LinearParams, linear, loss, make_step, mse, sgd_update

RANDOM = np.random.default_rng(40)
X, Y = jnp.array([1.0, 2.0, 3.0]), jnp.array([5.0, 9.0, 13.0])


class Layer(NamedTuple):
    weight: jax.Array
    bias: jax.Array


def guess(shape=(1,), dtype=jnp.float32) -> Any:
    return LinearParams(jnp.full(shape, 2, dtype), jnp.full(shape, 6, dtype))


def shapes_and_dtypes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def same_bits(tree, other) -> bool:
    return jax.tree.structure(tree) == jax.tree.structure(other) and all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    )


def assert_same_in_float64(tree, other, scale: float = 1.0):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype == jnp.float64
        assert (np.abs(np.asarray(a) - np.asarray(b)) <= 1e-12 * scale).all()


# One pytree of each kind, with a loss that every leaf enters.
TREES = {
    "LinearParams": lambda: guess(),
    "scalars": lambda: guess(()),
    "one array": lambda: jnp.array([1.0, -2.0]),
    "nested dict": lambda: {"a": {"w": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}, "c": jnp.ones((2, 2))},
    "list of NamedTuples": lambda: [Layer(jnp.ones((2, 3)), jnp.zeros(3)), Layer(jnp.ones((3, 1)), jnp.zeros(1))],
    "tuple with None": lambda: (jnp.array(3.0), None, {"x": jnp.array([4.0])}),
}


def to_squares(params, target) -> Any:
    return sum(jnp.mean((leaf - target) ** 2) for leaf in jax.tree.leaves(params))


gradient = jax.jit(jax.grad(to_squares))


# The update by hand.

RATES = [
    0.1,
    1,
    np.float64(0.1),  # a Python float, too, which is not weak in JAX
    np.float32(0.1),
    np.array(0.1),
    np.int64(1),
    jnp.float32(0.1),
    jnp.bfloat16(0.1),
    jnp.float16(0.1),
]


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{type(rate).__name__} {getattr(rate, 'dtype', '')}")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_update_keeps_shapes_and_dtypes_whatever_the_rate_is(dtype, rate, strict_dtypes, x64):
    params = {"w": jnp.ones((3,), dtype), "b": jnp.ones((), dtype)}
    grads = jax.tree.map(lambda leaf: leaf / 4, params)
    updated = sgd_update(params, grads, rate)
    assert shapes_and_dtypes(updated) == shapes_and_dtypes(params)
    assert float(updated["b"]) == pytest.approx(1 - float(rate) / 4, rel=2.0**-7)  # two roundings of bfloat16


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "grad", [1.0, np.float64(1), np.ones(()), jnp.ones((), jnp.float32), jnp.ones((), jnp.bfloat16)]
)
def test_update_keeps_dtypes_whatever_the_gradients_have(grad, dtype, strict_dtypes, x64):
    updated = sgd_update({"w": jnp.ones((), dtype)}, {"w": grad}, 0.5)
    assert (updated["w"].dtype, updated["w"]) == (dtype, 0.5)


@pytest.mark.parametrize("name", TREES)
def test_update_is_params_minus_rate_times_grads_in_any_tree(name):
    params = TREES[name]()
    grads = gradient(params, 0.25)
    expected = jax.tree.map(lambda p, g: np.asarray(p) - np.float32(0.1) * np.asarray(g), params, grads)
    assert same_bits(sgd_update(params, grads, 0.1), expected)  # NumPy rounds twice, as op by op does


def test_update_has_torchs_bits_by_hand(torch):
    w, g = RANDOM.standard_normal((2, 1000)).astype(np.float32)
    theirs = torch.tensor(w) - 0.1 * torch.tensor(g)
    assert np.asarray(sgd_update(w, g, 0.1)).tobytes() == theirs.numpy().tobytes()


@pytest.mark.parametrize("name", TREES)
def test_update_is_optax_sgd(name, x64):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), TREES[name]())
    optimizer = optax.sgd(0.1)
    ours, theirs, state = params, params, optimizer.init(params)
    for _ in range(5):
        ours = sgd_update(ours, gradient(ours, 0.25), 0.1)
        updates, state = optimizer.update(gradient(theirs, 0.25), state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    assert_same_in_float64(ours, theirs, scale=10)


def test_compiled_update_is_the_same_mathematics(x64):
    params, grads = LinearParams(*RANDOM.standard_normal((2, 50))), LinearParams(*RANDOM.standard_normal((2, 50)))
    assert_same_in_float64(jax.jit(sgd_update)(params, grads, 0.1), sgd_update(params, grads, 0.1), scale=5)


def test_rate_may_change_without_compiling_again():
    compiled: Any = jax.jit(lambda params, grads, rate: sgd_update(params, grads, rate))  # a cache of its own
    params = guess()
    for rate in (0.1, 1e-3, 1e-5):
        updated = compiled(params, params, rate)
    assert compiled._cache_size() == 1
    assert updated.w[0] == np.float32(2) - np.float32(1e-5) * np.float32(2)


def test_vmap_over_rates_is_one_update_for_each():
    rates = jnp.array([0.1, 0.01, 0.001])
    together = jax.vmap(sgd_update, in_axes=(None, None, 0))(guess(), guess(), rates)
    assert together.w.shape == (3, 1)
    assert together.w[:, 0].tolist() == [sgd_update(guess(), guess(), rate).w.item() for rate in rates]


@pytest.mark.parametrize("derive", [jax.grad, jax.jacfwd, jax.jacrev])
def test_update_can_be_differentiated_by_its_rate(derive, x64):
    params, grads = LinearParams(2.0, 6.0), LinearParams(-1.5, 0.5)
    assert derive(lambda rate: sgd_update(params, grads, rate).w)(0.1) == 1.5  # minus the gradient, exactly


def test_update_is_a_scan_carry():
    def body(params, _):
        value, grads = jax.value_and_grad(loss)(params, X, Y)
        return sgd_update(params, grads, 0.1), value

    params, values = jax.lax.scan(body, guess(), length=50)
    assert isinstance(params, LinearParams)
    assert (jnp.diff(values) < 0).all()


def test_nothing_accumulates_and_the_input_is_left_alone():
    params, grads = guess(), guess()
    first, second = sgd_update(params, grads, 0.1), sgd_update(params, grads, 0.1)
    assert same_bits(first, second)
    assert same_bits(params, guess())


# What the update refuses.

WRONG_RATES = [
    (0, InputError, "learning_rate is 0, expected a positive and finite number. Pass one such as 0.1"),
    (-0.1, InputError, r"learning_rate is -0\.1, expected a positive and finite number"),
    (float("nan"), InputError, "learning_rate is nan, expected a positive and finite"),
    (float("inf"), InputError, "learning_rate is inf, expected a positive and finite"),
    (np.float32(0), InputError, r"learning_rate is np\.float32\(0\.0\), expected a positive and finite"),
    (np.array([0.1]), InputError, r"learning_rate is array\(\[0\.1\]\), expected one positive number"),
    ("0.1", InputTypeError, "learning_rate is '0.1', expected a positive number. Pass a float such as 0.1"),
    (True, InputTypeError, "learning_rate is True, expected a positive number"),
    (np.True_, InputTypeError, r"learning_rate is np\.True_, expected a positive number"),
    (0.1j, InputTypeError, r"learning_rate is 0\.1j, expected a positive number"),
    (np.complex64(0.1), InputTypeError, r"learning_rate is np\.complex64.*expected a positive number"),
    (np.array("0.1"), InputTypeError, r"learning_rate is array\('0\.1'.*expected a positive number"),
    ([0.1], InputTypeError, r"learning_rate is \[0\.1\], expected a positive number"),
    (lambda step: 0.1, InputTypeError, "learning_rate is <function .*expected a positive number"),
]


@pytest.mark.parametrize(("rate", "kind", "message"), WRONG_RATES)
def test_rate_is_refused_with_its_value(rate, kind, message):
    with pytest.raises(kind, match=f"sgd_update: {message}"):
        sgd_update(guess(), guess(), rate)
    with pytest.raises(kind, match=f"make_step: {message}"):
        make_step(loss, learning_rate=rate)


@pytest.mark.parametrize("rate", [jnp.array([0.1]), jnp.array([0.1, 0.2, 0.3])])
def test_rate_that_is_not_a_scalar_is_refused_under_tracing_too(rate):
    entries = guess(rate.shape)  # the shapes would broadcast without a word
    with pytest.raises(InputError, match=r"learning_rate is .*, expected one positive number"):
        jax.jit(sgd_update)(entries, entries, rate)


def test_all_differences_of_two_trees_are_listed_with_their_paths():
    params = {"a": {"w": X, "lost": X}, "b": [X, jnp.array(1.0)]}
    grads = {"a": {"w": X[:2], "new": X}, "b": [X, jnp.ones((2, 1))]}
    with pytest.raises(InputError) as refused:
        sgd_update(params, grads, 0.1)
    assert str(refused.value) == (
        "sgd_update: grads has no leaf ['a']['lost']; grads has a leaf ['a']['new'] that params lacks; "
        "grads['a']['w'] is f32[2], params['a']['w'] is f32[3]; grads['b'][1] is f32[2,1], params['b'][1] is f32[] "
        "(params has ['a']['lost'], ['a']['w'], ['b'][0], ['b'][1]). Differentiate with respect to the same tree."
    )


@pytest.mark.parametrize(
    ("params", "grads", "kind", "message"),
    [
        (guess(), (X[:1], X[:1]), InputError, r"grads has no leaf \.w; grads has no leaf \.b; grads has a leaf \[0\]"),
        ([X, X], (X, X), InputError, r"grads is PyTreeDef\(\(\*, \*\)\), params is PyTreeDef\(\[\*, \*\]\)"),
        ({"w": X}, {"w": "text"}, InputError, r"grads\['w'\] is str, params\['w'\] is f32\[3\]"),
        ({"w": X}, {}, InputError, r"grads has no leaf \['w'\] \(params has \['w'\]\)"),
        ({}, {}, InputError, "params has no leaves, expected at least one array. Pass the parameters"),
        (
            {"i": 1, "n": np.arange(2), "t": True, "c": 1j, "s": "text", "f": 1.0, "u": np.array(["text"])},
            {},
            InputTypeError,
            r"params\['c'\] is c64\[\]; params\['i'\] is i32\[\]; params\['n'\] is i32\[2\]; params\['s'\] is a str; "
            r"params\['t'\] is bool\[\]; params\['u'\] is str\d+\[1\]; expected floating arrays.*"
            r"Convert them: jax\.tree\.map\(lambda leaf: jnp\.asarray\(leaf, jnp\.float32\), params\)",
        ),
        ({"k": jax.random.key(0)}, {}, InputTypeError, r"params\['k'\] is key<fry>\[\]; expected floating"),
        (
            guess(),
            LinearParams(np.array([1]), np.array([1j])),
            InputTypeError,
            r"grads\.w is i32\[1\]; grads\.b is c64\[1\]; expected floating arrays.*jnp\.float32\), grads\)",
        ),
    ],
)
def test_trees_are_refused_by_leaf(params, grads, kind, message):
    with pytest.raises(kind, match=f"sgd_update: {message}"):
        sgd_update(params, grads, 0.1)


# The compiled step. By hand and with optimizers that need more and more.

OPTIMIZERS = {
    "by hand": None,
    "sgd": lambda: optax.sgd(0.05),
    "momentum": lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(0.05),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.05)),
    "lbfgs": lambda: optax.lbfgs(),  # its line search asks for the value, the gradient and the loss itself
}


def step_of(name, loss_=loss, params=None, **options) -> Any:
    if OPTIMIZERS[name] is None:
        return make_step(loss_, learning_rate=0.05, **options), None
    optimizer = OPTIMIZERS[name]()
    return make_step(loss_, optimizer, **options), optimizer.init(params)


@pytest.mark.parametrize(
    ("optimizer", "tree"), [(name, "scalars" if name == "lbfgs" else "list of NamedTuples") for name in OPTIMIZERS]
)
def test_step_descends_with_any_optimizer(optimizer, tree):
    params = TREES[tree]()
    step, state = step_of(optimizer, to_squares, params)
    seen, compiled, kinds = [], 0, (shapes_and_dtypes(params), shapes_and_dtypes(state))
    first = to_squares(params, 0.25)
    for _ in range(5):
        params, state, value = step(params, state, (0.25,))
        seen.append(float(value))
        compiled = step._cache_size() if len(seen) <= 2 else compiled  # optax.lbfgs().init makes weak types
        assert (shapes_and_dtypes(params), shapes_and_dtypes(state)) == kinds
    assert seen[0] == pytest.approx(float(first), rel=2.0**-18)  # before the update; some tens of roundings
    assert ((np.diff(seen) < 0) | (np.array(seen[1:]) == 0)).all()
    assert step._cache_size() == compiled


@pytest.mark.parametrize("tree", TREES)
def test_step_by_hand_takes_any_tree(tree, x64):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), TREES[tree]())
    stepped, state, value = make_step(to_squares, learning_rate=0.1)(params, None, (0.25,))
    expected = sgd_update(params, gradient(params, 0.25), 0.1)
    assert state is None
    assert_same_in_float64((stepped, value), (expected, jnp.asarray(to_squares(params, 0.25))), scale=50)


@pytest.mark.parametrize("optimizer", ["by hand", "sgd", "momentum", "adam", "chain"])
def test_second_call_compiles_nothing(optimizer):
    params = guess()
    step, state = step_of(optimizer, loss, params)
    for _ in range(3):
        params, state, _ = step(params, state, (X, Y))
        assert step._cache_size() == 1
    step(params, state, (X[:2], Y[:2]))
    assert step._cache_size() == 2  # the count does see a compilation


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("shape", [(), (1,), (3,)])
@pytest.mark.parametrize("optimizer", ["by hand", "sgd"])
def test_step_keeps_tree_shapes_and_dtypes(optimizer, shape, dtype, strict_dtypes, x64):
    params = guess(shape, dtype)
    step, state = step_of(optimizer, loss, params)
    stepped, _, value = jax.eval_shape(step, params, state, (X.astype(dtype), Y.astype(dtype)))
    assert isinstance(stepped, LinearParams)
    assert shapes_and_dtypes(stepped) == shapes_and_dtypes(params)
    assert (value.shape, value.dtype) == ((), dtype)


def test_step_by_hand_is_the_step_with_optax_sgd(x64):
    x, y = RANDOM.standard_normal((2, 20))
    by_hand = make_step(loss, learning_rate=0.05)
    by_optax, state = step_of("sgd", loss, guess((), jnp.float64))
    ours = theirs = guess((), jnp.float64)
    for _ in range(100):
        ours, _, our_loss = by_hand(ours, None, (x, y))
        theirs, state, their_loss = by_optax(theirs, state, (x, y))
        assert_same_in_float64((ours, our_loss), (theirs, their_loss), scale=40)


@pytest.mark.parametrize(
    ("optimizer", "torch_optimizer"),
    [
        ("by hand", lambda torch, params: torch.optim.SGD(params, lr=0.05)),
        ("momentum", lambda torch, params: torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True)),
        ("adam", lambda torch, params: torch.optim.Adam(params, lr=0.05)),
    ],
)
def test_steps_are_torchs_in_float64(optimizer, torch_optimizer, torch, x64):
    x, y = RANDOM.standard_normal((2, 20))
    params = guess((1,), jnp.float64)
    step, state = step_of(optimizer, loss, params)
    w, b = (torch.tensor([start], dtype=torch.float64, requires_grad=True) for start in (2.0, 6.0))
    theirs = torch_optimizer(torch, [w, b])
    x_, y_ = torch.tensor(x), torch.tensor(y)
    for _ in range(50):
        params, state, value = step(params, state, (x, y))
        theirs.zero_grad()
        their_loss = ((y_ - (w * x_ + b)) ** 2).mean()
        their_loss.backward()
        theirs.step()
        # The 50 steps contract: an error made is not enlarged, and at most 50 of them add up.
        assert abs(float(value) - their_loss.item()) <= 50 * 1e-12 * 40
        assert abs(params.w[0] - w.item()) <= 50 * 1e-12
        assert abs(params.b[0] - b.item()) <= 50 * 1e-12


def test_compiled_step_is_the_same_mathematics(x64):
    step = make_step(loss, learning_rate=0.1)
    params, x, y = guess((), jnp.float64), np.arange(3.0), np.ones(3)
    compiled = step(params, None, (x, y))
    with jax.disable_jit():
        by_operation = step(params, None, (x, y))
    assert_same_in_float64(compiled, by_operation, scale=100)


def test_step_under_vmap_and_scan():
    many = LinearParams(jnp.array([2.0, 3.0]), jnp.array([6.0, -1.0]))
    step = make_step(loss, learning_rate=0.1)
    together, _, values = jax.vmap(step, in_axes=(0, None, None))(many, None, (X, Y))
    assert (together.w.shape, values.shape) == ((2,), (2,))

    def body(params, _):
        params, _, value = step(params, None, (X, Y))
        return params, value

    end, losses = jax.lax.scan(body, guess(()), length=20)
    assert isinstance(end, LinearParams)
    assert (jnp.diff(losses) < 0).all()


def test_batch_is_spread_and_may_hold_trees():
    def both(params, points, truth, weight):
        return weight * mse(truth["y"], linear(params, points["x"]))

    _, _, value = make_step(both, learning_rate=0.1)(guess(), None, ({"x": X}, {"y": Y}, 2.0))
    assert value == pytest.approx(2 * float(loss(guess(), X, Y)), rel=2.0**-20)  # some ten roundings


def test_state_by_hand_is_passed_through():
    state = {"count": jnp.array(3)}
    _, found, _ = make_step(loss, learning_rate=0.1)(guess(), state, (X, Y))
    assert same_bits(found, state)


@pytest.mark.parametrize("optimizer", ["by hand", "momentum", "adam"])
def test_donated_arrays_are_given_away_and_others_are_not(optimizer):
    for donate in (False, True):
        params = guess()
        step, state = step_of(optimizer, loss, params, donate=donate)
        given = jax.tree.leaves((params, state))
        new, new_state, _ = step(params, state, (X, Y))
        assert [leaf.is_deleted() for leaf in given] == [donate] * len(given)
        assert not any(leaf.is_deleted() for leaf in (X, Y, *jax.tree.leaves((new, new_state))))
        if donate:
            with pytest.raises(RuntimeError, match="deleted"):
                np.asarray(params.w)
        else:
            assert same_bits(params, guess())


def test_donating_changes_no_bit():
    kept, given = make_step(loss, learning_rate=0.1), make_step(loss, learning_rate=0.1, donate=True)
    assert same_bits(kept(guess(), None, (X, Y)), given(guess(), None, (X, Y)))


def test_lbfgs_takes_a_donated_copy():
    params = guess()
    step, state = step_of("lbfgs", loss, params, donate=True)
    _, _, value = step(params, jax.tree.map(jnp.copy, state), (X, Y))
    assert float(value) == pytest.approx(11 / 3, rel=2.0**-20)
    assert params.w.is_deleted()


# What make_step refuses.


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (dict(loss=loss), InputError, "got neither of optimizer and learning_rate, expected exactly one"),
        (dict(loss=loss, optimizer=optax.sgd(0.1), learning_rate=0.1), InputError, "got both of.*optax.sgd"),
        (
            dict(loss=0.5, learning_rate=0.1),
            InputTypeError,
            r"loss is a float, expected a function loss\(params, \*batch",
        ),
        (dict(loss=loss, optimizer=optax.sgd), InputTypeError, r"optimizer is <function sgd.*Pass optax\.sgd\(0\.1\)"),
        (
            dict(loss=loss, optimizer=0.1),
            InputTypeError,
            r"optimizer is 0\.1, expected an optax GradientTransformation",
        ),
        (dict(loss=loss, optimizer="adam"), InputTypeError, "optimizer is 'adam', expected an optax"),
        (
            dict(loss=loss, optimizer=optax.GradientTransformation),
            InputTypeError,
            "optimizer is <class.*expected an optax",
        ),
    ],
)
def test_choice_is_refused_before_anything_runs(arguments, kind, message):
    with pytest.raises(kind, match=f"make_step: {message}"):
        make_step(**arguments)


@pytest.mark.parametrize(
    ("params", "batch", "kind", "message"),
    [
        (guess(), [X, Y], InputTypeError, r"batch is a list, expected a tuple.*Pass \(x, y\), or \(x,\) for one array"),
        (guess(), X, InputTypeError, r"batch is one array, f32\[3\], expected a tuple"),
        (guess(), {"x": X}, InputTypeError, "batch is a dict, expected a tuple"),
        (LinearParams(2, 6), (X, Y), InputTypeError, r"params\.w is i32\[\]; params\.b is i32\[\]; expected floating"),
        ({}, (X, Y), InputError, "params has no leaves"),
    ],
)
def test_step_refuses_what_it_cannot_differentiate(params, batch, kind, message):
    with pytest.raises(kind, match=f"make_step: {message}"):
        make_step(loss, learning_rate=0.1)(params, None, batch)


@pytest.mark.parametrize(
    ("wrong_loss", "kind", "message"),
    [
        (
            lambda p, x, y: (linear(p, x) - y) ** 2,
            InputError,
            r"returned f32\[3\], expected one.*Take its mean: jnp\.mean",
        ),
        (
            lambda p, x, y: loss(p, x, y).reshape(1),
            InputError,
            r"returned f32\[1\], expected one floating number f32\[\]",
        ),
        (lambda p, x, y: jnp.array(3), InputError, r"returned i32\[\], expected one floating number"),
        (lambda p, x, y: loss(p, x, y) + 0j, InputError, r"returned c64\[\], expected one floating number"),
        (
            lambda p, x, y: (loss(p, x, y), x),
            InputTypeError,
            "returned a tuple, expected a scalar.*Return the loss alone",
        ),
        (lambda p, x, y: None, InputTypeError, "returned a NoneType, expected a scalar"),
    ],
)
def test_loss_that_is_not_one_number_is_refused(wrong_loss, kind, message):
    with pytest.raises(kind, match=f"make_step: loss {message}"):
        make_step(wrong_loss, learning_rate=0.1)(guess(), None, (X, Y))


def test_errors_of_the_loss_arrive_as_they_are():
    with pytest.raises(InputError, match=r"mse: y is f32\[2\] and yhat is f32\[3\]"):
        make_step(loss, learning_rate=0.1)(guess(), None, (X, Y[:2]))
