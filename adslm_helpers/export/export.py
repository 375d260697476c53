"""`export_run`: a run's tuned model as a folder, a zip or a folder on Google Drive, published only after it was read back."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..dataset.build import load_split
from ..environment.drive import drive_folder
from ..errors import ExportError, ModelError
from ..foreign_text import brief
from ..models.loading import LoadedModel, load_named
from ..models.tuned import base_name, load_tuned, trained_recipe
from ..recipe import EMBEDDED, DpoRecipe
from ..run import Run, now, read_json, versions, write_json, write_text
from ..run_names import user_path
from .card import CardFacts, licence, model_card
from .check import Answers, Difference, FourBit, against_four_bit, check, check_rounded, tuned_answers
from .contents import load_for_export, published_dtype, release, write_adapter, write_merged, write_records
from .public import clean_folder, is_local, private_paths, public_name
from .publish import MANIFEST, copy_folder, list_files, publish, refuse_existing, staging, write_zip

KINDS = ("folder", "zip", "drive")
FORMAT = "adslm-export/1"
_CHECK_PROMPTS = 4
_CHECK_TOKENS = 48
# Of the adapter's effect; 0.1 was measured on the embedded model, whether trained for 12 steps or for 100.
_MUCH = 0.5


@dataclass(frozen=True)
class Verified:
    """How the files that were written answer, loaded again, next to the tuned model. Logit differences are the largest ones."""

    prompts: int
    adapter_effect: float
    """How far the adapter moves the base's logits: the yardstick for the other two."""
    adapter_difference: float
    merged_difference: float | None = None
    merged_dtype: str | None = None
    changed_texts: int = 0
    """Greedy texts that 16-bit rounding changed; 0 in float32."""
    four_bit: FourBit | None = None
    """Of a model trained in 4-bit: what it is to have the adapter on the unquantised base. None: not trained so, or not to be asked here."""


@dataclass(frozen=True)
class ExportResult:
    """What was handed over and where. `bytes`: of the files; a zip may be smaller."""

    path: str
    kind: str
    base: str
    files: int
    bytes: int
    evaluated: bool
    verified: Verified
    removed: tuple[str, ...] = ()
    """What killed exports of this run had left under temporary names."""

    def lines(self) -> list[str]:
        """The result in a few bilingual lines."""
        seen = self.verified
        same = f"{seen.prompts - seen.changed_texts}/{seen.prompts}"
        told = [
            f"書き出し先 / exported to: {self.path}",
            f"ファイル / files: {self.files}（{self.bytes / 1e6:.1f} MB）",
            f"検証: 読み直したモデルの文が、学習したモデルと一致しました（{same}）。"
            f"/ Verified: loaded again, it writes the tuned model's texts ({same}).",
        ]
        if seen.merged_difference is not None:
            told.append(
                f"結合済み {seen.merged_dtype} とアダプターのロジットの差 / largest logit difference merged - adapter: "
                f"{seen.merged_difference:.1e}（アダプターの効果 / effect of the adapter: {seen.adapter_effect:.1e}）"
            )
        if seen.changed_texts:
            told.append(
                "一致しない分は、16ビットへの丸めによるものです（アダプターの効果に比べて十分小さい差です）。"
                "/ The others differ by rounding to 16 bit, which is small beside what the adapter does."
            )
        if seen.four_bit is not None:
            share = seen.four_bit.effect_difference
            kept = f"{seen.prompts - seen.four_bit.changed_texts}/{seen.prompts}"
            told.append(
                f"4ビットで学習したアダプターを、元の精度のベースに結合しました。4ビットのモデルと同じ文 {kept}、アダプターの効果の違い {share:.0%}。"
                f"/ Trained in 4-bit, merged into the unquantised base: {kept} texts as in 4-bit, its effect differs by {share:.0%}."
            )
            if share > _MUCH:
                told.append(
                    "【注意】違いが大きいです。書き出したモデルの文も読んで確かめるか、merged=False で書き出して 4ビットで使ってください。"
                    "/ NOTE: that is much. Read the exported model's texts as well, or export with merged=False and use it in 4-bit."
                )
        if self.removed:
            names = ", ".join(self.removed)
            told.append(f"途中で止まった前の書き出しを消しました / removed what a killed export had left: {names}")
        if not self.evaluated:
            told.append("【注意】まだ評価していません（ノートブック 03）。/ NOTE: not evaluated yet (notebook 03).")
        if self.base == EMBEDDED:
            told.append(
                "【注意】教材用のモデルです。実際の広告には使えません。/ NOTE: a teaching model; do not advertise with it."
            )
        if self.kind == "drive":
            told.append(
                "Colab では、終了の前に drive.flush_and_unmount() で同期を待ってください。"
                "/ On Colab, wait for the sync with drive.flush_and_unmount() before you leave."
            )
        return told


