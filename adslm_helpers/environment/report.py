"""One page about this machine, for people: what it is, what it will compute on and why, and what has to be mended first."""

from __future__ import annotations

import dataclasses
import html
import os
import platform
import shutil
from dataclasses import dataclass
from typing import Any

from ..errors import AdslmError
from ..recipe import EMBEDDED, DpoRecipe
from ..run import runs_root
from ..tables import html_row
from .device import MPS_ENVIRONMENT, DevicePlan, check_preset_fits, choose_device
from .doctor import Diagnosis, diagnose
from .hub_token import token_row
from .installed import Installed, read_installed
from .machine import GIB, Probe, probe_machine, processor_name, total_memory_gb
from .packages import PackageStatus, optional_needs
from .repair import InstallPlan, plan_install
from .runtimes import as_if as described_as

# A hub model of 1.5 billion weights is a download of 3 GB, and its merged export as much again.
_DISK_GB = {True: 1.0, False: 8.0}


@dataclass(frozen=True)
class EnvironmentReport:
    """What this machine is and whether it is ready; `print(*report.lines(), sep="\\n")`, or show it in a notebook."""

    python: str
    system: str
    colab: str | None
    """Colab's release tag ('unknown' where it has none); None elsewhere."""
    processor: str
    cpu_count: int | None
    """Cores that this process may use; None: a described machine does not say."""
    ram_gb: float | None
    disk_free_gb: float | None
    """GiB free where the runs are kept; None for a described machine."""
    probe: Probe | None
    """The machine as torch sees it, or as it is described; None when torch was not asked, or could not say."""
    plan: DevicePlan | None
    """None where `probe` is, and where the recipe cannot be computed on it."""
    mps: dict[str, str | None]
    """Apple chips only: what torch was told by environment variables; None: not set."""
    diagnosis: Diagnosis | None
    """None when not even the ranges that are needed can be found; `problems` says why."""
    install: InstallPlan | None
    """What would repair the packages without changing any; None where that is impossible."""
    problems: list[tuple[str, str]]
    """What has to be mended, as (Japanese, English); empty: ready."""
    as_if: str = ""
    """Name of the described runtime or machine that was asked for; '' for this one."""

    @property
    def ok(self) -> bool:
        """Nothing has to be mended."""
        return not self.problems

    def lines(self) -> list[str]:
        """The report as text: Japanese, then English."""
        return [f"{label}: {value}" for label, value in self._rows()] + [line for text in self._verdict() for line in text]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **{name: getattr(self, name) for name in ("python", "system", "colab", "processor", "cpu_count", "ram_gb")},
            "disk_free_gb": self.disk_free_gb,
            "as_if": self.as_if,
            "probe": dataclasses.asdict(self.probe) if self.probe else None,
            "plan": dataclasses.asdict(self.plan) if self.plan else None,
            "mps": self.mps,
            "packages": [{**dataclasses.asdict(package), "ok": package.ok} for package in self._packages()],
            "diagnosis": self.diagnosis.to_dict() if self.diagnosis else None,
            "install": self.install.to_dict() if self.install else None,
            "problems": [{"ja": ja, "en": en} for ja, en in self.problems],
            "ok": self.ok,
        }

    def _repr_html_(self) -> str:
        rows = "".join(html_row(row, "td") for row in self._rows())
        verdict = "".join(f"<p>{'<br>'.join(map(html.escape, text))}</p>" for text in self._verdict())
        return f"<table>{rows}</table>{verdict}"

    def _rows(self) -> list[tuple[str, str]]:
        ram = "?" if self.ram_gb is None else f"{self.ram_gb:.1f}"
        place = f"Google Colab ({self.colab})" if self.colab else "Google Colab ではありません / not Google Colab"
        rows = [("もし / As if", self.as_if)] if self.as_if else []
        rows += [
            ("マシン / Machine", f"{self.processor}, {self.cpu_count or '?'} CPU, {self.system}, Python {self.python}"),
            ("メモリ / Memory", f"{ram} GiB"),
            ("場所 / Place", place),
        ]
        if self.disk_free_gb is not None:
            rows.append(("空きディスク / Free disk", f"{self.disk_free_gb:.1f} GiB"))
        if self.plan:
            memory = "" if self.plan.memory_gb is None else f", {self.plan.memory_gb:.1f} GiB"
            amp = " AMP" if self.plan.bf16 or self.plan.fp16 else ""
            rows.append(("使う装置 / Device", f"{self.plan.device} ({self.plan.name}{memory}), {self.plan.compute_dtype}{amp}"))
            rows.append(("理由 / Why", f"{self.plan.reason_ja} / {self.plan.reason_en}"))
        if self.mps:
            unset = "(Mac 上で自動設定 / set on the Mac itself)" if self.as_if else "(未設定 / not set)"
            rows.append(("MPS", ", ".join(f"{name}={value or unset}" for name, value in self.mps.items())))
        if not self.as_if:
            rows.append(token_row())
        return rows + self._package_rows()

    def _packages(self) -> list[PackageStatus]:
        return self.diagnosis.packages if self.diagnosis else []

    def _package_rows(self) -> list[tuple[str, str]]:
        """How many packages are fine, what is worth knowing, and how much only looks bad; problems are told at the end."""
        if self.diagnosis is None:  # a problem says why
            return []
        packages = self._packages()
        good = sum(package.ok for package in packages)
        rows = [("パッケージ / Packages", f"{len(packages)} 個中 {good} 個が問題なし / {good} of {len(packages)} fine")]
        findings = self.diagnosis.findings
        notes = [finding for finding in findings if finding.severity == "note" and finding.kind != "moved"]
        rows += [(f"- {finding.package}", f"{finding.ja} / {finding.en}") for finding in notes]
        moved = [finding.package for finding in findings if finding.kind == "moved"]
        harmless = [finding.package for finding in findings if finding.severity == "harmless"]
        for label, names in (("元の版から変化 / Moved", moved), ("無害 / Harmless", harmless)):
            if names:
                rows.append((label, f"{', '.join(dict.fromkeys(names))}（00_setup が説明します / 00_setup explains）"))
        return rows

    def _verdict(self) -> list[list[str]]:
        """Paragraphs of lines: ready, or each problem in both languages."""
        if self.ok:
            return [["準備ができています。次のノートブックへ進めます。", "Ready: go on to the next notebook."]]
        head = [f"直すことが {len(self.problems)} 件あります。", f"{len(self.problems)} to mend:"]
        return [head, *([f"{number}. {ja}", f"   {en}"] for number, (ja, en) in enumerate(self.problems, 1))]


