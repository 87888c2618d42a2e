"""Checkpoints: what is restored is what was saved, bit for bit, and which ones are kept."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.checkpointing import RUN, all_bytes, bits, place, refusal, saved, state_of

from jaxgrad import InputError, InputTypeError, LinearParams, linear, mse
from jaxgrad.checkpoints import check_folder, newest, restore, save, store
from jaxgrad.errors import MissingExtraError

ocp = pytest.importorskip("orbax.checkpoint", reason="needs orbax-checkpoint, which writes the arrays")

RANDOM = np.random.default_rng(11)


class Layer(NamedTuple):
    weight: Any
    bias: Any


# What is restored is what was saved.

DTYPES = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64 complex64 complex128 "
    "int4 uint4 float8_e4m3fn float8_e5m2 float8_e4m3b11fnuz"
).split()


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["NumPy", "JAX"])
def test_random_bits_of_every_dtype_and_shape_come_back(kind, tmp_path, x64):
    state = {}
    for dtype in map(np.dtype, DTYPES):
        for shape in [(), (1,), (7,), (0,), (2, 0, 3), (3, 5), (2, 1, 4)]:
            random = RANDOM.integers(0, 256, (*shape, dtype.itemsize), np.uint8)
            if dtype.name in ("bool", "int4", "uint4"):  # a byte of theirs has few valid values
                random = RANDOM.integers(0, 2, (*shape, 1)).astype(np.uint8)
            state[f"{dtype.name}{shape}"] = kind(np.ascontiguousarray(random).view(dtype)[..., 0])
    save(tmp_path, state, step=0, run=RUN)
    restored, step = restore(tmp_path, {name: kind(np.zeros_like(state[name])) for name in state}, run=RUN)
    assert step == 0
    assert bits(restored) == bits(state)
    assert all(type(restored[name]) is type(state[name]) for name in state)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64])
def test_nan_payloads_signed_zeros_and_subnormals_come_back(dtype, tmp_path, x64):
    width = np.dtype(dtype).itemsize
    words = np.dtype(f"u{width}")
    nan = int(np.array(np.nan, dtype).view(words))
    special = [nan, nan | 1, nan | 5, nan | 1 << (8 * width - 1), 1 << (8 * width - 1), 0, 1, 1 << (8 * width - 1) | 1]
    state = {"host": np.array(special, words).view(dtype)}
    state["device"] = jnp.asarray(state["host"])
    save(tmp_path, state, step=1, run=RUN)
    restored, _ = restore(tmp_path, state, run=RUN)
    for leaf in restored.values():
        assert np.asarray(leaf).view(words).tolist() == special


def test_arrays_of_one_value_come_back(tmp_path):
    """Zarr leaves out what is all its fill value: a zero, whatever its sign?"""
    state = {f"{value}": np.full((3, 2), value) for value in (0.0, -0.0, np.nan, np.inf, -0j)}
    state["bf16"] = jnp.full(4, -0.0, jnp.bfloat16)
    state["false"] = np.zeros(3, bool)
    state["big"] = np.zeros((3000, 1000), np.float32)
    save(tmp_path, state, step=1, run=RUN)
    assert bits(restore(tmp_path, state, run=RUN)[0]) == bits(state)


def test_float64_is_kept_where_jax_would_cut_it(tmp_path):
    with jax.enable_x64(True):
        state = {"a": jnp.array([1 / 3]), "n": jnp.array(2**40 + 1)}
    assert not jax.config.jax_enable_x64
    save(tmp_path, state, step=1, run=RUN)
    assert bits(restore(tmp_path, state, run=RUN)[0]) == bits(state)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    assert bits(restore(tmp_path, abstract, run=RUN)[0]) == bits(state)


TREES = {
    "one array": lambda: jnp.arange(3.0),
    "one number": lambda: 3,
    "no entries": lambda: (jnp.zeros((0, 3)), np.zeros(0, np.int8), jnp.zeros(0, jnp.int4)),
    "weakly typed": lambda: (jnp.array(2.0) * 1, jax.lax.broadcast(jnp.array(-0.0), (3,)), jnp.array(3)),
    "numbers": lambda: [1, -2.5, True, 3 + 4j, np.float32(0.1), np.int64(7), np.bool_(False)],
    "NamedTuples in a list": lambda: [Layer(jnp.ones((2, 3)), jnp.zeros(3)), Layer(np.ones(2), 4.0)],
    "tuple with None": lambda: (jnp.array(3.0), None, {"x": jnp.array([4.0])}, ()),
    "odd keys": lambda: {"a/b": 1.0, "..": 2.0, "": 3.0, "é\n'": 4.0, "A": 5.0, "a": 6.0, "x" * 300: 7.0},
    "OrderedDict": lambda: OrderedDict(b=1.0, a=2.0),
    "other layouts": lambda: {
        "F": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "view": np.arange(20.0)[::3],
        "swapped": np.arange(3, dtype=">f4"),
    },
    "old-style key": lambda: jax.random.PRNGKey(3),
    "typed keys": lambda: (jax.random.key(1), jax.random.split(jax.random.key(2, impl="rbg"), 5)),
    "adam": lambda: optax.adam(0.1).init({"w": jnp.ones((2, 2)), "b": jnp.zeros(2)}),
    "masked and chained": lambda: optax.chain(
        optax.masked(optax.sgd(0.1, momentum=0.9), {"w": True, "b": False}), optax.clip(1.0), optax.lion(1e-3)
    ).init({"w": jnp.ones((2, 2)), "b": jnp.zeros(2)}),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=0.1).init(LinearParams(1.0, 2.0)),
}


@pytest.mark.parametrize("name", TREES)
def test_every_tree_comes_back_with_its_kinds(name, tmp_path):
    state = TREES[name]()
    save(tmp_path, state, step=12345678901, run=RUN)
    restored, step = restore(tmp_path, TREES[name](), run=RUN)
    assert step == newest(tmp_path) == 12345678901
    wanted = jax.tree.map(lambda leaf: leaf.astype("=f4") if getattr(leaf, "dtype", 0) == ">f4" else leaf, state)
    assert bits(restored) == bits(wanted)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert type(ours) is type(theirs)
        if isinstance(ours, jax.Array):
            assert (ours.committed, ours.sharding) == (theirs.committed, theirs.sharding)
            assert getattr(ours, "weak_type", None) == getattr(theirs, "weak_type", None)  # PRNG keys have none


def test_the_classes_are_those_of_like(tmp_path):
    class Other(NamedTuple):
        weight: Any
        bias: Any

    save(tmp_path, Layer(np.ones(2), np.zeros(3)), step=1, run=RUN)
    restored, _ = restore(tmp_path, Other(np.zeros(2), np.zeros(3)), run=RUN)
    assert type(restored) is Other
    assert restored.weight.tolist() == [1, 1]


def test_a_restored_state_compiles_nothing_again_and_can_be_donated(tmp_path):
    optimizer = optax.adam(0.1)
    x = jnp.array([1.0, 2.0, 3.0])

    @jax.jit
    def step(params, opt_state):
        grads = jax.grad(lambda params: mse(4 * x + 1, linear(params, x)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    params = LinearParams(jnp.array(2.0), jnp.array(6.0))  # weakly typed
    start = params, optimizer.init(params)
    once = step(*start)
    save(tmp_path, start, step=0, run=RUN)
    restored, _ = restore(tmp_path, start, run=RUN)
    compiled = step._cache_size()
    assert bits(step(*restored)) == bits(once)
    assert step._cache_size() == compiled
    donating = jax.jit(step, donate_argnums=(0, 1))
    save(tmp_path, once, step=1, run=RUN)
    again, _ = restore(tmp_path, once, run=RUN)
    assert bits(donating(*again)) == bits(step(*once))


def test_restored_arrays_of_numpy_can_be_written_and_are_nobody_elses(tmp_path):
    state = {"losses": np.zeros(4), "odd": np.zeros(3, jnp.int4)}
    save(tmp_path, state, step=1, run=RUN)
    restored, _ = restore(tmp_path, state, run=RUN)
    for name in state:
        restored[name][0] = 1
        assert state[name][0] == 0
    assert restore(tmp_path, state, run=RUN)[0]["losses"].tolist() == [0, 0, 0, 0]


def test_orbax_alone_can_read_the_arrays(tmp_path):
    save(tmp_path, {"w": jnp.arange(3.0)}, step=1, run=RUN)
    arrays = ocp.PyTreeCheckpointHandler(use_ocdbt=False).restore(place(tmp_path, 1) / "arrays")
    assert arrays["0"].tolist() == [0, 1, 2]


# Which ones are kept.


def test_the_newest_are_kept_and_any_of_them_can_be_asked_for(tmp_path):
    assert newest(tmp_path / "none") is None
    assert newest(tmp_path) is None
    saved(tmp_path, 0, 1, 10, keep=2)
    save(tmp_path, {"w": 1}, step=9_999_999_999, run=RUN, keep=2)
    assert newest(tmp_path) == 9_999_999_999
    assert sorted(os.listdir(tmp_path)) == ["step-00000010", "step-9999999999"]
    restored, step = restore(tmp_path, state_of(10), run=RUN, step=10)
    assert (step, bits(restored)) == (10, bits(state_of(10)))
    assert "holds no checkpoint of step 1, only of 10, 9999999999" in refusal(tmp_path, state_of(1), run=RUN, step=1)


def test_what_a_killed_process_left_is_ignored_and_removed_by_the_next_save(tmp_path):
    saved(tmp_path, 1, 2, 3)
    shutil.copytree(place(tmp_path, 3), tmp_path / "step-00000004.writing")
    place(tmp_path, 1).rename(tmp_path / "step-00000001.removing")
    (tmp_path / "step-00000005.writing" / "arrays" / "0.orbax-checkpoint-tmp").mkdir(parents=True)
    check_folder(tmp_path)
    assert newest(tmp_path) == 3
    assert restore(tmp_path, state_of(3), run=RUN)[1] == 3
    saved(tmp_path, 4)
    assert sorted(os.listdir(tmp_path)) == [place(tmp_path, step).name for step in (2, 3, 4)]


def test_the_old_ones_are_there_until_the_new_one_is_whole(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    before = all_bytes(tmp_path)
    seen = []
    write = store.files.write

    def watched(path, arrays, about):
        write(path, arrays, about)
        seen.append((newest(tmp_path), {name for name in all_bytes(tmp_path) if ".writing" not in name}))

    monkeypatch.setattr(store.files, "write", watched)
    saved(tmp_path, 2, keep=1)
    assert seen == [(1, set(before))]
    assert os.listdir(tmp_path) == ["step-00000002"]


def test_a_finished_checkpoint_is_never_overwritten(tmp_path):
    saved(tmp_path, 1, 2)
    before = all_bytes(tmp_path)
    saved(tmp_path, 2)  # the same again is no error
    with pytest.raises(InputError, match=r"holds a checkpoint of step 2 that is not this one.*remove .*step-00000002"):
        save(tmp_path, state_of(3), step=2, run=RUN)
    with pytest.raises(InputError, match="of step 2 that is not this one"):
        save(tmp_path, state_of(2), step=2, run={**RUN, "seed": 4})
    with pytest.raises(InputError, match=r"holds a checkpoint of step 2, which comes after step 1\. Remove .*00002"):
        save(tmp_path, state_of(1), step=1, run=RUN)
    assert all_bytes(tmp_path) == before


@pytest.mark.parametrize("keep", [1, 2])
def test_a_save_that_fails_leaves_all_as_it_was(keep, tmp_path, capfd):
    saved(tmp_path, 1, 2)
    before = all_bytes(tmp_path)
    big = {"w": RANDOM.standard_normal(100_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # as on a full disk, and as root too
    try:
        with pytest.raises(InputError, match=r"checkpoint of step 3 cannot be written to .*make room") as caught:
            save(tmp_path, big, step=3, run=RUN, keep=keep)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert all_bytes(tmp_path) == before
    assert len(os.listdir(tmp_path)) == 2
    assert "".join(capfd.readouterr()) == ""
    save(tmp_path, big, step=3, run=RUN)
    assert newest(tmp_path) == 3


# Arguments.


def test_leaves_that_cannot_be_saved_are_named(tmp_path):
    state = {"f": np.sin, "s": "text", "o": np.array([None]), "t": np.array(["a"]), "w": 1.0, "big": 2**70}
    state["m"] = np.ma.array([1.0])
    with pytest.raises(InputTypeError) as caught:
        save(tmp_path, state, step=1, run=RUN)
    for part in (
        "state['f'] is a ufunc",
        "state['m'] is a MaskedArray",
        "state['s'] is a str",
        "state['o'] is of dtype object",
        "state['t'] is of",
        "['big']",
    ):
        assert part in str(caught.value)
    assert "state['w']" not in str(caught.value)
    with pytest.raises(InputTypeError, match=r"save: state is a ShapeDtypeStruct of float32; expected arrays"):
        save(tmp_path, jax.ShapeDtypeStruct((), np.float32), step=1, run=RUN)
    with pytest.raises(InputTypeError, match=r"restore: like is a ShapeDtypeStruct of key<fry>; expected"):
        restore(tmp_path, jax.ShapeDtypeStruct((), jax.random.key(0).dtype), run=RUN)
    with pytest.raises(InputError, match="save: state has no leaves"):
        save(tmp_path, {"a": None}, step=1, run=RUN)
    donated = jnp.ones(3)
    jax.jit(lambda a: a + 1, donate_argnums=0)(donated)
    with pytest.raises(InputError, match=r"save: state\['a'\] was donated or deleted"):
        save(tmp_path, {"a": donated}, step=1, run=RUN)
    with pytest.raises(InputTypeError, match="save: state is traced by a transformation such as jit"):
        jax.jit(lambda a: save(tmp_path, a, step=1, run=RUN))(1.0)
    assert os.listdir(tmp_path) == []


@jax.tree_util.register_pytree_with_keys_class
class Twins:
    def __init__(self, *children):
        self.children = children

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("a"), child) for child in self.children], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_leaves_that_cannot_be_told_apart_are_refused(tmp_path):
    with pytest.raises(InputError, match="save: two leaves of state have the same path"):
        save(tmp_path, Twins(1.0, 2.0), step=1, run=RUN)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"step": -1}, InputError, "save: step is -1, expected 0 or more"),
        ({"step": True}, InputTypeError, "save: step is True, expected a whole number"),
        ({"step": 1.0}, InputTypeError, "save: step is 1.0, expected a whole number"),
        ({"keep": 0}, InputError, "save: keep is 0, expected 1 or more"),
        ({"run": None}, InputTypeError, "save: run is a NoneType, expected a dict"),
        ({"run": {"a": np.ones(3)}}, InputTypeError, "save: run holds 'a' .Object of type ndarray is not JSON"),
        ({"run": {1: 2}}, InputTypeError, "save: run holds 1, expected names"),
        ({"folder": 3}, InputTypeError, "save: folder is a int, expected a path"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(options, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        save(**{"folder": tmp_path, "state": 1.0, "step": 1, "run": RUN, **options})
    assert os.listdir(tmp_path) == []


def test_steps_of_numpy_are_steps(tmp_path):
    save(str(tmp_path), 1.0, step=np.int64(3), run=RUN, keep=np.int32(1))
    assert newest(str(tmp_path)) == 3
    assert restore(tmp_path, 0.0, run=RUN, step=np.int64(3)) == (1.0, 3)


def test_without_orbax_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax", None)
    for use in (lambda: check_folder(tmp_path), lambda: saved(tmp_path, 1), lambda: restore(tmp_path, 1.0, run=RUN)):
        with pytest.raises(MissingExtraError, match=r'needs orbax.*pip install "jaxgrad\[checkpoint\]"'):
            use()


# Manners.


def test_orbax_is_imported_on_use():
    code = "import sys, jaxgrad.checkpoints; sys.exit('orbax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_nothing_is_printed_and_no_thread_is_left(tmp_path, capfd):
    saved(tmp_path, 1)
    before = set(threading.enumerate())
    saved(tmp_path, 2)
    restore(tmp_path, state_of(2), run=RUN)
    until = time.monotonic() + 10
    while not set(threading.enumerate()) <= before:  # orbax's own may take a moment to end
        assert time.monotonic() < until, threading.enumerate()
        time.sleep(0.02)
    assert "".join(capfd.readouterr()) == ""


def test_it_works_inside_a_running_event_loop_as_in_a_notebook(tmp_path):
    async def cell():
        saved(tmp_path, 1)
        return restore(tmp_path, state_of(1), run=RUN)

    restored, _ = asyncio.run(cell())
    assert bits(restored) == bits(state_of(1))
