"""The page to hand to people who do not read code: one self-contained HTML file, Japanese and English."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib import resources
from typing import Any

from ..foreign_text import harmless
from ..recipe import EMBEDDED, DpoRecipe
from ..run import Run, now
from ..text.ad_rules import DISCLAIMER_EN, DISCLAIMER_JA, ad_rules, find_breaches
from ..text.brief import prompt_text, whole_prompt
from ..text.degenerate import KINDS
from ..text.rubric import CHECKS
from .instruction import guided_rows

_OUTCOMES = {"win": "勝ち / win", "tie": "引分 / tie", "loss": "負け / loss"}
_SEVERITIES = {"error": "違反 / error", "warn": "注意 / warn", "info": "参考 / info"}


def render_report(
    run: Run,
    recipe: DpoRecipe,
    metrics: dict[str, Any],
    comparisons: list[dict],
    figures: dict[str, bytes],
    ratings: dict[str, Any] | None = None,
) -> str:
    """The page as text. Everything that came from data or model is escaped, what turns the reading direction or is a secret included;
    figures are inside; it loads nothing. `ratings`: what `rating_summary(run).to_dict()` gives, where the team has rated."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template = (resources.files(__package__) / "report.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_harmless
    )
    manifest = run.manifest()
    return environment.from_string(template).render(
        run=run.name,
        now=now(),
        metrics=metrics,
        recipe=recipe,
        differences=recipe.differences(),
        guided=list(guided_rows(metrics.get("guided"))),
        skipped=manifest.get("model", {}).get("skipped", []),
        dataset=manifest["steps"]["dataset"],
        versions=manifest.get("versions", {}),
        embedded=metrics["model"] == EMBEDDED,
        checks=[(CHECKS[check], metrics["checks_base"][check], metrics["checks_tuned"][check]) for check in CHECKS],
        rows=list(_compared(metrics)),
        rules=_rules(metrics, comparisons),
        disclaimer=(DISCLAIMER_JA, DISCLAIMER_EN),
        ratings=ratings,
        examples=[_example(row) for row in spread(comparisons, 10)],
        losses=[_example(row) for row in comparisons if row["outcome"] == "loss"][:5],
        figures={name: Markup(base64.b64encode(png).decode()) for name, png in figures.items()},
        percent=percent,
    )


def _harmless(value: Any) -> Any:
    """What the page shows of a value: `harmless`, for plain text; what is HTML already (a macro's, a figure) stays."""
    return harmless(value) if type(value) is str else value


def percent(value: float | None) -> str:
    """A share as text; a dash where no text was asked."""
    return "–" if value is None else f"{value:.1%}"


def spread(rows: list[dict], n: int) -> list[dict]:
    """`n` rows with different prompts, at equal distances in file order: a sample that nobody chose."""
    first = list({str(row["prompt"]): row for row in reversed(rows)}.values())[::-1]
    n = min(n, len(first))
    return [first[i * len(first) // n] for i in range(n)]


def reasons(judgement: dict[str, Any]) -> list[str]:
    """Why a text does not pass, in words; empty when it does."""
    names = {check: f"{ja} / {en}" for check, (ja, en) in CHECKS.items()}
    return [f"✗ {names[check]}" for check in judgement["failures"]] + [
        f"✗ {' / '.join(KINDS[kind])}" for kind in judgement["degenerate"]
    ]


def _compared(metrics: dict[str, Any]) -> Any:
    """(Japanese, English, before, after) of the numbers that were measured on both sides, beyond the rubric."""
    shares = {
        "degenerate": ("壊れた文", "broken texts"),
        "identical_answers": ("別の依頼に同じ文", "same text for two briefs"),
        "breach": ("広告ルールに反する文", "texts that break an ad rule"),
        "memorised": ("学習データの丸写し（95 % 以上同じ）", "copies of training texts (95 % alike or more)"),
        "keywords": ("質問の要点の語", "key terms of a question named"),
    }
    for key, (ja, en) in shares.items():
        if metrics.get(f"{key}_base") is not None:
            yield ja, en, percent(metrics[f"{key}_base"]), percent(metrics[f"{key}_tuned"])
    plain = {
        "mean_chars": ("文の長さ（字、平均）", "mean length, characters", ".1f"),
        "self_chrf": ("文どうしの近さ（chrF、低いほど多様）", "likeness among texts (chrF, lower is more varied)", ".1f"),
        "distinct_2": ("異なる2文字の並びの割合", "distinct character bigrams", ".1%"),
        "perplexity": ("検証用の良い文の予測しにくさ", "perplexity of the held-out chosen texts", ".2f"),
    }
    for key, (ja, en, form) in plain.items():
        if metrics.get(f"{key}_base") is not None:
            yield ja, en, f"{metrics[f'{key}_base']:{form}}", f"{metrics[f'{key}_tuned']:{form}}"


def _rules(metrics: dict[str, Any], comparisons: Sequence[dict]) -> list[dict[str, Any]]:
    """Every rule that a text breaks: how many before and after, why it matters, and up to three tuned texts with the words marked."""
    before, after = (metrics.get(f"breach_rules_{side}") or {} for side in ("base", "tuned"))
    known = {rule.id: rule for rule in ad_rules()}
    found: dict[str, list[tuple[str, str, str]]] = {}
    for row in comparisons:
        for breach in find_breaches(row["tuned"], brief=prompt_text(row["prompt"])) if row.get("is_ad", True) else ():
            parts = (row["tuned"][: breach.start], row["tuned"][breach.start : breach.end], row["tuned"][breach.end :])
            examples = found.setdefault(breach.rule, [])
            if len(examples) < 3 and parts not in examples:
                examples.append(parts)
    names = sorted({*before, *after}, key=lambda name: (-after.get(name, 0), -before.get(name, 0), name))
    return [
        {
            "rule": name,
            "severity": _SEVERITIES.get(known[name].severity, ""),
            "ja": known[name].ja,
            "en": known[name].en,
            "source": known[name].source,
            "before": before.get(name, 0),
            "after": after.get(name, 0),
            "examples": found.get(name, []),
        }
        for name in names
        if name in known
    ]


def _example(row: dict) -> dict[str, Any]:
    return {
        "prompt": whole_prompt(row["prompt"]),
        "outcome": row["outcome"],
        "label": _OUTCOMES[row["outcome"]],
        "sides": [
            (title, row[side], reasons(row[f"{side}_judgement"]))
            for title, side in (("学習前 / before", "base"), ("学習後 / after", "tuned"))
        ],
    }
