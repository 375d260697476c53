"""All that is measured of one adapter against its base.

Keys of metrics.json, beside `model`, `synthetic_data` and the verdict. `*_ci95` stands beside a number as [low, high], by prompt. Sides:
`_base` (adapter off) and `_tuned`; `_difference` is tuned minus base, prompt by prompt. None: nothing to measure it on.

    heldout_loss, reward_accuracy, reward_margin (+ _ci95), n_heldout_pairs, heldout_dropped
    perplexity_base, perplexity_tuned, perplexity_ratio (+ _ci95)           of the held-out chosen texts
    reward_accuracy_by_length   {chosen_longer | about_equal | chosen_shorter: {n, accuracy, ci95}}
    shortcut                    None or {name, name_ja, accuracy, side[, in_line, against: {n, accuracy, ci95}]}
    kl_to_base (+ _ci95), n_kl_texts                                        nats a token, on tuned texts
    win_rate (+ _ci95), wins, ties, losses, n_prompts, n_texts, unchanged (share of texts that are the base's)
    wins_by_prompt, ties_by_prompt, losses_by_prompt, sign_test_p           each prompt counted once; exact, two-sided
    rubric_pass_*, rubric_gain (+ _ci95), checks_*, right_product_*
    obedience_base, obedience_tuned, obedience_difference (+ _ci95)         of what the brief states: product, selling point, length
    degenerate_*, degenerate_kinds_*, identical_answers_*, identical_answers_difference (+ _ci95), identical_reference
    mean_chars_*, length_difference (+ _ci95), length_ratio
    breach_base, breach_tuned, breach_difference (+ _ci95)                  share of ads that break a rule of severity 'error'
    breach_errors_*, breach_rules_*                                         {rule: texts} of severity 'error', and of every severity
    distinct_1_*, distinct_2_*, self_chrf_*, self_chrf_difference (+ _ci95) character n-grams; likeness of texts to each other, 0-100
    memorised_base, memorised_tuned, memorised_difference, memorised_reference (+ _ci95), verbatim_*
    keywords_base, keywords_tuned, keywords_difference (+ _ci95), n_keyword_texts      only where rows have `keywords`

`evaluate` adds: n_heldout_groups, heldout_trustworthy, prompt_blind_accuracy (None without an audit that says so), verdict, verdict_ja,
verdict_en, verdict_reasons and next_steps ([[ja, en], ...]), and candidates: [{name, folder, comparisons, all keys above, the verdict's keys,
win_rate_over_run (+ _ci95), wins_over_run, losses_over_run, sign_test_p_over_run}], held against the run's own adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..models.loading import LoadedModel
from ..recipe import DpoRecipe
from ..training.divergence import kl_of_pairs
from ..training.prompts import encode_pairs
from .compare import compare_texts, comparison_metrics, outcome
from .heldout import Heldout, score_heldout
from .intervals import by_prompt, ratio_with_interval, two_sided_sign_test, with_interval
from .sides import side_metrics
from .strata import strata_metrics

KL_TEXTS = 64

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Measured:
    """One adapter: its metrics, its comparisons with the base, its held-out scores."""

    metrics: dict[str, Any]
    comparisons: list[dict]
    heldout: Heldout


def work(rows: Sequence[dict], asked: Sequence[dict], recipe: DpoRecipe, candidates: int) -> int:
    """How often `advance` counts in all: pairs to score, texts to write (the base's once), texts whose KL is taken."""
    texts = len(asked) * recipe.samples_per_prompt
    return (1 + candidates) * (len(rows) + texts + min(KL_TEXTS, texts)) + texts


def measure(
    loaded: LoadedModel,
    rows: Sequence[dict],
    training: Sequence[dict],
    asked: Sequence[dict],
    recipe: DpoRecipe,
    *,
    before: Measured | None = None,
    advance: Advance = lambda done: None,
) -> Measured:
    """The active adapter of `loaded` on the held-out `rows` and the prompts `asked`.

    `before`: another adapter's measurement on the same base, rows and prompts: the base's numbers and texts are taken from it.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    heldout = score_heldout(model, tokenizer, rows, recipe, reference=before.heldout if before else None, on_batch=advance)
    # One prompt at a time on MPS: batched left-padded generation is wrong there before torch 2.9.
    size = 1 if loaded.plan.device == "mps" else max(8, 2 * recipe.per_device_eval_batch_size)
    comparisons = compare_texts(
        model, tokenizer, asked, recipe, size, against=before.comparisons if before else None, on_batch=advance
    )
    metrics = {
        **heldout.metrics(),
        **strata_metrics(heldout),
        **comparison_metrics(comparisons),
        **side_metrics(comparisons, training),
        **kl_metrics(model, tokenizer, comparisons, recipe, advance),
    }
    return Measured(metrics, comparisons, heldout)


def kl_metrics(
    model: Any, tokenizer: Any, comparisons: Sequence[dict], recipe: DpoRecipe, advance: Advance = lambda done: None
) -> dict[str, Any]:
    """kl_to_base: KL(tuned || base) in nats a token over the first 32 tokens of at most 64 tuned texts, at equal distances.

    On texts that the tuned model wrote itself this estimates how far its own writing is from the base's. None where the logits are not
    finite, or no text can be encoded.
    """
    n = min(KL_TEXTS, len(comparisons))
    drawn = [comparisons[i * len(comparisons) // n] for i in range(n)]
    texts = [{"prompt": row["prompt"], "chosen": row["tuned"], "rejected": row["tuned"]} for row in drawn if row["tuned"]]
    pairs = encode_pairs(tokenizer, texts, recipe.max_length, recipe.max_prompt_length).pairs
    sums = kl_of_pairs(model, pairs, advance)
    advance(n - len(pairs))
    if not sums or not all(math.isfinite(nats) for nats, _ in sums):
        return {"kl_to_base": None, "kl_to_base_ci95": None, "n_kl_texts": len(sums)}
    nats, tokens = zip(*sums, strict=True)
    mean, interval = ratio_with_interval(nats, tokens, [pair.prompt_text for pair in pairs])
    return {"kl_to_base": round(mean, 4), "kl_to_base_ci95": interval, "n_kl_texts": len(sums)}


def over_run(own: Sequence[dict], other: Sequence[dict]) -> dict[str, Any]:
    """Another adapter's texts held against those of the run's own adapter: win_rate_over_run and its sign test by prompt."""
    prompts = [str(row["prompt"]) for row in own]
    scores = [
        {"win": 1, "tie": 0, "loss": -1}[outcome(mine["tuned_judgement"]["score"], theirs["tuned_judgement"]["score"])]
        for mine, theirs in zip(own, other, strict=True)
    ]
    won, _, lost = by_prompt(scores, prompts)
    return {
        **with_interval("win_rate_over_run", [0.5 + score / 2 for score in scores], prompts),
        "wins_over_run": scores.count(1),
        "losses_over_run": scores.count(-1),
        "sign_test_p_over_run": two_sided_sign_test(won, lost),
    }
