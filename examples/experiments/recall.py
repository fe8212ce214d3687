"""Recall against the size of the state: multi-query associative recall (MQAR; Arora et al. 2023).

A sequence lists 8 pairs, a key of 32 and a value of 16, and then every key once more in another order; at each of these the
answer is the key's value. Guessing is 6 % right, naming the most frequent value of the sequence about 20 %. One layer of one
head; its keys have dk numbers, and the state grows with dk. The state is all that the module hands on: memories, the windows
and filters they need, and for attention the pairs.
"""

from __future__ import annotations

import statistics

import torch
from experiment import COLOURS, options, picture, program, side_by_side, spread, train, write_table
from torch import Tensor
from torch.nn.functional import cross_entropy

import nldsl

LAYERS = {
    "linear_attention": "linear attention",
    "delta_net": "DeltaNet",
    "gated_delta": "Gated DeltaNet",
    "titans_fast": "Titans (LMM)",
    "hope_like": "Hope-like",
    "softmax_attention": "softmax attention",
}
KEYS, VALUES = 32, 16
RATE = 2e-2


def batch(pairs: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens [size, 3 pairs] and the answers at the last `pairs` of them."""
    keys = torch.rand(size, KEYS, generator=generator).argsort(1)[:, :pairs]
    values = torch.randint(VALUES, (size, pairs), generator=generator)
    order = torch.rand(size, pairs, generator=generator).argsort(1)
    listed = torch.stack([keys, values + KEYS], 2).flatten(1)
    return torch.cat([listed, keys.gather(1, order)], 1), values.gather(1, order)


def run(layer: str, dk: int, seed: int, pairs: int, steps: int) -> tuple[float, int]:
    """The share of right answers on new sequences, and the bytes of the state behind one."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    file = "mixers.nl" if layer in ("titans_fast", "hope_like") else f"{layer}.nl"
    model = program(file, "tagger.nl").module("tagger", vocab=KEYS + VALUES, classes=VALUES, mixer=layer, d=32, dk=dk)

    def loss(step: int) -> Tensor:
        x, y = batch(pairs, 32, generator)
        return cross_entropy(model(x)[:, -pairs:].flatten(0, 1), y.flatten())

    train(loss, nldsl.optimizer("adamw", model.parameters(), lr=RATE), steps)
    with torch.no_grad():
        x, y = batch(pairs, 256, generator)
        logits, state = model(x, return_state=True)
    right = (logits[:, -pairs:].argmax(2) == y).float().mean().item()
    return 100 * right, sum(v[0].numel() * v.element_size() for v in state.values() if v.dim())


def main() -> None:
    chosen = options(__doc__)
    pairs, steps, sizes = (2, 3, [4]) if chosen.quick else (8, 600, [4, 8, 16])
    cases = [(layer, dk, seed, pairs, steps) for layer in LAYERS for dk in sizes for seed in range(chosen.seeds)]
    shares: dict[tuple[str, int], list[float]] = {}
    size: dict[tuple[str, int], int] = {}
    for (layer, dk, *_), (share, count) in zip(cases, side_by_side(run, cases, chosen.jobs)):
        shares.setdefault((layer, dk), []).append(share)
        size[layer, dk] = count

    rows = [[LAYERS[layer], dk, f"{size[layer, dk]:,}", spread(found, 0)] for (layer, dk), found in shares.items()]
    write_table(chosen.out / "recall", ["layer", "dk", "bytes of state", "right, %"], rows)

    figure, (axes,) = picture()
    for colour, (layer, name) in zip(COLOURS, LAYERS.items()):
        x = [size[layer, dk] for dk in sizes]
        axes.plot(x, [statistics.fmean(shares[layer, dk]) for dk in sizes], color=colour, marker="o", label=name)
        for place, dk in zip(x, sizes):
            axes.plot([place] * chosen.seeds, shares[layer, dk], ".", color=colour, alpha=0.5, markersize=4)
    axes.axhline(100 / VALUES, color="#999999", linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="bytes of state behind a sequence", ylabel="right answers, %", ylim=(0, 103))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(chosen.out / "recall.png")


if __name__ == "__main__":
    main()
