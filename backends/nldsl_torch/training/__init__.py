"""Training: text to batches, a run that resumes bit for bit, and the report at its end.

In running order: `spec` (what is asked), `data`, `optimizers`, `ranks` and `shards` (the processes), `folder`, `run` (one step,
checkpoint; `feeding` is what a model is given), `trainer` (the loop), `evaluate`, `baseline`, `curve`, `report`; `compare`
sets several runs side by side; `errors` lists every mistake.
"""

from .baseline import order3_bits_per_byte
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint, spec_sha256
from .data import ByteData, embedded_text, load_text
from .evaluate import continue_text, heldout_bits_per_byte
from .optimizers import SCHEDULES, OptimizerSpec, rate_factor, routed
from .spec import Result, TrainSpec, cross_entropy
from .trainer import fit

__all__ = [
    "SCHEDULES",
    "ByteData",
    "Checkpoint",
    "OptimizerSpec",
    "Result",
    "TrainSpec",
    "continue_text",
    "cross_entropy",
    "embedded_text",
    "fit",
    "heldout_bits_per_byte",
    "load_checkpoint",
    "load_text",
    "order3_bits_per_byte",
    "rate_factor",
    "routed",
    "save_checkpoint",
    "spec_sha256",
]
