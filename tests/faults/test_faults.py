"""Faults planted in correct ports: each must be found, in its stage, at its place."""

from __future__ import annotations

import linecache
from functools import cache
from typing import NamedTuple

import pytest
from support.comparing import compare
from support.ports import PORTS

from jaxgrad.report.values import Report, Verdict


class Fault(NamedTuple):
    """A fault and where it must be found.

    Attributes:
      port: in which port it is planted.
      fault: its name there.
      stage: of the first divergence.
      modules: torch's module that contains the fault, or the first that reads what it makes; any of these.
      line: a piece of the line of the port that is named beside it; "" where a library's or a shared line may be named.
    """

    port: str
    fault: str
    stage: str
    modules: tuple[str, ...]
    line: str = ""

    def __str__(self) -> str:
        return f"{self.port}, {self.fault}"


HERE = ("",)
FAULTS = [
    # the lesson
    Fault("lesson", "half the loss", "loss", HERE),
    Fault("lesson", "sum for mean", "loss", HERE, "jnp.sum("),
    Fault("lesson", "labels rolled", "loss", HERE, "jnp.roll(y, 1)"),
    Fault("lesson", "slope perturbed", "params", HERE),
    Fault("lesson", "bias unused", "forward", HERE),
    Fault("lesson", "bias leaf absent", "params", HERE),
    # a classifier: layers
    Fault("classifier", "gelu tanh", "forward", ("act",), "jax.nn.gelu(h"),
    Fault("classifier", "eps", "forward", ("norm",)),
    Fault("classifier", "unbiased variance", "forward", ("norm",)),
    Fault("classifier", "square kernel transposed", "forward", ("second",), 'h @ p["second.weight"] +'),
    Fault("classifier", "bias unused", "forward", ("second",), 'return h @ p["second.weight"].T'),
    # ... parameters
    Fault("classifier", "bias zeroed", "params", ("second",)),
    Fault("classifier", "init differs", "params", ("second",)),
    Fault("classifier", "one entry perturbed", "params", ("second",)),
    # ... gradients
    Fault("classifier", "stop gradient on an activation", "gradient", ("act", "norm")),
    Fault("classifier", "stop gradient on a kernel", "gradient", ("second",)),
    # ... the loss
    Fault("classifier", "half the loss", "loss", HERE, "return cross_entropy(z, y) / 2"),
    Fault("classifier", "sum for mean", "loss", HERE, "jax.nn.log_softmax(z), y[:, None], 1).sum()"),
    Fault("classifier", "label smoothing", "loss", HERE),
    Fault("classifier", "labels rolled", "loss", HERE),
    Fault("classifier", "softmax axis", "loss", HERE, "axis=0"),
    # ... precision
    Fault("classifier", "bfloat16 matmul", "forward", ("second",), "narrow"),
    Fault("classifier", "torch in float64", "forward", ("first",)),
    Fault("classifier", "data of its own", "input", HERE),
    # residual blocks as they begin
    Fault("residual", "norm after the sum", "forward", ("blocks.0.norm", "blocks.0.up")),
    Fault("residual", "one block twice", "forward", ("blocks.1.norm", "blocks.1.up")),
    Fault("residual", "bias in reverse", "gradient", ("blocks.0.down",)),
    Fault("residual", "scale before the last norm", "forward", ("norm",), "3.0 * x"),
    Fault("residual_behind_zeros", "relu behind gamma", "forward", ("blocks.1.act",), "relu behind gamma"),
    Fault("bias_free", "bias of zeros before the norm", "params", HERE),
    Fault("bias_free", "bias of zeros before the scale", "params", HERE),
    Fault("one_bias_for_two", "trained", "update", ("", "left", "right")),
    # tied weights
    Fault("autoencoder", "decoder's kernel stopped", "gradient", ("", "encoder")),
    Fault("autoencoder", "encoder without its bias", "forward", ("encoder",), "x @ kernel"),
    Fault("autoencoder", "decoder adds the data's mean", "loss", HERE, "x.mean(0, keepdims=True)"),
    Fault("autoencoder", "untied", "params", ("encoder",)),
    Fault("autoencoder_trained", "untied", "params", ("encoder",)),
    Fault("autoencoder_trained", "learning rate", "learning_rate", ("", "encoder")),
    # losses
    Fault("binary cross entropy", "sum over classes", "loss", HERE),
    Fault("huber", "delta", "loss", HERE),
    Fault("smooth l1", "huber instead", "loss", HERE),
    Fault("l1", "square", "loss", HERE, "(z - t) ** 2"),
    Fault("kl divergence", "mean over entries", "loss", HERE, "_kl(z, p) / 18"),
    Fault("weighted nll", "mean over rows", "loss", HERE),
    Fault("ignored labels", "mean over all rows", "loss", HERE),
    Fault("gaussian nll", "constant added", "loss", HERE, "jnp.log(2 * jnp.pi)"),
    Fault("gaussian nll", "variance stopped", "gradient", ("", "body")),
    Fault("cosine", "only one norm", "loss", HERE, "only one norm"),
    Fault("norm", "eps in the root", "loss", HERE, "1e-6"),
    Fault("norm", "norm of all", "loss", HERE, "jnp.linalg.norm(z - t)"),
    Fault("regression", "a column against a row", "loss", HERE, "(column - y) ** 2"),
    Fault("regression", "labels in reverse", "loss", HERE),
    # slopes at kinks
    *(
        Fault(kink, "the other slope", "gradient", ("", "body"))
        for kink in ("abs at zero", "relu at zero", "clip at the bound", "ties of a maximum", "ties shared")
    ),
    # images
    Fault("convnet", "padding SAME", "forward", ("down",)),
    Fault("convnet", "flatten order", "forward", ("head",)),
    Fault("convnet", "kernel axes swapped", "forward", ("conv",)),
    Fault("convnet", "kernel flipped", "forward", ("conv",)),
    Fault("convnet", "eps", "forward", ("norm",)),
    Fault("convnet", "sum pool for mean pool", "forward", ("average",)),
    Fault("convnet", "gradient of the pool stopped", "gradient", ("pool", "down")),
    Fault("batch_norm_untracked", "unbiased variance", "forward", ("norm",)),
    Fault("batch_norm_untracked", "running statistics", "forward", ("norm",)),
    Fault("batch_norm_untracked", "gradient of the statistics stopped", "gradient", ("norm",)),
    Fault("batch_norm_tracked", "unbiased variance", "forward", ("norm",)),
    Fault("conv1d", "dilation left out", "forward", ("wide",)),
    Fault("conv1d", "kernel flipped", "forward", ("wide",)),
    Fault("conv_transpose", "kernel not flipped", "forward", ("up",)),
    Fault("conv_transpose", "output padding on the other side", "forward", ("up",)),
    Fault("group_norm", "groups interleaved", "forward", ("norm",)),
    Fault("group_norm", "eps", "forward", ("norm",)),
    # recurrent cells
    *(
        Fault("lstm", fault, "forward", ("cell",))
        for fault in (
            "one of two biases",
            "gates in another order",
            "forget bias of one",
            "time reversed",
        )
    ),
    Fault("lstm", "truncated gradient", "gradient", ("cell",)),
    Fault("lstm_merged_bias", "gates in another order", "forward", ("cell",)),
    Fault("gru", "reset before the product", "forward", ("cell",)),
    Fault("gru", "bias of the candidate outside the reset", "forward", ("cell",)),
    # attention
    *(
        Fault("attention", fault, "forward", HERE)
        for fault in (
            "scale left out",
            "softmax axis",
            "mask left out",
            "mask off by one",
            "heads interleaved",
        )
    ),
    Fault("attention", "two heads swapped", "forward", ("", "out"), 'merged @ p["out"]'),
    Fault("attention", "value bias left out", "forward", ("value",)),
    Fault("attention", "gradient of the scores stopped", "gradient", HERE),
    Fault("multihead", "scale left out", "forward", HERE),
    Fault("multihead", "key padding ignored", "input", HERE),
    Fault("multihead", "value bias in reverse", "gradient", HERE),
    # language and positions
    Fault("language_model", "positions off by one", "forward", ("places",), 'p["places.weight"][places]'),
    Fault("language_model", "labels not shifted", "loss", HERE),
    Fault("language_model", "embedding scaled", "forward", ("words", ""), "words * math.sqrt(WIDTH)"),
    Fault("language_model", "output kernel stopped", "gradient", ("", "words")),
    Fault("language_model", "padding counted", "loss", HERE),
    Fault("language_model", "output untied", "params", ("words",)),
    Fault("rotary", "halves for pairs", "forward", HERE),
    Fault("rotary", "base", "forward", HERE),
    Fault("rotary", "only the query turned", "forward", HERE, "turned(q) @ k"),
    # structure
    Fault("checkpointed", "a layer left out", "forward", ("layers.1",)),
    Fault("checkpointed", "checkpointed part stopped", "gradient", ("layers.1", "layers.2", "")),
    Fault("custom_derivative", "derivative without the square", "gradient", HERE, "def backward(y, slope)"),
    Fault("custom_derivative", "cotangent left out", "gradient", HERE, "def backward(y, slope)"),
    Fault("custom_linear", "gradient of the kernel transposed", "gradient", ("layers.1",)),
    Fault("custom_linear", "gradient of the bias in reverse", "gradient", ("layers.1",)),
    Fault("custom_linear", "gradient of the bias as a mean", "gradient", ("layers.1",)),
    Fault("straight_through", "derivative of round itself", "gradient", ("", "body", "head")),
    Fault("straight_through", "derivative clipped", "gradient", ("", "body"), "jnp.clip(h, -0.5, 0.5)"),
    Fault("branches_and_loops", "the other branch", "loss", HERE, "jax.lax.switch("),
    Fault("branches_and_loops", "a step fewer", "loss", HERE),
    Fault("gradient_penalty", "penalty on the norm for its square", "loss", HERE, "size**2 - 1"),
    Fault("gradient_penalty", "penalty's gradient stopped", "gradient", HERE),
    Fault("bfloat16_weights", "float32 inside", "forward", ("", "0")),
    Fault("bfloat16_weights", "weights widened and perturbed", "params", ("0",)),
    Fault("bfloat16_weights", "head in another order", "forward", ("2",), "h @ order.T"),
    Fault("standardised", "float64 input", "input", HERE),
    Fault("standardised", "biased spread", "forward", HERE, "jnp.std("),
    Fault("stacked_layers", "layers in reverse", "forward", ("layers.0",)),
    Fault("in_place", "column doubled after the sum", "forward", HERE, ".at[:, 1:3].add(h[:, :1])"),
    Fault("in_place", "clamped from above", "forward", HERE, "jnp.minimum(h, 1.5)"),
    # hard on numbers
    Fault("bytes_as_pixels", "divided by 256", "forward", ("", "body")),
    Fault("bytes_as_pixels", "not standardised", "forward", ("", "body")),
    Fault("vanishing_gradients", "kernel transposed", "forward", ("body",)),
    Fault("chaotic_map", "a step more", "loss", HERE),
    Fault("linear_solve", "triangle for the whole", "forward", HERE),
    Fault("lengths_and_masks", "mask left out", "input", HERE),
    Fault("mesh_of_one", "mean of the rows for their sum", "loss", HERE),
    # other libraries
    Fault("equinox", "a layer with its kernel transposed", "forward", ("2",)),
    Fault("flax_linen", "default eps", "forward", ("1",)),
    Fault("flax_norm", "default variance", "forward", ("0",)),
    Fault("flax_nnx", "activation", "forward", ("3", "4"), "activation(self.middle"),
    Fault("flax_lstm", "two gates swapped", "forward", HERE),
]

