"""`DpoRecipe`: every dial of a run in one frozen record. Defaults < preset < overrides; the resolved recipe is saved with the result."""

from __future__ import annotations

import dataclasses
import os
import typing
from dataclasses import dataclass
from importlib import resources
from typing import Any

from .errors import RecipeError
from .foreign_text import brief
from .recipe_rules import coerce, nearest, problems

EMBEDDED = "embedded-tiny"


@dataclass(frozen=True)
class DpoRecipe:
    """All settings of one run; make one with `load_recipe`."""

    preset: str = "tiny"
    """Name of the preset that this recipe started from."""

    # --- model -------------------------------------------------------------------------------------------------
    models: tuple[str, ...] = (EMBEDDED,)
    """Hub ids or folders, tried in order; 'embedded-tiny' is the teaching model that ships with the package."""
    fallback: bool = True
    """Go on to the next model when one cannot be used (said aloud, with the reason). False: stop instead."""
    device: str = "auto"
    """'auto', 'cuda', 'mps' or 'cpu'."""
    dtype: str = "auto"
    """Dtype of the base weights. 'auto': as the device needs it. float16 base weights of the Qwen2 family overflow to NaN."""
    load_in_4bit: bool = False
    """NF4 base weights by bitsandbytes (about 0.5 byte a weight). Costs speed; buys memory."""

    # --- how it is trained -----------------------------------------------------------------------------------------
    engine: str = "fast"
    """'fast': our own trainer, the prompt read once for both answers; 'trl': TRL's DPOTrainer. The losses are the same."""
    method: str = "dpo"
    """'dpo', or 'preference_guided': DPO and a pull towards the margins of a teacher that sees an instruction (engine 'fast' only)."""
    preference_text: str = ""
    """preference_guided: the instruction that the teacher sees. Empty with no prompt_embeddings: the teacher sees nothing."""
    preference_placement: str = "user_end"
    """Where the instruction goes: 'user_end' after the user's words, 'system' as (or before) the system message, 'prefix' as bare
    tokens before the whole prompt."""
    prompt_embeddings: str = ""
    """preference_guided: a file of learned vectors that stand before the prompt in place of preference_text ('embedding mode')."""
    alpha: float = 0.1
    """preference_guided: weight of the aligned loss, 0-10; 0.05-0.2 is usual. At the start its pull is 2 x alpha of DPO's."""
    teacher: str = "reference"
    """preference_guided: who sees the instruction. 'reference': the untouched model, scored once; 'policy': the model as it is now."""

    # --- LoRA --------------------------------------------------------------------------------------------------
    lora_r: int = 16
    """Rank, 1-256. More learns more and forgets more."""
    lora_alpha: int = 32
    """Scale is alpha / r; twice the rank is usual."""
    lora_dropout: float = 0.0
    """0-0.5. TRL's disable_dropout sets it to 0 anyway, so that policy and reference see the same network."""
    lora_target_modules: tuple[str, ...] = ("auto",)
    """Names of the linear layers; 'auto' takes the attention projections of the architecture."""

    # --- loss --------------------------------------------------------------------------------------------------
    loss_type: str = "sigmoid"
    """'sigmoid' (DPO, arXiv:2305.18290 Eq. 7), 'ipo', 'hinge' or 'robust'."""
    beta: float = 0.1
    """0.01-1. Larger holds the model CLOSER to the reference; smaller lets it drift."""
    sft_weight: float = 0.0
    """Weight of the SFT term on the chosen text (TRL's loss_type 'sft', once rpo_alpha). Without it a small model learns to avoid
    the rejected text by forgetting the brief: see docs/results/recipes.md."""
    label_smoothing: float = 0.0
    """0-0.5, the share of labels believed to be flipped; used by loss_type 'robust'."""
    use_p_win: bool = False
    """Pairs from an ad log or from votes know how sure they are (`p_win`). True: loss 'robust' with label_smoothing = mean(1 - p_win)."""

    weight_by_p_win: bool = False
    """True: each pair's loss counts by 2 p_win - 1, divided by the mean of that over the training pairs (engine 'fast' only)."""

    # --- optimisation ------------------------------------------------------------------------------------------
    learning_rate: float = 5e-6
    """LoRA: 5e-7-5e-5 for models of a billion weights; a few-million-weight model needs 1e-4-1e-3."""
    num_train_epochs: float = 1.0
    """Passes over the training pairs; ignored when max_steps > 0."""
    max_steps: int = -1
    """Optimizer steps; -1: by epochs."""
    per_device_train_batch_size: int = 1
    """Pairs in one forward; memory grows with it."""
    gradient_accumulation_steps: int = 4
    """Forwards for one optimizer step. Effective batch = this x batch; it saves memory only through a smaller batch."""
    per_device_eval_batch_size: int = 1
    """Pairs in one evaluation forward. TRL's default 8 is the classic out-of-memory at evaluation."""
    warmup_ratio: float = 0.1
    """Share of the steps in which the learning rate rises from 0."""
    lr_scheduler_type: str = "cosine"
    """'cosine', 'linear' or 'constant_with_warmup'."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, much less memory."""
    seed: int = 42
    """Seed of the split, LoRA's start, data order and the before/after texts."""

    # --- text lengths (tokens) -----------------------------------------------------------------------------------
    max_length: int = 512
    """Prompt plus response, in tokens. A pair whose response cannot fit is dropped, and counted."""
    max_prompt_length: int = 256
    """Longer prompts lose their beginning (the instruction stands at the end)."""

    # --- data, watching, evaluation --------------------------------------------------------------------------------
    eval_fraction: float = 0.15
    """Share of the prompts held out; a prompt stands on one side only."""
    logging_steps: int = 5
    """Optimizer steps between two points of the curves."""
    evals_per_run: int = 4
    """How often the held-out pairs are scored during training."""
    save_steps: int = 50
    """Optimizer steps between two checkpoints."""
    load_best_model_at_end: bool = False
    """End with the best healthy checkpoint, by its texts, then by held-out loss. False: with the last healthy one."""
    watch_prompts: int = 16
    """Held-out prompts answered at every evaluation, to see whether the text is still healthy. 0: nobody looks."""
    recoveries: int = 3
    """How often a run goes on by itself, from its last healthy state, after a number that is not finite."""
    allow_shorter: bool = False
    """Out of memory, with nothing else left to give: halve max_length. Pairs that no longer fit are dropped, and counted."""
    eval_prompts: int = 150
    """At most so many held-out prompts are answered before and after."""
    samples_per_prompt: int = 2
    """Answers to each prompt, each with its own seed."""
    temperature: float = 0.8
    """Sampling temperature of the before/after texts; 0: greedy."""
    top_p: float = 0.95
    """Nucleus of the before/after texts."""
    max_new_tokens: int = 96
    """Longest answer, in tokens; one that does not stop by then counts as degenerate."""
    ask_adtech_questions: bool = False
    """Add the ad-tech questions (RTB, DMP against CDP, Cookie, ...) to the before/after prompts."""

    # --- what the preset needs ---------------------------------------------------------------------------------------
    needs_device: tuple[str, ...] = ("cuda", "mps", "cpu")
    """Devices that this preset is meant for."""
    needs_memory_gb: float = 1.0
    """Memory (GPU memory, or memory of the machine) that its first model needs."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, coerce(field.name, _HINTS[field.name], getattr(self, field.name)))
        for problem_ja, problem_en in problems(self):
            raise RecipeError(problem_ja, problem_en)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, every field."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()}

    def differences(self) -> dict[str, Any]:
        """The fields that differ from the defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


