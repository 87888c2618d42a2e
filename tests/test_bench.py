from __future__ import annotations

import json

import jax
import pytest

from jaxgrad.cli import main


def test_bench_compare_gives_ratios_from_one_run(torch, capsys, monkeypatch):
    pytest.importorskip("transformers", reason="needs the extra ports")
    pytest.importorskip("flax", reason="needs the extra ports")
    small = ["bench", "compare", "--layers", "1", "--width", "8", "--heads", "2", "--tokens", "4"]
    with jax.numpy_rank_promotion("allow"):  # of which Flax makes use
        assert main([*small, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    taken = found["seconds"]
    assert found["verdict"] in ("ROUNDING", "IDENTICAL")
    assert found["ratio"] == pytest.approx(taken["compare"] / (taken["torch"] + taken["jax"]))
    monkeypatch.setattr("jaxgrad.bench.bench_compare", lambda **sizes: found)  # to print, not to measure again
    assert main(small) == 0
    said = capsys.readouterr().out
    assert "times both; peak memory" in said


def test_bench_usage(capsys):
    assert main(["bench", "--steps", "many"]) == 2
    assert "invalid int value" in capsys.readouterr().err
    assert main(["bench", "--help"]) == 0
    assert "jaxgrad bench compare" in capsys.readouterr().out