# What cannot be judged, and what the reason must say.
INCONCLUSIVE = [
    ("classifier", "dropout left on", ("dropout", "JAX side", "deterministic=True")),
    ("classifier", "torch's dropout left on", ("dropout", "torch side", "in drop", "module.eval()")),
    ("classifier", "not a number", ("NaN", "one side", "JAX")),
    ("chaotic_map", "twelve steps", ("rounding",)),
    ("replaced_buffer", "average left out", ("average", "updated")),
    ("chaotic_map", "twelve steps, and one more in the port", ("rounding",)),
    ("norm_at_zero", "not a number at zero", ("NaN", "one side", "JAX", "gradient of ['weight']")),
    ("batch_norm_tracked", "statistics not updated", ("batch statistics", "norm.running_mean")),
    ("batch_norm_tracked", "momentum", ("batch statistics", "norm.running_mean")),
    ("batch_norm_tracked", "biased running variance", ("batch statistics", "norm.running_var")),
]

PRECISION = [
    ("classifier", "bfloat16 matmul"),
    ("classifier", "torch in float64"),
    ("bfloat16_weights", "float32 inside"),
    ("flax_norm", "default variance"),
]


@cache
def _report(port: str, fault: str) -> Report:
    return compare(*PORTS[port](fault))


def test_every_fault_of_every_port_is_in_a_table():
    listed = {(each.port, each.fault) for each in FAULTS} | {(port, fault) for port, fault, _ in INCONCLUSIVE}
    assert listed == {(name, fault) for name, port in PORTS.items() for fault in port.faults}
    assert len(listed) == len(FAULTS) + len(INCONCLUSIVE)


