"""Checkpoints of processes: one that is killed at any moment, and several that share a state."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import endless_run
from support.checkpointing import bits

from jaxgrad.checkpoints import newest, restore

pytest.importorskip("orbax.checkpoint", reason="needs orbax-checkpoint, which writes the arrays")

KILLS = int(os.environ.get("JAXGRAD_KILLS", "3"))  # a longer test: JAXGRAD_KILLS=50


def run_of(folder: Path, last: int) -> subprocess.Popen[str]:
    """A process that goes on with the run until a step, or until it is killed."""
    command = [sys.executable, "-W", "error", endless_run.__file__, str(folder), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_run_killed_at_random_moments_always_resumes_and_ends_as_if_never_killed(tmp_path):
    folder, seed = tmp_path / "run", time.time_ns()
    moments = random.Random(seed)
    never_killed = [endless_run.start()]
    ends, halves, in_a_save = [0], set(), 0
    for life in range(KILLS):
        child = run_of(folder, 10**9)
        assert child.stdout is not None
        # As the process starts, restores, compiles, steps or saves; the first life gets somewhere.
        for _ in range(moments.randint(0 if life else 4, 8)):
            child.stdout.readline()
        time.sleep(moments.uniform(0, 0.05))
        child.kill()
        _, errors = child.communicate()
        assert (child.returncode, errors) == (-signal.SIGKILL, "")
        before, halves = halves, {name for name in os.listdir(folder) if name.endswith((".writing", ".removing"))}
        in_a_save += bool(halves - before)
        ends.append(newest(folder) or 0)
        assert ends[-1] >= ends[-2]
        while len(never_killed) <= ends[-1] + 5:
            never_killed.append(endless_run.step(never_killed[-1]))
        if ends[-1]:
            found, _ = restore(folder, endless_run.start(), run=endless_run.RUN)
            assert bits(found) == bits(never_killed[ends[-1]])
    assert ends[-1] >= 3
    last = ends[-1] + 5
    child = run_of(folder, last)
    assert (child.communicate()[1], child.returncode) == ("", 0)
    found, step = restore(folder, endless_run.start(), run=endless_run.RUN)
    assert step == last
    assert bits(found) == bits(never_killed[last])
    assert sorted(os.listdir(folder)) == [f"step-{step:08d}" for step in (last - 1, last)]
    print(f"{KILLS} kills (seed {seed}), at least {in_a_save} during a save; newest after each: {ends[1:]}")


# Several devices, several processes.

CHILD = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
processes, index, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={8 // processes}"
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", processes, index)
from jaxgrad import InputError
from jaxgrad.checkpoints import check_folder, newest, restore, save

words = np.random.default_rng(0).integers(0, 2**32, (8, 6), dtype=np.uint64).astype(np.uint32)
words[0, :4] = 0x80000000, 0x7FC01234, 0xFF800001, 1  # -0.0, NaNs with payloads, a subnormal
full = words.view(np.float32)
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
layouts = {"rows": P(("a", "b")), "blocks": P("a", "b"), "half": P(None, "b"), "copies": P()}

def spread(values, spec):
    return jax.make_array_from_callback(values.shape, NamedSharding(mesh, spec), lambda index: values[index])

state = {name: spread(full, spec) for name, spec in layouts.items()}
state["keys"] = jax.random.wrap_key_data(spread(words[:, :2], P("a")))
state["own"] = np.arange(3) + 10 * index
state["here"] = jnp.arange(3) + 10 * index
state["empty"] = np.zeros((0, 2))
# Only the first process sees the folder.
folder = folder if index == 0 else folder + ".elsewhere"
check_folder(folder, resume=False)
assert newest(folder) is None
for step in (1, 2, 3, 4):
    save(folder, state, step=step, run={"n": 1}, keep=2)
assert newest(folder) == 4
assert os.path.exists(folder) == (index == 0)
like = jax.tree.map(lambda leaf: leaf, state)
restored, step = restore(folder, like, run={"n": 1})
assert step == 4
for name in layouts:
    assert restored[name].sharding == state[name].sharding, name
    for shard in restored[name].addressable_shards:
        assert np.asarray(shard.data).tobytes() == full[shard.index].tobytes(), name
assert restored["keys"].sharding == state["keys"].sharding
for shard in jax.random.key_data(restored["keys"]).addressable_shards:
    assert np.asarray(shard.data).tobytes() == words[:, :2][shard.index].tobytes()
assert restored["own"].tolist() == restored["here"].tolist() == [0, 1, 2]
assert restored["here"].sharding == state["here"].sharding

# Onto another layout than it was saved from.
like["rows"] = spread(full, P("b"))
assert restore(folder, like, run={"n": 1})[0]["rows"].sharding == like["rows"].sharding

def refused(call, part):
    try:
        call()
    except InputError as error:
        assert part in str(error), error
    else:
        raise AssertionError(part)

refused(lambda: restore(folder, like, run={"n": 2}), "belongs to another run: n is 2, saved was 1")
refused(lambda: save(folder, state, step=3, run={"n": 1}), "which comes after step 3")
if index == 0:
    os.remove(os.path.join(folder, "step-00000004", "arrays", "0", ".zarray"))
refused(lambda: restore(folder, like, run={"n": 1}), "The newest good one is that of step 3")
print("done", index)
"""


@pytest.mark.parametrize("processes", [1, 2, *([4] if "JAXGRAD_KILLS" in os.environ else [])])
def test_sharded_and_replicated_arrays_of_all_processes(processes, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CHILD, str(processes), str(i), port, str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    try:
        outputs = [child.communicate(timeout=90) for child in children]
    finally:
        for child in children:
            child.kill()
    for i, (child, (out, err)) in enumerate(zip(children, outputs, strict=True)):
        assert child.returncode == 0, err
        assert f"done {i}" in out
