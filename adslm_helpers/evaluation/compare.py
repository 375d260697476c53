"""The same briefs, the same seeds, before and after: what the texts themselves say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ..dataset.adtech import adtech_questions
from ..models.generation import generate_texts
from ..recipe import DpoRecipe
from ..text.degenerate import identical_answers
from ..text.rubric import CHECKS, judge
from .intervals import by_prompt, mean_with_interval, two_sided_sign_test, with_interval

SIDES = ("base", "tuned")
STATED = ("product", "appeal", "length")
"""The checks of the rubric that hold a text against what its brief states; the others hold for every ad."""
_SCORES = {"win": 1, "tie": 0, "loss": -1}


def heldout_prompts(rows: Sequence[dict], recipe: DpoRecipe) -> list[dict]:
    """At most `recipe.eval_prompts` distinct prompts of the held-out rows, in file order, each with its chosen text as `reference`.

    A row with `is_ad` False is a question, not a brief; its `keywords`, where it has some, come along.
    """
    distinct: dict[str, dict] = {}
    for row in rows:
        distinct.setdefault(str(row["prompt"]), _asked(row, row["chosen"]))
    asked = list(distinct.values())[: recipe.eval_prompts]
    return asked + [_asked(row, None) for row in adtech_questions() if recipe.ask_adtech_questions]


def _asked(row: dict, reference: str | None) -> dict:
    keywords = row.get("keywords")
    return {
        "prompt": row["prompt"],
        "reference": reference,
        "is_ad": row.get("is_ad") is not False,
        **({"keywords": keywords} if _is_rubric(keywords) else {}),
    }


def _is_rubric(keywords: Any) -> bool:
    """Whether this is a list of groups of spellings: a column of this name in somebody's data may be anything."""
    return (
        isinstance(keywords, list)
        and bool(keywords)
        and all(isinstance(group, list) and group and all(isinstance(word, str) and word for word in group) for group in keywords)
    )


def compare_texts(
    model: Any,
    tokenizer: Any,
    asked: Sequence[dict],
    recipe: DpoRecipe,
    batch_size: int = 32,
    *,
    against: Sequence[dict] | None = None,
    on_batch: Callable[[int], None] = lambda answered: None,
) -> list[dict]:
    """Rows of comparisons.jsonl: both answers to each prompt and seed, their judgements, win / tie / loss for the tuned side.

    `model`: a PeftModel. The base answers with the adapter off, from the same seed and in the same batches. `against`: the rows of
    another adapter on the same base and the same `asked`, whose base side is taken over. `on_batch` is told the answers of each batch.
    """
    prompts = [item["prompt"] for item in asked]
    rows = []
    for sample in range(recipe.samples_per_prompt):
        seed = recipe.seed + 1000 * sample
        options = {
            "seed": seed, "temperature": recipe.temperature, "top_p": recipe.top_p,
            "max_new_tokens": recipe.max_new_tokens, "batch_size": batch_size, "on_batch": on_batch,
        }  # fmt: skip
        tuned = _judged(asked, generate_texts(model, tokenizer, prompts, **options))
        if against is None:
            with model.disable_adapter():
                base = _judged(asked, generate_texts(model, tokenizer, prompts, **options))
        else:
            known = against[sample * len(asked) : (sample + 1) * len(asked)]
            base = [(row["base"], row["base_judgement"]) for row in known]
        rows += [_compared(item, seed, *sides) for item, *sides in zip(asked, base, tuned, strict=True)]
    return rows


def _judged(asked: Sequence[dict], answers: Sequence[Any]) -> list[tuple[str, dict]]:
    """(text, judgement) of each answer."""
    return [
        (answer.text, judge(item["prompt"], answer.text, stopped=answer.stopped, is_ad=item["is_ad"]).to_dict())
        for item, answer in zip(asked, answers, strict=True)
    ]


def _compared(item: dict, seed: int, base: tuple[str, dict], tuned: tuple[str, dict]) -> dict:
    return {
        "prompt": item["prompt"],
        "seed": seed,
        "base": base[0],
        "tuned": tuned[0],
        "reference": item["reference"],
        "outcome": outcome(base[1]["score"], tuned[1]["score"]),
        "base_judgement": base[1],
        "tuned_judgement": tuned[1],
        "is_ad": item["is_ad"],
        **({"keywords": item["keywords"]} if "keywords" in item else {}),
    }


def outcome(base_score: float, tuned_score: float) -> str:
    """'win' when the tuned text keeps more of its brief than the base text, 'loss' when less, 'tie' when the same."""
    return "win" if tuned_score > base_score else "loss" if tuned_score < base_score else "tie"


def comparison_metrics(rows: Sequence[dict], seed: int = 0) -> dict[str, Any]:
    """Rates over all texts of comparisons.jsonl, with 95 % intervals by prompt where they are decided on.

    Differences are tuned minus base of the same prompt and seed. `wins_by_prompt` and `sign_test_p` count each prompt once, however
    often it was answered. `obedience_*`: share of what a brief states (product, selling point, length) that its text keeps.
    """
    prompts = [str(row["prompt"]) for row in rows]
    outcomes = Counter(row["outcome"] for row in rows)
    won, tied, lost = by_prompt((_SCORES[row["outcome"]] for row in rows), prompts)
    metrics: dict[str, Any] = {
        **with_interval("win_rate", [0.5 + _SCORES[row["outcome"]] / 2 for row in rows], prompts, seed),
        "wins": outcomes["win"],
        "ties": outcomes["tie"],
        "losses": outcomes["loss"],
        "wins_by_prompt": won,
        "ties_by_prompt": tied,
        "losses_by_prompt": lost,
        "sign_test_p": two_sided_sign_test(won, lost),
        "n_prompts": len(set(prompts)),
        "n_texts": len(rows),
        "unchanged": round(sum(row["base"] == row["tuned"] for row in rows) / len(rows), 4),
    }
    for side in SIDES:
        metrics |= _side_metrics(rows, prompts, side, seed)
    gains = [row["tuned_judgement"]["passed"] - row["base_judgement"]["passed"] for row in rows]
    lengths = [len(row["tuned"]) - len(row["base"]) for row in rows]
    before = metrics["mean_chars_base"]
    return {
        **metrics,
        **with_interval("rubric_gain", gains, prompts, seed),
        **with_interval("length_difference", lengths, prompts, seed),
        "length_ratio": round(metrics["mean_chars_tuned"] / before, 4) if before else None,
        **_obedience(rows, seed),
    }


def _obedience(rows: Sequence[dict], seed: int) -> dict[str, Any]:
    kept, prompts = [], []
    for row in rows:
        stated = [
            [value for check in STATED if (value := row[f"{side}_judgement"]["checks"][check]) is not None] for side in SIDES
        ]
        if stated[0]:
            kept.append([sum(values) / len(values) for values in stated])
            prompts.append(str(row["prompt"]))
    found: dict[str, Any] = {}
    for side, values in zip(SIDES, zip(*kept, strict=True) if kept else ((), ()), strict=True):
        found |= with_interval(f"obedience_{side}", values, prompts, seed)
    return found | with_interval("obedience_difference", [after - before for before, after in kept], prompts, seed)


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
