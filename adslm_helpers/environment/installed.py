"""What is installed, as plain facts: of this Python, of another one's folders, or of a runtime that is only described."""

from __future__ import annotations

import email
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from .colab import on_colab

if TYPE_CHECKING:
    from packaging.requirements import Requirement


@dataclass(frozen=True)
class Installed:
    """Names and versions, and what each package says it needs; read with `read_installed`, or made up for a "what if"."""

    versions: dict[str, str]
    """Normalised name ('huggingface-hub') -> version."""
    requires: dict[str, list[str]] = field(default_factory=dict)
    """Normalised name -> its requirement lines, as its metadata has them."""
    python: str = ""
    """Python's version, '3.12.11' or '3.12'."""
    colab: str | None = None
    """Colab's release tag ('unknown' where it has none); None away from Colab."""
    described: str = ""
    """Name of the runtime where this is not the machine under us; '' for the real one."""
    leftovers: tuple[str, ...] = ()
    """Folders that an interrupted pip left behind ('~orch-2.6.0.dist-info')."""

    def version(self, name: str) -> str | None:
        """The installed version of a package, however its name is spelt; None: absent."""
        return self.versions.get(normal(name))

    def satisfies(self, requirement: Requirement) -> bool:
        """Whether the package is there in a version that the requirement allows; local versions (+cu128) count as their base."""
        from packaging.version import InvalidVersion

        found = self.version(requirement.name)
        try:
            return found is not None and requirement.specifier.contains(found, prereleases=True)
        except InvalidVersion:
            return False

    def applies(self, requirement: Requirement, extra: str = "") -> bool:
        """Whether the requirement's marker holds for this Python."""
        if requirement.marker is None:
            return True
        short = ".".join(self.python.split(".")[:2])
        full = self.python if self.python.count(".") > 1 else f"{short}.0"
        python = {"python_version": short, "python_full_version": full} if self.python else {}
        return requirement.marker.evaluate({"extra": extra, **python})

    def needs(self, name: str) -> Iterator[Requirement]:
        """What an installed package needs here, without its extras; lines that are no requirements are left to pip."""
        from packaging.requirements import InvalidRequirement, Requirement

        for line in self.requires.get(normal(name), []):
            if "extra ==" in line or "extra==" in line:
                continue  # nine of ten lines: parsing them takes longer than everything else together
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue
            if self.applies(requirement):
                yield requirement

    def closure(self, roots: Iterable[str]) -> set[str]:
        """Normalised names of the roots and of everything that they need, directly or not."""
        todo, seen = [normal(root) for root in roots], set()
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += [normal(requirement.name) for requirement in self.needs(name)]
        return seen

    def conflicts(self) -> list[tuple[str, Requirement]]:
        """(package, requirement that is not met) for everything installed, as `pip check` finds them."""
        return [
            (name, requirement) for name in self.requires for requirement in self.needs(name) if not self.satisfies(requirement)
        ]


def read_installed(paths: Iterable[str | Path] | None = None, python: str | None = None) -> Installed:
    """What lies in `paths` (folders of packages; this Python's own by default), from metadata alone: nothing is imported.

    On a duplicate the first folder wins, as for `import`.
    """
    versions: dict[str, str] = {}
    requires: dict[str, list[str]] = {}
    search = {} if paths is None else {"path": [str(path) for path in paths]}
    leftovers: dict[str, None] = {}
    for distribution in metadata.distributions(**search):
        folder = getattr(distribution, "_path", None)
        if folder is not None and folder.name.startswith("~"):
            leftovers[folder.name] = None  # its METADATA says "torch": counting it would invent a second torch
            continue
        name, version, needs = _facts(distribution)
        if name and version and normal(name) not in versions:  # without its METADATA file: a folder left over
            versions[normal(name)], requires[normal(name)] = version, needs
    colab = (os.environ.get("COLAB_RELEASE_TAG") or "unknown") if on_colab() else None
    return Installed(versions, requires, python or platform.python_version(), colab, "", tuple(leftovers))


def normal(name: str) -> str:
    """A package's name as all spellings of it agree: 'huggingface_hub' -> 'huggingface-hub'."""
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def _facts(distribution: metadata.Distribution) -> tuple[str | None, str | None, list[str]]:
    """(name, version, requirement lines) of one distribution."""
    modern = distribution.read_text("METADATA")
    # Up to the first empty line: the description that follows is most of the file, and parsing it most of the time.
    head = email.message_from_string((modern or distribution.read_text("PKG-INFO") or "").split("\n\n", 1)[0])
    needs = head.get_all("Requires-Dist") if modern else distribution.requires
    return head["Name"], head["Version"], list(needs or [])
