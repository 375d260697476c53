"""Packages that disagree with each other: which of it stops a DPO training, and which only looks as if it did."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .compatibility import trl_trains
from .installed import Installed, normal
from .packages import DISTRIBUTION
from .runtimes import nearest_runtime

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# What a DPO step computes with. Forms, figures and logs are of use beside it: what quarrels with them does not stop a training.
COMPUTES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors", "numpy", "pandas", "bitsandbytes")
# transformers and TRL import it wherever it is installed, asked or not: one of its needs absent, and `import trl` fails.
_IMPORTED_ANYWAY = ("wandb",)
_SHOWS = ("ipywidgets", "matplotlib", "tensorboard")
# The command that usually replaced a package which other packages then complain about.
MOVED_BY = {
    "torch": "pip install --upgrade torch",
    "fsspec": "pip install --upgrade datasets",
    "datasets": "pip install --upgrade trl",
    "pyarrow": "pip install --upgrade trl",
    "huggingface-hub": "pip install --upgrade trl",
    "transformers": "pip install --upgrade transformers",
    "numpy": "pip install --upgrade numpy",
    "ipywidgets": "pip install --upgrade ipywidgets",
}
_OWN = (
    "この Colab に最初からある食い違いで、学習には関係しません。直さないでください。",
    "Colab itself has this conflict in every runtime. It does not touch the training: do not mend it.",
)
_MEASURED = ("この組で学習できることは実測済みです。", "This set is measured to train.")
_DISPLAY = (
    "入力欄やグラフの表示だけに関わり、学習は止まりません。",
    "It concerns forms and figures alone and stops no training.",
)


@dataclass(frozen=True)
class Finding:
    """One thing found: how bad, about which package, and what it means for this job."""

    severity: str
    """'problem': has to be mended; 'note': worth knowing; 'harmless': looks bad and is not."""
    kind: str
    """'missing', 'version', 'optional', 'trl', 'conflict', 'torchao', 'leftover', 'wandb', 'moved', 'restart' or 'runtime'."""
    package: str
    ja: str
    en: str


def conflict_findings(installed: Installed) -> Iterator[Finding]:
    """What `pip check` would say of everything installed, sorted into what stops a training and what does not."""
    own, used = _own_conflicts(installed), installed.closure(COMPUTES)
    yield from _other_cuda(installed)
    for name, requirement in _conflicts(installed):
        target = normal(requirement.name)
        absent = installed.version(target) is None
        if name == "torchvision" and target == "torch":
            yield _torchvision(installed, requirement)
        elif (name, target) in own:
            yield _bearable("harmless", installed, name, requirement, *_OWN)
        elif name == "trl" and trl_trains(installed) and not absent:
            yield _bearable("harmless", installed, name, requirement, *_MEASURED)
        elif name in used or (name in _IMPORTED_ANYWAY and absent):
            yield _broken(installed, name, requirement)
        elif name in _SHOWS:
            yield _bearable("note", installed, name, requirement, *_DISPLAY)
        else:
            yield _bearable("harmless", installed, name, requirement, *_cause(name, target))


def absent_needs(installed: Installed) -> list[Requirement]:
    """What is absent and needed by a package that a training imports: adding it repairs that package and changes none."""
    used = installed.closure(COMPUTES) | set(_IMPORTED_ANYWAY)
    own = _own_conflicts(installed)
    return [
        requirement
        for name, requirement in _conflicts(installed)
        if name in used and installed.version(requirement.name) is None and (name, normal(requirement.name)) not in own
    ]


def _conflicts(installed: Installed) -> list[tuple[str, Requirement]]:
    """All but what this project itself needs: `check_packages` says that, with its job."""
    return [(name, requirement) for name, requirement in installed.conflicts() if name != DISTRIBUTION]


def _own_conflicts(installed: Installed) -> set[tuple[str, str]]:
    """The conflicts that the runtime came with: those of the nearest known one."""
    known = nearest_runtime(installed).conflicts() if installed.colab else []
    return {(name, normal(requirement.name)) for name, requirement in known}


def _cause(name: str, target: str) -> tuple[str, str]:
    command = MOVED_BY.get(target)
    ja, en = f"DPO は {name} を使わないので、そのままで構いません。", f"DPO does not use {name}: leave it."
    if command:
        ja += f"よくある原因は {command} です（{target} だけが入れ替わります）。"
        en += f" The usual cause is `{command}`, which replaces {target} alone."
    return ja, en


def _said(installed: Installed, name: str, requirement: Requirement) -> tuple[str, str]:
    """What pip would say of it."""
    version, found = installed.version(name), installed.version(requirement.name)
    wanted = f"{requirement.name}{requirement.specifier}"
    if found is None:
        return (
            f"{name} {version} は {wanted} を求めますが、入っていません。",
            f"{name} {version} wants {wanted}, which is absent.",
        )
    return f"{name} {version} は {wanted} を求めますが、{found} です。", f"{name} {version} wants {wanted}; {found} is there."


def _bearable(severity: str, installed: Installed, name: str, requirement: Requirement, ja: str, en: str) -> Finding:
    said_ja, said_en = _said(installed, name, requirement)
    return Finding(severity, "conflict", name, said_ja + ja, f"{said_en} {en}")


def _broken(installed: Installed, name: str, requirement: Requirement) -> Finding:
    said_ja, said_en = _said(installed, name, requirement)
    todo_ja, todo_en = _todo(installed, requirement)
    return Finding(
        "problem",
        "conflict",
        name,
        f"{said_ja}学習は {name} を使うため、失敗するおそれがあります。→ {todo_ja}",
        f"{said_en} The training uses {name} and may fail. -> {todo_en}",
    )


def _torchvision(installed: Installed, requirement: Requirement) -> Finding:
    said_ja, said_en = _said(installed, "torchvision", requirement)
    todo_ja, todo_en = _todo(installed, requirement)
    return Finding(
        "problem",
        "conflict",
        "torchvision",
        f"{said_ja}torch だけを上げるとこうなり（{MOVED_BY['torch']}）、transformers の読み込みが失敗します。→ {todo_ja}",
        f"{said_en} Upgrading torch alone does this (`{MOVED_BY['torch']}`); transformers then fails to load. -> {todo_en}",
    )


def _todo(installed: Installed, requirement: Requirement) -> tuple[str, str]:
    if installed.colab or installed.version(requirement.name) is not None:
        return start_again(installed)
    command = f'pip install "{requirement.name}{requirement.specifier}"'
    return f"{command} を実行してください。", f"Run {command}."


def start_again(installed: Installed) -> tuple[str, str]:
    """What to do where only packages as they were can help, in Japanese and English."""
    if installed.colab:
        return (
            "「ランタイム」>「ランタイムを接続解除して削除」で最初の状態に戻してください。",
            "Menu Runtime > Disconnect and delete runtime gives the original state back.",
        )
    return (
        "新しい仮想環境を作り、requirements.txt を入れてください。",
        "Make a fresh virtual environment and install requirements.txt into it.",
    )


def _other_cuda(installed: Installed) -> Iterator[Finding]:
    """torch and torchvision of one version but built for two CUDA generations: torchvision refuses to be imported."""
    cuda = {name: re.search(r"\+cu(\d\d)\d", installed.version(name) or "") for name in ("torch", "torchvision")}
    if all(cuda.values()) and len({found.group(1) for found in cuda.values()}) == 2:
        torch, vision = installed.version("torch"), installed.version("torchvision")
        todo_ja, todo_en = start_again(installed)
        yield Finding(
            "problem",
            "conflict",
            "torchvision",
            f"torchvision {vision} と torch {torch} は CUDA の世代が違い、transformers の読み込みが失敗します。→ {todo_ja}",
            f"torchvision {vision} and torch {torch} are of two CUDA generations; transformers fails to load. -> {todo_en}",
        )
