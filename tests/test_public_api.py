from __future__ import annotations

import doctest
import importlib
import importlib.resources
import inspect
import pkgutil
import subprocess
import sys
from importlib import metadata

import pytest

import jaxgrad

NAMES = [  # in the order of the lesson
    "LinearParams",
    "linear",
    "mse",
    "loss",
    "sgd_update",
    "make_step",
    "batches",
    "read_table",
    "fit",
    "FitResult",
    "sweep",
    "SweepResult",
    "value_and_grad_in_blocks",
    "run_lesson",
    "largest_stable_rate",
    "Trace",
    "compare_lessons",
    "compare",
    "TorchProgram",
    "JaxProgram",
    "optax_from_torch",
    "optax_from_spec",
    "optax_state_from_torch",
    "torch_state_from_optax",
    "Report",
    "Verdict",
    "Divergence",
    "Site",
    "Cause",
    "JaxgradError",
    "InputError",
    "InputTypeError",
    "MissingExtraError",
    "DivergenceError",
    "ProgramError",
    "DifferentError",
]
COMPUTE = [name for name in NAMES[1:17] if name not in ("FitResult", "SweepResult", "read_table")]
LAZY = ("torch", "matplotlib", "networkx", "optax", "rich", "orbax", "pyarrow", "grain")


def modules_after(code: str) -> set[str]:
    """The modules that a fresh Python has loaded once it has run ``code``."""
    script = f"{code}\nimport sys; print(*(name for name, module in sys.modules.items() if module))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_public_names_are_the_documented_ones():
    assert jaxgrad.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_the_one_of_its_home(name):
    value = getattr(jaxgrad, name)
    assert value.__name__ == name
    assert value.__module__ == f"jaxgrad.{jaxgrad._HOMES[name]}"
    assert getattr(importlib.import_module(value.__module__), name) is value
    assert vars(jaxgrad)[name] is value  # found once, kept


def test_star_import_brings_all_names():
    found: dict[str, object] = {}
    exec("from jaxgrad import *", found)
    assert set(NAMES) <= set(found)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_says_what_it_is(name):
    text = inspect.getdoc(getattr(jaxgrad, name)) or ""
    first = text.partition("\n\n")[0]
    assert len(first.split()) > 3
    assert first.endswith(".")


@pytest.mark.parametrize("name", COMPUTE)
def test_what_computes_has_an_example_that_runs(name):
    value = getattr(jaxgrad, name)
    (test,) = [
        each
        for each in doctest.DocTestFinder(recurse=False).find(value, name, globs=vars(sys.modules[value.__module__]))
        if each.examples
    ]
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("name", ["Linear", "torch", "fit_to", "_homes", "version"])
def test_unknown_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"module 'jaxgrad' has no attribute '{name}'"):
        getattr(jaxgrad, name)
    with pytest.raises(ImportError, match=f"cannot import name '{name}' from 'jaxgrad'"):
        exec(f"from jaxgrad import {name}")


def test_dir_lists_all_names():
    listed = dir(jaxgrad)
    assert {*NAMES, "__version__", "__all__"} <= set(listed)
    assert listed == sorted(listed)


def test_version_is_that_of_the_distribution():
    assert jaxgrad.__version__ == metadata.version("jaxgrad")
    assert metadata.metadata("jaxgrad")["Name"] == "jaxgrad"


def test_no_module_has_the_name_of_a_public_function():
    modules = {each.name for each in pkgutil.iter_modules(jaxgrad.__path__)}
    assert len(modules) > 10
    assert modules & set(NAMES) == set()


def test_type_checkers_find_the_types():
    assert (importlib.resources.files("jaxgrad") / "py.typed").is_file()


# What an import costs: in a fresh process, since this one has everything loaded.


def test_import_alone_loads_neither_jax_nor_any_extra():
    assert modules_after("import jaxgrad") & {*LAZY, "jax", "numpy"} == set()


def test_all_public_names_load_no_extra():
    loaded = modules_after("from jaxgrad import *")
    assert loaded & set(LAZY) == {"optax"}  # a main package: the optimizers are made of its pieces
    assert {"jax", "jaxgrad.parity.lesson", "jaxgrad.lesson"} <= loaded  # they were loaded indeed


@pytest.mark.parametrize("package", ["rich", "optax"])
def test_the_check_sees_a_package_that_is_loaded(package):
    assert package in modules_after(f"import jaxgrad, {package}") & set(LAZY)


def test_the_step_by_hand_needs_no_optax():
    code = "import jax.numpy as jnp, jaxgrad as j; p = j.LinearParams(jnp.array(2.0), jnp.array(6.0)); x = jnp.ones(3)"
    assert modules_after(f"{code}; j.make_step(j.loss, learning_rate=0.1)(p, None, (x, x))") & set(LAZY) == set()
