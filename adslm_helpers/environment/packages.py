"""Are the installed packages the ones this project needs? Read from metadata alone: offline, nothing imported, under a second."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SetupError
from .compatibility import narrowed, possible
from .installed import Installed, read_installed

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from ..recipe import DpoRecipe

DISTRIBUTION = "adslm-helpers"
_ROOT = Path(__file__).resolve().parents[2]
_PYPROJECT = _ROOT / "pyproject.toml"
_PACKAGED = _ROOT / "adslm_helpers" / "_data"
_JOBS = {
    "torch": ("計算（学習と生成）", "computing (training and writing texts)"),
    "transformers": ("モデルの読み込みと生成", "loading models and writing texts"),
    "trl": ("DPO 学習", "DPO training"),
    "peft": ("LoRA アダプターの学習", "training LoRA adapters"),
    "accelerate": ("学習を CPU・GPU で動かすこと", "running the training on CPU or GPU"),
    "datasets": ("学習データの受け渡し", "handing the data to the trainer"),
    "numpy": ("数値と信頼区間の計算", "numbers and intervals"),
    "pandas": ("CSV・Parquet の読み込みと表", "reading CSV and Parquet, and tables"),
    "matplotlib": ("グラフ", "figures"),
    "ipywidgets": ("ノートブックの入力欄と学習中の表示", "forms and the live view in notebooks"),
    "safetensors": ("重みの保存と読み込み", "saving and loading weights"),
    "bitsandbytes": ("4-bit 読み込み（省メモリ学習）", "4-bit loading (training in less memory)"),
    "tensorboard": ("TensorBoard の記録", "TensorBoard logs"),
    "duckdb": ("広告ログの集計", "adding up an ad log"),
    "openpyxl": ("Excel の読み込み", "reading Excel sheets"),
    "rapidfuzz": ("データの検査", "the audit of the data"),
    "sacrebleu": ("文の多様さの評価", "the diversity of texts"),
}


SWITCH_RUNTIME = (
    "「ランタイム」>「ランタイムのタイプを変更」でランタイムのバージョンを「最新」にしてください（1つだけ更新すると他が壊れます）。",
    "Menu Runtime > Change runtime type: set the runtime version to 'Latest' (updating one package breaks others).",
)


@dataclass(frozen=True)
class PackageStatus:
    """One package: what is there, what is needed, and what that means for this job."""

    name: str
    installed: str | None
    """Installed version; None: absent."""
    required: str
    """Range of versions, '>=4.56.2'; '' means any."""
    severity: str
    """'ok'; 'note': nothing to do unless you want it; 'problem': has to be mended."""
    meaning_ja: str
    meaning_en: str

    @property
    def ok(self) -> bool:
        """Nothing has to be done about this package."""
        return self.severity != "problem"


def check_packages(needed: tuple[str, ...] = (), installed: Installed | None = None) -> list[PackageStatus]:
    """One status per package that this project names, then one for torchao where it would break LoRA.

    `needed` names optional packages that this recipe cannot do without (bitsandbytes for 4-bit); `installed` is what to look at
    (this Python by default). Raises SetupError when the ranges themselves cannot be found.
    """
    installed = installed or read_installed()
    wanted = requirements_for(installed)
    statuses = [_status(requirement, optional and requirement.name not in needed, installed) for requirement, optional in wanted]
    return statuses + ([_torchao_note(installed)] if old_torchao_blocks_lora(installed) else [])


def optional_needs(recipe: DpoRecipe) -> tuple[str, ...]:
    """The optional packages that this recipe cannot do without."""
    return ("bitsandbytes",) if recipe.load_in_4bit else ()


def requirements_for(installed: Installed) -> list[tuple[Requirement, bool]]:
    """`requirements()`; on Colab what its runtime lacks has the range of requirements-colab.txt, which leaves the rest alone.

    Where somebody has already installed a newer TRL there, the wider range of the project decides: that set trains too.
    """
    lacks = {requirement.name: requirement for requirement in colab_requirements()} if installed.colab else {}
    lacks = {name: requirement for name, requirement in lacks.items() if installed.version(name) is None}
    return [(lacks.get(requirement.name, requirement), optional) for requirement, optional in requirements()]


def colab_requirements() -> list[Requirement]:
    """What a Colab runtime lacks, from the one place that says it: requirements-colab.txt."""
    from packaging.requirements import Requirement

    path = project_file("requirements-colab.txt")
    if path is None:
        raise SetupError(
            "requirements-colab.txt がありません（導入が不完全です）。→ リポジトリを取得し直してください。",
            "requirements-colab.txt is missing (incomplete installation). -> Get the repository again.",
        )
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def project_file(name: str) -> Path | None:
    """A requirements file of this project: beside the package in a clone, inside it when it was installed from a wheel; or None."""
    return next((path for path in (_ROOT / name, _PACKAGED / name) if path.is_file()), None)


def requirements() -> list[tuple[Requirement, bool]]:
    """What this project needs here, as (requirement, optional?), from the one place that says it: its own metadata.

    Installed metadata first, else the pyproject.toml beside the package (a clone on the path; needs Python 3.11).
    Environment markers are applied; extras count only for packages that the job knows (development tools do not).
    """
    try:
        own = metadata.distribution(DISTRIBUTION)
        lines, extras = own.requires or [], own.metadata.get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        lines, extras = _pyproject_requirements()
    return list(_applicable(lines, extras))


def old_torchao_blocks_lora(installed: Installed | None = None) -> bool:
    """Whether peft 0.19 or newer meets a torchao older than 0.16: its LoRA then raises ImportError (Colab since 2026.07)."""
    from packaging.version import InvalidVersion, Version

    version = installed.version if installed else _installed  # asking for two is quicker than reading all
    peft, torchao = version("peft"), version("torchao")
    if peft is None or torchao is None:
        return False
    try:
        return Version(peft) >= Version("0.19") and Version(torchao) < Version("0.16")
    except InvalidVersion:
        return False


def hide_kernel_notice() -> None:
    """Keeps bitsandbytes from printing, in red and on every CPU, that a download of a faster 4-bit kernel failed: nothing is wrong."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def hide_old_torchao() -> bool:
    """Makes peft believe that torchao is absent, only where the installed one would break LoRA; True when it is hidden.

    Call it before peft makes its first adapter: peft remembers what it found. 4-bit LoRA never asks for torchao.
    """
    if not old_torchao_blocks_lora():
        return False
    sys.modules["torchao"] = None  # type: ignore[assignment]  # importlib.util.find_spec then answers "absent"
    return True


