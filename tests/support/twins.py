"""Models that others wrote twice, in torch and in Flax: the twins in transformers, tiny, with random weights."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("USE_TF", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# An image of four patches and a class token is as long as a text, so that what is compiled for one serves the others.
VOCABULARY, LENGTH, SIDE = 64, 5, 16
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 24}
ENCODER = {
    **TEXT,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
SEQ2SEQ = {
    **TEXT,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "dropout": 0.0,
}
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": SIDE,
    "patch_size": 8,
    "num_labels": 3,
}
LLAMA = {**ENCODER, "num_key_value_heads": 1, "pad_token_id": 0}


@contextmanager
def as_the_authors_ran_it():
    """Third-party model code broadcasts ranks and warns of its own deprecation."""
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")
        yield


def transformers():
    """The package, or a skip that says why."""
    with as_the_authors_ran_it():
        package = pytest.importorskip("transformers", reason="needs transformers<5, where the twins are from")
        pytest.importorskip("flax", reason="needs flax, in which transformers' JAX models are written")
        if int(package.__version__.split(".")[0]) >= 5:
            pytest.skip(f"needs transformers<5, which has the JAX models; {package.__version__} is installed")
        package.logging.set_verbosity_error()
    return package


@dataclass(frozen=True)
class Family:
    """Two classes of the same name.

    Attributes:
      name: the torch class; the other one is ``Flax`` and this.
      config: the name of the configuration class, without ``Config``.
      options: of the configuration.
      reads: what the model is called with, from ``INPUTS``.
      output: the name of the output that the loss takes.
      loss: ``"cross_entropy"`` with labels, or ``"mean_square"``.
      flax: options of the Flax class alone.
      fixed: arguments of both calls that are no arrays.
    """

    name: str
    config: str
    options: dict[str, Any]
    reads: tuple[str, ...] = ("input_ids", "attention_mask")
    output: str = "logits"
    loss: str = "cross_entropy"
    flax: dict[str, Any] | None = None
    fixed: dict[str, Any] | None = None


_BOTH = ("input_ids", "attention_mask", "decoder_input_ids")
FAMILIES = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        "GPT2",
        dict(vocab_size=VOCABULARY, n_positions=24, n_embd=16, n_layer=2, n_head=2, n_inner=24)
        | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    ),
    "bert": Family("BertModel", "Bert", ENCODER, output="pooler_output", loss="mean_square"),
    "distilbert": Family(
        "DistilBertForMaskedLM", "DistilBert", dict(**TEXT, dim=16, n_layers=2, n_heads=2, hidden_dim=24)
    ),
    "gpt_neo": Family(
        "GPTNeoForCausalLM",
        "GPTNeo",
        dict(
            **TEXT,
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            intermediate_size=24,
            attention_types=[[["global", "local"], 1]],
            window_size=3,
        ),
    ),
    "vit": Family("ViTForImageClassification", "ViT", VISION, reads=("pixel_values",)),
    "resnet": Family(
        "ResNetForImageClassification",
        "ResNet",
        dict(embedding_size=8, hidden_sizes=[16], depths=[1], layer_type="bottleneck", num_labels=3),
        reads=("pixel_values",),
        flax={"input_shape": (1, SIDE, SIDE, 3)},
    ),
    "bart": Family("BartForConditionalGeneration", "Bart", SEQ2SEQ, reads=_BOTH),
    "clip": Family(
        "CLIPModel",
        "CLIP",
        dict(
            text_config=dict(**ENCODER, eos_token_id=2),
            vision_config={k: v for k, v in VISION.items() if k != "num_labels"},
            projection_dim=8,
        ),
        reads=("input_ids", "attention_mask", "pixel_values"),
        output="logits_per_text",
        loss="mean_square",
    ),
    "roberta": Family("RobertaForMaskedLM", "Roberta", ENCODER),
    "electra": Family("ElectraForPreTraining", "Electra", {**ENCODER, "embedding_size": 16}, loss="mean_square"),
    # Further ones, for a longer look than a test suite has time for.
    "albert": Family("AlbertForMaskedLM", "Albert", {**ENCODER, "embedding_size": 8}),
    "t5": Family(
        "T5ForConditionalGeneration",
        "T5",
        dict(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0),
        reads=_BOTH,
    ),
    "t5_gated": Family(
        "T5ForConditionalGeneration",
        "T5",
        dict(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, dropout_rate=0.0)
        | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        reads=_BOTH,
    ),
    "opt": Family(
        "OPTForCausalLM", "OPT", {k: v for k, v in ENCODER.items() if k != "intermediate_size"} | {"ffn_dim": 24}
    ),
    "gptj": Family(
        "GPTJForCausalLM",
        "GPTJ",
        dict(vocab_size=VOCABULARY, n_positions=24, n_embd=16, n_layer=2, n_head=2, rotary_dim=4),
    ),
    "bloom": Family("BloomForCausalLM", "Bloom", dict(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2)),
    "llama": Family("LlamaForCausalLM", "Llama", LLAMA),
    "mistral": Family("MistralForCausalLM", "Mistral", LLAMA | {"sliding_window": 4}),
    "gemma": Family("GemmaForCausalLM", "Gemma", LLAMA | {"head_dim": 8}),
    "pegasus": Family("PegasusForConditionalGeneration", "Pegasus", SEQ2SEQ, reads=_BOTH),
    "mbart": Family("MBartForConditionalGeneration", "MBart", SEQ2SEQ, reads=_BOTH),
    "marian": Family("MarianMTModel", "Marian", SEQ2SEQ | {"pad_token_id": 1}, reads=_BOTH),
    "blenderbot": Family("BlenderbotForConditionalGeneration", "Blenderbot", SEQ2SEQ, reads=_BOTH),
    "beit": Family("BeitForImageClassification", "Beit", VISION, reads=("pixel_values",)),
    "dinov2": Family("Dinov2ForImageClassification", "Dinov2", VISION, reads=("pixel_values",)),
    "regnet": Family(
        "RegNetForImageClassification",
        "RegNet",
        dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4, num_labels=3),
        reads=("pixel_values",),
        flax={"input_shape": (1, SIDE, SIDE, 3)},
    ),
    "wav2vec2": Family(
        "Wav2Vec2Model",
        "Wav2Vec2",
        dict(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            conv_dim=(8, 8),
            conv_kernel=(10, 3),
            conv_stride=(5, 2),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            do_stable_layer_norm=True,
            feat_extract_norm="layer",
        ),
        reads=("input_values",),
        output="last_hidden_state",
        loss="mean_square",
        flax={"input_shape": (1, 200)},
    ),
    "whisper": Family(
        "WhisperForConditionalGeneration",
        "Whisper",
        {**{k: v for k, v in SEQ2SEQ.items() if k != "max_position_embeddings"}}
        | dict(num_mel_bins=8, max_source_positions=10, max_target_positions=24, pad_token_id=0)
        | dict(bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None),
        reads=("input_features", "decoder_input_ids"),
        flax={"input_shape": (1, 8, 20)},
    ),
    "roformer": Family("RoFormerForMaskedLM", "RoFormer", {**ENCODER, "embedding_size": 16}),
    "xlm_roberta": Family("XLMRobertaForMaskedLM", "XLMRoberta", ENCODER),
    "roberta_pre_norm": Family("RobertaPreLayerNormForMaskedLM", "RobertaPreLayerNorm", ENCODER),
    "big_bird": Family("BigBirdForMaskedLM", "BigBird", ENCODER | {"attention_type": "original_full"}),
    "xglm": Family(
        "XGLMForCausalLM", "XGLM", dict(**TEXT, d_model=16, num_layers=2, attention_heads=2, ffn_dim=24, dropout=0.0)
    ),
    "bert_classifier": Family("BertForSequenceClassification", "Bert", ENCODER | {"num_labels": 3}),
}


def _inputs():
    random = np.random.default_rng(0)
    ids = random.integers(3, VOCABULARY, (2, LENGTH)).astype(np.int32)
    ids[:, -1] = 2  # the end of text, where CLIP reads its answer
    mask = np.ones((2, LENGTH), np.int32)
    mask[1, 3:] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": random.integers(3, VOCABULARY, (2, LENGTH)).astype(np.int32),
        "pixel_values": random.normal(size=(2, 3, SIDE, SIDE)).astype(np.float32),
        "input_values": random.normal(size=(2, 200)).astype(np.float32),
        "input_features": random.normal(size=(2, 8, 20)).astype(np.float32),
    }


INPUTS = _inputs()


@dataclass
class Twin:
    """A torch module in eval mode, its Flax model, and the Flax parameters that hold the module's numbers."""

    family: Family
    module: Any
    flax: Any
    params: Any
    statistics: Any = None

    def torch_loss(self, module, *batch):
        """The loss of the torch twin; a batch is what ``batch`` gives."""
        import torch

        *given, labels = batch
        given = {
            n: each if each.is_floating_point() else each.long()
            for n, each in zip(self.family.reads, given, strict=True)
        }
        out = getattr(module(**given, **(self.family.fixed or {})), self.family.output)
        if self.family.loss == "mean_square":
            return (out**2).mean()
        return torch.nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), labels.long().reshape(-1))

    def jax_output(self, params, *given, **more):
        """The output of the Flax twin that the loss takes."""
        if self.statistics is not None:
            params = {"params": params, "batch_stats": more.pop("statistics", self.statistics)}
        given = dict(zip(self.family.reads, given, strict=True)) | (self.family.fixed or {}) | more
        if "train" in inspect.signature(self.flax.__call__).parameters:
            given["train"] = False
        return getattr(self.flax(**given, params=params), self.family.output)

    def jax_loss(self, params, *batch, **more):
        """The loss of the Flax twin."""
        *given, labels = batch
        return self.scalar(self.jax_output(params, *given, **more), labels)

    def scalar(self, out, labels):
        """The loss of an output of the Flax twin."""
        if self.family.loss == "mean_square":
            return jnp.mean(out**2)
        logs = jax.nn.log_softmax(out.reshape(-1, out.shape[-1]))
        return -jnp.mean(jnp.take_along_axis(logs, labels.reshape(-1, 1), axis=1))

    def batch(self):
        """One batch: the inputs that the model reads, and labels."""
        given = [INPUTS[name] for name in self.family.reads]
        shape = {"pixel_values": (2,), "input_values": (2,)}.get(self.family.reads[-1], given[-1].shape)
        most = 3 if self.family.options.get("num_labels") else VOCABULARY
        if self.family.options.get("num_labels"):
            shape = (2,)
        return (*given, np.random.default_rng(1).integers(0, most, shape).astype(np.int32))


