"""What the parameters of a model are for, in the words of rules and routes."""

from __future__ import annotations

# The role of each word, and the shape that its parameters have: two dimensions, at most one, three and more.
ROLES = {"matrices": "matrix", "vectors": "vector", "embeddings": "embedding", "heads": "head", "convolutions": "convolution"}
SHAPES = {"matrices": "matrix", "vectors": "vector", "embeddings": "matrix", "heads": "matrix", "convolutions": "tensor"}
ACCEPTED = {"any": ("matrix", "vector", "tensor"), "matrix": ("matrix",), "vector": ("vector",), "stack": ("matrix", "tensor")}
TIED = frozenset({"embeddings", "heads"})  # a parameter may be both
BY_DIMENSIONS = {0: "vector", 1: "vector", 2: "matrix"}  # where no model says more


def by_shape(dimensions: int) -> str:
    """The role that the shape alone tells; `tensor` is none of the words."""
    return BY_DIMENSIONS.get(dimensions, "tensor")


def overlap(word: str, words: tuple[str, ...]) -> bool:
    """Whether a parameter of one role may have one of the others."""
    return word in words or (word in TIED and not TIED.isdisjoint(words))


__all__ = ["ACCEPTED", "BY_DIMENSIONS", "ROLES", "SHAPES", "by_shape", "overlap"]
