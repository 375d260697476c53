"""A source of pairs -> runs/NAME/dataset/: train.jsonl, eval.jsonl and report.json."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data_files import data_path
from ..errors import DataError
from ..recipe import DpoRecipe
from ..run import Run, read_jsonl, sha256, write_json, write_jsonl
from ..run_names import user_path
from .formats import read_rows
from .report import DatasetReport, reason_counts
from .rows import Place, RawRow
from .samples import sample_pairs
from .split import prompt_key, split_by_prompt
from .statistics import dataset_warnings, describe
from .validate import Validation, validate

SPLITS = ("train", "eval")
_MOST_SAMPLES = 1_000_000


def build_dataset(run: Run, source: str | Path | None, recipe: DpoRecipe, drop_invalid: bool = True) -> DatasetReport:
    """Reads, validates, describes and splits `source` into the run's dataset folder, and says what it did.

    `source` is a file, `hf:owner/name[:split]`, `sample` (or None: the shipped pairs) or `sample:N` (N made-up pairs).
    Rows that cannot be used are dropped and counted; `drop_invalid=False` raises DataError instead, naming up to five.
    Also raises DataError when no row is left, or fewer than two prompts. A source that does not open leaves the run alone.
    """
    name = "sample" if source is None else str(source)
    digest = hashlib.sha256()
    rows = _open(name, recipe, digest)
    with run.step("dataset", source=name, seed=recipe.seed) as notes:
        run.update(recipe=recipe.to_dict())
        validation = validate(rows)
        if validation.dropped and not drop_invalid:
            _refuse_invalid(name, validation)
        if not validation.pairs:
            _refuse_all(name, validation)
        sides = split_by_prompt(validation.pairs, recipe.eval_fraction, recipe.seed)
        hashes = {"source": digest.hexdigest()}
        for side, part in zip(SPLITS, sides, strict=True):
            hashes[side] = sha256(write_jsonl(run.dataset / f"{side}.jsonl", part))
        report = _report(run, name, recipe, validation, sides, hashes)
        write_json(run.dataset / "report.json", report.to_dict())
        notes.update(rows_in=report.rows_in, kept=report.kept, dropped=report.dropped)
        notes.update({side: report.split[side] for side in SPLITS}, sha256=hashes, hash=_joint(hashes))
    return report


def load_split(run: Run, side: str) -> list[dict]:
    """The pair rows of 'train' or 'eval'; raises RunError when the dataset step is not done, DataError for another side."""
    if side not in SPLITS:
        raise DataError(
            f"{side!r} という側はありません。→ 'train' か 'eval' を指定してください。",
            f"There is no side {side!r}. -> Ask for 'train' or 'eval'.",
        )
    run.require("dataset")
    path = run.dataset / f"{side}.jsonl"
    rows = read_jsonl(path)
    odd = next((number for number, row in enumerate(rows, 1) if not _is_pair(row)), None)
    if odd is not None or not rows:
        place_ja, place_en = (f"{path} {odd}件目", f"{path} row {odd}") if odd else (str(path), str(path))
        raise DataError(
            f"{place_ja}: prompt・chosen・rejected の対ではありません。→ ノートブック 01（データ）をもう一度実行してください。",
            f"{place_en} is no pair of prompt, chosen and rejected. -> Run notebook 01 (dataset) again.",
        )
    return rows


def _is_pair(row: dict) -> bool:
    """Whether a row has the shape that `validate` gives it: somebody may have edited the file since."""
    prompt = row.get("prompt")
    messages = prompt if isinstance(prompt, list) and prompt else [{"role": "user", "content": prompt}]
    texts = [row.get("chosen"), row.get("rejected")]
    texts += [message.get(key) if isinstance(message, dict) else None for message in messages for key in ("role", "content")]
    return all(isinstance(text, str) for text in texts)


def _open(name: str, recipe: DpoRecipe, digest: Any) -> Iterator[RawRow]:
    """The rows of a source; `digest` takes the file's bytes, or, where there is no file, each row as it passes."""
    kind, colon, count = name.partition(":")
    if kind == "sample" and colon:
        pairs = sample_pairs(_whole(name, count), seed=recipe.seed)
        rows = (RawRow(pair, Place(name, number, "row")) for number, pair in enumerate(pairs, 1))
        return _hashed(rows, digest)
    if name.startswith("hf:"):
        return _hashed(read_rows(name), digest)
    path = data_path("sample_pairs.jsonl") if name == "sample" else user_path(name)
    rows = read_rows(path)
    before = _state(path)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return _unchanged(rows, path, before)


