from __future__ import annotations

import json
import os
import stat
from dataclasses import replace

import pytest

from jaxgrad import Cause, DifferentError, Divergence, InputError, Report, Site, Verdict
from jaxgrad.files import write_text
from jaxgrad.report.sentences import effect_said, rounding_said
from jaxgrad.report.values import Effect, Rounding

SAME = Report(
    Verdict.ROUNDING,
    "agree in float64",
    coverage={"forward": 0.975, "backward": 1.0},
    rounding=Rounding(3.51, "aten.gelu.default in 1", loss=1.2e-7, gradient=3e-6, gradient_of="fc.weight"),
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
        torch=Site("aten.gelu.default", name, str(source), 2, "transformers/activations.py:78"),
        jax=None,
        error=float("inf"),
        cause=Cause("gelu tanh", "the port uses tanh", "0x1p+0"),
        message="what gelu makes is not found",
        agreed=("result of addmm: float32[5,8]",),
        torch_value="float32[5,8], -0.17 to 2",
        jax_value="nothing of this size",
    )
    other = Divergence(2, "loss", Site("aten.mean", "", "", 0), Site("reduce_sum", "jvp()", "", 0), 0.5)
    effect = Effect(2e-3, 0.1, "fc<1>", 6e-8, 2e-7)
    coverage = {"forward": 0.5}
    return Report(Verdict.DIFFERENT, "they part", (first, other), coverage, steps=2, effect=effect)


def test_the_text_says_the_verdict_first_and_counts_what_it_leaves_out():
    text = str(SAME)
    assert text.startswith("ROUNDING  the same computation; every difference is explained by rounding")
    for part in (
        "JAX has 98% of the forward values and 100% of the backward values too",
        "which is no fault",
        "torch 0.5, JAX 0.50000006",
        "note: a and b",
    ):
        assert part in text
    assert "forward layer 7" in text
    assert "forward layer 8" not in text
    assert "... and 3 more" in text


def test_the_text_of_a_divergence_shows_both_places_the_line_itself_and_the_last_values_that_agreed(tmp_path):
    text = str(different(tmp_path))
    first = text[text.index("first divergence") :]
    assert "step 2, forward" in first
    assert "gelu in h.0<mlp> (" in first
    assert "port.py:2, in transformers/activations.py:78)" in first
    assert "has float32[5,8], -0.17 to 2" in first
    assert "y = gelu(x) & 'tanh'" in first
    assert "nothing stands there" in first
    assert "result of addmm: float32[5,8]" in first
    assert "what gelu makes is not found" in first
    assert "the losses differ by 0.002 of their size" in first
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
        "library": "transformers/activations.py:78",
    }  # fmt: skip
    assert data["effect"] == {
        "loss": 2e-3, "gradient": 0.1, "gradient_of": "fc<1>", "loss_rounding": 6e-8, "gradient_rounding": 2e-7,
        "dtype": "float32", "visible": True,
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


def test_a_notebook_shows_a_piece_of_a_page_with_the_same_content_and_escaped_names(tmp_path):
    piece = different(tmp_path, name="<script>alert(1)</script>")._repr_html_()
    assert piece.startswith("<style>")
    assert "<html" not in piece
    assert "<script>" not in piece
    for part in ("DIFFERENT", "fc&lt;1&gt;", "the losses differ by 0.002", "result of addmm", "-0.17 to 2"):
        assert part in piece
    different(tmp_path, name="<script>alert(1)</script>").to_html(tmp_path / "report.html")
    assert piece in (tmp_path / "report.html").read_text()


def test_a_message_that_the_reason_holds_is_not_said_twice(tmp_path):
    report = different(tmp_path)
    assert str(replace(report, reason=f"they part: {report.first.message}")).count(report.first.message) == 1
    assert str(report).count(report.first.message) == 1


def test_places_are_written_as_people_read_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    site = Site("aten._log_softmax.default", "head", str(tmp_path / "src" / "port.py"), 7)
    assert str(site) == f"log_softmax in head ({os.path.join('src', 'port.py')}:7)"
    assert str(Site("dot_general", "", "/elsewhere/port.py", 7, "flax/linen/linear.py:287")) == (
        "dot_general (/elsewhere/port.py:7, in flax/linen/linear.py:287)"
    )
    assert str(Site("parameter fc.weight", "", "", 0)) == "parameter fc.weight"
    assert str(Site("torch.optim.Adam", "", "", 0)) == "torch.optim.Adam"


@pytest.mark.parametrize(
    ("effect", "says"),
    [
        (
            Effect(1e-10, 3e-9, "fc.weight", 6e-8, 2e-7),
            "in float64 the losses differ by 1e-10 of their size and the gradients by up to 3e-09 of their largest "
            "entry (fc.weight); float32 cannot show a difference this small: its own rounding here is 2e-07",
        ),
        (
            Effect(0.0, 0.5, "fc.weight", 6e-8, 2e-7),
            "in float64 the losses agree and the gradients differ by up to 0.5 of their largest entry (fc.weight); "
            "float32 shows it, its own rounding here is 2e-07",
        ),
        (
            Effect(0.25, 0.0, "", 6e-8, 0.0),
            "in float64 the losses differ by 0.25 of their size and the gradients agree; float32 shows it, its own "
            "rounding here is 6e-08",
        ),
    ],
)
def test_the_effect_says_whether_the_programs_own_precision_can_show_it(effect, says):
    assert effect_said(effect) == says


def test_rounding_is_said_of_loss_and_gradients():
    assert SAME.rounding is not None
    assert rounding_said(SAME.rounding) == (
        "in float32 the losses are 1e-07 of their size apart, the gradients at most 3e-06 of their largest entry "
        "(fc.weight); in float64 both agree, so that is rounding"
    )


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
