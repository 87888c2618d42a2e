"""Pytrees as people read them: leaf paths, short dtypes, and every difference between two trees."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError

_SHORT_KINDS = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}
_NUMBERS = (bool, int, float, complex)
_ARRAYS = (jax.Array, np.ndarray, np.generic, *_NUMBERS)


def short(value: Any) -> str:
    """The short form of an array's type: ``f32[3]``, ``bf16[]``, ``i32[2,3]``; of any other thing, its class.

    >>> short(np.zeros((2, 3), np.float32)), short("text")
    ('f32[2,3]', 'str')
    """
    if not (hasattr(value, "dtype") or isinstance(value, _NUMBERS)):
        return type(value).__name__
    name = dtype_of(value).name
    if (parts := re.fullmatch(r"([a-z]+)(\d+)", name)) and parts[1] in _SHORT_KINDS:
        name = _SHORT_KINDS[parts[1]] + parts[2]
    return f"{name}[{','.join(map(str, np.shape(value)))}]"


def dtype_of(value: Any) -> Any:
    """The dtype in which JAX holds a number or an array; NumPy's own where JAX has none, as for text.

    >>> dtype_of(np.array(["text"])).kind
    'U'
    """
    try:
        return jnp.result_type(value)
    except TypeError:
        return value.dtype


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their path, in JAX's notation.

    >>> leaves_by_path({"layer": [1.0, 2.0]})
    {"['layer'][0]": 1.0, "['layer'][1]": 2.0}
    """
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def check_floating(function: str, argument: str, tree: Any) -> None:
    """Refuse a tree with a leaf that cannot be differentiated, naming every such leaf.

    Args:
      function: the public function that was called, the start of the message.
      argument: the name of its argument.
      tree: any pytree; every leaf must be floating (complex is refused too).

    Raises:
      InputError: if the tree has no leaves.
      InputTypeError: if a leaf is not an array or number of floating dtype.
    """
    leaves = leaves_by_path(tree)
    if not leaves:
        raise InputError(f"{function}: {argument} has no leaves, expected at least one array. Pass the parameters.")
    wrong = []
    for path, leaf in leaves.items():
        if not isinstance(leaf, _ARRAYS):
            wrong.append(f"{argument}{path} is a {type(leaf).__name__}")
        elif not jnp.issubdtype(dtype_of(leaf), jnp.floating):
            wrong.append(f"{argument}{path} is {short(leaf)}")
    if wrong:
        repair = f"Convert them: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), {argument})."
        if any(callable(leaf) for leaf in leaves.values()):  # such as an activation
            repair = f"Pass the arrays alone; of an Equinox module, eqx.partition({argument}, eqx.is_inexact_array)[0]."
        raise InputTypeError(
            f"{function}: {'; '.join(wrong)}; expected floating arrays, since a gradient needs floats. {repair}"
        )


def check_same_tree(function: str, name: str, tree: Any, like_name: str, like: Any, repair: str) -> None:
    """Refuse two trees that do not have the same leaves with the same shapes; all differences are listed.

    Args:
      function: the public function that was called.
      name: the name of the argument under test.
      tree: its value.
      like_name: the name of the argument that it must resemble.
      like: its value.
      repair: the sentence that says what to do.

    Raises:
      InputError: with each leaf that is missing, extra or of another shape.
    """
    ours, theirs = leaves_by_path(tree), leaves_by_path(like)
    said = [f"{name} has no leaf {path}" for path in theirs if path not in ours]
    said += [f"{name} has a leaf {path} that {like_name} lacks" for path in ours if path not in theirs]
    said += [
        f"{name}{path} is {short(ours[path])}, {like_name}{path} is {short(theirs[path])}"
        for path in ours
        if path in theirs and np.shape(ours[path]) != np.shape(theirs[path])
    ]
    if ("" in ours) != ("" in theirs):  # one is a bare leaf, whose path is empty
        said = []
    if not said and jax.tree.structure(tree) != jax.tree.structure(like):
        said = [f"{name} is {jax.tree.structure(tree)}, {like_name} is {jax.tree.structure(like)}"]
    if said:
        has = ", ".join(path or "one leaf" for path in theirs) or "no leaves"
        raise InputError(f"{function}: {'; '.join(said)} ({like_name} has {has}). {repair}")


def check_learning_rate(function: str, learning_rate: Any) -> None:
    """Refuse a learning rate that is not positive and finite, where its value is known before the run.

    Args:
      function: the public function that was called.
      learning_rate: a number or a scalar array; under tracing all but its value is checked.

    Raises:
      InputError: if it is zero, negative, NaN or infinite, or not a scalar.
      InputTypeError: if it is not a real number.
    """
    given = f"{function}: learning_rate is {learning_rate!r}, expected"
    number = isinstance(learning_rate, (int, float, np.ndarray, np.generic, jax.Array))
    if not number or not any(jnp.issubdtype(dtype_of(learning_rate), kind) for kind in (jnp.floating, jnp.integer)):
        raise InputTypeError(f"{given} a positive number. Pass a float such as 0.1.")
    if np.shape(learning_rate) != ():
        raise InputError(f"{given} one positive number. Pass a float such as 0.1.")
    if isinstance(learning_rate, jax.core.Tracer):
        return
    if not (math.isfinite(float(learning_rate)) and float(learning_rate) > 0):
        raise InputError(f"{given} a positive and finite number. Pass one such as 0.1.")
