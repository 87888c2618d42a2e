from __future__ import annotations

import json
import os
import stat

import pytest

from jaxgrad import Cause, DifferentError, Divergence, InputError, Report, Site, Verdict
from jaxgrad.files import write_text
from jaxgrad.report.values import Rounding

SAME = Report(
    Verdict.ROUNDING,
    "agree in float64",
    coverage={"forward": 0.975, "backward": 1.0},
    rounding=Rounding(3.51, "aten.gelu.default in 1"),
    losses=((0.5, 0.50000006),),
    notes=("a and b start from equal entries",),
    internal=tuple(f"forward layer {i}" for i in range(11)),
    torch="torch 2.13.0",
    jax="jax 0.10.2",
)


def different(tmp_path, name="h.0<mlp>"):
    source = tmp_path / "port.py"
    source.write_text("one\ny = gelu(x) & 'tanh'\n")
    first = Divergence(
        step=2,
        stage="forward",
        torch=Site("aten.gelu.default", name, str(source), 2),
        jax=None,
        error=float("inf"),
        cause=Cause("gelu tanh", "the port uses tanh", "0x1p+0"),
        message="what gelu makes is not found",
        agreed=("float32[5,8] aten.addmm.default",),
    )
    other = Divergence(2, "loss", Site("aten.mean", "", "", 0), Site("reduce_sum", "jvp()", "", 0), 0.5)
    return Report(Verdict.DIFFERENT, "they part", divergences=(first, other), coverage={"forward": 0.5}, steps=2)


def test_the_text_says_the_verdict_first_and_counts_what_it_leaves_out():
    text = str(SAME)
    assert text.startswith("ROUNDING  the same computation; every difference is explained by rounding")
    for part in ("forward 97.5%, backward 100.0%", "3.51 rounding units", "torch 0.5, JAX 0.50000006", "note: a and b"):
        assert part in text
    assert "forward layer 7" in text
    assert "forward layer 8" not in text
    assert "... and 3 more" in text


def test_the_text_of_a_divergence_shows_both_places_the_line_itself_and_the_last_values_that_agreed(tmp_path):
    text = str(different(tmp_path))
    first = text[text.index("first divergence") :]
    assert "step 2, forward" in first
    assert "aten.gelu.default in h.0<mlp>" in first
    assert "y = gelu(x) & 'tanh'" in first
    assert "nothing stands there" in first
    assert "float32[5,8] aten.addmm.default" in first
    assert "gelu tanh: the port uses tanh" in first
    assert "step 2, loss: aten.mean" in first


def test_json_is_plain_and_valid_and_holds_everything(tmp_path):
    report = different(tmp_path)
    report.to_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert data == json.loads(json.dumps(report.to_data()))
    assert data["verdict"] == "DIFFERENT"
    assert data["first"] == data["divergences"][0]
    assert data["first"]["torch"] == {
        "op": "aten.gelu.default", "module": "h.0<mlp>", "file": str(tmp_path / "port.py"), "line": 2,
    }  # fmt: skip
    assert data["first"]["jax"] is None
    assert data["first"]["error"] is None  # infinity has no place in JSON
    assert data["divergences"][1]["jax"]["op"] == "reduce_sum"


def test_html_escapes_what_comes_from_the_programs(tmp_path):
    report = different(tmp_path, name="<script>alert(1)</script>")
    report.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "y = gelu(x) &amp; &#x27;tanh&#x27;" in page
    assert "DIFFERENT" in page
    SAME.to_html(tmp_path / "report.html")
    assert "ROUNDING" in (tmp_path / "report.html").read_text()


def test_first_and_raise_if_different(tmp_path):
    assert SAME.first is None
    SAME.raise_if_different()
    report = different(tmp_path)
    assert report.first is report.divergences[0]
    with pytest.raises(DifferentError, match="what gelu makes is not found") as caught:
        report.raise_if_different()
    assert caught.value.report is report
    with pytest.raises(DifferentError, match="INCONCLUSIVE"):
        Report(Verdict.INCONCLUSIVE, "dropout").raise_if_different()


def test_a_file_is_replaced_only_once_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def fails(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere/report.json: cannot be written \(No such file or directory\)"):
        SAME.to_json(tmp_path / "nowhere" / "report.json")


def test_a_written_file_can_be_read_by_others(tmp_path):
    SAME.to_json(tmp_path / "report.json")
    assert stat.S_IMODE((tmp_path / "report.json").stat().st_mode) == 0o644
