"""README.md of an export: the model card, Japanese and English, made of what the run recorded and nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ..evaluation.verdict import verdict
from ..foreign_text import harmless, markdown
from ..models.catalog import CATALOG
from ..recipe import EMBEDDED, DpoRecipe
from .public import is_local, public_name

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_BORDER = re.compile(r"(?<!\\)\|")
_LICENCE_IDS = {"Apache-2.0": "apache-2.0", "MIT": "mit"}
_MEASURES = (
    ("heldout_loss", "検証損失（0.693 = 学習前）", "held-out DPO loss (0.693 = untrained)", "{:.3f}"),
    ("reward_accuracy", "良い文を選ぶ割合", "prefers the chosen text", "{:.1%}"),
    ("reward_margin", "報酬の差", "reward margin", "{:.3f}"),
    ("win_rate", "勝率（50 % = 差なし）", "win rate against the base (50 % = no difference)", "{:.1%}"),
)
_BEFORE_AFTER = (
    ("rubric_pass", "評価基準をすべて満たす", "passes every check of the rubric"),
    ("right_product", "商品名が正しい", "names the right product"),
    ("degenerate", "壊れた文（くり返し・空など）", "broken text (loops, empty, ...)"),
)


@dataclass(frozen=True)
class CardFacts:
    """What the card is written from. `dataset`: report.json; `result`: result.json; `metrics`: metrics.json, None without evaluation."""

    name: str
    base: str
    recipe: DpoRecipe
    dataset: dict[str, Any]
    result: dict[str, Any]
    metrics: dict[str, Any] | None
    merged_dtype: str | None


def model_card(facts: CardFacts) -> str:
    """The whole card as Markdown with the hub's front matter."""
    parts = [_front_matter(facts), f"# {markdown(facts.name)}", *_warning(facts)]
    parts += [_training(facts), _recipe(facts.recipe), _evaluation(facts.metrics), _limits(facts), _usage(facts)]
    return "\n\n".join(parts) + "\n"


def licence(base: str) -> str:
    """The base model's licence as its own card names it; '?' where it is not known."""
    return CATALOG[base].licence if base in CATALOG else "?"


def _front_matter(facts: CardFacts) -> str:
    lines = ["---", f"license: {_LICENCE_IDS.get(licence(facts.base), 'other')}", "language:", "- ja"]
    if _HUB_NAME.fullmatch(facts.base):
        lines.append(f"base_model: {facts.base}")
    lines.append(f"library_name: {'transformers' if facts.merged_dtype else 'peft'}")
    return "\n".join([*lines, "tags:", "- dpo", "- lora", "---"])


def _warning(facts: CardFacts) -> list[str]:
    if facts.base != EMBEDDED:
        return []
    return [
        "> **これは教材用のモデルです。実際の広告には使わないでください。**\n"
        "> **This is a teaching model. Do not advertise with it.**"
    ]


_METHODS = {"dpo": "DPO", "preference_guided": "preference-guided DPO"}


def _training(facts: CardFacts) -> str:
    split, result = facts.dataset.get("split", {}), facts.result
    dropped = sum(facts.dataset.get("dropped", {}).values())
    known = licence(facts.base)
    told = known if known != "?" else "不明。ベースモデルの説明を確かめてください / unknown: see the base model's own card"
    rows = [
        ("ベースモデル / base model", f"{markdown(facts.base)}（ライセンス / licence: {told}）"),
        (
            "方法 / method",
            f"{_METHODS[facts.recipe.method]} + LoRA（loss {facts.recipe.loss_type}, beta {facts.recipe.beta:g}, rank {facts.recipe.lora_r}）",
        ),
        ("データ / data", _source(facts.dataset)),
        ("読んだ行・除いた行 / rows read, dropped", f"{facts.dataset.get('rows_in', '?')}, {dropped}"),
        ("学習に使った対 / pairs trained on", result.get("pairs", {}).get("train", split.get("train", "?"))),
        ("検証用に取り分けた対 / pairs held out", f"{split.get('eval', '?')}（prompts: {split.get('eval_prompts', '?')}）"),
        ("ステップ・秒 / steps, seconds", f"{result.get('steps', '?')}, {result.get('seconds', '?')}"),
    ]
    if facts.merged_dtype:
        rows.append(("結合済みの重み / merged weights", facts.merged_dtype))
    return "## 何で学習したか / What it was trained on\n\n" + _table(("", ""), rows)


def _source(dataset: dict[str, Any]) -> str:
    name = str(dataset.get("source", "?"))
    if name.partition(":")[0] == "sample":
        return f"{markdown(name)}（作り物の見本。実在の商品・広告ではありません / synthetic: no real product, no real ad）"
    return markdown(name if name.startswith("hf:") else PurePath(public_name(name)).name)


