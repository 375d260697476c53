"""A source of pairs -> runs/NAME/dataset/: train.jsonl, eval.jsonl and report.json."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ..errors import DataError
from ..recipe import DpoRecipe
from ..run import Run, read_jsonl, sha256, write_json, write_jsonl
from .report import DatasetReport
from .sources import Reading, Source, open_source
from .split import Split, prompt_key, split_pairs
from .statistics import describe
from .usable import UsablePairs, usable_pairs

SPLITS = ("train", "eval")


def build_dataset(
    run: Run,
    source: str | Path | None,
    recipe: DpoRecipe,
    drop_invalid: bool = True,
    *,
    reading: Reading | None = None,
    mend: bool = False,
    say: Callable[[str], None] | None = None,
) -> DatasetReport:
    """Reads, validates, audits and splits `source` into the run's dataset folder, and says what it did.

    `source`: as `open_source` takes it; `reading`: what kind of data it is, and corrections of its columns. `mend`: `repair` first what can be
    mended mechanically. `say` hears of progress. Rows that cannot be used are dropped and counted; `drop_invalid=False` raises DataError
    instead, naming up to five. Also raises DataError when no row is left, or fewer than two prompts. A source that does not open leaves
    the run alone.
    """
    opened = open_source(source, recipe.seed, reading or Reading(), say)
    with run.step("dataset", source=opened.name, seed=recipe.seed) as notes:
        run.update(recipe=recipe.to_dict())
        pairs = usable_pairs(opened, drop_invalid, mend, say)
        split = split_pairs(pairs.rows, recipe.eval_fraction, recipe.seed)
        hashes = {"source": opened.digest.hexdigest()}
        for side, part in zip(SPLITS, (split.train, split.eval), strict=True):
            hashes[side] = sha256(write_jsonl(run.dataset / f"{side}.jsonl", part))
        report = _report(run, recipe, opened, pairs, split, hashes, say)
        write_json(run.dataset / "report.json", report.to_dict())
        notes.update(rows_in=report.rows_in, kept=report.kept, dropped=report.dropped, **opened.counted())
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


def _joint(hashes: dict[str, str]) -> str:
    """One hash of the two files that training and evaluation read."""
    return hashlib.sha256("".join(hashes[side] for side in SPLITS).encode()).hexdigest()


def _report(
    run: Run,
    recipe: DpoRecipe,
    opened: Source,
    pairs: UsablePairs,
    split: Split,
    hashes: dict[str, str],
    say: Callable[[str], None] | None,
) -> DatasetReport:
    sides = (split.train, split.eval)
    prompts = [{prompt_key(row["prompt"]) for row in part} for part in sides]
    total = len(pairs.rows)
    assert not prompts[0] & prompts[1] and len(sides[0]) + len(sides[1]) == total
    told = {
        **{side: len(part) for side, part in zip(SPLITS, sides, strict=True)},
        **{f"{side}_prompts": len(keys) for side, keys in zip(SPLITS, prompts, strict=True)},
        "eval_share": round(len(split.eval) / total, 4),
        "eval_fraction_asked": recipe.eval_fraction,
        "seed": recipe.seed,
        "prompts_on_both_sides": 0,
        **split.to_dict(),
    }
    return DatasetReport(
        run=run.name,
        source=opened.name,
        understood=opened.understood,
        facts=opened.facts,
        rows_in=pairs.validation.rows_in,
        pairs_in=pairs.validation.pairs_in,
        kept=total,
        dropped=pairs.dropped,
        notes=dict(pairs.validation.notes),
        problems=pairs.validation.problems,
        repair=pairs.repair,
        statistics=describe(pairs.rows),
        audit=pairs.audited(split, say),
        split=told,
        sha256=hashes,
    )
