"""The meaning of the language, eager and tick by tick. Slow on purpose: it is what every other backend is compared with."""

from nldsl_interpreter.interpreter import Interpreter
from nldsl_interpreter.rules import run_rule
from nldsl_interpreter.values import initial_value

__all__ = ["Interpreter", "initial_value", "run_rule"]
