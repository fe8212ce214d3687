"""The processes of one run: `torchrun --nproc_per_node N -m nldsl train FILE`.

Each process takes an equal part of every batch and all hold the same parameters: gradients are the mean over processes,
which is the gradient of the whole batch, and every decision is that of the first process or of all. Memories belong to
sequences, so their states never leave a process. Started without torchrun there is one process, and nothing to share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import cannot_share, nothing_to_shard


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def rows(self, *tensors: Tensor) -> list[Tensor]:
        """This process's part of batches."""
        each = tensors[0].shape[0] // self.size
        return [tensor[self.rank * each : (self.rank + 1) * each] for tensor in tensors]

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their means over all processes, in one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in some process."""
        if self.size == 1:
            return flag
        found = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return bool(found.item())

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """The first process alone, then the others."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def check(self, batch: int, sharded: bool = False) -> None:
        """Refuse a batch that cannot be cut into equal parts, as their mean would not be that of the batch; and a model to spread over one process."""
        if sharded and self.size == 1:
            raise nothing_to_shard()
        if batch % self.size:
            raise cannot_share(f"a batch of {batch} sequences does not divide into {self.size} equal parts",
                               expected=f"a `batch` that is a multiple of {self.size}")  # fmt: skip


ALONE = Ranks()


def processes() -> int:
    """How many processes `torchrun` has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def speaks() -> bool:
    """Whether this process is the one that prints, also before it has joined the others."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The processes that `torchrun` has started, joined into one group while entered, where the caller has not joined them."""
    size = processes()
    if size == 1:
        yield Ranks(device=device)
        return
    cuda = torch.device(device).type == "cuda"
    if cuda and torch.device(device).index is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if not dist.is_available() or not (dist.is_nccl_available() if cuda else dist.is_gloo_available()):
        raise cannot_share(f"this torch was built without {'nccl' if cuda else 'gloo'}")
    if cuda:
        torch.cuda.set_device(device)
    own = not dist.is_initialized()
    if own:
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(dist.get_rank(), size, device)
    finally:
        if own:
            dist.destroy_process_group()
