"""Decoding `examples/hope.nl`, tick by tick, against the same arithmetic written by hand; `deep_memory.py decode` runs it."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from gated_delta import sync
from torch import Tensor
from torch.nn import functional as F

import nldsl

ROOT = Path(__file__).resolve().parent.parent


def rms(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = ((x * x).mean(-1, keepdim=True) + 1e-6).rsqrt()
    return x * scale, scale


def unit(x: Tensor) -> Tensor:
    return x * ((x * x).sum(-1, keepdim=True) + 1e-6).rsqrt()


def apply(W: Tensor, x: Tensor) -> Tensor:
    return (W @ x.unsqueeze(-1)).squeeze(-1)


def slope(c: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(c, x)


class Hand:
    """One tick of examples/hope.nl as one would write it in torch, without gradients through time."""

    windows = (8, 8, 16, 8, 8)
    periods = (4, 16, 64)
    rate = 0.1

    def __init__(self, p: dict[str, Tensor]):
        self.p, self.heads = p, p["Wx"].shape[0]

    def start(self, B: int) -> dict:
        p = self.p
        net = lambda name: tuple(p[f"{name}_{w}_init"].expand(B, *p[f"{name}_{w}_init"].shape) for w in ("up", "down"))  # noqa: E731
        nets, slow = [net(f"M_{i}_mlp" if i < 3 else f"M_{i}") for i in range(5)], [net(f"F_{n}") for n in self.periods]
        return {"t": 0, "M": nets, "start": list(nets), "F": slow, "sum": [(torch.zeros_like(a), torch.zeros_like(b)) for a, b in slow],
                "past": p["embed"].new_zeros(B, 3, p["embed"].shape[0])}  # fmt: skip

    def step(self, token: Tensor, target: Tensor, s: dict) -> tuple[Tensor, Tensor, dict]:
        p, t = self.p, s["t"] + 1
        x = p["embed"].mT[token]
        past = torch.cat([s["past"], rms(x)[0].unsqueeze(1)], 1)
        u = (past * p["u_filter"].flip(-1).mT).sum(1)
        z, q = (F.linear(u, W.flatten(0, -2)).unflatten(-1, W.shape[:2]) for W in (p["Wx"], p["Wq"]))
        q = unit(q)
        net = lambda i, y: apply(s["start"][i][1], F.gelu(apply(s["start"][i][0], y)))  # noqa: E731
        k, v = unit(z + net(0, z)), unit(z + net(1, z))
        eta, alpha = 0.02 * net(3, z).sigmoid().unsqueeze(-1), (8 + net(4, z)).sigmoid().unsqueeze(-1)
        up, down = s["M"][2]
        o = q + apply(down, F.gelu(apply(up, q)))
        nets = []
        for i, (up, down) in enumerate(s["start"]):
            a = apply(up, k)
            h = F.gelu(a)
            error = apply(down, h) - net(i, v) + (k - v if i < 3 else 0)
            pulled = slope(apply(down.mT, error), a)
            up, down = s["M"][i]
            pulled, error = pulled + apply(up, k), error + apply(down, h)  # the erase: W x x^T
            nets.append((alpha * up - eta * pulled.unsqueeze(-1) * k.unsqueeze(-2), alpha * down - eta * error.unsqueeze(-1) * h.unsqueeze(-2)))
        starts = [nets[i] if t % C == 0 else s["start"][i] for i, C in enumerate(self.windows)]
        y, kept = x + F.linear(o.flatten(-2), p["Wo"]), []
        for up, down in s["F"]:
            n, scale = rms(y)
            a = apply(up, n)
            h = F.gelu(a)
            kept.append((n, scale, a, h))
            y = y + apply(down, h)
        n, scale = rms(y)
        logits = F.linear(n, p["head"])
        loss = F.cross_entropy(logits, target, reduction="none")
        d = (logits.softmax(-1) - F.one_hot(target, logits.shape[-1])) @ p["head"]
        d = (d - n * (d * n).mean(-1, keepdim=True)) * scale
        slow, sums = list(s["F"]), list(s["sum"])
        for i in (2, 1, 0):
            n, scale, a, h = kept[i]
            up, down = s["F"][i]
            pulled = slope(apply(down.mT, d), a)
            total = sums[i][0] + pulled.unsqueeze(-1) * n.unsqueeze(-2), sums[i][1] + d.unsqueeze(-1) * h.unsqueeze(-2)
            if t % self.periods[i] == 0:
                slow[i] = up - self.rate * total[0], down - self.rate * total[1]
                total = torch.zeros_like(up), torch.zeros_like(down)
            sums[i] = total
            back = apply(up.mT, pulled)
            d = d + (back - n * (back * n).mean(-1, keepdim=True)) * scale
        return logits, loss, {"t": t, "M": nets, "start": starts, "F": slow, "sum": sums, "past": past[:, 1:]}


@torch.no_grad()
def decode(args: argparse.Namespace) -> int:
    """Ticks of one sequence, as in generation."""
    T, vocab = 320, 64
    program = nldsl.load(str(ROOT / "examples/hope.nl"))
    for d, dtype, measured in ((32, torch.float64, False), (256, torch.float32, True)):
        torch.manual_seed(0)
        ours = program.module("hope", d=d, vocab=vocab, device=args.device, dtype=dtype)
        p = dict(ours.named_parameters())
        hand = Hand(p)
        tokens = torch.randint(0, vocab, (1, T + 1), device=args.device)
        a, b, worst = ours.initial_state(1), hand.start(1), 0.0
        times: dict[str, list[float]] = {"nldsl": [], "by hand": []}
        for t in range(T):
            before = time.perf_counter()
            y, a = ours.step(tokens[:, t], tokens[:, t + 1], a)
            sync(args.device)
            between = time.perf_counter()
            logits, loss, b = hand.step(tokens[:, t], tokens[:, t + 1], b)
            sync(args.device)
            times["nldsl"].append((between - before) * 1e3)
            times["by hand"].append((time.perf_counter() - between) * 1e3)
            worst = max(worst, ((y["logits"] - logits).norm() / logits.norm()).item(), ((y["loss"] - loss).norm() / loss.norm()).item())
        print(f"decode, d = {d}: largest difference over {T} ticks {worst:.1e} in {dtype}")
        if not worst < (1e-9 if dtype == torch.float64 else 1e-3):
            return 1
        if measured:
            least, middle = ([value(times[n]) for n in times] for value in (min, statistics.median))
            print(f"a tick: nldsl {least[0]:.2f} / {middle[0]:.2f} ms, by hand {least[1]:.2f} / {middle[1]:.2f} ms (least / median), "
                  f"ratio {least[0] / least[1]:.2f} / {middle[0] / middle[1]:.2f}")  # fmt: skip
    return 0
