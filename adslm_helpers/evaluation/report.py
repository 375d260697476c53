"""The page to hand to people who do not read code: one self-contained HTML file, Japanese and English."""

from __future__ import annotations

import base64
from importlib import resources
from typing import Any

from ..foreign_text import harmless
from ..recipe import EMBEDDED, DpoRecipe
from ..run import Run, now
from ..text.brief import whole_prompt
from ..text.degenerate import KINDS
from ..text.rubric import CHECKS

_OUTCOMES = {"win": "勝ち / win", "tie": "引分 / tie", "loss": "負け / loss"}


def render_report(
    run: Run, recipe: DpoRecipe, metrics: dict[str, Any], comparisons: list[dict], figures: dict[str, bytes]
) -> str:
    """The page as text. Everything that came from data or model is escaped, what turns the reading direction or is a secret included;
    figures are inside; it loads nothing."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template = (resources.files(__package__) / "report.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_harmless
    )
    return environment.from_string(template).render(
        run=run.name,
        now=now(),
        metrics=metrics,
        recipe=recipe,
        differences=recipe.differences(),
        skipped=run.manifest().get("model", {}).get("skipped", []),
        dataset=run.manifest()["steps"]["dataset"],
        versions=run.manifest().get("versions", {}),
        embedded=metrics["model"] == EMBEDDED,
        checks=[(CHECKS[check], metrics["checks_base"][check], metrics["checks_tuned"][check]) for check in CHECKS],
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
