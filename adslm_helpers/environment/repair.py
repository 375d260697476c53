"""The quick fix: the smallest install that changes nothing which is there, and the proof that it did just that."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SetupError
from .compatibility import narrowed, possible
from .conflicts import absent_needs, start_again
from .doctor import loaded_version
from .installed import Installed, normal, read_installed
from .packages import SWITCH_RUNTIME, colab_requirements, requirements_for
from .trial import try_one_step

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# These look once, when they are imported, whether the package named is there.
_REMEMBERED_ABSENT = {"bitsandbytes": ("transformers", "peft", "accelerate")}


@dataclass(frozen=True)
class InstallPlan:
    """What would be installed and with which command; make one with `plan_install`."""

    missing: tuple[str, ...]
    """Requirements that nothing installed meets: what has to be added."""
    constraints: tuple[str, ...]
    """'name==version' of everything installed, which the installer has to leave alone."""
    command: tuple[str, ...]
    """The install command without its constraints file; empty when there is nothing to do."""

    @property
    def nothing_to_do(self) -> bool:
        """Everything needed is there."""
        return not self.missing

    def lines(self) -> list[str]:
        """The plan as text: Japanese, then English."""
        if self.nothing_to_do:
            return ["入れるものはありません。", "Nothing to install."]
        count = len(self.constraints)
        return [
            f"加えるもの / to add: {', '.join(self.missing)}",
            f"変えないもの / left alone: 入っている {count} 個すべて（制約ファイルで固定） / all {count} installed (pinned by a constraints file)",
            f"コマンド / command: {shell(self.command)} -c constraints.txt",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"missing": list(self.missing), "pinned": len(self.constraints), "command": list(self.command)}


@dataclass(frozen=True)
class Repair:
    """What a quick fix did."""

    plan: InstallPlan
    added: dict[str, str]
    """Name -> version of each distribution that was not there before; nothing else changed."""
    step_seconds: float | None
    """Seconds of the trial training in a fresh process; None: it was not asked for, or there was nothing to do."""
    restart: tuple[str, str] | None
    """Why the kernel has to be restarted, in Japanese and English; None: it does not."""

    def lines(self) -> list[str]:
        """What was done, as text: Japanese, then English."""
        if self.plan.nothing_to_do:
            return self.plan.lines()
        added = ", ".join(f"{name} {version}" for name, version in self.added.items())
        lines = [f"加わったもの（これだけです） / added, and nothing else changed: {added}"]
        if self.step_seconds is not None:
            lines.append(
                f"新しいプロセスで LoRA の学習を1ステップ確かめました / one LoRA step works in a fresh process: {self.step_seconds:.0f} s"
            )
        if self.restart:
            return [*lines, *self.restart]
        return [*lines, "再起動は要りません。", "No restart is needed."]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**dataclasses.asdict(self), "plan": self.plan.to_dict()}


def plan_install(
    needed: tuple[str, ...] = (),
    installed: Installed | None = None,
    python: str | None = None,
    wanted: list[Requirement] | None = None,
) -> InstallPlan:
    """The smallest install that gives what this project needs here and leaves every installed package alone.

    `needed` names optional packages that the recipe cannot do without, `python` another interpreter than this one, `wanted` other
    requirements than the project's. Raises SetupError where a package that is there stands in the way, or nothing can install.
    """
    installed = installed or read_installed(_paths_of(python))
    wanted = wanted if wanted is not None else _wanted(installed, needed)
    ranges = [narrowed(requirement, installed) for requirement in wanted]
    missing = [requirement for requirement in ranges if not installed.satisfies(requirement)]
    _refuse_impossible(missing, installed)
    # Without its marker: the one of an extra of ours ('extra == "quantization"') would make the installer skip it without a word.
    lines = tuple(dict.fromkeys(f"{requirement.name}{requirement.specifier}" for requirement in missing))
    if not lines:
        return InstallPlan((), (), ())
    return InstallPlan(
        lines,
        _constraints(installed),
        (*_installer(installed, "python" if installed.described else python or sys.executable), *lines),
    )


def quick_fix(plan: InstallPlan, python: str | None = None, try_step: bool = True) -> Repair:
    """Carries the plan out and proves it: only additions, and one LoRA step in a fresh process (unless `try_step` is off).

    Never uninstalls, upgrades or downgrades. Raises SetupError, naming the pin in the way, when the resolver finds no answer; when
    something else than additions happened; or when the trial training fails.
    """
    if plan.nothing_to_do:
        return Repair(plan, {}, None, None)
    before = read_installed(_paths_of(python))
    _install(plan)
    importlib.invalidate_caches()  # this process may have looked already, and remembers that it found nothing
    after = read_installed(_paths_of(python))
    added = _additions(before, after)
    _check_met(plan, after)
    seconds = try_one_step(python, added) if try_step else None
    restart = _restart(added) if python in (None, sys.executable) else None
    return Repair(plan, added, seconds, restart)


def shell(command: tuple[str, ...]) -> str:
    """A command as it can be pasted into a terminal: what the shell would read otherwise (>=) is quoted."""
    return " ".join(f'"{part}"' if re.search(r"[\s<>=!;&|]", part) else part for part in command)


def _wanted(installed: Installed, needed: tuple[str, ...]) -> list[Requirement]:
    if installed.colab:
        needed = (*needed, *(requirement.name for requirement in colab_requirements()))
    named = [requirement for requirement, optional in requirements_for(installed) if not optional or requirement.name in needed]
    return named + absent_needs(installed)


def _paths_of(python: str | None) -> list[str] | None:
    """Where another interpreter looks for packages; None: this one."""
    if python in (None, sys.executable):
        return None
    code = "import json, sys; print(json.dumps([path for path in sys.path if path]))"
    try:
        return json.loads(subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"{python} を Python として実行できません（{error}）。→ 場所を確かめてください。",
            f"{python} cannot be run as a Python ({error}). -> Check its path.",
        ) from None


def _refuse_impossible(missing: list[Requirement], installed: Installed) -> None:
    """Packages that are there in another version: installing over them would replace them, which the quick fix never does."""
    blocked = [(item, pin) for item in missing if (pin := _pin_in_the_way(item, installed))]
    if blocked:
        wanted = ", ".join(f"{item.name}{item.specifier}" for item, _ in blocked)
        pins = ", ".join(dict.fromkeys(pin for _, pin in blocked))
        todo_ja, todo_en = SWITCH_RUNTIME if installed.colab else start_again(installed)
        raise SetupError(
            f"{wanted} は、入っている {pins} を変えないかぎり入れられません。クイック修正は入っているものを変えません。→ {todo_ja}",
            f"{wanted} cannot be installed while {pins} stays, and the quick fix changes nothing that is there. -> {todo_en}",
        )


def _pin_in_the_way(requirement: Requirement, installed: Installed) -> str | None:
    found = installed.version(requirement.name)
    if found is not None:
        return f"{requirement.name}=={found}"
    return None if possible(requirement) else f"transformers=={installed.version('transformers')}"


def _constraints(installed: Installed) -> tuple[str, ...]:
    """One pin per installed package; a version that is none (a distribution's own build) cannot be written as a pin."""
    from packaging.version import InvalidVersion, Version

    pins = []
    for name, version in sorted(installed.versions.items()):
        try:
            pins.append(f"{name}=={Version(version)}")
        except InvalidVersion:
            continue
    return tuple(pins)


def _installer(installed: Installed, python: str) -> tuple[str, ...]:
    """pip of that Python, else uv: environments made by uv have no pip."""
    if installed.version("pip"):
        return (python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
    if shutil.which("uv"):
        return ("uv", "pip", "install", "--python", python)
    if importlib.util.find_spec("uv"):
        return (sys.executable, "-m", "uv", "pip", "install", "--python", python)
    raise SetupError(
        f"{python} には pip も uv もありません。→ 「{python} -m ensurepip」を実行するか、uv を入れてください。",
        f"{python} has neither pip nor uv. -> Run '{python} -m ensurepip', or install uv.",
    )


def _install(plan: InstallPlan) -> None:
    with tempfile.TemporaryDirectory(prefix="adslm-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(plan.constraints) + "\n", encoding="utf-8")
        command = [*plan.command, "-c", str(constraints)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise _refusal(plan, done.stdout + done.stderr)


def _refusal(plan: InstallPlan, output: str) -> SetupError:
    """What the installer said, as the pins that stand in the way; its own last lines where it was something else (no network)."""
    said = re.sub(r"\s+", " ", output)  # uv wraps its lines
    pins = [pin for pin in plan.constraints if re.search(rf"(?<![\w.-]){re.escape(pin)}(?![\w.])", said, re.IGNORECASE)]
    wanted = ", ".join(plan.missing)
    if pins:
        because = "; ".join(sorted(set(re.findall(r"[\w.-]+ ?[<>=\w.,]* depends? on [\w.-]+ ?[<>=!~][\w.,<>=!~]*", said)))[:2])
        return SetupError(
            f"{wanted} は、固定している {', '.join(pins)} を変えないかぎり入れられません（{because or wanted}）。"
            "何も入れていません。→ 新しい環境を作るか、求める版を下げてください。",
            f"{wanted} cannot be installed while {', '.join(pins)} stays pinned ({because or wanted}). Nothing was installed. "
            "-> Use a fresh environment, or ask for an older version.",
        )
    last = " ".join(output.strip().splitlines()[-3:])[-400:]
    return SetupError(
        f"インストールできませんでした（{last}）。→ ネットワークと空きディスクを確かめ、もう一度実行してください。",
        f"The installation failed ({last}). -> Check the network and the free disk, then run it again.",
    )


def _additions(before: Installed, after: Installed) -> dict[str, str]:
    """What is there now and was not; SetupError when anything else changed."""
    changed = [
        f"{name} {version} -> {after.versions.get(name, '-')}"
        for name, version in before.versions.items()
        if after.versions.get(name) != version
    ]
    if changed:
        raise SetupError(
            f"加えるだけのはずが、入っていたものが変わりました: {', '.join(changed)}。→ 新しい環境でやり直してください。",
            f"Only additions were expected, and something that was there changed: {', '.join(changed)}. "
            "-> Start again in a fresh environment.",
        )
    return {name: version for name, version in sorted(after.versions.items()) if name not in before.versions}


def _check_met(plan: InstallPlan, after: Installed) -> None:
    from packaging.requirements import Requirement

    unmet = [line for line in plan.missing if not after.satisfies(Requirement(line))]
    if unmet:
        raise SetupError(
            f"インストールは終わりましたが、{', '.join(unmet)} がまだありません。→ 新しい環境で requirements.txt を入れてください。",
            f"The installation ended and {', '.join(unmet)} is still missing. -> Install requirements.txt into a fresh environment.",
        )


def _restart(added: dict[str, str]) -> tuple[str, str] | None:
    """Why this process has to be restarted after the additions, or None."""
    for name, askers in _REMEMBERED_ABSENT.items():
        loaded = [asker for asker in askers if asker in sys.modules]
        if name in added and loaded:
            return (
                f"カーネルを再起動してください: 読み込み済みの {', '.join(loaded)} は {name} がないものと覚えています。",
                f"Restart the kernel (Colab: Runtime > Restart session): {', '.join(loaded)} remembers that {name} was absent.",
            )
    for name, version in added.items():
        loaded_now = loaded_version(normal(name))
        if loaded_now is not None and loaded_now != version:
            return (
                f"カーネルを再起動してください: 読み込み済みの {name} は {loaded_now} です。",
                f"Restart the kernel (Colab: Runtime > Restart session): {name} was imported as {loaded_now}.",
            )
    return None
