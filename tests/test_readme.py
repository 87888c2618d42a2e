from __future__ import annotations

import doctest
import re
from pathlib import Path

import jax

README = Path(__file__).parent.parent / "README.md"


def examples():
    """The README's Python blocks, one after the other, as one doctest."""
    blocks = re.findall(r"^```python\n(>>> .*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    return doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "README.md", str(README), 0)


def test_every_python_block_of_the_readme_runs_and_prints_what_it_shows():
    found = examples()
    assert len(found.examples) > 20
    said = []
    results = doctest.DocTestRunner().run(found, out=said.append)
    assert results.failed == 0, "".join(said)


def test_the_port_of_the_readme_is_told_as_the_readme_says(torch, tmp_path, capsys):
    text = README.read_text()
    start = text.index("import jax, jax.numpy as jnp, numpy as np, torch")
    code, shown = text[start : text.index("```", start)], text[text.index("DIFFERENT  not the same") :]
    path = tmp_path / "port.py"
    path.write_text(code)
    with jax.numpy_rank_promotion("allow"):
        exec(compile(code, str(path), "exec"), {"__name__": "port"})
    said = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    assert shown[: shown.index("```")].rstrip() in said


def test_the_readmes_translation_of_a_torch_optimizer_runs(torch):
    text = README.read_text()
    start = text.index("from jaxgrad import optax_from_torch, optax_state_from_torch")
    space = {"torch": torch, "jnp": jax.numpy}
    exec(compile(text[start : text.index("```", start)], "README.md", "exec"), space)
    space["optimizer"].load_state_dict(space["back"].optimizer)
    space["scheduler"].load_state_dict(space["back"].scheduler)
    assert space["scheduler"].best == 0.5
    assert space["optimizer"].state[space["net"].weight]["step"] == 1
