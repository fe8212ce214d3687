"""What a standalone file of a rule carries: the text of the runtime, in the order in which its parts use each other."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
PARTS = ("../matrices", "numbers", "program", "native", "accelerator", "probe", "groups", "perform", "table", "optimizer")


@cache
def standalone_imports() -> str:
    """The runtime as one text, in the place of its imports."""
    texts = []
    for name in PARTS:
        _, _, text = (HERE / f"{name}.py").read_text(encoding="utf-8").partition("from __future__ import annotations\n")
        text = re.sub(r"^from nldsl_torch\.[^\n]*?(\([^)]*\)|[^(\n]*)$\n?", "", text, flags=re.MULTILINE)
        texts.append(f"# --- {name.split('/')[-1]}.py " + "-" * 80 + "\n" + text.strip("\n"))
    return "\n\n\n".join(texts)
