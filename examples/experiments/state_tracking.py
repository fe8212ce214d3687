"""State tracking, as in Table 5 of Nested Learning: parity, (aa)* and a^n b^n, trained on short words, tested on longer ones.

At each letter a layer says what holds of the word so far: its number of ones is odd; its length is even and it may end; or a or
b, only b, only the end may follow. A word counts if all answers in it are right (Irie et al. 2023). Training has words of
up to 32 letters; bin 0 has words as long as those, bin 1 words of up to 64.
"""

from __future__ import annotations

import statistics

import torch
from experiment import COLOURS, options, picture, program, side_by_side, spread, train, write_table
from torch import Tensor
from torch.nn.functional import cross_entropy

import nldsl

LAYERS = {
    "softmax_attention": "softmax attention",
    "linear_attention": "linear attention",
    "delta_net": "DeltaNet",
    "delta_net_two": "DeltaNet, rate to 2",
    "titans_fast": "Titans (LMM)",
    "hope_like": "Hope-like",
    "recurrent": "tanh recurrence",
}
TASKS = {"parity": "parity", "even": "(aa)*", "counter": "a^n b^n"}
NOTHING = -100
"""The answer behind the end of a word: not counted."""


def parity(size: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    bits = torch.randint(2, (size, length), generator=generator)
    return bits, bits.cumsum(1) % 2


def even(size: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    word = torch.zeros(1, length, dtype=torch.long)  # there is one word only
    return word, (word + 1).cumsum(1) % 2


def counter(size: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    n = torch.randint(1, length // 2 + 1, (size, 1), generator=generator)
    place = torch.arange(1, length + 1)
    word = (place > n).long()
    answer = word + (place == 2 * n).long()
    return word, answer.where(place <= 2 * n, torch.tensor(NOTHING))


MAKE = {"parity": parity, "even": even, "counter": counter}


def run(task: str, layer: str, seed: int, length: int, steps: int) -> list[float]:
    """Share of words all right in bin 0, in bin 1, and share of right answers in bin 1."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    file = "mixers.nl" if layer in ("titans_fast", "hope_like", "delta_net_two", "recurrent") else f"{layer}.nl"
    model = program(file, "tagger.nl").module("tagger", vocab=2, classes=3, mixer=layer, d=32, dk=16)

    def loss(step: int) -> Tensor:
        now = min(length, 4 + 2 * length * step // steps)
        x, y = MAKE[task](32, now, generator)
        return cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=NOTHING)

    train(loss, nldsl.optimizer("adamw", model.parameters(), lr=1e-2), steps)
    shares = []
    with torch.no_grad():
        for most in (length, 2 * length):
            x, y = MAKE[task](128, most, generator)
            if task == "counter" and most > length:  # words longer than those of the training
                kept = (y != NOTHING).sum(1) > length
                x, y = x[kept], y[kept]
            right = model(x).argmax(2) == y
            shares.append((right | (y == NOTHING)).all(1).float().mean().item())
    return [100 * s for s in [*shares, right[y != NOTHING].float().mean().item()]]


def main() -> None:
    chosen = options(__doc__)
    length, steps = (8, 3) if chosen.quick else (32, 300)
    cases = [(task, layer, seed, length, steps) for task in TASKS for layer in LAYERS for seed in range(chosen.seeds)]
    found: dict[tuple[str, str], list[list[float]]] = {}
    for (task, layer, *_), shares in zip(cases, side_by_side(run, cases, chosen.jobs)):
        found.setdefault((task, layer), []).append(shares)

    rows = []
    for layer, name in LAYERS.items():
        for task, title in TASKS.items():
            rows.append([name, title, *(spread(column, 0) for column in zip(*found[task, layer]))])
    write_table(
        chosen.out / "state_tracking",
        ["layer", "language", "bin 0, words %", "bin 1, words %", "bin 1, letters %"],
        rows,
    )

    figure, axes = picture(len(TASKS), width=9.5, height=3.2)
    for one, (task, title) in zip(axes, TASKS.items()):
        for place, layer in enumerate(LAYERS):
            means = [statistics.fmean(column) for column in zip(*found[task, layer])][:2]
            one.bar([place - 0.2, place + 0.2], means, 0.4, color=[COLOURS[place], COLOURS[place] + "70"])
            for bin_, side in enumerate((-0.2, 0.2)):
                values = [shares[bin_] for shares in found[task, layer]]
                one.plot([place + side] * len(values), values, ".", color="#222222", markersize=3)
        one.set(title=title, ylim=(0, 105), xticks=range(len(LAYERS)))
        one.set_xticklabels(LAYERS.values(), rotation=60, ha="right", fontsize=8)
    for label, colour in (("to 32 letters", "#555555"), ("to 64", "#55555570")):
        axes[0].bar([0], [0], color=colour, label=label)
    axes[0].legend(frameon=False, fontsize=7, loc="upper left", handlelength=1)
    axes[0].set_ylabel("words all right, %")
    figure.savefig(chosen.out / "state_tracking.png")


if __name__ == "__main__":
    main()