def export_run(run: Run, target: str | Path | None = None, kind: str = "folder", merged: bool = True) -> ExportResult:
    """Writes adapter, merged model, tokenizer, recipe, evaluation, model card and manifest, and says where they are.

    `kind`: 'folder', 'zip' or 'drive' (a folder on Google Drive). Without `target` the name is the run's with the UTC time, in the
    run's export folder or in adslm/ on the Drive. `merged=False`: the adapter alone.
    What was written is loaded again and must write the tuned model's greedy texts; until then it has no final name. An export that is
    complete but does not get onto the Drive is kept in the run's export folder. What killed exports of this run left is removed, and said.
    Raises RunError (not trained), ExportError (target exists, no space, mismatch), SetupError (no Drive), ModelError.
    """
    target = _target(run, target, kind)
    refuse_existing(target)
    run.require("training")
    folder = target if kind == "folder" else run.export / target.name.removesuffix(".zip")
    with run.step("export", path=str(target), kind=kind) as notes:
        removed = _remove_left(run, target)
        with staging(folder) as partial:
            facts, verified = _build(run, partial, folder.name, merged)
            files = list_files(partial)
            if kind == "folder":
                publish(partial, target)
            elif kind == "zip":
                write_zip(partial, target, top=folder.name)
            else:
                _copy_or_keep(partial, target, folder)
            evaluated = facts.metrics is not None
            size = sum(entry["bytes"] for entry in files)
            result = ExportResult(str(target), kind, facts.base, len(files) + 1, size, evaluated, verified, removed)
            notes.update(files=result.files, bytes=size, verified=asdict(verified))
    return result


def _target(run: Run, target: str | Path | None, kind: str) -> Path:
    if kind not in KINDS:
        raise ExportError(
            f"書き出しの種類 {kind!r} はありません。→ {', '.join(KINDS)} から選んでください。",
            f"There is no kind of export {kind!r}. -> Choose one of {', '.join(KINDS)}.",
        )
    name = f"{run.name}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
    if kind == "drive":
        return drive_folder() / _on_drive(Path(target or f"adslm/{name}"))
    path = user_path(target) if target else run.export / name
    return path.with_name(f"{path.name}.zip") if kind == "zip" and path.suffix != ".zip" else path


def _remove_left(run: Run, target: Path) -> tuple[str, ...]:
    """Removes the temporary names of this run's killed exports: all in its own folder, elsewhere those that only this run gives.

    The run's lock is held: no export of it is at work. A drive that does not answer is not asked twice: the export itself says why.
    """
    ours = re.compile(rf"\.({re.escape(run.name)}-\d{{8}}-\d{{6}}(\.zip)?|{re.escape(target.name)})\.partial")
    removed = []
    with suppress(OSError):
        found = [path for path in target.parent.glob(".*.partial") if ours.fullmatch(path.name)]
        for path in sorted({*run.export.glob(".*.partial"), *found}):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            removed.append(str(path))
    return tuple(removed)


def _on_drive(target: Path) -> Path:
    if target.is_absolute() or ".." in target.parts:
        raise ExportError(
            f"target {brief(str(target))} は Drive の外を指しています。→ マイドライブの中の名前（例: adslm/spring）にしてください。",
            f"The target {brief(str(target))} leads out of the Drive. -> Give a name inside My Drive (for example adslm/spring).",
        )
    return target


def _copy_or_keep(partial: Path, target: Path, folder: Path) -> None:
    """`partial` copied to the Drive; where that fails it becomes `folder`, for minutes of work are in it and the error says where."""
    try:
        copy_folder(partial, target)
    except ExportError as error:
        kept = folder if not os.path.lexists(folder) else folder.with_name(f"{folder.name}-{datetime.now(timezone.utc):%H%M%S}")
        publish(partial, kept)
        raise ExportError(
            f"{error.ja}\n書き出し自体は終わっていて、{kept} に残してあります。"
            "→ Drive を直したら、そのフォルダーを写すか、もう一度書き出してください。",
            f"{error.en}\nThe export itself is complete and kept in {kept}. -> Mend Drive, then copy that folder or export again.",
        ) from error


