"""The engine's verdicts on torch's own operators against their truth in float64; a sample, or all of them.

``JAXGRAD_OPERATOR_SWEEP=all`` takes every operator that has a twin, some 25 minutes on one core; ``=SEED`` another
sample. Each share runs in a process of its own, which gives its compiled programs back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("torch")
pytest.importorskip("expecttest", reason="torch's operator database needs it: pip install expecttest")

ASKED = os.environ.get("JAXGRAD_OPERATOR_SWEEP", "0")
SHARES = 24
SWEEP = Path(__file__).parents[1] / "support" / "operator_sweep.py"

# Of these the engine is known to say something else than the truth; see the reason beside each.
KNOWN = {
    "fft.": "complex constants are neither recovered nor moved",
    "matrix_exp": "its order depends on the dtype: the float64 trace has another structure",
    "linalg.matrix_power": "the zeroth power of a matrix does not depend on it, and torch's loss reads it all the same",
    "nn.functional.pdist": "constants are moved that are exact on both sides, and the tenth power amplifies that",
}


def _known(found: dict) -> bool:
    return any(found["case"].startswith(name) for name in KNOWN)


def _swept(*options: str) -> list[dict]:
    env = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(SWEEP), *options]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def _told(found: list[dict]) -> str:
    judged = [each for each in found if "right" in each]
    twins = [each for each in judged if each["port"] == "twin"]
    names = {each["case"].partition("(")[0] for each in judged}
    wrong = [each for each in judged if not each["right"] and not _known(each)]
    lines = [f"{each['case']}, {each['port']}: apart by {each['apart']:.1e}, {each['said']}" for each in wrong]
    counted = f"{len(judged)} programs of {len(names)} operators, {len(twins)} of them twins; {len(wrong)} wrong"
    return "\n".join([counted, *lines])


def test_verdicts_on_operators(capfd):
    if ASKED == "all":
        found = [each for n in range(SHARES) for each in _swept("--share", f"{n}/{SHARES}")]
    else:
        share = f"{int(ASKED) % SHARES}/{SHARES}"
        few = ("--samples", "1", "--mutants", "1", "--seed", ASKED, "--seconds", "40")
        found = _swept("--share", share, *few)
    told = _told(found)
    with capfd.disabled():
        print(f"\n{told}")
    assert len([each for each in found if "right" in each]) > 5, found
    assert "\n" not in told, told
