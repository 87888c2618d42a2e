from __future__ import annotations

import pickle
import sys

import pytest

from jaxgrad import DivergenceError, InputError, InputTypeError, JaxgradError, MissingExtraError
from jaxgrad.errors import require


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (InputError, ValueError),
        (InputTypeError, TypeError),
        (MissingExtraError, ImportError),
        (DivergenceError, ArithmeticError),
    ],
)
def test_each_kind_is_caught_by_the_base_and_by_pythons_own(kind, builtin):
    assert issubclass(kind, JaxgradError)
    assert issubclass(kind, builtin)
    others = {InputError, InputTypeError, MissingExtraError, DivergenceError} - {kind}
    assert not any(issubclass(kind, other) for other in others)


def test_divergence_holds_the_step_and_the_rate():
    error = DivergenceError("the run diverges", step=3, largest_stable_rate=0.18)
    assert (str(error), error.step, error.largest_stable_rate) == ("the run diverges", 3, 0.18)


@pytest.mark.parametrize(
    "error",
    [
        InputError("a"),
        InputTypeError("b"),
        MissingExtraError("c"),
        DivergenceError("d", step=3, largest_stable_rate=0.18),
    ],
)
def test_errors_pass_between_processes(error):
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_require_returns_what_is_installed():
    assert require("json", "a test") is sys.modules["json"]


@pytest.mark.parametrize(("package", "extra"), [("torch", "torch"), ("matplotlib", "plot"), ("networkx", "plot")])
def test_require_names_the_command_that_installs(package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtraError,
        match=rf'^a test: needs {package}, which is not installed\. Install it with: pip install "jaxgrad\[{extra}\]"$',
    ):
        require(package, "a test")


def test_a_package_that_is_there_and_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import a_dependency_of_torch")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(ModuleNotFoundError, match="a_dependency_of_torch") as raised:
        require("torch", "a test")
    assert not isinstance(raised.value, JaxgradError)