def _build(run: Run, folder: Path, name: str, merged: bool) -> tuple[CardFacts, Verified]:
    """Writes and verifies everything below `folder`."""
    recipe, base = trained_recipe(run), public_name(base_name(run))
    base_folder, verified = _write_model(run, recipe, folder, base, merged)
    evaluated = write_records(run, folder, recipe)
    facts = CardFacts(
        name=name,
        base=base,
        recipe=recipe,
        dataset=read_json(run.dataset / "report.json"),
        result=read_json(run.training / "result.json"),
        metrics=read_json(run.evaluation / "metrics.json") if evaluated else None,
        merged_dtype=verified.merged_dtype,
    )
    write_text(folder / "README.md", model_card(facts))
    clean_folder(folder, private_paths(run, base_folder, base))
    for path in folder.rglob("*"):
        if path.is_file():
            os.chmod(path, 0o644)  # safetensors makes files that nobody else in the team may read
    write_json(folder / MANIFEST, _manifest(run, facts, verified, list_files(folder)))
    return facts, verified


def _write_model(run: Run, recipe: DpoRecipe, folder: Path, base: str, merged: bool) -> tuple[str, Verified]:
    """Adapter and, where asked for, merged model below `folder`, each loaded again and checked; the base's local folder first."""
    four_bit = _four_bit_answers(run, recipe) if merged and recipe.load_in_4bit else None
    loaded, recipe = load_for_export(run, recipe) if merged else (load_tuned(run, recipe), recipe)
    beside = against_four_bit(loaded, four_bit) if four_bit else None
    wanted = tuned_answers(loaded, _prompts(run), min(recipe.max_new_tokens, _CHECK_TOKENS))
    base_folder, published = loaded.model.config._name_or_path, published_dtype(loaded)
    write_adapter(run, loaded, folder / "adapter", base)
    release(loaded)
    adapter = load_named(base_name(run), recipe, adapter=folder / "adapter")
    difference = check(adapter, wanted, ("アダプター", "adapter"))
    verified = {"prompts": len(wanted.prompts), "adapter_effect": wanted.effect_max, "adapter_difference": difference.largest}
    if not merged:
        return base_folder, Verified(**verified)
    write_merged(adapter, folder / "merged", published)
    release(adapter)
    seen = _check_merged(folder / "merged", recipe, wanted, rounded=published != "float32")
    if seen is None:  # a tuning smaller than the steps of 16-bit numbers: keep it, in float32
        published = "float32"
        write_merged(_again(run, recipe, folder), folder / "merged", published)
        seen = _check_merged(folder / "merged", recipe, wanted, rounded=False)
    return base_folder, Verified(
        **verified,
        merged_difference=seen.largest,
        merged_dtype=published,
        changed_texts=seen.changed_texts,
        four_bit=beside,
    )


def _four_bit_answers(run: Run, recipe: DpoRecipe) -> Answers | None:
    """What the model answered as it was trained and evaluated; None on a machine that cannot load it in 4-bit."""
    try:
        loaded = load_tuned(run, recipe)
    except ModelError:
        return None
    answers = tuned_answers(loaded, _prompts(run), min(recipe.max_new_tokens, _CHECK_TOKENS))
    release(loaded)
    return answers


def _again(run: Run, recipe: DpoRecipe, folder: Path) -> LoadedModel:
    shutil.rmtree(folder / "merged")
    return load_named(base_name(run), recipe, adapter=folder / "adapter")


def _check_merged(folder: Path, recipe: DpoRecipe, wanted: Answers, rounded: bool) -> Difference | None:
    loaded = load_named(str(folder), recipe)
    try:
        return check_rounded(loaded, wanted) if rounded else check(loaded, wanted, ("結合済みモデル", "merged model"))
    finally:
        release(loaded)


def _prompts(run: Run) -> list[Any]:
    """The shortest held-out prompts: every model has room for them."""
    distinct = {str(row["prompt"]): row["prompt"] for row in load_split(run, "eval")}
    return [distinct[key] for key in sorted(distinct, key=lambda text: (len(text), text))[:_CHECK_PROMPTS]]


def _manifest(run: Run, facts: CardFacts, verified: Verified, files: list[dict]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": facts.name,
        "run": run.name,
        "created": now(),
        "base_model": facts.base,
        "base_model_is_local": is_local(base_name(run)),
        "base_licence": licence(facts.base),
        "merged": facts.merged_dtype is not None,
        "evaluated": facts.metrics is not None,
        "verified": asdict(verified),
        "versions": versions(),
        "files": files,
    }
