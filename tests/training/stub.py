"""A small model with the protocol of compiled `.nl` models, and a run of it as a command."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from nldsl_torch.training import OptimizerSpec, TrainSpec, fit

SPEC_TEXT = "train stub { model gru }\n"
TEXT = b"".join(b"%d bottles of beer on the wall; take one down, pass it around. " % n for n in range(99, 60, -1))


def adamw(lr: float = 1e-2) -> OptimizerSpec:
    """torch's own, for all parameters."""
    return OptimizerSpec(lambda model: torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95)), {"optimizer.lr": lr})


class Gru(nn.Module):
    """Embedding, GRU with dropout (so that the random state matters), and a readout."""

    def __init__(self, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.readout = nn.Linear(width, 256)

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None, return_state: bool = False) -> Any:
        state = self.initial_state(x.shape[0]) if state is None else state
        h, last = self.gru(self.embed(x), state["h"])
        logits = self.readout(self.dropout(h))
        return (logits, {"h": last}) if return_state else logits

    def step(self, x_t: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        logits, state = self.forward(x_t[:, None], state, return_state=True)
        return logits[:, 0], state

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        return {"h": torch.zeros(1, batch, self.gru.hidden_size, device=self.embed.weight.device)}


def small_spec(run_dir: str, **changes: Any) -> TrainSpec:
    """Twelve steps on the numbered verses, or `changes` of them."""
    settings: dict[str, Any] = {
        "name": "stub",
        "spec_text": SPEC_TEXT,
        "spec_file": "stub.nl",
        "build": Gru,
        "run_dir": run_dir,
        "steps": 12,
        "batch": 4,
        "length": 16,
        "warmup": 2,
        "optimizer": adamw(),
        "eval_every": 4,
        "checkpoint_every": 3,
        "log_every": 1,
        "threads": 1,
        "sample_bytes": 8,
    }
    return TrainSpec(**{**settings, **changes})


if __name__ == "__main__":
    fit(small_spec(sys.argv[1], data=sys.argv[2], steps=100_000))
