"""The PyTorch backend: plans to readable source, source to modules."""

from nldsl_torch.build import build_source, module, show_fx

__all__ = ["build_source", "module", "show_fx"]
