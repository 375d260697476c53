"""The plan of a run before anything is downloaded: which model, how it is computed, whether it fits, and why in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..environment.device import DevicePlan, choose_device
from ..environment.hub_token import has_hub_token
from ..environment.machine import Probe, probe_machine
from ..recipe import EMBEDDED, DpoRecipe
from .catalog import CATALOG, ModelFacts, facts_from_config, is_causal
from .choices import Choice, choices
from .local import local_config
from .memory import MemoryPlan, plan_memory
from .skipped import Skipped, gated, no_model, too_long, wrong_architecture

_SHORTER = (256, 128)
_PARTS = {
    "overhead": "ライブラリ / libraries",
    "weights": "重み / weights",
    "lora": "LoRA",
    "optimizer": "オプティマイザ / optimizer",
    "activations": "活性 / activations",
    "work": "計算中の層 / layer at work",
    "logits": "出力層 / logits",
    "reference": "参照モデル / reference",
    "evaluation": "評価 / evaluation",
}


@dataclass(frozen=True)
class Fitted:
    """Settings under which a model fits: the recipe as asked, or with a smaller forward, recomputing, or 4-bit weights."""

    recipe: DpoRecipe
    device: DevicePlan
    memory: MemoryPlan | None
    """None: the model's size is not known before its config is downloaded; loading checks it again."""
    facts: ModelFacts | None = None