def test_a_fault_that_no_port_knows_is_refused():
    with pytest.raises(ValueError, match="lesson has no change 'nonsense', only half the loss"):
        PORTS["lesson"]("nonsense")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_is_found_in_its_stage_at_its_place(fault):
    report = _report(fault.port, fault.fault)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    first = report.first
    assert first is not None
    assert (first.step, first.stage) == (1, fault.stage), str(report)
    assert first.torch.module in fault.modules, str(report)
    assert first.error > 0
    if fault.line:
        assert first.jax is not None
        assert fault.line in linecache.getline(first.jax.file, first.jax.line), str(report)


@pytest.mark.parametrize("fault", [each for each in FAULTS if each.stage in ("forward", "loss", "gradient")], ids=str)
def test_torchs_line_is_named_and_is_the_users(fault):
    first = _report(fault.port, fault.fault).first
    assert first is not None
    assert "/tests/support/po" in first.torch.file.replace("\\", "/")
    assert linecache.getline(first.torch.file, first.torch.line).strip()


@pytest.mark.parametrize(("port", "fault", "says"), INCONCLUSIVE, ids=[f"{p}, {f}" for p, f, _ in INCONCLUSIVE])
def test_what_cannot_be_judged_is_inconclusive_and_says_why(port, fault, says):
    report = _report(port, fault)
    assert report.verdict is Verdict.INCONCLUSIVE, str(report)
    for words in says:
        assert words in report.reason
    assert report.verdict.exit_code == 3


@pytest.mark.parametrize(("port", "fault"), PRECISION)
def test_a_difference_of_precision_is_called_one(port, fault):
    first = _report(port, fault).first
    assert first is not None
    assert "precision" in first.message


@pytest.mark.parametrize("fault", ["bias zeroed", "init differs", "one entry perturbed"])
def test_parameters_that_begin_otherwise_are_named_on_both_sides(fault):
    name = "second.bias" if fault == "bias zeroed" else "second.weight"
    first = _report("classifier", fault).first
    assert first is not None
    assert first.torch.op == f"parameter {name}"
    assert first.jax is not None
    assert first.jax.op == f"parameter ['{name}']"
