"""What stands in the way of DPO training here, and what only looks as if it did: one sentence on each, from metadata alone."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .compatibility import narrowed, possible, trl_range, trl_trains
from .conflicts import COMPUTES, MOVED_BY, Finding, conflict_findings, start_again
from .installed import Installed, read_installed
from .packages import SWITCH_RUNTIME, PackageStatus, check_packages, colab_requirements
from .runtimes import Drift, drift, is_too_old

_MODULES = {"pyyaml": "yaml", "pillow": "PIL", "python-dateutil": "dateutil"}


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found."""

    installed: Installed
    packages: list[PackageStatus]
    findings: list[Finding]
    """Problems first, then notes, then what is harmless."""
    drift: Drift

    @property
    def problems(self) -> list[Finding]:
        """What has to be mended before a training."""
        return [finding for finding in self.findings if finding.severity == "problem"]

    def rows(self) -> list[dict[str, str]]:
        """The findings as rows of a table; one row that says so where there are none."""
        if not self.findings:
            return [{"": "OK", "package": f"{len(self.packages)}", "意味 / meaning": "すべて使えます。/ All of them are fit."}]
        return [
            {"": finding.severity, "package": finding.package, "意味 / meaning": f"{finding.ja}\n{finding.en}"}
            for finding in self.findings
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; of the installed packages only where they are described and how many."""
        return {
            "described": self.installed.described,
            "distributions": len(self.installed.versions),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "drift": self.drift.to_dict(),
        }


def diagnose(installed: Installed | None = None, needed: tuple[str, ...] = ()) -> Diagnosis:
    """Everything about the installed packages that matters to this job; offline, imports none of them, well under a second.

    `installed` is what to look at (this Python by default), `needed` names optional packages that the recipe cannot do without.
    Raises SetupError when the ranges this project needs cannot be found.
    """
    installed = installed or read_installed()
    packages = check_packages(needed, installed)
    moved = drift(installed)
    looks = (_statuses(packages), _trl(installed), conflict_findings(installed), _moved(moved), _restarts(installed))
    findings = [finding for look in (*looks, _leftovers(installed), _wandb(installed)) for finding in look]
    too_old = list(_runtime(installed))
    findings += [finding for finding in too_old if finding.severity == "note"]
    if any(finding.severity == "problem" for finding in too_old):  # another runtime is the remedy for all the rest
        findings = [*too_old, *(finding for finding in findings if finding.severity != "problem")]
    order = {"problem": 0, "note": 1, "harmless": 2}
    return Diagnosis(installed, packages, sorted(findings, key=lambda finding: order[finding.severity]), moved)


def _statuses(packages: list[PackageStatus]) -> Iterator[Finding]:
    for package in packages:
        if package.severity != "ok":
            kind = "torchao" if package.name == "torchao" else "version" if package.installed else "missing"
            kind = "optional" if kind == "missing" and package.ok else kind
            yield Finding(package.severity, kind, package.name, package.meaning_ja, package.meaning_en)


def _runtime(installed: Installed) -> Iterator[Finding]:
    """Colab only: a runtime whose transformers no TRL of the wanted range trains with. pip would offer one that crashes."""
    if not installed.colab:
        return
    transformers = installed.version("transformers")
    (wanted,) = (requirement for requirement in colab_requirements() if requirement.name == "trl")
    if not possible(narrowed(wanted, installed)):
        yield Finding(
            "problem",
            "runtime",
            "transformers",
            f"このランタイムの transformers {transformers} で動く TRL は {trl_range(transformers)} だけで、"
            f"必要な {wanted.specifier} がありません。→ {SWITCH_RUNTIME[0]}",
            f"With this runtime's transformers {transformers} only TRL {trl_range(transformers)} trains, and "
            f"{wanted.specifier} is needed. -> {SWITCH_RUNTIME[1]}",
        )
    elif is_too_old(installed):
        yield Finding(
            "note",
            "runtime",
            "transformers",
            f"このランタイムは古く、transformers などを入れ替えて動かしています（試験していない組です）。→ {SWITCH_RUNTIME[0]}",
            f"This runtime is old: it works, if at all, with transformers and others replaced (an untested set). -> {SWITCH_RUNTIME[1]}",
        )


def _trl(installed: Installed) -> Iterator[Finding]:
    if trl_trains(installed) is False:
        trl, transformers = installed.version("trl"), installed.version("transformers")
        allowed = str(trl_range(transformers))
        yield Finding(
            "problem",
            "trl",
            "trl",
            f"TRL {trl} は transformers {transformers} では学習できません（実測。pip は何も言いません）。"
            f"動くのは TRL {allowed} です。→ {start_again(installed)[0]}",
            f"TRL {trl} cannot train with transformers {transformers} (measured; pip does not say so). "
            f"TRL {allowed} can. -> {start_again(installed)[1]}",
        )


def _moved(moved: Drift) -> Iterator[Finding]:
    """Colab only, and only within a release that is known: elsewhere versions move for good reasons."""
    if not moved.same_release:
        return
    for move in moved.moves:
        command = MOVED_BY.get(move.name)
        hint_ja = f"（{command} がこうします）" if command else ""
        hint_en = f" (`{command}` does this)" if command else ""
        yield Finding(
            "note",
            "moved",
            move.name,
            f"このランタイムの元の版は {move.was}、今は {move.now or 'なし'} です{hint_ja}。{move.ja}",
            f"the runtime's own was {move.was}, now {move.now or 'none'}{hint_en}: {move.en}",
        )


def _restarts(installed: Installed) -> Iterator[Finding]:
    """Packages that this process imported before they were replaced on disk; a described runtime has none."""
    if installed.described:
        return
    for name in sorted(installed.closure([*COMPUTES, "torchvision"]) & set(installed.versions)):
        loaded = loaded_version(name)
        if loaded is not None and _public(loaded) != _public(installed.versions[name]):
            yield Finding(
                "problem",
                "restart",
                name,
                f"読み込み済みの {loaded} のあとで、ディスク上は {installed.versions[name]} に入れ替わっています。"
                "→ カーネル（ランタイム）を再起動してください。",
                f"{loaded} was imported, and {installed.versions[name]} has replaced it on disk since. "
                "-> Restart the kernel (Colab: Runtime > Restart session).",
            )


def loaded_version(name: str) -> str | None:
    """The version of a package that this process has imported; None: not imported, or it does not say."""
    module = sys.modules.get(_MODULES.get(name, name.replace("-", "_")))
    version = getattr(module, "__version__", None)
    return version if isinstance(version, str) else None


def _public(version: str) -> str:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version).public
    except InvalidVersion:
        return version


def _leftovers(installed: Installed) -> Iterator[Finding]:
    for folder in installed.leftovers:
        yield Finding(
            "harmless",
            "leftover",
            folder,
            f"中断された pip が残したフォルダーです（{folder}）。使われないので、そのままで構いません。",
            f"A folder that an interrupted pip left behind ({folder}). Nothing uses it: leave it.",
        )


def _wandb(installed: Installed) -> Iterator[Finding]:
    version = installed.version("wandb")
    if version:
        yield Finding(
            "harmless",
            "wandb",
            "wandb",
            f"wandb {version} が入っていますが、記録先（report_to）を必ず指定するので、ログインを求められることも送信もありません。",
            f"wandb {version} is installed; report_to is always set, so it neither asks for a login nor sends anything.",
        )
