"""What a checkpoint's files show before a model is built from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..models.tiny import embedded_model_path
from ..recipe import EMBEDDED
from ..run import sha256
from .run_files import object_in
from .weights import Weights, wrong_shapes


@dataclass(frozen=True)
class Look:
    """One thing that was looked at."""

    name: str
    ok: bool
    ja: str
    en: str

    def line(self) -> str:
        """One bilingual line."""
        return f"{'OK ' if self.ok else '【異常】'} {self.name}: {self.ja} / {self.en}"


def sealed(folder: Path) -> list[Look]:
    """The hashes of a finished checkpoint's seal; nothing where there is no seal."""
    listed = object_in(folder / "seal.json").get("files")
    if not isinstance(listed, list):
        return []
    entries = [entry for entry in listed if isinstance(entry, dict) and Path(str(entry.get("path"))).name == entry.get("path")]
    wrong = [entry["path"] for entry in entries if not _as_sealed(folder / entry["path"], entry)]
    if wrong:
        names = ", ".join(wrong[:4])
        return [
            Look("seal", False, f"保存したときと違うファイルがあります（{names}）", f"files are not as they were saved ({names})")
        ]
    return [
        Look("seal", True, f"{len(entries)} 個のファイルが保存したときのままです", f"{len(entries)} files are as they were saved")
    ]


def _as_sealed(path: Path, entry: dict) -> bool:
    return path.is_file() and path.stat().st_size == entry.get("bytes") and sha256(path) == entry.get("sha256")


def finite(weights: Weights) -> Look:
    """Whether every weight is a number."""
    if bad := weights.not_finite:
        ja, en = (
            f"{len(bad)}/{len(weights.shapes)} 個のテンソルに NaN か無限大",
            f"NaN or infinity in {len(bad)} of {len(weights.shapes)} tensors",
        )
        return Look(
            "finite",
            False,
            f"{ja}（{bad[0]} ほか）。→ これより前のチェックポイントを使ってください",
            f"{en} ({bad[0]}, ...). -> Use an earlier checkpoint",
        )
    return Look("finite", True, f"{weights.numbers:,} 個の重みはすべて有限です", f"all {weights.numbers:,} weights are finite")


def effect(weights: Weights) -> Look:
    """LoRA's B starts at zero: an adapter in which all are zero is the base."""
    second = [name for name in weights.shapes if "lora_B" in name or "lora_embedding_B" in name]
    moved = [name for name in second if name not in weights.zero]
    if not moved:
        return Look(
            "adapter_effect", False, "アダプターの B がすべて 0 で、ベースモデルと何も変わりません。学習が進んでいません",
            "every B of the adapter is 0: it changes nothing, the training did not move it",
        )  # fmt: skip
    return Look(
        "adapter_effect",
        True,
        f"{len(second)} 個中 {len(moved)} 個の B が動いています",
        f"{len(moved)} of {len(second)} B matrices moved",
    )


def shapes(weights: Weights, base: str) -> list[Look]:
    """Whether the LoRA tensors fit the base; nothing where its config is not on this machine yet: loading will tell."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(embedded_model_path()) if base == EMBEDDED else base, local_files_only=True)
        wrong = wrong_shapes(weights, config)
    except (OSError, ValueError, KeyError, AttributeError, ImportError):
        return []
    if wrong:
        ja = f"このベースのアダプターではありません（{wrong[0]}、全部で {len(wrong)} 件）。→ --base で正しいベースを指定してください"
        return [
            Look(
                "shapes",
                False,
                ja,
                f"no adapter of this base ({wrong[0]}; {len(wrong)} in all). -> Name its own base with --base",
            )
        ]
    fit = len(weights.shapes)
    return [Look("shapes", True, f"{fit} 個のテンソルの形がベースに合います", f"{fit} tensors fit the base")]
