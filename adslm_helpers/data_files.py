"""Where the files that ship with the project are: in `data/` of a clone, in the package when it was installed from a wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path


def data_path(name: str) -> Path:
    """The path of a shipped data file or folder; raises FileNotFoundError when the installation is incomplete."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_data", here.parent / "data"):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{name} is not part of this installation of adslm-helpers")


@cache
def read_yaml(name: str) -> dict:
    """A shipped YAML file, parsed once."""
    import yaml

    return yaml.safe_load(data_path(name).read_text(encoding="utf-8"))
