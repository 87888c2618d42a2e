"""Starting processes and ending them together."""

import sys

import jax
import pytest

from jaxgrad import InputError, JaxgradError
from jaxgrad.processes import join, join_launched, launch, set_cpu_devices


def python(code):
    return [sys.executable, "-c", f"import os, sys\nindex = os.environ['JAXGRAD_PROCESS'].split()[0]\n{code}"]


def test_all_that_end_well_end_well():
    assert launch(python("assert os.environ['JAXGRAD_PROCESS'].split()[1] == '3'"), 3) == 0


def test_the_first_ones_exit_code_is_the_runs():
    assert launch(python("sys.exit(3)"), 2) == 3


def test_another_ones_last_words_are_told():
    with pytest.raises(JaxgradError, match="process 1 of 2 failed: out of luck"):
        launch(python("sys.exit('out of luck' if index == '1' else 0)"), 2)


def test_one_that_is_killed_ends_the_others_at_once():
    with pytest.raises(JaxgradError, match="process 1 of 2 was ended by SIGKILL, and with it the run"):
        launch(python("import time\nos.kill(os.getpid(), 9) if index == '1' else time.sleep(60)"), 2)


def test_a_process_that_was_not_launched_joins_nothing():
    assert join_launched() is False


def test_what_cannot_join_is_refused():
    with pytest.raises(InputError, match="index=2 of count=2 processes, expected 0 to 1"):
        join("127.0.0.1:1", 2, 2)
    jax.devices()  # JAX is in use
    with pytest.raises(InputError, match="JAX is in use already"):
        set_cpu_devices(4)
    with pytest.raises(InputError, match=r"process 0 of 1 could not join at 127\.0\.0\.1:1"):
        join("127.0.0.1:1", 1, 0)