def _unchanged(rows: Iterator[RawRow], path: Path, before: tuple[int, int]) -> Iterator[RawRow]:
    """`rows`; DataError at the end of a file that another program wrote to meanwhile: its hash is not that of what was read."""
    yield from rows
    if _state(path) != before:
        raise DataError(
            f"{path} は、読んでいる間に書き換えられました。→ ほかのプログラムで閉じてから、もう一度実行してください。",
            f"{path} was changed while it was read. -> Close it in other programs, then run this again.",
        )


def _state(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _whole(name: str, count: str) -> int:
    try:
        if (number := int(count)) <= _MOST_SAMPLES:
            return number
        raise ValueError
    except ValueError:
        raise DataError(
            f"{name} の件数が {_MOST_SAMPLES:,} までの整数ではありません。→ 例: sample:1000",
            f"{name} does not end in a whole number up to {_MOST_SAMPLES:,}. -> For example: sample:1000",
        ) from None


def _hashed(rows: Iterator[RawRow], digest: Any) -> Iterator[RawRow]:
    for row in rows:
        digest.update(json.dumps(row.value, default=str).encode())
        yield row


def _joint(hashes: dict[str, str]) -> str:
    """One hash of the two files that training and evaluation read."""
    return hashlib.sha256("".join(hashes[side] for side in SPLITS).encode()).hexdigest()


def _report(
    run: Run, name: str, recipe: DpoRecipe, validation: Validation, sides: tuple[list, list], hashes: dict[str, str]
) -> DatasetReport:
    prompts = [{prompt_key(row["prompt"]) for row in part} for part in sides]
    total = len(validation.pairs)
    assert not prompts[0] & prompts[1] and len(sides[0]) + len(sides[1]) == total
    split = {
        **{side: len(part) for side, part in zip(SPLITS, sides, strict=True)},
        **{f"{side}_prompts": len(keys) for side, keys in zip(SPLITS, prompts, strict=True)},
        "eval_share": round(len(sides[1]) / total, 4),
        "eval_fraction_asked": recipe.eval_fraction,
        "seed": recipe.seed,
        "prompts_on_both_sides": 0,
        "statement_ja": "学習側と評価側の両方にあるプロンプトは 0 件です。",
        "statement_en": "No prompt stands on both sides.",
    }
    return DatasetReport(
        run=run.name,
        source=name,
        rows_in=validation.rows_in,
        kept=total,
        dropped=dict(validation.dropped),
        notes=dict(validation.notes),
        problems=validation.problems,
        statistics=describe(validation.pairs),
        findings=dataset_warnings(validation.pairs, sides, validation.dropped["duplicate"]),
        split=split,
        sha256=hashes,
    )


def _refuse_invalid(name: str, validation: Validation) -> None:
    number, shown = sum(validation.dropped.values()), validation.problems[:5]
    raise DataError(
        f"{name}: 使えない行が {number:,} 行あります。\n"
        + "".join(f"  {problem.line_ja}\n" for problem in shown)
        + "→ 行を直すか、--strict（drop_invalid=False）を外してください。",
        f"{name}: {number:,} rows cannot be used.\n"
        + "".join(f"  {problem.line_en}\n" for problem in shown)
        + "-> Fix the rows or leave out --strict (drop_invalid=False).",
    )


def _refuse_all(name: str, validation: Validation) -> None:
    ja, en = reason_counts(validation.dropped)
    shown = validation.problems[:3]
    raise DataError(
        f"{name}: {validation.rows_in:,}行のうち使える行がありません（{ja}）。\n"
        + "".join(f"  {problem.line_ja}\n" for problem in shown)
        + "→ 各行に prompt, chosen, rejected（文字列か role/content の発言）を入れてください。",
        f"{name}: none of {validation.rows_in:,} rows can be used ({en}).\n"
        + "".join(f"  {problem.line_en}\n" for problem in shown)
        + "-> Give each row prompt, chosen and rejected (text, or role/content messages).",
    )
