"""What cannot be trained is refused in one sentence, before any step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import InputError, InputTypeError, LinearParams, fit, loss

X = np.array([1.0, 2.0, 3.0], np.float32)
GOOD = {"loss": loss, "params": LinearParams(2.0, 6.0), "data": (X, 4 * X + 1), "optimizer": 0.1, "steps": 3}
OTHER = {"w": np.zeros(2, np.float32)}


def call(**options):
    given = {**GOOD, **options}
    return fit(given.pop("loss"), given.pop("params"), given.pop("data"), given.pop("optimizer"), **given)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"steps": 0}, InputError, "steps=0, expected 1 or more"),
        ({"steps": -2}, InputError, "steps=-2"),
        ({"steps": 2.5}, InputTypeError, "steps is 2.5, expected a whole number"),
        ({"steps": True}, InputTypeError, "steps is True"),
        ({"data": (X[:0], X[:0])}, InputError, "data has 0 rows"),
        ({"data": ()}, InputError, "data has no arrays"),
        ({"data": (X, X[:2])}, InputError, "differ in rows"),
        ({"data": (X, "price")}, InputTypeError, r"data\[1\] is str"),
        (
            {"data": (X, np.array([1.0, np.nan, 2.0]))},
            InputError,
            r"data\[1\] has 1 row with NaN or infinity, .* row 1: nan",
        ),
        ({"data": (np.array([np.inf, 1, -np.inf]), X)}, InputError, r"data\[0\] has 2 rows .* row 0: inf"),
        ({"batch_size": 4}, InputError, "batch_size=4, expected 1 to 3"),
        ({"batch_size": 0}, InputError, "batch_size=0"),
        ({"batch_size": 1.5}, InputTypeError, "batch_size is 1.5"),
        ({"batch_size": 2, "key": "seed"}, InputTypeError, "key is str, expected a random key"),
        ({"params": LinearParams(2, 6)}, InputTypeError, "params.w is i32"),
        ({"params": {}}, InputError, "params has no leaves"),
        ({"loss": 3}, InputTypeError, "loss is a int, expected a function"),
        (
            {"loss": lambda p, x, y: p.w * x + p.b * y},
            InputError,
            r"loss returned f32\[3\], expected one floating number",
        ),
        ({"loss": lambda p, x, y: (p.w * p.b, x)}, InputTypeError, "loss returned a tuple"),
        (
            {"loss": lambda p, x, y: p.w**2 + x[0]},
            InputError,
            "the loss does not use params.b, which would never change",
        ),
        ({"optimizer": "adam"}, InputTypeError, "optimizer is 'adam', expected an optax GradientTransformation"),
        ({"optimizer": -0.1}, InputError, "learning_rate is -0.1, expected a positive"),
        ({"optimizer": 0.1, "opt_state": (1,)}, InputError, "opt_state with a learning rate"),
        ({"optimizer": optax.adam(0.1), "opt_state": optax.adam(0.1).init(OTHER)}, InputError, "opt_state has no leaf"),
        (
            {"optimizer": optax.adam(0.1), "opt_state": optax.adam(0.1).init(LinearParams(jnp.ones(2), jnp.ones(())))},
            InputError,
            r"mu.w is f32\[2\]",
        ),
        ({"patience": 2}, InputError, "patience without validation"),
        ({"patience": -1, "validation": (X, X)}, InputError, "patience=-1"),
        ({"validation": X}, InputTypeError, "validation is a ndarray"),
        ({"validation": (X[:0], X[:0])}, InputError, "validation has 0 rows"),
        ({"validation": (X, np.full(3, np.nan))}, InputError, "validation.* has 3 rows with NaN"),
        ({"validate_every": 0, "validation": (X, X)}, InputError, "validate_every=0"),
        ({"min_improvement": -1}, InputError, "min_improvement=-1"),
        ({"chunk": 0}, InputError, "chunk=0"),
        ({"callbacks": 1}, InputTypeError, "callbacks is 1, expected functions of Progress"),
        ({"key": 1.5}, InputTypeError, "key is f"),
        ({"min_improvement": float("inf")}, InputError, "min_improvement=inf"),
        ({"checkpoint": ""}, InputError, "checkpoint is empty"),
        ({"data": (X, np.array(["a", None, 1], object))}, InputTypeError, r"data\[1\] is object, expected numbers"),
        ({"validation": ("a", "b")}, InputTypeError, r"validation\[0\] is str"),
        ({"callbacks": [3]}, InputTypeError, "a callback is"),
        ({"resume": True}, InputError, "resume=True without checkpoint"),
        ({"checkpoint_every": 5}, InputError, "checkpoint_every without checkpoint"),
        ({"mesh": 2}, InputTypeError, "mesh is a int, expected a jax.sharding.Mesh"),
    ],
)
def test_it_is_refused(options, kind, said):
    with pytest.raises(kind, match=said) as caught:
        call(**options)
    assert str(caught.value).startswith("fit")


def test_parameters_that_the_loss_does_not_use_can_be_allowed():
    def of_w(params, x, y):
        return jnp.mean((params.w * x - y) ** 2)

    found = call(loss=of_w, allow_unused=True)
    assert float(found.params.b) == 6.0
    assert float(found.params.w) != 2.0


def test_a_parameter_that_only_an_inner_jit_ignores_is_found():
    @jax.jit
    def inner(w, b):
        return 2 * w

    with pytest.raises(InputError, match=r"does not use params\.b"):
        call(loss=lambda p, x, y: jnp.mean((inner(p.w, p.b) * x - y) ** 2))


def test_a_loss_that_raises_raises_what_it_raised():
    def broken(params, x, y):
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        call(loss=broken)