def twin(name: str, scatter: float = 0.0, port: dict[str, Any] | None = None, **options: Any) -> Twin:
    """Build a twin.

    Args:
      name: of ``FAMILIES``.
      scatter: this much normal noise is added to every torch parameter that is trained: none are all zeros then.
      port: options of the configuration that the Flax twin alone has: a fault.
      **options: of the configuration of both.
    """
    package = transformers()
    import torch

    family = FAMILIES[name]
    options = {**family.options, **options}
    with as_the_authors_ran_it(), torch.random.fork_rng(devices=[]):
        from transformers.modeling_flax_pytorch_utils import convert_pytorch_state_dict_to_flax

        configuration = getattr(package, family.config + "Config")
        torch.manual_seed(0)
        module = getattr(package, family.name)(configuration(**options)).eval()
        if scatter:
            with torch.no_grad():
                for parameter in (each for each in module.parameters() if each.requires_grad):
                    parameter.add_(scatter * torch.randn_like(parameter))
        flax = getattr(package, "Flax" + family.name)(
            configuration(**options | (port or {})), seed=0, _do_init=False, **(family.flax or {})
        )
        shapes = SimpleNamespace(params=flax.params_shape_tree, base_model_prefix=flax.base_model_prefix)
        params = convert_pytorch_state_dict_to_flax(module.state_dict(), shapes)
    statistics = None
    if "batch_stats" in params:
        params, statistics = params["params"], params["batch_stats"]
    return Twin(family, module, flax, jax.tree.map(jnp.asarray, params), statistics)


def compare_twin(made: Twin, loss: Callable[..., Any] | None = None, params: Any = None, batches: Any = None, **both):
    """``jaxgrad.compare`` of a twin, its JAX loss or parameters changed where asked.

    Args:
      made: the twin.
      loss: in place of ``made.jax_loss``.
      params: in place of ``made.params``.
      batches: in place of one ``made.batch()``.
      **both: ``optimizer``, a pair for torch and JAX.
    """
    from jaxgrad import JaxProgram, TorchProgram, compare

    ours, theirs = both.pop("optimizer", (None, None))
    with as_the_authors_ran_it():
        return compare(
            TorchProgram(made.module, made.torch_loss, ours),
            JaxProgram(made.params if params is None else params, loss or made.jax_loss, theirs),
            batches or [made.batch()],
        )
