"""The same run on several devices and in several processes: the losses of one device, to rounding."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest

from jaxgrad import InputError, LinearParams, fit, loss
from jaxgrad.sharding import by_rows, checked_mesh, everywhere, put, rows_mesh

CHILD = """
import sys, json
import jax
from jaxgrad import processes
joined = processes.join_launched({devices})
if not joined:
    processes.set_cpu_devices({devices})
import jax.numpy as jnp, numpy as np, optax
from jaxgrad import fit, batches
from jaxgrad.sharding import rows_mesh
random = np.random.default_rng(0)
x = random.standard_normal((48, 3)).astype(np.float32)
y = np.tanh(x @ random.standard_normal((3, 2))).astype(np.float32)
params = {{"in": random.standard_normal((3, 8)).astype(np.float32), "out": np.zeros((8, 2), np.float32)}}
def loss(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["in"]) @ params["out"] - y) ** 2)
found = {{}}
for name, mesh in (("one", None), ("many", {mesh})):
    if joined and mesh is None:
        continue
    for size in (None, 16):
        run = fit(loss, params, (x, y), optax.adam(0.01), steps=60, batch_size=size, key=2, mesh=mesh,
                  validation=(x, y), validate_every=30)
        total = float(run.params["out"].sum())
        found[f"{{name}} {{size}}"] = [*run.losses.tolist(), *run.validation_losses.tolist(), total]
    drawn = ((x[i : i + 24], y[i : i + 24]) for i in (0, 24, 0))
    run = fit(loss, params, drawn, 0.1, steps=3, mesh=mesh, donate=True)
    found[f"{{name}} drawn"] = run.losses.tolist()
if jax.process_index() == 0:
    print("found " + json.dumps(found), flush=True)
"""


def child(devices, mesh="rows_mesh()"):
    return CHILD.format(devices=devices, mesh=mesh)


def run_child(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("found "))
    return json.loads(line[6:])


def assert_same(one, many):
    for name, values in many.items():
        np.testing.assert_allclose(values, one[name.replace("many", "one")], rtol=2e-5, err_msg=name)


@pytest.fixture(scope="module")
def alone():
    return run_child(child(1, "None"))


@pytest.mark.parametrize(
    ("devices", "mesh"),
    [
        (8, "rows_mesh()"),
        (8, "rows_mesh(2)"),
        (8, "jax.make_mesh((4, 2), ('rows', 'model'))"),  # explicit axes, of which the first shares the rows
    ],
)
def test_virtual_devices_give_the_losses_of_one(alone, devices, mesh):
    found = run_child(child(devices, mesh))
    assert {name.split()[0] for name in found} == {"one", "many"}
    assert_same(found, {name: values for name, values in found.items() if name.startswith("many")})
    assert_same(alone, {name: values for name, values in found.items() if name.startswith("many")})


LAUNCHER = """
import sys
from jaxgrad.processes import launch
sys.exit(launch([sys.executable, "-c", {code!r}], {processes}))
"""


@pytest.mark.parametrize(("processes", "devices"), [(2, 1), (4, 2)])
def test_processes_over_loopback_give_the_losses_of_one(alone, processes, devices):
    found = run_child(LAUNCHER.format(code=child(devices), processes=processes))
    assert len(found) == 3
    assert_same(alone, found)


ENDLESS = """
import os, sys, time
from jaxgrad import processes
processes.join_launched(1)
import jax, numpy as np, optax
from jaxgrad import LinearParams, fit, loss
from jaxgrad.sharding import rows_mesh
x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
def told(progress):
    if jax.process_index() == 1:
        open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(0.01)
steps = int(sys.argv[2])
mesh = rows_mesh() if jax.process_count() > 1 else None
data = (x, 4 * x + 1)
found = fit(loss, LinearParams(2.0, 6.0), data, optax.adam(1e-3), steps=steps, batch_size=8, mesh=mesh, chunk=20,
            callbacks=told, checkpoint=sys.argv[3], checkpoint_every=20, resume=True)
if jax.process_index() == 0:
    print("found", float(found.losses.sum()), flush=True)
"""


def test_a_process_that_dies_ends_all_in_bounded_time_and_the_run_goes_on(tmp_path):
    pytest.importorskip("orbax.checkpoint", reason="needs orbax-checkpoint, which writes the arrays")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def started(steps, folder, processes=2):
        told, kept = str(tmp_path / "pid"), str(tmp_path / folder)
        command = f"[sys.executable, '-c', {ENDLESS!r}, {told!r}, '{steps}', {kept!r}]"
        code = f"import sys; from jaxgrad.processes import launch; sys.exit(launch({command}, {processes}))"
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    run = started(10**6, "kept")
    for _ in range(6000):
        if (tmp_path / "pid").exists() and any((tmp_path / "kept").glob("step-*")) and (tmp_path / "pid").read_text():
            break
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.02)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    began = time.monotonic()
    _, said = run.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert run.returncode != 0
    assert "was ended by SIGKILL, and with it the run" in said
    newest = max(int(path.name[5:]) for path in (tmp_path / "kept").glob("step-*"))

    steps = newest + 40
    shutil.copytree(tmp_path / "kept", tmp_path / "alone")
    resumed, whole, alone = started(steps, "kept"), started(steps, "other"), started(steps, "alone", processes=1)
    sums = []
    for each in (resumed, whole, alone):
        out, said = each.communicate(timeout=120)
        assert each.returncode == 0, said
        sums.append(float(next(line for line in out.splitlines() if line.startswith("found")).split()[1]))
    assert sums[0] == sums[1]
    assert sums[2] == pytest.approx(sums[0], rel=1e-5)  # another number of devices goes on too


def test_devices_that_do_not_divide_the_batch_are_refused():
    code = """
from jaxgrad import processes
processes.set_cpu_devices(4)
import numpy as np
from jaxgrad import InputError, LinearParams, fit, loss
from jaxgrad.sharding import rows_mesh
x = np.arange(10, dtype=np.float32)
said = []
for data, size in (((x, x), None), ((x, x), 6), ([(x, x)], None)):
    try:
        fit(loss, LinearParams(2.0, 6.0), data, 0.01, steps=2, batch_size=size, mesh=rows_mesh())
    except InputError as error:
        said.append(str(error))
import json
print("found " + json.dumps(said))
"""
    said = run_child(code)
    assert len(said) == 3
    assert said[0].startswith("fit: data has 10 rows, which 4 devices do not divide. Pass 8")
    assert said[1].startswith("fit: a batch has 6 rows, which 4 devices do not divide. Pass 4")
    assert said[2].startswith("fit: a batch has 10 rows")


def test_a_mesh_of_one_device_is_the_plain_run():
    x = np.arange(6, dtype=np.float32)
    runs = [
        fit(loss, LinearParams(2.0, 6.0), (x, 2 * x), optax.adam(0.1), steps=20, batch_size=3, mesh=mesh)
        for mesh in (None, rows_mesh(1), jax.make_mesh((1,), ("data",)))
    ]
    for run in runs[1:]:
        np.testing.assert_allclose(run.losses, runs[0].losses, rtol=1e-6)


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(InputError, match=r"devices=99, expected 1 to \d+, the devices that JAX sees"):
        rows_mesh(99)


def test_what_lies_on_the_mesh_stays_as_it_is_shared():
    mesh = checked_mesh("put", jax.make_mesh((1,), ("rows",)))
    placed = put(np.ones((4, 2)), by_rows(mesh))
    assert put(placed, everywhere(mesh)).sharding.spec == placed.sharding.spec
