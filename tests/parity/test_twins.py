from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import twins

from jaxgrad import Verdict

pytestmark = [pytest.mark.usefixtures("torch"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(autouse=True)
def _transformers():
    twins.transformers()


@cache
def twin(name, scatter=0.0):
    return twins.twin(name, scatter)


def replaced(tree, path, change):
    """A copy of nested dictionaries in which one leaf is changed."""
    first, *rest = path.split("/")
    return {**tree, first: replaced(tree[first], "/".join(rest), change) if rest else change(tree[first])}


# --- ports that are right ---------------------------------------------------------------------------------------------


RIGHT = ["gpt2", "bert", "distilbert", "gpt_neo", "vit", "resnet", "bart", "clip", "roberta", "llama"]


@pytest.mark.parametrize("name", RIGHT)
def test_a_twin_that_others_wrote_is_the_same_computation(name):
    report = twins.compare_twin(twin(name))
    assert report.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(report)
    assert report.first is None
    for side, stages in (("forward", ("forward", "loss")), ("backward", ("gradient",))):
        internal = [line for line in report.internal if line.startswith(stages)]
        assert (report.coverage[side] < 1) == bool(internal), f"{side}: {report.coverage[side]:.2%}, {internal}"
        assert report.coverage[side] >= 0.8, f"{side}: {internal}"


@pytest.mark.parametrize("name", ["gpt2", "bert", "vit"])
def test_a_twin_is_the_same_computation_at_weights_without_zeros_and_ones(name):
    report = twins.compare_twin(twin(name, 0.05))
    assert report.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(report)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("gpt2", lambda torch, p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda: optax.sgd(0.1, 0.9)),
        ("bert", lambda torch, p: torch.optim.Adam(p, 1e-2), lambda: optax.adam(1e-2)),
    ],
    ids=["gpt2 with sgd", "bert with adam"],
)
def test_a_twin_trains_the_same_for_two_steps(torch, name, ours, theirs):
    made = twin(name, 0.05)
    ids, *others = made.batch()
    batches = [(np.roll(ids, step, axis=0), *others) for step in range(2)]
    report = twins.compare_twin(made, batches=batches, optimizer=(ours(torch, made.module.parameters()), theirs()))
    assert report.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(report)
    assert report.steps == 2


# --- a fault that is really there -------------------------------------------------------------------------------------


def test_electra_differs_since_the_default_token_types_of_its_flax_twin_are_ones():
    made = twin("electra")
    report = twins.compare_twin(made)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "forward"
    assert report.first.torch.module == "electra.embeddings.token_type_embeddings"
    assert report.first.torch.op == "aten.embedding.default"
    assert report.first.torch.file.endswith("/tests/support/twins.py")  # the call, and what it ran
    assert "transformers/models/electra/modeling_electra.py:" in report.first.torch.library
    assert report.first.jax.module.endswith("token_type_embeddings")
    zeros = np.zeros_like(made.batch()[0])
    mended = twins.compare_twin(made, loss=lambda params, *batch: made.jax_loss(params, *batch, token_type_ids=zeros))
    assert mended.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(mended)


