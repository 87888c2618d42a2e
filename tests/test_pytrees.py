from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad import InputError, InputTypeError, LinearParams
from jaxgrad.pytrees import check_floating, check_learning_rate, check_same_tree, dtype_of, leaves_by_path, short

X = np.zeros(3)


class Pair(NamedTuple):
    first: object
    second: object


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros((2, 3), np.float32), "f32[2,3]"),
        (jnp.zeros((), jnp.bfloat16), "bf16[]"),
        (np.zeros(1, np.float16), "f16[1]"),
        (np.zeros((0, 4), np.int8), "i8[0,4]"),
        (np.uint16(3), "u16[]"),
        (np.zeros(2, np.complex64), "c64[2]"),
        (np.zeros(2, bool), "bool[2]"),
        (jnp.zeros(2, jnp.float8_e4m3fn), "float8_e4m3fn[2]"),
        (jnp.zeros(2, jnp.int4), "i4[2]"),
        (2.0, "f32[]"),
        (2, "i32[]"),
        (True, "bool[]"),
        (1j, "c64[]"),
        (np.zeros(3), "f32[3]"),  # as JAX holds it
        (np.array(["text"]), "str128[1]"),
        (np.array([None]), "object[1]"),
        (jax.random.key(0), "key<fry>[]"),
        (jax.ShapeDtypeStruct((4,), jnp.float32), "f32[4]"),
        ("f4", "str"),  # no array, though NumPy reads it as the name of a dtype
        (None, "NoneType"),
        ([1.0, 2.0], "list"),
    ],
)
def test_short_form(value, expected):
    assert short(value) == expected


def test_short_form_of_doubles_is_what_jax_holds(x64):
    assert (short(np.zeros(3)), short(2.0), short(2)) == ("f64[3]", "f64[]", "i64[]")


def test_short_form_under_tracing():
    seen = []
    jax.eval_shape(lambda value: seen.append(short(value)), jnp.zeros((2, 3)))
    assert seen == ["f32[2,3]"]


def test_dtype_is_jaxs_where_it_has_one():
    assert (dtype_of(2.0), dtype_of(np.zeros(2))) == (jnp.float32, jnp.float32)
    assert dtype_of(np.array(["text"])) == np.dtype("U4")


def test_leaves_have_the_paths_of_jax():
    tree = {"layers": [Pair(1.0, (2.0, 3.0)), None], "last": LinearParams(4.0, 5.0)}
    assert leaves_by_path(tree) == {
        "['last'].w": 4.0,
        "['last'].b": 5.0,
        "['layers'][0].first": 1.0,
        "['layers'][0].second[0]": 2.0,
        "['layers'][0].second[1]": 3.0,
    }
    assert leaves_by_path(7.0) == {"": 7.0}
    assert leaves_by_path([]) == {}


@pytest.mark.parametrize(
    "tree", [1.0, np.float16(1), [jnp.zeros(2, jnp.bfloat16)], {"a": (np.zeros(2), None)}, LinearParams(2.0, 6.0)]
)
def test_floating_trees_pass_also_under_tracing(tree):
    check_floating("f", "tree", tree)
    jax.eval_shape(lambda traced: check_floating("f", "tree", traced), tree)


@pytest.mark.parametrize(
    ("tree", "kind", "message"),
    [
        ([], InputError, r"^f: tree has no leaves, expected at least one array\. Pass the parameters\.$"),
        (3, InputTypeError, r"^f: tree is i32\[\]; expected floating arrays"),
        (LinearParams(2, 6.0), InputTypeError, r"^f: tree\.w is i32\[\]; expected floating arrays, since a gradient"),
        ([1.0, "text", object()], InputTypeError, r"^f: tree\[1\] is a str; tree\[2\] is a object; expected"),
        (jax.eval_shape(lambda: jnp.zeros(2)), InputTypeError, "^f: tree is a ShapeDtypeStruct; expected"),
    ],
)
def test_every_leaf_that_is_not_floating_is_named(tree, kind, message):
    with pytest.raises(kind, match=message):
        check_floating("f", "tree", tree)


def test_repair_of_a_tree_that_is_not_floating_works():
    params = LinearParams(2, np.array([6]))
    with pytest.raises(InputTypeError) as refused:
        check_floating("f", "params", params)
    repair = str(refused.value).partition("Convert them: ")[2]
    check_floating("f", "params", eval(repair.rstrip("."), {"jax": jax, "jnp": jnp, "params": params}))


@pytest.mark.parametrize(
    "tree", [1.0, LinearParams(2.0, 6.0), {"a": [np.zeros(2), (np.zeros(()),)]}, [None, np.zeros((2, 2))]]
)
def test_equal_trees_pass_whatever_their_values_and_dtypes(tree):
    check_same_tree(
        "f", "ours", tree, "theirs", jax.tree.map(lambda leaf: jnp.ones(np.shape(leaf), int), tree), "Mend."
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({"a": 1.0}, {"b": 1.0}, "ours has no leaf ['b']; ours has a leaf ['a'] that theirs lacks (theirs has ['b'])"),
        (np.zeros(2), np.zeros(3), "ours is f32[2], theirs is f32[3] (theirs has one leaf)"),
        ({"a": 1.0}, 1.0, "ours is PyTreeDef({'a': *}), theirs is PyTreeDef(*) (theirs has one leaf)"),
        (1.0, {"a": 1.0}, "ours is PyTreeDef(*), theirs is PyTreeDef({'a': *}) (theirs has ['a'])"),
        ([1.0], [], "ours has a leaf [0] that theirs lacks (theirs has no leaves)"),
        (
            Pair(np.zeros(2), np.zeros((1,))),
            Pair(np.zeros((2, 1)), 0.0),
            "ours.first is f32[2], theirs.first is f32[2,1]; ours.second is f32[1], theirs.second is f32[] "
            "(theirs has .first, .second)",
        ),
        ([1.0, None], [1.0], "ours is PyTreeDef([*, None]), theirs is PyTreeDef([*]) (theirs has [0])"),
        ({"a": "text"}, {"a": X}, "ours['a'] is str, theirs['a'] is f32[3] (theirs has ['a'])"),
    ],
)
def test_all_differences_are_said_at_once(ours, theirs, message):
    with pytest.raises(InputError) as refused:
        check_same_tree("f", "ours", ours, "theirs", theirs, "Mend it.")
    assert str(refused.value) == f"f: {message}. Mend it."


@pytest.mark.parametrize("rate", [0.1, 1, np.float64(1e-5), np.float32(1), np.array(1), jnp.array(1e-3, jnp.bfloat16)])
def test_positive_rates_pass(rate):
    check_learning_rate("f", rate)
    jax.eval_shape(lambda traced: check_learning_rate("f", traced), rate)


def test_value_of_a_traced_rate_is_not_asked_for_but_its_kind_is():
    check = lambda traced: check_learning_rate("f", traced)  # noqa: E731
    jax.eval_shape(check, -1.0)
    with pytest.raises(InputError, match=r"f: learning_rate is .*float32\[2\].*expected one positive number"):
        jax.eval_shape(check, jnp.ones(2))
    with pytest.raises(InputTypeError, match=r"f: learning_rate is .*complex64.*expected a positive number"):
        jax.eval_shape(check, 1j)