def environment_report(recipe: DpoRecipe | None = None, probe_torch: bool = True, as_if: str = "") -> EnvironmentReport:
    """What this machine is, and whether `recipe` (the default one if None) can run on it; never raises for what it finds.

    `probe_torch=False` leaves torch alone: answers at once, says nothing about devices. `as_if` asks the same of a described Colab
    runtime ('colab-2026.08-gpu') or machine ('apple-m2-8gb'); SetupError, naming what there is, for an unknown one.
    """
    recipe = recipe or DpoRecipe()
    problems: list[tuple[str, str]] = []
    described, probe = described_as(as_if) if as_if else (None, None)
    installed = described or read_installed()
    diagnosis, install = _look_at_packages(recipe, installed, problems)
    probe = probe or (_probe(problems) if probe_torch else None)
    plan = _plan(recipe, probe, problems) if probe else None
    disk = None if as_if else _free_disk_gb()
    if disk is not None:
        _check_disk(recipe, disk, problems)
    here = _described_facts(probe) if as_if and probe else _facts()
    mps = {name: os.environ.get(name) for name in MPS_ENVIRONMENT} if probe and probe.kind == "mps" else {}
    return EnvironmentReport(
        installed.python, colab=installed.colab, disk_free_gb=disk, probe=probe, plan=plan, mps=mps, diagnosis=diagnosis,
        install=install, problems=problems, as_if=as_if, **here,
    )  # fmt: skip


def _facts() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.mac_ver()[0] or platform.release()}",
        "processor": processor_name(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "ram_gb": total_memory_gb(),
    }


def _described_facts(probe: Probe) -> dict[str, Any]:
    """The same of a described machine; how many cores it has is not described."""
    system = f"Darwin {'.'.join(map(str, probe.macos))}" if probe.macos else "Linux"
    return {"system": system, "processor": probe.name, "cpu_count": None, "ram_gb": probe.ram_gb}


def _look_at_packages(
    recipe: DpoRecipe, installed: Installed, problems: list[tuple[str, str]]
) -> tuple[Diagnosis | None, InstallPlan | None]:
    needed = optional_needs(recipe)
    try:
        diagnosis = diagnose(installed, needed)
    except AdslmError as error:
        problems.append((error.ja, error.en))
        return None, None
    problems += [(f"{finding.package}: {finding.ja}", f"{finding.package}: {finding.en}") for finding in diagnosis.problems]
    try:
        return diagnosis, plan_install(needed, installed)
    except AdslmError as error:
        if not diagnosis.problems:  # else one of them says the same, with its reason
            problems.append((error.ja, error.en))
        return diagnosis, None


def _probe(problems: list[tuple[str, str]]) -> Probe | None:
    try:
        return probe_machine()
    except AdslmError as error:
        problems.append((error.ja, error.en))
        return None


def _plan(recipe: DpoRecipe, probe: Probe, problems: list[tuple[str, str]]) -> DevicePlan | None:
    """The device plan, kept also where the preset does not fit, so that the reader sees both."""
    plan = None
    try:
        plan = choose_device(recipe, probe)
        check_preset_fits(recipe, probe)
    except AdslmError as error:
        problems.append((error.ja, error.en))
    return plan


def _free_disk_gb() -> float:
    folder = runs_root()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / GIB


def _check_disk(recipe: DpoRecipe, free: float, problems: list[tuple[str, str]]) -> None:
    needed = _DISK_GB[recipe.models == (EMBEDDED,)]
    if free < needed:
        problems.append(
            (
                f"空きディスクが {free:.1f} GiB しかありません（目安は {needed:g} GiB）。→ 不要なファイルを消してください。",
                f"Only {free:.1f} GiB of disk are free (about {needed:g} GiB needed). -> Remove files you no longer need.",
            )
        )