# --- faults that were planted -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A change of the port, and where it must be found.

    Attributes:
      name: what was done.
      family: the twin.
      stage: of the first divergence.
      module: torch's, of the first divergence.
      port: options of the Flax configuration.
      loss: from the twin to another JAX loss.
      params: from the Flax parameters to others.
      both: options of both configurations.
      scatter: noise on the weights; 0 leaves them as they are initialised.
    """

    name: str
    family: str
    stage: str
    module: str
    port: dict[str, Any] | None = None
    loss: Callable[[twins.Twin], Callable[..., Any]] | None = None
    params: Callable[[Any], Any] | None = None
    both: dict[str, Any] | None = None
    scatter: float = 0.0

    def report(self):
        made = twins.twin(self.family, self.scatter, self.port, **(self.both or {}))
        return twins.compare_twin(
            made,
            loss=self.loss(made) if self.loss else None,
            params=self.params(made.params) if self.params else None,
        )


def _heads_swapped(params):
    def swap(array):
        width = array.shape[0] // 6  # query, key and value, two heads of each
        return jnp.flip(array.reshape(3, 2, width, *array.shape[1:]), axis=1).reshape(array.shape)

    attention = "transformer/h/0/attn/c_attn/"
    return replaced(replaced(params, attention + "kernel", swap), attention + "bias", swap)


def _one_entry_moved(array):
    return array.at[3, 5].add(1e-4)


def _stopped(path):
    def loss(made):
        return lambda params, *batch: made.jax_loss(replaced(params, path, jax.lax.stop_gradient), *batch)

    return loss


def _half_stopped(made):
    def loss(params, *batch):
        out = made.jax_output(params, *batch[:-1])
        return made.scalar(out / 2 + jax.lax.stop_gradient(out / 2), batch[-1])

    return loss


def _on_inputs(change):
    """The port reads the batch otherwise."""
    return lambda made: lambda params, *batch: made.jax_loss(params, *change(*batch))


def _shifted(made):
    positions = jnp.broadcast_to(jnp.arange(twins.LENGTH)[None] + 1, (2, twins.LENGTH))
    return lambda params, *batch: made.jax_loss(params, *batch, position_ids=positions)


def _summed(made):
    def loss(params, *batch):
        logs = jax.nn.log_softmax(made.jax_output(params, *batch[:-1]))
        return -jnp.sum(jnp.take_along_axis(logs, batch[-1][..., None], axis=-1)) / len(batch[-1])

    return loss


def _smoothed(made):
    def loss(params, *batch):
        logs = jax.nn.log_softmax(made.jax_output(params, *batch[:-1]))
        picked = jnp.take_along_axis(logs, batch[-1][..., None], axis=-1)
        return -jnp.mean(0.999 * picked[..., 0] + 0.001 * logs.mean(-1))

    return loss


def _typed(made):
    ones = np.ones((2, twins.LENGTH), np.int32)
    return lambda params, *batch: made.jax_loss(params, *batch, token_type_ids=ones)


def _with_other_statistics(made):
    other = replaced(made.statistics, "resnet/embedder/embedder/normalization/var", lambda var: var * 1.001)
    return lambda params, *batch: made.jax_loss(params, *batch, statistics=other)


FAULTS = [
    Fault(
        "gelu by tanh for the exact one",
        "roberta",
        "forward",
        "roberta.encoder.layer.0.intermediate.intermediate_act_fn",
        port={"hidden_act": "gelu_new"},
    ),
    Fault(
        "relu for gelu",
        "vit",
        "forward",
        "vit.encoder.layer.0.intermediate.intermediate_act_fn",
        port={"hidden_act": "relu"},
    ),
    Fault(
        "gelu for its quick approximation",
        "clip",
        "forward",
        "vision_model.encoder.layers.0.mlp.activation_fn",
        port={"vision_config": {**twins.FAMILIES["clip"].options["vision_config"], "hidden_act": "gelu"}},
    ),
    Fault(
        "eps of the layer norms",
        "bert",
        "forward",
        "embeddings.LayerNorm",
        port={"layer_norm_eps": 1e-5},
    ),
    Fault(
        "a square kernel transposed",
        "bert",
        "forward",
        "encoder.layer.1.attention.self.query",
        params=lambda params: replaced(params, "encoder/layer/1/attention/self/query/kernel", jnp.transpose),
    ),
    Fault(
        "two heads exchanged before the output projection",
        "gpt2",
        "forward",
        "transformer.h.0.attn.c_proj",
        params=_heads_swapped,
        scatter=0.05,
    ),
    Fault(
        "the attention mask left out",
        "bert",
        "input",
        "",
        loss=_on_inputs(lambda ids, mask, labels: (ids, jnp.ones_like(mask), labels)),
    ),
    Fault(
        "an attention mask that is one wider",
        "bert",
        "forward",
        "encoder.layer.0.attention.self",
        loss=_on_inputs(lambda ids, mask, labels: (ids, jnp.maximum(mask, jnp.roll(mask, 1, axis=1)), labels)),
    ),
    Fault(
        "scores that are scaled",
        "gpt2",
        "forward",
        "transformer.h.0.attn",
        both={"scale_attn_weights": False, "attn_implementation": "eager"},  # the Flax twin scales all the same
    ),
    Fault(
        "a window that is one shorter",
        "gpt_neo",
        "forward",
        "transformer.h.1.attn.attention",
        port={"window_size": 2},
    ),
    Fault(
        "embeddings that are not scaled",
        "bart",
        "forward",
        "model.encoder.embed_tokens",
        both={"scale_embedding": True},
        port={"scale_embedding": False},
    ),
    Fault(
        "positions that start at one",
        "gpt2",
        "forward",
        "transformer.wpe",
        loss=_shifted,
    ),
    Fault(
        "the second kind of token throughout",
        "bert",
        "forward",
        "embeddings.token_type_embeddings",
        loss=_typed,
    ),
    Fault(
        "height and width exchanged",
        "resnet",
        "forward",
        "resnet.embedder.embedder.convolution",
        loss=_on_inputs(lambda pixels, labels: (pixels.swapaxes(2, 3), labels)),
    ),
    Fault(
        "a running variance off by one in a thousand",
        "resnet",
        "forward",
        "resnet.embedder.embedder.normalization",
        loss=_with_other_statistics,
    ),
    Fault(
        "one entry of one kernel moved",
        "distilbert",
        "params",
        "distilbert.transformer.layer.1.ffn.lin1",
        params=lambda params: replaced(params, "distilbert/transformer/layer/1/ffn/lin1/kernel", _one_entry_moved),
    ),
    Fault(
        "no gradient for the positions",
        "gpt2",
        "gradient",
        "transformer",  # which adds them to the words, and sums their gradient over the batch
        loss=_stopped("transformer/wpe/embedding"),
    ),
    Fault(
        "no gradient for one scale of a layer norm",
        "bert",
        "gradient",
        "encoder.layer.0.output.LayerNorm",
        loss=_stopped("encoder/layer/0/output/LayerNorm/scale"),
    ),
    Fault(
        "no gradient for one kernel",
        "vit",
        "gradient",
        "vit.encoder.layer.1.attention.attention.key",
        loss=_stopped("vit/encoder/layer/1/attention/attention/key/kernel"),
        scatter=0.05,
    ),
    Fault(
        "half the gradient",
        "gpt2",
        "gradient",
        "",
        loss=_half_stopped,
        scatter=0.05,
    ),
    Fault(
        "no gradient for one kernel, where constants are rounded",
        "llama",
        "gradient",
        "model.layers.0.mlp.up_proj",
        loss=_stopped("model/layers/0/mlp/up_proj/kernel"),
    ),
    Fault(
        "gelu for silu, where constants are rounded",
        "llama",
        "forward",
        "model.layers.0.mlp.act_fn",
        port={"hidden_act": "gelu"},
    ),
    Fault(
        "half the loss",
        "gpt2",
        "loss",
        "",
        loss=lambda made: lambda params, *batch: made.jax_loss(params, *batch) / 2,
    ),
    Fault(
        "a number added to the loss, less than float32 can show",
        "gpt2",
        "loss",
        "",
        both={"vocab_size": 5000},
        loss=lambda made: lambda params, *batch: made.jax_loss(params, *batch) + 1e-7,
    ),
    Fault("a sum over the tokens for a mean", "gpt2", "loss", "", loss=_summed),
    Fault("labels smoothed by one in a thousand", "distilbert", "loss", "", loss=_smoothed),
    Fault(
        "labels of the next token",
        "distilbert",
        "loss",
        "",
        loss=_on_inputs(lambda ids, mask, labels: (ids, mask, jnp.roll(labels, 1, axis=1))),
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.family}: {fault.name}")
def test_a_planted_fault_is_found_where_it_is(fault):
    report = fault.report()
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert (report.first.stage, report.first.torch.module) == (fault.stage, fault.module), str(report)
    assert report.first.jax is not None
    if fault.stage not in ("params", "gradient"):
        assert report.first.error > 0


def test_a_fault_is_found_that_moves_the_loss_by_no_more_than_rounding_does():
    report = FAULTS[0].report()
    ours, theirs = report.losses[0]
    assert abs(ours - theirs) <= np.spacing(np.float32(ours))
    assert report.verdict is Verdict.DIFFERENT
    assert report.first.torch.op == "aten.gelu.default"


def test_weights_that_are_tied_in_torch_alone_are_named(torch):
    made = twins.twin("gpt2", port={"tie_word_embeddings": False})
    report = twins.compare_twin(made)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert (report.first.step, report.first.stage, report.first.torch.module) == (1, "params", "transformer.wte")
    assert "torch's transformer.wte.weight is one parameter" in report.first.message
    assert "['lm_head']['kernel']" in report.first.message


# --- what cannot be told ----------------------------------------------------------------------------------------------


def test_dropout_on_the_torch_side_is_inconclusive(torch):
    made = twins.twin("distilbert")
    made.module.train()
    report = twins.compare_twin(made)
    assert report.verdict is Verdict.INCONCLUSIVE, str(report)
    assert "torch side" in report.reason
    assert "dropout" in report.reason
    assert made.module.training


def test_dropout_on_the_jax_side_is_inconclusive():
    made = twin("distilbert")

    def loss(params, *batch):
        given = dict(zip(made.family.reads, batch, strict=False))
        out = made.flax(**given, params=params, train=True, dropout_rng=jax.random.key(0))
        return made.scalar(out.logits, batch[-1])

    report = twins.compare_twin(made, loss=loss)
    assert report.verdict is Verdict.INCONCLUSIVE, str(report)
    assert "JAX side" in report.reason
    assert "dropout" in report.reason