def _recipe(recipe: DpoRecipe) -> str:
    default = DpoRecipe()
    rows = []
    for field, value in recipe.differences().items():
        if field == "preset":
            continue
        if field == "models":
            value = [public_name(name) for name in value]
        rows.append((f"`{field}`", markdown(_plain(value)), _plain(getattr(default, field))))
    title = f"## レシピ / Recipe\n\nプリセット / preset: {markdown(recipe.preset)}。"
    if not rows:
        return title + "すべて既定値です。/ Every setting is the default."
    return (
        title + "既定と違う設定 / settings that differ from the default:\n\n" + _table(("", "値 / value", "既定 / default"), rows)
    )


def _plain(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list | tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def _evaluation(metrics: dict[str, Any] | None) -> str:
    title = "## 評価 / Evaluation\n\n"
    if metrics is None:
        return (
            title + "**まだ評価していません。良くなったかどうかは分かりません。**\n"
            "**Not evaluated: nothing is known about whether it is better than its base.**"
        )
    said = verdict(metrics)
    held_out = [(f"{ja} / {en}", _measure(metrics, key, form)) for key, ja, en, form in _MEASURES if metrics.get(key) is not None]
    sides = [
        (f"{ja} / {en}", *(_measure(metrics, f"{key}_{side}", "{:.1%}") for side in ("base", "tuned")))
        for key, ja, en in _BEFORE_AFTER
        if metrics.get(f"{key}_tuned") is not None
    ]
    counts = (
        f"{metrics['n_prompts']} prompts, {metrics['n_texts']} texts: "
        f"{metrics['wins']} wins, {metrics['ties']} ties, {metrics['losses']} losses."
    )
    return (
        f"{title}**{said.ja}**\n**{said.en}**\n\n[ ] は 95 % 区間です。/ [ ]: 95 % interval.\n\n"
        + _table(("学習に使っていない対 / held-out pairs", "値 / value"), held_out)
        + "\n\n"
        + _table(("同じ依頼への文 / texts for the same briefs", "学習前 / before", "学習後 / after"), sides)
        + f"\n\n{counts}"
    )


def _measure(metrics: dict[str, Any], key: str, form: str) -> str:
    if metrics.get(key) is None:
        return "-"
    low_high = metrics.get(f"{key}_ci95")
    interval = f" [{form.format(low_high[0])}, {form.format(low_high[1])}]" if low_high else ""
    return form.format(metrics[key]) + interval


def _limits(facts: CardFacts) -> str:
    lines = [
        "- 書いた文は必ず人が読んでから使ってください。事実・法令（景品表示法、薬機法など）・商標は確かめていません。",
        "  A person must read every text before use. Facts, advertising law and trademarks are not checked.",
        "- 評価は取り分けたデータの依頼だけで、文字で数えられる基準で行っています。広告の成果（クリックなど）は測っていません。",
        "  Evaluated on held-out briefs of the same data, by checks that can be counted; not by clicks or sales.",
        "- 学習データに近い依頼のためのモデルです。ほかの使い方では、元のモデルより悪くなることがあります。",
        "  Made for briefs like its data; elsewhere it may be worse than its base.",
    ]
    if facts.metrics is not None:
        lines += [
            "- `comparisons.jsonl` と `report.html` には検証用データの依頼と文が入っています。公開の前に確かめてください。",
            "  `comparisons.jsonl` and `report.html` hold briefs and texts of your held-out data: look before you publish them.",
        ]
    if is_local(facts.base) or ("/" not in facts.base and facts.base != EMBEDDED):
        lines += [
            f"- ベースモデル {markdown(facts.base)} は手元のフォルダーです。アダプターだけを使うには、そのフォルダーが必要です。",
            f"  The base model {markdown(facts.base)} was a local folder; the adapter alone is of no use without it.",
        ]
    return "## 限界 / Limits\n\n" + "\n".join(lines)


def _usage(facts: CardFacts) -> str:
    base = "data/tiny_ad_lm" if facts.base == EMBEDDED else facts.base
    note = "  # adslm のリポジトリにあります / in the adslm repository" if facts.base == EMBEDDED else ""
    ask = (
        'ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,\n'
        '                                    return_tensors="pt", return_dict=True)\n'
        "output = model.generate(**ids, max_new_tokens=96, do_sample=True, temperature=0.8, top_p=0.95)\n"
        'print(tokenizer.decode(output[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))'
    )
    merged = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("merged")\n'
        'model = AutoModelForCausalLM.from_pretrained("merged")\n'
    )
    adapter = (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("adapter")\n'
        f"model = AutoModelForCausalLM.from_pretrained({_python(base)}){note}\n"
        'model = PeftModel.from_pretrained(model, "adapter")\n'
    )
    parts = ["## 使い方 / How to load"]
    if facts.merged_dtype:
        parts.append(f"transformers:\n\n```python\n{merged}```")
    parts.append(f"peft:\n\n```python\n{adapter}```")
    parts.append(f"そのあと / then:\n\n```python\n{ask}\n```")
    return "\n\n".join(parts)


def _python(text: str) -> str:
    """A Python string literal that cannot end the code block around it, nor begin a tag."""
    return json.dumps(harmless(text)).replace("`", "\\x60").replace("<", "\\x3c")


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_BORDER.sub(r"\\|", str(cell)).replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
