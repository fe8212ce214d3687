"""nldsl: declarative memories to PyTorch. `load` gives a program, `program.module` an `nn.Module`."""

from nldsl.diagnostics import Diagnostic, NlError
from nldsl.optimizers import optimizer, optimizer_class
from nldsl.program import Elaborated, Program, load

__version__ = "0.1.0"

__all__ = ["Diagnostic", "Elaborated", "NlError", "Program", "__version__", "load", "optimizer", "optimizer_class"]
