"""The Colab runtimes that are known (from `data/colab_runtimes.yaml`), and what has moved since the last one that worked."""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass
from typing import Any

from ..data_files import read_yaml
from ..errors import SetupError
from .described import MACHINES, described_machine
from .installed import Installed, normal
from .machine import Probe
from .packages import project_file

_FACTS = "colab_runtimes.yaml"
# What a move of each means for this job. Whatever is not named here may move without anybody noticing.
_MATTERS = {
    "python": ("すべてを動かす土台です", "everything runs on it"),
    "torch": ("計算と乱数が変わり、損失の下の桁が前とずれることがあります", "low digits of a loss may differ from before"),
    "torchvision": ("torch と世代が違うと transformers の読み込みが失敗します", "transformers fails to load beside one of another generation than torch"),
    "torchao": ("古いと peft の LoRA が失敗するため、学習前に隠します", "an old one breaks peft's LoRA and is hidden before training"),
    "transformers": ("モデルの読み込みと学習の引数が変わります", "it loads the models, and its training arguments change"),
    "trl": ("DPO の学習そのものです", "it is the DPO training itself"),
    "peft": ("LoRA アダプターを作ります", "it makes the LoRA adapters"),
    "accelerate": ("勾配の積算と混合精度を受け持ちます", "it does gradient accumulation and mixed precision"),
    "datasets": ("pyarrow・huggingface_hub・fsspec と組で動きます", "it works as one set with pyarrow, huggingface_hub and fsspec"),
    "pyarrow": ("入れ替えたあとは再起動しないと datasets を読み込めません", "once replaced, datasets cannot be loaded before a restart"),
    "huggingface-hub": ("モデルのダウンロードを受け持ちます", "it downloads the models"),
    "tokenizers": ("transformers が決まった範囲だけを受け付けます", "transformers accepts a fixed range of it"),
    "safetensors": ("重みのファイルを読み書きします", "it reads and writes the weights"),
    "bitsandbytes": ("4-bit 読み込みに使います", "it is used for 4-bit loading"),
    "numpy": ("大きく変わると、古いパッケージの読み込みが失敗します", "across a major version older packages fail to load"),
    "pandas": ("CSV と表の読み込みに使います", "it reads CSV and tables"),
    "fsspec": ("datasets が上限を決めています", "datasets sets its upper limit"),
    "ipywidgets": ("入力欄の表示に使います。Colab では更新しないでください", "it shows the forms; never update it on Colab"),
}  # fmt: skip


@dataclass(frozen=True)
class Move:
    """One package that is not what it was in the last known good set."""

    name: str
    was: str
    """Version then."""
    now: str | None
    """Version now; None: it is gone."""
    ja: str
    en: str