def _applicable(lines: list[str], extras: list[str]) -> Iterator[tuple[Requirement, bool]]:
    from packaging.requirements import Requirement

    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement, False
        elif requirement.name.lower() in _JOBS and any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement, True


def _pyproject_requirements() -> tuple[list[str], list[str]]:
    """(requirement lines as installed metadata has them, names of the extras) of the pyproject.toml beside the package."""
    try:
        import tomllib

        project = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"]
    except (ImportError, OSError, KeyError, ValueError) as error:
        raise SetupError(
            f"{DISTRIBUTION} がインストールされていないため、必要なバージョンが分かりません"
            f"（{_PYPROJECT}: {type(error).__name__}）。→ ノートブック先頭のインストールのセルを実行してください。",
            f"{DISTRIBUTION} is not installed, so the versions it needs are unknown ({_PYPROJECT}: {type(error).__name__}). "
            "-> Run the install cell at the top of the notebook.",
        ) from None
    extras = project.get("optional-dependencies", {})
    lines = [_with_extra(line, extra) for extra, group in extras.items() for line in group]
    return project.get("dependencies", []) + lines, list(extras)


def _with_extra(line: str, extra: str) -> str:
    requirement, _, marker = line.partition(";")
    return f'{requirement}; ({marker}) and extra == "{extra}"' if marker.strip() else f'{requirement}; extra == "{extra}"'


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name) or None
    except (metadata.PackageNotFoundError, KeyError):  # KeyError: a folder left over without a METADATA file
        return None


def _status(requirement: Requirement, optional: bool, there: Installed) -> PackageStatus:
    name, required, installed = requirement.name, str(requirement.specifier), there.version(requirement.name)
    job_ja, job_en = _JOBS.get(name.lower(), ("このプロジェクト", "this project"))
    todo_ja, todo_en = _todo(requirement, there)
    if installed is None and optional:
        severity = "note"
        ja = f"入っていません。{job_ja}を使うときだけ必要です。"
        en = f"absent; only needed for {job_en}."
    elif installed is None:
        severity = "problem"
        ja = f"入っていません。{job_ja}ができません。→ {todo_ja}"
        en = f"absent: no {job_en}. -> {todo_en}"
    elif there.satisfies(requirement):
        severity, ja, en = "ok", f"{job_ja}に使えます。", f"fit for {job_en}."
    else:
        severity = "note" if optional else "problem"
        ja = f"{installed} は範囲 {required} の外で、{job_ja}が失敗するおそれがあります。→ {todo_ja}"
        en = f"{installed} is outside {required}: {job_en} may fail. -> {todo_en}"
    return PackageStatus(name, installed, required, severity, ja, en)


def _todo(requirement: Requirement, there: Installed) -> tuple[str, str]:
    lacking = {lacks.name for lacks in colab_requirements()} if there.colab else set()
    if there.colab and requirement.name in lacking and not possible(narrowed(requirement, there)):
        return SWITCH_RUNTIME
    if there.colab and requirement.name in lacking and there.version(requirement.name) is None:
        return (
            "ノートブック先頭のインストールのセルか、00_setup の QUICK_FIX = True を実行してください。",
            "Run the install cell at the top of the notebook, or QUICK_FIX = True in 00_setup.",
        )
    if there.colab and requirement.name in lacking:
        return (
            "「ランタイム」>「ランタイムを接続解除して削除」のあと、インストールのセルから始めてください。",
            "Menu Runtime > Disconnect and delete runtime, then start from the install cell.",
        )
    if there.colab:
        return SWITCH_RUNTIME
    # Quoted: an unquoted >= is a redirection for the shell, which installs any version and writes a file named "=0.29.1".
    command = f'pip install "{requirement.name}{requirement.specifier}"'
    return f"{command} を実行し、カーネルを再起動してください。", f"Run {command} and restart the kernel."


def _torchao_note(installed: Installed) -> PackageStatus:
    peft, torchao = installed.version("peft"), installed.version("torchao")
    return PackageStatus(
        "torchao",
        torchao,
        ">=0.16",
        "note",
        f"peft {peft} は古い torchao {torchao} があると LoRA を作れません。学習前に自動で隠すので、作業は要りません。",
        f"peft {peft} refuses LoRA beside the old torchao {torchao}. It is hidden before training: nothing to do.",
    )
