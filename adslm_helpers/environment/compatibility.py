"""Which TRL trains with which transformers: asked of TRL's own metadata where it says it, else of the measured table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..data_files import read_yaml
from .installed import Installed

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import Specifier, SpecifierSet

_TABLE = "trl_compatibility.yaml"


def trl_range(transformers: str | None) -> SpecifierSet | None:
    """The TRL versions measured to train DPO with this transformers; None where nothing was measured (newer, absent, no version)."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    for row in read_yaml(_TABLE)["works"]:
        try:
            if transformers is not None and SpecifierSet(row["transformers"]).contains(transformers, prereleases=True):
                return SpecifierSet(row["trl"])
        except InvalidVersion:
            return None
    return None


def trl_trains(installed: Installed) -> bool | None:
    """Whether the installed TRL trains with the installed transformers, as measured; None: unknown, or one of them is absent."""
    allowed, trl = trl_range(installed.version("transformers")), installed.version("trl")
    return None if allowed is None or trl is None else allowed.contains(trl, prereleases=True)


def narrowed(requirement: Requirement, installed: Installed) -> Requirement:
    """The requirement on TRL with the range that the installed transformers allows; any other requirement as it is.

    A resolver without this floor falls back to an old TRL that fits by metadata and crashes in train().
    """
    from packaging.requirements import Requirement

    allowed = trl_range(installed.version("transformers")) if requirement.name == "trl" else None
    if allowed is None:
        return requirement
    clauses = set(requirement.specifier & allowed)
    needed = [str(clause) for clause in clauses if not any(_implies(other, clause) for other in clauses - {clause})]
    return Requirement(f"trl{','.join(needed)}")


def possible(requirement: Requirement) -> bool:
    """Whether the clauses of a requirement leave any version: its lowest allowed one is asked of all the others."""
    lowest = [clause.version for clause in requirement.specifier if clause.operator in (">=", "==", "~=")]
    return not lowest or any(requirement.specifier.contains(version, prereleases=True) for version in lowest)


def _implies(one: Specifier, other: Specifier) -> bool:
    """Whether a clause makes another one superfluous ('>=0.29.1' makes '>=0.29' so, '<1' makes '!=1.15.0' so)."""
    if one.operator == other.operator == ">=":
        return other.contains(one.version, prereleases=True)
    if one.operator == other.operator == "<":
        return not one.contains(other.version, prereleases=True)
    return other.operator == "!=" and one.operator in (">=", "<") and not one.contains(other.version, prereleases=True)
