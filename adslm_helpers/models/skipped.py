"""Models of the list that are not used: each refusal with its kind and its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError
from ..recipe import EMBEDDED, DpoRecipe


@dataclass(frozen=True)
class Skipped:
    """A model of the list that is not used, and why."""

    name: str
    kind: str
    """'does_not_fit', 'too_long', 'gated', 'missing', 'offline', 'wrong_architecture' or 'unreadable'."""
    ja: str
    en: str


def gated(name: str) -> Skipped:
    """For a model whose licence has to be accepted on the hub first."""
    return Skipped(
        name,
        "gated",
        f"利用許諾が必要です。→ https://huggingface.co/{name} で許諾に同意し、HF_TOKEN を設定してください",
        f"gated. -> Accept its licence at https://huggingface.co/{name} and set HF_TOKEN",
    )


def wrong_architecture(name: str, config: Any) -> Skipped:
    """For an encoder, an encoder-decoder or a vision model."""
    kind = ", ".join(getattr(config, "architectures", None) or [str(getattr(config, "model_type", "?"))])
    return Skipped(
        name,
        "wrong_architecture",
        f"文の続きを書くモデル（causal LM）ではありません（{kind}）",
        f"not a model that continues a text (causal LM): {kind}",
    )


def too_long(name: str, positions: int, recipe: DpoRecipe) -> Skipped | None:
    """For learned positions (GPT-2, not rotary ones) that are fewer than the recipe's texts have tokens; else None."""
    asked = max(recipe.max_length, recipe.max_prompt_length + recipe.max_new_tokens)
    if asked <= positions:
        return None
    return Skipped(
        name,
        "too_long",
        f"このモデルが読めるのは {positions} トークンまでですが、レシピは {asked} です（max_length か max_new_tokens を小さく）",
        f"reads {positions} tokens at most, the recipe asks for {asked} (lower max_length or max_new_tokens)",
    )


def no_model(skipped: Sequence[Skipped]) -> ModelError:
    """The error for a list of which nothing can be used, with every reason."""
    ja = "\n".join(f"  - {skip.name}: {skip.ja}" for skip in skipped)
    en = "\n".join(f"  - {skip.name}: {skip.en}" for skip in skipped)
    todo_ja, todo_en = (
        f"models に '{EMBEDDED}' を加えると、ネットワークなしで試せます。",
        f"Add '{EMBEDDED}' to `models` to try the road.",
    )
    if EMBEDDED in (skip.name for skip in skipped):
        todo_ja, todo_en = "上の理由を取り除いてください。", "Mend one of these reasons."
    return ModelError(
        f"使えるモデルがありません。\n{ja}\n→ {todo_ja}", f"No model of the list can be used here.\n{en}\n-> {todo_en}"
    )
