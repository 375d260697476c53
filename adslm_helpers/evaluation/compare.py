"""The same briefs, the same seeds, before and after: what the texts themselves say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..dataset.adtech import adtech_questions
from ..models.generation import generate_texts
from ..recipe import DpoRecipe
from ..text.degenerate import identical_answers
from ..text.rubric import CHECKS, judge
from .intervals import mean_with_interval


def heldout_prompts(rows: Sequence[dict], recipe: DpoRecipe) -> list[dict]:
    """At most `recipe.eval_prompts` distinct prompts of the held-out rows, in file order, each with its chosen text as `reference`."""
    distinct: dict[str, dict] = {}
    for row in rows:
        distinct.setdefault(str(row["prompt"]), {"prompt": row["prompt"], "reference": row["chosen"], "is_ad": True})
    asked = list(distinct.values())[: recipe.eval_prompts]
    if recipe.ask_adtech_questions:
        asked += [{"prompt": row["prompt"], "reference": None, "is_ad": False} for row in adtech_questions()]
    return asked


def compare_texts(model: Any, tokenizer: Any, asked: Sequence[dict], recipe: DpoRecipe, batch_size: int = 32) -> list[dict]:
    """Rows of comparisons.jsonl: both answers to each prompt and seed, their judgements, win / tie / loss for the tuned side.

    `model`: a PeftModel. The base answers with the adapter off, from the same seed and in the same batches.
    """
    prompts = [item["prompt"] for item in asked]
    rows = []
    for sample in range(recipe.samples_per_prompt):
        seed = recipe.seed + 1000 * sample
        options = {
            "seed": seed, "temperature": recipe.temperature, "top_p": recipe.top_p,
            "max_new_tokens": recipe.max_new_tokens, "batch_size": batch_size,
        }  # fmt: skip
        tuned = generate_texts(model, tokenizer, prompts, **options)
        with model.disable_adapter():
            base = generate_texts(model, tokenizer, prompts, **options)
        for item, before, after in zip(asked, base, tuned, strict=True):
            judged = [judge(item["prompt"], g.text, stopped=g.stopped, is_ad=item["is_ad"]) for g in (before, after)]
            rows.append(
                {
                    "prompt": item["prompt"],
                    "seed": seed,
                    "base": before.text,
                    "tuned": after.text,
                    "reference": item["reference"],
                    "outcome": outcome(judged[0].score, judged[1].score),
                    "base_judgement": judged[0].to_dict(),
                    "tuned_judgement": judged[1].to_dict(),
                }
            )
    return rows


def outcome(base_score: float, tuned_score: float) -> str:
    """'win' when the tuned text keeps more of its brief than the base text, 'loss' when less, 'tie' when the same."""
    return "win" if tuned_score > base_score else "loss" if tuned_score < base_score else "tie"


def comparison_metrics(rows: Sequence[dict], seed: int = 0) -> dict[str, Any]:
    """Rates over all texts of comparisons.jsonl, with 95 % intervals by prompt where they are decided on."""
    prompts = [str(row["prompt"]) for row in rows]
    outcomes = Counter(row["outcome"] for row in rows)
    win_rate, win_ci = mean_with_interval([{"win": 1.0, "tie": 0.5, "loss": 0.0}[row["outcome"]] for row in rows], prompts, seed)
    metrics: dict[str, Any] = {
        "win_rate": round(win_rate, 4),
        "win_rate_ci95": win_ci,
        "wins": outcomes["win"],
        "ties": outcomes["tie"],
        "losses": outcomes["loss"],
        "n_prompts": len(set(prompts)),
        "n_texts": len(rows),
    }
    for side in ("base", "tuned"):
        metrics |= _side_metrics(rows, prompts, side, seed)
    gains = [row["tuned_judgement"]["passed"] - row["base_judgement"]["passed"] for row in rows]
    gain, gain_ci = mean_with_interval(gains, prompts, seed)
    return {**metrics, "rubric_gain": round(gain, 4), "rubric_gain_ci95": gain_ci}


def _side_metrics(rows: Sequence[dict], prompts: list[str], side: str, seed: int) -> dict[str, Any]:
    judgements = [row[f"{side}_judgement"] for row in rows]
    rate, interval = mean_with_interval([float(j["passed"]) for j in judgements], prompts, seed)
    checks = {}
    for check in CHECKS:
        applied = [j["checks"][check] for j in judgements if j["checks"][check] is not None]
        checks[check] = round(sum(applied) / len(applied), 4) if applied else None
    kinds = Counter(kind for j in judgements for kind in j["degenerate"])
    repeated = identical_answers(prompts, [row[side] for row in rows])
    return {
        f"rubric_pass_{side}": round(rate, 4),
        f"rubric_pass_{side}_ci95": interval,
        f"right_product_{side}": checks["product"],
        f"degenerate_{side}": round(sum(bool(j["degenerate"]) for j in judgements) / len(rows), 4),
        f"degenerate_kinds_{side}": dict(kinds),
        f"identical_answers_{side}": round(sum(row[side].strip() in repeated for row in rows) / len(rows), 4),
        f"mean_chars_{side}": round(sum(len(row[side]) for row in rows) / len(rows), 1),
        f"checks_{side}": checks,
    }
