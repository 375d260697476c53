"""What an instruction changes on held-out pairs, and what a preference-guided training made of it without the instruction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import AdslmError
from ..foreign_text import brief
from ..recipe import DpoRecipe
from ..training.guided.explain import PairMargins, margins_of
from ..training.guided.instruction import instruction_of
from .intervals import with_interval


def instruction_effect(margins: Sequence[PairMargins], beta: float, seed: int = 0) -> dict[str, Any]:
    """Means over the pairs with 95 % intervals by prompt (`name`_ci95); margins in nats.

    shift: mp - m0, what the instruction adds to the margin of the untouched model; ahead: the share of pairs with mp > m0. learned: m - m0,
    what the training added without it; gap: mp - m, what is left; ahead_after: the share with mp > m. aligned_loss_before and _after:
    mean relu(beta (mp - m0)) and relu(beta (mp - m)). chosen_base, _instructed, _tuned: the share of pairs whose chosen text is the likelier one.
    """
    prompts = [one.prompt for one in margins]
    values = {
        "shift": [one.shift for one in margins],
        "ahead": [float(one.shift > 0) for one in margins],
        "learned": [one.learned for one in margins],
        "gap": [one.gap for one in margins],
        "ahead_after": [float(one.gap > 0) for one in margins],
        "aligned_loss_before": [max(0.0, beta * one.shift) for one in margins],
        "aligned_loss_after": [max(0.0, beta * one.gap) for one in margins],
        "chosen_base": [float(one.m0 > 0) for one in margins],
        "chosen_instructed": [float(one.mp > 0) for one in margins],
        "chosen_tuned": [float(one.m > 0) for one in margins],
    }
    found: dict[str, Any] = {"n_pairs": len(margins)}
    for name, of_pairs in values.items():
        found |= with_interval(name, of_pairs, prompts, seed)
    return found


def guided_metrics(model: Any, tokenizer: Any, rows: Sequence[dict], recipe: DpoRecipe) -> dict[str, Any]:
    """{'guided': what the run was taught, and `instruction_effect` on `rows`}; nothing for another method.

    An instruction or a file of vectors that is not there any more costs no evaluation: its error stands in 'not_measured'.
    """
    if recipe.method != "preference_guided":
        return {}
    about = {
        "instruction": instruction_of(recipe),
        "placement": recipe.preference_placement,
        "prompt_embeddings": recipe.prompt_embeddings,
        "teacher": recipe.teacher,
        "alpha": recipe.alpha,
    }
    try:
        about |= instruction_effect(margins_of(model, tokenizer, rows, recipe), recipe.beta)
    except AdslmError as error:
        about["not_measured"] = [error.ja, error.en]
    return {"guided": about}


def guided_rows(guided: Mapping[str, Any] | None) -> Iterator[tuple[str, str, str]]:
    """(Japanese label, English label, value) for tables and reports; nothing where the method was another one."""
    if not guided:
        return
    vectors, text = guided["prompt_embeddings"], guided["instruction"]
    taught = f"{brief(vectors or text)} ({'prompt_embeddings' if vectors else guided['placement']})"
    yield "方法", "method", f"preference_guided: alpha {guided['alpha']:g}, teacher {guided['teacher']}"
    yield "教師だけが読む指示", "what the teacher alone reads", taught if vectors or text else "なし / none"
    if "not_measured" in guided:
        yield "指示の働き", "effect of the instruction", " / ".join(guided["not_measured"])
    elif guided["n_pairs"]:
        yield "指示で動く差（nats）", "what it adds to the margin", _ranged(guided, "shift", "+.2f")
        yield "良い文の側に動く対", "pairs it moves towards chosen", _ranged(guided, "ahead", ".1%")
        yield "学習で動いた差（指示なし）", "what training added, without it", _ranged(guided, "learned", "+.2f")
        before, after = guided["aligned_loss_before"], guided["aligned_loss_after"]
        yield "aligned loss（前→後）", "before -> after", f"{before:.4f} -> {after:.4f}"


def _ranged(guided: Mapping[str, Any], key: str, form: str) -> str:
    low, high = guided[f"{key}_ci95"]
    return f"{guided[key]:{form}}  [{low:{form}}, {high:{form}}]"
