"""What ``jaxgrad.compare`` costs, beside the two programs that it compares."""

from __future__ import annotations

import contextlib
import io
import resource
import statistics
import time
import warnings
from typing import Any

import jax
import numpy as np

from jaxgrad.bench.timing import seconds
from jaxgrad.errors import require
from jaxgrad.parity.programs import JaxProgram, TorchProgram


def bench_compare(
    *, layers: int = 12, width: int = 768, heads: int = 12, tokens: int = 64, repeats: int = 3
) -> dict[str, Any]:
    """What ``compare`` costs on GPT-2, beside the two programs run plainly, op by op.

    Args:
      layers: of the model.
      width: of its hidden states; with 12 layers and 768 it has 124 million parameters.
      heads: of its attention.
      tokens: in the one row of the batch.
      repeats: of each plain run, after one to warm up; ``compare`` runs twice, and the second counts.

    Returns:
      Seconds of torch's step, of JAX's step op by op and of ``compare``, their ratio, the peak memory of the process in
      GiB, the verdict and the versions.

    Raises:
      MissingExtraError: if torch, transformers or flax is not installed.
    """
    torch = require("torch", "jaxgrad bench compare")
    for package in ("transformers", "flax"):
        require(package, "jaxgrad bench compare")
    from jaxgrad.parity.engine import compare

    original, port, batch = _gpt2(layers, width, heads, tokens)

    def torch_step() -> None:
        original.module.zero_grad(set_to_none=True)
        original.loss(original.module, torch.tensor(batch)).backward()

    def jax_step() -> Any:
        with jax.disable_jit():
            return jax.value_and_grad(port.loss)(port.params, jax.numpy.asarray(batch))

    report = None
    for step in (torch_step, jax_step):
        step()
    plain = {"torch": seconds(torch_step, repeats), "jax": seconds(jax_step, repeats)}
    original.module.zero_grad(set_to_none=True)
    compared = []
    for _ in range(2):
        start = time.perf_counter()
        report = compare(original, port, [(batch,)])
        compared.append(time.perf_counter() - start)
    assert report is not None
    medians = {side: statistics.median(each) for side, each in plain.items()}
    return {
        "parameters": sum(p.numel() for p in original.module.parameters()),
        "seconds": {**medians, "compare": compared[-1], "compare the first time": compared[0]},
        "ratio": compared[-1] / sum(medians.values()),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "verdict": report.verdict.name,
        "coverage": report.coverage,
        "versions": {"torch": torch.__version__, "jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
    }


def _gpt2(layers: int, width: int, heads: int, tokens: int) -> tuple[TorchProgram, JaxProgram, np.ndarray]:
    """The torch and the Flax GPT-2 of the transformers library with the same random weights."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import transformers
        from transformers.modeling_flax_pytorch_utils import convert_pytorch_state_dict_to_flax

        config = transformers.GPT2Config(
            n_layer=layers, n_embd=width, n_head=heads, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        )
        module = transformers.GPT2LMHeadModel(config).eval()
        transformers.logging.set_verbosity_error()  # the Flax models will go, so the extra pins what has them
        flax: Any = transformers.FlaxGPT2LMHeadModel(config, seed=0)
        params = convert_pytorch_state_dict_to_flax(module.state_dict(), flax)
    batch = np.random.default_rng(0).integers(0, config.vocab_size, (1, tokens)).astype(np.int32)

    def torch_loss(module: Any, ids: Any) -> Any:
        return (module(input_ids=ids.long()).logits ** 2).mean()

    def jax_loss(params: Any, ids: Any) -> Any:
        return (flax(input_ids=ids, params=params, train=False).logits ** 2).mean()

    return TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), batch