_HINTS = typing.get_type_hints(DpoRecipe)


def preset_names() -> list[str]:
    """All presets, the default first."""
    folder = resources.files(__package__) / "presets"
    names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return ["tiny", *(name for name in names if name != "tiny")]


def default_preset() -> str:
    """'tiny', the road that runs everywhere; 'smoke' where the tests set ADSLM_SMOKE=1."""
    return "smoke" if os.environ.get("ADSLM_SMOKE") == "1" else "tiny"


def load_recipe(preset: str = "tiny", model: str | None = None, **overrides: Any) -> DpoRecipe:
    """The recipe of `preset` with `overrides` on top, and with `model` tried before the preset's own models.

    Raises RecipeError for an unknown preset or field (naming the nearest), a wrong type, or a value out of range.
    """
    import yaml

    if preset not in preset_names():
        raise RecipeError(
            f"プリセット {brief(preset)} はありません。→ {nearest(str(preset)[:60], preset_names())}",
            f"There is no preset {brief(preset)}. -> {nearest(str(preset)[:60], preset_names())}",
        )
    text = (resources.files(__package__) / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    recipe = recipe_from_dict({**(yaml.safe_load(text) or {}), **overrides, "preset": preset})
    return try_first(recipe, model)


def try_first(recipe: DpoRecipe, model: str | None) -> DpoRecipe:
    """The recipe with `model` at the head of its list; unchanged when None or empty."""
    if not model:
        return recipe
    return dataclasses.replace(recipe, models=(model, *(other for other in recipe.models if other != model)))


def recipe_from_dict(values: dict[str, Any]) -> DpoRecipe:
    """A recipe from plain values, as `to_dict` gives them; raises RecipeError for an unknown field, and for what is no record at all."""
    if not isinstance(values, dict):
        raise RecipeError(
            f"レシピは「項目: 値」の並びです（{brief(values)} ではありません）。→ 例: {{'beta': 0.3}}",
            f"A recipe is a record of fields, not {brief(values)}. -> For example: {{'beta': 0.3}}",
        )
    return DpoRecipe(**{_known_field(key): value for key, value in values.items()})


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`["beta=0.3"]` -> {"beta": "0.3"}, to be read by the field's type; raises RecipeError for all but field=value of a known field."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = (part.strip() for part in pair.partition("="))
        if not equals:
            raise RecipeError(
                f"{brief(pair)} は「項目=値」の形ではありません。→ 例: beta=0.3",
                f"{brief(pair)} is not of the form field=value. -> For example: beta=0.3",
            )
        if key == "preset":
            raise RecipeError(
                "preset は上書きできません。→ --preset を使ってください。", "preset is no override. -> Use --preset."
            )
        values[_known_field(key)] = text
    return values


def _known_field(key: str) -> str:
    if not isinstance(key, str) or key not in _HINTS:
        hint = nearest(str(key)[:60], list(_HINTS))
        shown = brief(key)
        raise RecipeError(f"レシピに {shown} という項目はありません。→ {hint}", f"A recipe has no field {shown}. -> {hint}")
    return key
