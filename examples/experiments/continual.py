"""Forgetting on a stream of domains: a byte model with a continuum memory system against the same with a plain map.

Three texts that every Python has, one after the other: English (the help topics of pydoc), Python (modules of the standard
library), names of Unicode characters. Both models have the same trained numbers and see the same bytes; AdamW trains all first
states, and inside of a sequence the memory system goes on learning from the loss, in tests too. After each domain both are
tested on the held-out end of every domain, in 16 sequences of 512 bytes that start anew; and once more with rates of 0 inside, which
shows what the first states alone hold. Forgotten is the loss on a domain at the end of the stream minus the loss right after it.
"""

from __future__ import annotations

import math
import random
import statistics
import sysconfig
import unicodedata
from pathlib import Path

import torch
from experiment import COLOURS, options, picture, program, side_by_side, spread, write_table

import nldsl
from nldsl_torch.training.data import embedded_text

MODELS = {"plain": "plain map", "levels": "memory system"}
TESTED = {**MODELS, "off": "memory system, off in tests"}
MODULES = "argparse ast asyncio/base_events ctypes/__init__ datetime decimal difflib doctest inspect logging/__init__ pydoc tarfile"
SIZE = 200_000
HELD_OUT = 16 * 512 + 1
"""So many bytes at the end of a text are never trained on."""


def python_code() -> bytes:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [folder / f"{name}.py" for name in MODULES.split()]
    return b"\n".join(file.read_bytes() for file in files if file.exists())


def unicode_names() -> bytes:
    """In an order without a pattern, so that the held-out end is like the rest."""
    names = [unicodedata.name(chr(code), "") for code in range(0x20, 0x3000)]
    random.Random(0).shuffle(names)
    return "\n".join(filter(None, names)).lower().encode()


DOMAINS = {"English": embedded_text, "Python": python_code, "Unicode names": unicode_names}


def run(kind: str, seed: int, steps: int, size: int, length: int, tests: int) -> dict[str, list[list[float]]]:
    """Of what is tested, bits a byte on each domain (inner), before the stream and after each of its domains (outer)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    spec = program("continual.nl")
    model = spec.module(kind)
    tested = {kind: model, **({"off": spec.module(kind, lr=0.0)} if kind == "levels" else {})}
    optimizer = nldsl.optimizer("adamw", model.parameters(), lr=4e-3, betas=[0.9, 0.95], weight_decay=0)
    texts = [torch.frombuffer(bytearray(make()[:SIZE]), dtype=torch.uint8).long() for make in DOMAINS.values()]
    measured: dict[str, list[list[float]]] = {name: [] for name in tested}

    def test() -> None:
        for name, one in tested.items():
            one.load_state_dict(model.state_dict())
            measured[name].append([bits(one, text[-(512 * tests + 1) :]) for text in texts])

    test()
    for text in texts:
        for _ in range(steps):
            starts = torch.randint(len(text) - HELD_OUT - length, (size, 1), generator=generator)
            window = text[starts + torch.arange(length + 1)]
            optimizer.zero_grad()
            model(window[:, :-1], window[:, 1:]).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        test()
    return measured


@torch.no_grad()
def bits(model: torch.nn.Module, text: torch.Tensor) -> float:
    """Bits a byte, in sequences that start anew."""
    loss: torch.Tensor = model(text[:-1].view(-1, 512), text[1:].view(-1, 512))
    return loss.mean().item() / math.log(2)


def main() -> None:
    chosen = options(__doc__)
    steps, size, length, tests = (2, 2, 64, 1) if chosen.quick else (150, 8, 128, 16)
    cases = [(kind, seed, steps, size, length, tests) for kind in MODELS for seed in range(chosen.seeds)]
    found: dict[str, list[list[list[float]]]] = {}
    for measured in side_by_side(run, cases, chosen.jobs):
        for name, stages in measured.items():
            found.setdefault(name, []).append(stages)

    rows = []
    for number, domain in enumerate(DOMAINS):
        for kind, name in TESTED.items():
            by_stage = [[measured[stage][number] for measured in found[kind]] for stage in range(len(DOMAINS) + 1)]
            lost = [end - learned for end, learned in zip(by_stage[-1], by_stage[number + 1])]
            rows.append([domain, name, *map(spread, by_stage), spread(lost)])
    write_table(
        chosen.out / "continual",
        ["bits a byte on", "model", "at first", *(f"after {domain}" for domain in DOMAINS), "forgotten"],
        rows,
    )

    figure, axes = picture(len(DOMAINS), width=9, height=3.2)
    stages = ["start", *DOMAINS]
    for number, (one, domain) in enumerate(zip(axes, DOMAINS)):
        for colour, (kind, name) in zip(COLOURS, TESTED.items()):
            curves = [[stage[number] for stage in measured] for measured in found[kind]]
            for curve in curves:
                one.plot(curve, color=colour, alpha=0.3, linewidth=1)
            one.plot([statistics.fmean(c) for c in zip(*curves)], color=colour, marker="o", markersize=4, label=name)
        one.axvspan(number, number + 1, color="#000000", alpha=0.06, linewidth=0)
        one.set(title=f"tested on {domain}", xticks=range(len(stages)), ylim=(0, 9))
        one.set_xticklabels(stages, rotation=25, ha="right", fontsize=8)
    axes[0].set_ylabel("bits a byte")
    axes[0].legend(frameon=False)
    figure.savefig(chosen.out / "continual.png")


if __name__ == "__main__":
    main()
