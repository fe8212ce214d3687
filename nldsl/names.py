"""Names of the core as names of generated code."""

from __future__ import annotations

import keyword
import re


def identifier(name: str) -> str:
    """A Python identifier for a core name: `S.decay` is `S_decay`, `layer.1` is `layer_1`."""
    text = re.sub(r"\W", "_", name)
    return f"{text}_" if keyword.iskeyword(text) or not text[0].isalpha() else text
