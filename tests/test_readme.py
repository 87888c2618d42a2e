from __future__ import annotations

import doctest
import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def examples():
    """The README's Python blocks, one after the other, as one doctest."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    return doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "README.md", str(README), 0)


def test_every_python_block_of_the_readme_runs_and_prints_what_it_shows():
    found = examples()
    assert len(found.examples) > 20
    said = []
    results = doctest.DocTestRunner().run(found, out=said.append)
    assert results.failed == 0, "".join(said)
