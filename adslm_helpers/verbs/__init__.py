"""What each verb of `adslm` does: its arguments in, (JSON value, lines to read) out. Heavy libraries are loaded by the verb that needs them."""

from .data import dataset, setup
from .launching import launch
from .recipes import recipe_of
from .results import chat, evaluate, export, rate, run_all
from .tuning import preference_prompt, train
from .watching import analyze, check, monitor

__all__ = [
    "analyze",
    "chat",
    "check",
    "dataset",
    "evaluate",
    "export",
    "launch",
    "monitor",
    "preference_prompt",
    "rate",
    "recipe_of",
    "run_all",
    "setup",
    "train",
]