@dataclass(frozen=True)
class Drift:
    """What moved since the last set that is known to work; empty `moves`: nothing that matters."""

    since: str
    """'colab-2026.08-gpu', or 'requirements.txt'; '' where nothing is known to compare with."""
    moves: list[Move]
    same_release: bool = False
    """Colab's release is of the same month as `since`: what moved was moved by Colab within it or by a command, not by a new one."""

    def summary(self) -> str:
        """One line: since when, and how many of the packages that matter moved."""
        if not self.since:
            return "比べる相手がありません。/ Nothing to compare with."
        if not self.moves:
            return f"{self.since} から、大事なものは何も変わっていません。/ Nothing that matters moved since {self.since}."
        return f"{self.since} から {len(self.moves)} 個変わりました。/ {len(self.moves)} moved since {self.since}."

    def rows(self) -> list[dict[str, str]]:
        """The moves as rows of a table."""
        return [
            {"package": move.name, self.since: move.was, "今 / now": move.now or "-", "意味 / meaning": f"{move.ja}\n{move.en}"}
            for move in self.moves
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def runtime_names() -> list[str]:
    """Names of the runtimes that can be described, the oldest first."""
    return list(read_yaml(_FACTS)["runtimes"])


def described_runtime(name: str) -> Installed:
    """What the runtime `name` has installed, from the facts that are kept of it; raises SetupError for an unknown one."""
    facts = read_yaml(_FACTS)
    if name not in facts["runtimes"]:
        raise _unknown(name)
    column = list(facts["runtimes"]).index(name)
    versions = {package: row[column] for package, row in facts["packages"].items() if row[column]}
    requires = {package: facts["requires"].get(f"{package}=={version}", []) for package, version in versions.items()}
    return Installed(versions, requires, facts["runtimes"][name]["python"], name, name)


def as_if(name: str) -> tuple[Installed | None, Probe]:
    """(packages, machine) of a described Colab runtime, or (None: this machine's packages, machine) of a described machine.

    Raises SetupError, naming what there is, for anything else.
    """
    if name in runtime_names():
        runtime = described_runtime(name)
        machine = described_machine("colab-t4" if name.endswith("-gpu") else "colab-cpu")
        return runtime, dataclasses.replace(machine, torch=runtime.versions["torch"])
    if name in MACHINES:
        return None, MACHINES[name]
    raise _unknown(name)


def drift(installed: Installed) -> Drift:
    """What moved: on Colab since the nearest known release of the same kind, elsewhere since the tested requirements.txt."""
    if installed.colab is None:
        return Drift("requirements.txt", _moves(pinned_versions(), installed)) if pinned_versions() else Drift("", [])
    known = nearest_runtime(installed)
    then = {"python": known.python, **known.versions}
    return Drift(known.described, _moves(then, installed), _month(installed.colab) == _month(known.described))


def nearest_runtime(installed: Installed) -> Installed:
    """The nearest in time of the known Colab runtimes that train, of the same kind where two are as near; without a date the newest."""
    month = _month(installed.colab or "")
    cpu = (installed.version("torch") or "").endswith("+cpu")

    def distance(name: str) -> tuple[int, int, bool]:
        then = _month(name) or 0
        return abs(month - then) if month else 0, -then, cpu == name.endswith("-gpu")

    facts = read_yaml(_FACTS)["runtimes"]
    return described_runtime(min((name for name in facts if facts[name].get("trains", True)), key=distance))


def is_too_old(installed: Installed) -> bool:
    """Whether this Colab release is as old as one that is known not to train as it comes."""
    month, facts = _month(installed.colab or ""), read_yaml(_FACTS)["runtimes"]
    old = [_month(name) or 0 for name in facts if not facts[name].get("trains", True)]
    return month is not None and month <= max(old)


def pinned_versions() -> dict[str, str]:
    """Normalised name -> version of the exact set that the tests pass with; empty where that file is not at hand."""
    path = project_file("requirements.txt")
    if path is None:
        return {}
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {normal(name): version for name, version in pins}


def _month(name: str) -> int | None:
    """Months since year 0 in a runtime's name or Colab's tag ('release-colab_20260815-060047_RC00'); None: no date in it."""
    found = re.search(r"(20\d\d)\.?(\d\d)", name)
    return int(found.group(1)) * 12 + int(found.group(2)) if found else None


def _moves(then: dict[str, str], installed: Installed) -> list[Move]:
    moves = []
    for name, (ja, en) in _MATTERS.items():
        was = then.get(name)
        now = _short(installed.python) if name == "python" else installed.version(name)
        if was is None or _same(was, now):
            continue  # what was added since is no move
        if now is None:
            moves.append(
                Move(
                    name,
                    was,
                    None,
                    "ありません。必要なら「見つけたこと」が言います。",
                    "absent; the findings say so where it is needed.",
                )
            )
        else:
            how_ja, how_en = _direction(was, now)
            moves.append(Move(name, was, now, f"{how_ja}。{ja}。", f"{how_en}; {en}."))
    return moves


def _direction(was: str, now: str) -> tuple[str, str]:
    from packaging.version import InvalidVersion, Version

    try:
        newer, base = Version(now) > Version(was), Version(now).public == Version(was).public
    except InvalidVersion:
        return "変わりました", "changed"
    if base:  # 2.11.0+cu128 -> 2.11.0+cpu
        return "別のビルドです", "another build"
    return ("新しくなりました", "newer") if newer else ("古くなりました", "older")


def _same(was: str, now: str | None) -> bool:
    """Whether both name one version; a local part (+cu128) counts only where both have one."""
    if now is None or ("+" in was and "+" in now):
        return was == now
    return was.split("+")[0] == now.split("+")[0]


def _short(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _unknown(name: str) -> SetupError:
    there = [*runtime_names(), *MACHINES]
    close = difflib.get_close_matches(name, there, n=1)
    hint = f"{close[0]}? ({', '.join(there)})" if close else ", ".join(there)
    return SetupError(
        f"{name!r} というランタイムやマシンの記述はありません。→ あるもの: {hint}",
        f"No runtime or machine is described as {name!r}. -> There are: {hint}",
    )