@dataclass(frozen=True)
class RunPlan:
    """What a run will do on a machine; make one with `plan_run`."""

    asked: DpoRecipe
    recipe: DpoRecipe
    """The recipe to train by: as asked, except for what had to give way to fit. The effective batch and lengths never change."""
    device: DevicePlan
    model: str
    """The first model of the list that can be used, as far as this is known without a network."""
    facts: ModelFacts | None
    """None: nothing is known of the model before its config is downloaded."""
    memory: MemoryPlan | None
    free_gb: float | None
    """GiB that the device has free now."""
    choices: tuple[Choice, ...]
    skipped: tuple[Skipped, ...]

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Fields of the recipe that were changed to fit: name -> (asked, planned)."""
        asked, planned = self.asked.to_dict(), self.recipe.to_dict()
        return {name: (asked[name], planned[name]) for name in asked if asked[name] != planned[name]}

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """What may still go wrong, as (Japanese, English)."""
        need = self.memory.needed if self.memory else None
        if need is None or self.free_gb is None or need <= self.free_gb:
            return []
        others_ja = "ほかのノートブックのカーネルやアプリを閉じてください。"
        return [
            (
                f"いま空いているメモリは {self.free_gb:.1f} GiB ですが、{need:.1f} GiB 必要です。→ {others_ja}",
                f"Only {self.free_gb:.1f} GiB are free now, and {need:.1f} GiB are needed. -> Close other notebooks' kernels and programs.",
            )
        ]

    def lines(self) -> list[str]:
        """The plan in words, Japanese and English: skipped models first, then each choice with its reason, then the memory."""
        told = [f"計画 / Plan: {self.model} ({self.device.device}, {self.device.name})"]
        told += [f"使わないモデル / not used: {skip.name}: {skip.ja} / {skip.en}" for skip in self.skipped]
        told += self._model_lines()
        told += [f"{choice.name}: {choice.value} - {choice.ja} / {choice.en}" for choice in self.choices]
        told += [f"変更 / changed: {name} {old} -> {new}" for name, (old, new) in self.changes.items()]
        told.append(self._memory_line())
        return told + [f"【注意】{ja} / WARNING: {en}" for ja, en in self.warnings]

    def rows(self) -> list[dict[str, str]]:
        """The plan as rows of a table: what, which value, why."""
        skips = [("使わないモデル / not used", skip.name, f"{skip.ja}\n{skip.en}") for skip in self.skipped]
        told = [(choice.name, choice.value, f"{choice.ja}\n{choice.en}") for choice in self.choices]
        changed = [("変更 / changed", f"{name} {old} -> {new}", "") for name, (old, new) in self.changes.items()]
        need = "?" if self.memory is None else f"{self.memory.total:.1f} GiB"
        memory = [("メモリ / memory", need, self._memory_line().partition(": ")[2])]
        warned = [("注意 / warning", "", f"{ja}\n{en}") for ja, en in self.warnings]
        model = [("モデル / model", self.model, "\n".join(line.partition(": ")[2] for line in self._model_lines()))]
        rows = [*skips, *model, *told, *changed, *memory, *warned]
        return [{"計画 / plan": name, "値 / value": value, "理由 / why": why} for name, value, why in rows]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "model": self.model,
            "facts": dataclasses.asdict(self.facts) | {"parameters": self.facts.parameters} if self.facts else None,
            "device": dataclasses.asdict(self.device),
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
            "changes": {name: {"asked": old, "planned": new} for name, (old, new) in self.changes.items()},
            "memory_gb": self.memory.to_dict() if self.memory else None,
            "usable_gb": self.device.usable_gb,
            "free_gb": self.free_gb,
            "skipped": [dataclasses.asdict(skip) for skip in self.skipped],
            "warnings": [{"ja": ja, "en": en} for ja, en in self.warnings],
        }

    def _model_lines(self) -> list[str]:
        if self.facts is None:
            return []
        licence = "" if self.facts.licence == "?" else f"、ライセンス / licence: {self.facts.licence}"
        told = [f"モデル / model: {self.facts.architecture}, {self.facts.parameters / 1e6:,.0f} M{licence}"]
        if self.model in CATALOG and not self.facts.chat_template:
            ja, en = "チャットテンプレートがないので、こちらで補います", "it has no chat template: one is supplied"
            told.append(f"テンプレート / template: {ja} / {en}")
        return told

    def _memory_line(self) -> str:
        if self.memory is None:
            return "メモリ / memory: モデルの設定を取得してから計算します / known once the model's config is downloaded"
        usable = "?" if self.device.usable_gb is None else f"{self.device.usable_gb:.1f}"
        parts = [f"{label} {value:.2f}" for name, label in _PARTS.items() if (value := getattr(self.memory, name)) >= 0.005]
        return f"メモリ / memory: {self.memory.total:.1f} GiB / 使える量 usable {usable} GiB ({', '.join(parts)})"


def plan_run(recipe: DpoRecipe, probe: Probe | None = None, free_gb: float | None = None) -> RunPlan:
    """The plan for `recipe` on the machine `probe` (this one by default): nothing is downloaded, loaded or asked of a network.

    `free_gb`: GiB free on the device now, by default as the probe says. Raises ModelError when no model of the list can be used (with
    `fallback` off: when the first cannot), SetupError and RecipeError as `choose_device` does.
    """
    probe = probe or probe_machine()
    skipped: list[Skipped] = []
    for name in recipe.models if recipe.fallback else recipe.models[:1]:
        found = plan_model(name, recipe, probe)
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        free = probe.free_of(found.device.device) if free_gb is None else free_gb
        told = choices(recipe, found.recipe, found.device)
        return RunPlan(recipe, found.recipe, found.device, name, found.facts, found.memory, free, told, tuple(skipped))
    raise no_model(skipped)


def plan_model(name: str, recipe: DpoRecipe, probe: Probe) -> Fitted | Skipped:
    """Settings under which the model `name` can be trained on this machine, or why it cannot, from what is known beforehand."""
    config = local_config(name)
    if config is not None and not is_causal(config):
        return wrong_architecture(name, config)
    facts = CATALOG.get(name) or (facts_from_config(config) if config is not None else None)
    if facts is None:
        return Fitted(recipe, choose_device(recipe, probe), None)
    if facts.positions and (refused := too_long(name, facts.positions, recipe)):
        return refused
    found = fit(facts, recipe, probe)
    if found is None:
        return does_not_fit(name, facts, recipe, choose_device(recipe, probe, float32_fits=False), nearest(facts, recipe, probe))
    if facts.gated and config is None and not has_hub_token():
        return gated(name)
    return found


def fit(facts: ModelFacts, recipe: DpoRecipe, probe: Probe) -> Fitted | None:
    """The mildest settings under which a model of this shape fits, None if it cannot.

    In this order: as asked; a smaller forward with more accumulation; recomputing activations; bfloat16 in place of float32 (Macs);
    4-bit weights (CUDA, where the recipe leaves the dtype open). The effective batch stays; lengths are never cut.
    """
    may_quantise = not recipe.load_in_4bit and recipe.dtype == "auto" and choose_device(recipe, probe).device == "cuda"
    for in_4bit in (recipe.load_in_4bit, True) if may_quantise else (recipe.load_in_4bit,):
        for float32_fits in (True, False):
            for variant in _variants(dataclasses.replace(recipe, load_in_4bit=in_4bit)):
                device = choose_device(variant, probe, float32_fits)
                variant = _with_eval_batch(variant, facts, device)
                memory = plan_memory(facts, variant, device)
                if device.usable_gb is None or memory.needed <= device.usable_gb:
                    return Fitted(variant, device, memory, facts)
    return None


def nearest(facts: ModelFacts, recipe: DpoRecipe, probe: Probe) -> tuple[str, str] | None:
    """What would fit in place of a model that does not, as (Japanese, English): 4-bit, shorter texts, and the largest known model."""
    told = []
    for change in ({"load_in_4bit": True, "dtype": "auto"}, *({"max_length": length} for length in _SHORTER)):
        if "max_length" in change and (
            change["max_length"] >= recipe.max_length or change["max_length"] <= recipe.max_prompt_length
        ):
            continue
        found = fit(facts, dataclasses.replace(recipe, **change), probe)
        if found and found.memory and not (recipe.load_in_4bit and "load_in_4bit" in change):
            setting = ", ".join(f"{key}={str(value).lower()}" for key, value in change.items())
            told.append(
                (f"{setting} なら約 {found.memory.needed:.1f} GiB", f"{setting} needs about {found.memory.needed:.1f} GiB")
            )
            break
    smaller = [
        (other.parameters, name)
        for name, other in CATALOG.items()
        if other.parameters < facts.parameters and not other.gated and name != EMBEDDED and fit(other, recipe, probe)
    ]
    if smaller:
        name = max(smaller)[1]
        told.append((f"{name} なら収まります", f"{name} fits"))
    return ("、".join(ja for ja, _ in told), "; ".join(en for _, en in told)) if told else None


def does_not_fit(
    name: str, facts: ModelFacts, recipe: DpoRecipe, device: DevicePlan, instead: tuple[str, str] | None = None
) -> Skipped:
    """The refusal, with what is needed, what is there, and what would fit."""
    there = device.usable_gb or 0.0
    weights = "4-bit" if recipe.load_in_4bit else device.dtype
    smallest = list(_variants(recipe))[-1]
    need = plan_memory(facts, _with_eval_batch(smallest, facts, device), device).needed
    if need <= there:  # a model whose size was not known when the batch was planned
        asked, needed = plan_memory(facts, recipe, device).needed, "per_device_train_batch_size=1, gradient_checkpointing=true"
        return Skipped(
            name,
            "does_not_fit",
            f"このバッチでは約 {asked:.1f} GiB 必要ですが、使えるのは {there:.1f} GiB です。→ {needed} なら約 {need:.1f} GiB",
            f"at this batch it needs about {asked:.1f} GiB, {there:.1f} GiB are usable. -> {needed} needs about {need:.1f} GiB",
        )
    hint_ja, hint_en = (f"。→ {instead[0]}", f". -> {instead[1]}") if instead else ("", "")
    return Skipped(
        name,
        "does_not_fit",
        f"{weights} では最小のバッチでも約 {need:.1f} GiB 必要ですが、使えるのは {there:.1f} GiB です{hint_ja}",
        f"in {weights} it needs about {need:.1f} GiB even at the smallest batch, {there:.1f} GiB are usable{hint_en}",
    )


def _variants(recipe: DpoRecipe) -> Iterator[DpoRecipe]:
    """The recipe as asked, then with smaller forwards of the same effective batch, then the same with recomputed activations."""
    asked = recipe.per_device_train_batch_size
    effective = asked * recipe.gradient_accumulation_steps
    for checkpointing in sorted({recipe.gradient_checkpointing, True}):
        for batch in range(asked, 0, -1):
            if effective % batch == 0:
                yield dataclasses.replace(
                    recipe,
                    per_device_train_batch_size=batch,
                    gradient_accumulation_steps=effective // batch,
                    gradient_checkpointing=checkpointing,
                )


def _with_eval_batch(recipe: DpoRecipe, facts: ModelFacts, device: DevicePlan) -> DpoRecipe:
    """The evaluation batch halved until an evaluation needs no more than a training step, or next to nothing."""
    while recipe.per_device_eval_batch_size > 1:
        memory = plan_memory(facts, recipe, device)
        if memory.evaluation <= max(0.5, memory.activations + max(memory.work, memory.logits)):
            break
        recipe = dataclasses.replace(recipe, per_device_eval_batch_size=recipe.per_device_eval_batch_size // 2)
    return recipe
