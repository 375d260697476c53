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
from .colab import on_colab
from .device import DevicePlan, check_preset_fits, choose_device
from .machine import GIB, probe_machine, processor_name, total_memory_gb
from .packages import PackageStatus, check_packages

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
    cpu_count: int
    """Cores that this process may use."""
    ram_gb: float | None
    disk_free_gb: float
    """GiB free where the runs are kept."""
    plan: DevicePlan | None
    """None when torch was not asked, or could not say."""
    packages: list[PackageStatus]
    problems: list[tuple[str, str]]
    """What has to be mended, as (Japanese, English); empty: ready."""

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
            **dataclasses.asdict(self),
            "packages": [{**dataclasses.asdict(package), "ok": package.ok} for package in self.packages],
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
        rows = [
            ("マシン / Machine", f"{self.processor}, {self.cpu_count} CPU, {self.system}, Python {self.python}"),
            ("メモリ / Memory", f"{ram} GiB"),
            ("空きディスク / Free disk", f"{self.disk_free_gb:.1f} GiB"),
            ("場所 / Place", place),
        ]
        if self.plan:
            memory = "" if self.plan.memory_gb is None else f", {self.plan.memory_gb:.1f} GiB"
            amp = " AMP" if self.plan.bf16 or self.plan.fp16 else ""
            rows.append(("使う装置 / Device", f"{self.plan.device} ({self.plan.name}{memory}), {self.plan.compute_dtype}{amp}"))
            rows.append(("理由 / Why", f"{self.plan.reason_ja} / {self.plan.reason_en}"))
        return rows + self._package_rows()

    def _package_rows(self) -> list[tuple[str, str]]:
        if not self.packages:  # a problem says why
            return []
        good = sum(package.ok for package in self.packages)
        rows = [("パッケージ / Packages", f"{len(self.packages)} 個中 {good} 個が問題なし / {good} of {len(self.packages)} fine")]
        notes = [package for package in self.packages if package.severity == "note"]
        return rows + [(f"- {package.name}", f"{package.meaning_ja} / {package.meaning_en}") for package in notes]

    def _verdict(self) -> list[list[str]]:
        """Paragraphs of lines: ready, or each problem in both languages."""
        if self.ok:
            return [["準備ができています。次のノートブックへ進めます。", "Ready: go on to the next notebook."]]
        head = [f"直すことが {len(self.problems)} 件あります。", f"{len(self.problems)} to mend:"]
        return [head, *([f"{number}. {ja}", f"   {en}"] for number, (ja, en) in enumerate(self.problems, 1))]


def environment_report(recipe: DpoRecipe | None = None, probe_torch: bool = True) -> EnvironmentReport:
    """What this machine is, and whether `recipe` (the default one if None) can run on it; never raises for what it finds.

    `probe_torch=False` leaves torch alone: answers at once, says nothing about devices.
    """
    recipe = recipe or DpoRecipe()
    problems: list[tuple[str, str]] = []
    packages = _packages(recipe, problems)
    plan = _plan(recipe, problems) if probe_torch else None
    disk = _free_disk_gb()
    _check_disk(recipe, disk, problems)
    return EnvironmentReport(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.mac_ver()[0] or platform.release()}",
        colab=(os.environ.get("COLAB_RELEASE_TAG") or "unknown") if on_colab() else None,
        processor=processor_name(),
        cpu_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        ram_gb=total_memory_gb(),
        disk_free_gb=disk,
        plan=plan,
        packages=packages,
        problems=problems,
    )


def _packages(recipe: DpoRecipe, problems: list[tuple[str, str]]) -> list[PackageStatus]:
    try:
        packages = check_packages(needed=("bitsandbytes",) if recipe.load_in_4bit else ())
    except AdslmError as error:
        problems.append((error.ja, error.en))
        return []
    problems += [(f"{p.name}: {p.meaning_ja}", f"{p.name}: {p.meaning_en}") for p in packages if not p.ok]
    return packages


def _plan(recipe: DpoRecipe, problems: list[tuple[str, str]]) -> DevicePlan | None:
    """The device plan, kept also where the preset does not fit, so that the reader sees both."""
    plan = None
    try:
        probe = probe_machine()
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
