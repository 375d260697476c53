"""`evaluate`: everything that is said of a tuned model, from the files of its run, into runs/NAME/evaluation/."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dataset.build import load_split
from ..figure_style import to_png
from ..models.tuned import load_tuned
from ..plots import margin_histogram, rubric_bars, training_curves, win_tie_loss
from ..recipe import recipe_from_dict
from ..run import Run, read_json, read_jsonl, write_bytes, write_json, write_jsonl, write_text
from ..text.rubric import CHECKS
from .compare import compare_texts, comparison_metrics, heldout_prompts
from .heldout import score_heldout
from .report import render_report
from .verdict import Verdict, verdict


@dataclass(frozen=True)
class Evaluation:
    """The metrics, the comparisons and the verdict of a run; `report` is the page to hand on."""

    metrics: dict[str, Any]
    comparisons: list[dict] = field(repr=False)
    verdict: Verdict
    report: Path

    def table(self) -> list[tuple[str, str]]:
        """Label and value, ready to print."""
        return summary_table(self.metrics)

    def lines(self) -> list[str]:
        """The table and the verdict as text, Japanese and English."""
        return [f"{label}: {value}" for label, value in self.table()] + [
            self.verdict.ja,
            self.verdict.en,
            f"report: {self.report}",
        ]


def evaluate(run: Run) -> Evaluation:
    """Scores the held-out pairs, answers the held-out prompts before and after, and writes metrics, texts, figures and the report.

    Raises RunError unless the dataset and training steps are done. Running it again gives the same numbers on the same machine.
    """
    run.require("training")
    recipe = recipe_from_dict(read_json(run.training / "recipe.json"))
    with run.step("evaluation") as notes:
        rows = load_split(run, "eval")
        loaded = load_tuned(run)
        heldout = score_heldout(loaded.model, loaded.tokenizer, rows, recipe)
        # One prompt at a time on MPS: batched left-padded generation is wrong there before torch 2.9.
        size = 1 if loaded.plan.device == "mps" else max(8, 2 * recipe.per_device_eval_batch_size)
        comparisons = compare_texts(loaded.model, loaded.tokenizer, heldout_prompts(rows, recipe), recipe, size)
        metrics = {
            "model": loaded.name,
            "synthetic_data": _synthetic(rows),
            **heldout.metrics(),
            **comparison_metrics(comparisons),
        }
        judged = verdict(metrics)
        metrics |= {"verdict": judged.code, "verdict_ja": judged.ja, "verdict_en": judged.en}
        figures = dict(_figures(run, metrics, heldout.margins))
        for name, png in figures.items():
            write_bytes(run.evaluation / "figures" / f"{name}.png", png)
        write_jsonl(run.evaluation / "comparisons.jsonl", comparisons)
        write_json(run.evaluation / "metrics.json", metrics)
        page = render_report(run, recipe, metrics, comparisons, figures)
        report = write_text(run.evaluation / "report.html", page)
        notes |= {"verdict": judged.code}
    return Evaluation(metrics, comparisons, judged, report)


def load_evaluation(run: Run) -> Evaluation:
    """The finished evaluation of a run, from its files."""
    run.require("evaluation")
    metrics = read_json(run.evaluation / "metrics.json")
    judged = Verdict(metrics["verdict"], metrics["verdict_ja"], metrics["verdict_en"])
    return Evaluation(metrics, read_jsonl(run.evaluation / "comparisons.jsonl"), judged, run.evaluation / "report.html")


def quick_look(run: Run, n_prompts: int = 60) -> dict[str, Any]:
    """The few numbers that tell a good recipe from a ruinous one, from one answer to each of `n_prompts` held-out prompts.

    Keys: reward_accuracy, rubric_pass_tuned, right_product_tuned, degenerate_tuned and what `comparison_metrics` gives; plus 'texts'.
    """
    from dataclasses import replace

    recipe = replace(recipe_from_dict(read_json(run.training / "recipe.json")), eval_prompts=n_prompts, samples_per_prompt=1)
    loaded = load_tuned(run)
    rows = load_split(run, "eval")
    heldout = score_heldout(loaded.model, loaded.tokenizer, rows, recipe)
    texts = compare_texts(loaded.model, loaded.tokenizer, heldout_prompts(rows, recipe), recipe)
    return {**heldout.metrics(), **comparison_metrics(texts), "texts": texts}


def summary_table(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """The short table that a run ends with."""

    def with_interval(key: str, form: str = ".1%") -> str:
        low, high = metrics[f"{key}_ci95"]
        return f"{metrics[key]:{form}}  [{low:{form}}, {high:{form}}]"

    table = [
        ("検証損失 / held-out loss", with_interval("heldout_loss", ".4f")),
        ("報酬の正解率 / reward accuracy", with_interval("reward_accuracy")),
        ("勝率（前→後）/ win rate, tuned over base", with_interval("win_rate")),
        ("  勝ち・引分・負け / win, tie, loss", f"{metrics['wins']} / {metrics['ties']} / {metrics['losses']}"),
        ("評価基準を満たす文・前 / rubric pass, base", with_interval("rubric_pass_base")),
        ("評価基準を満たす文・後 / rubric pass, tuned", with_interval("rubric_pass_tuned")),
        ("壊れた文（前→後）/ degenerate", f"{metrics['degenerate_base']:.1%} -> {metrics['degenerate_tuned']:.1%}"),
    ]
    if metrics["right_product_base"] is not None:
        right = f"{metrics['right_product_base']:.1%} -> {metrics['right_product_tuned']:.1%}"
        table.append(("正しい商品名（前→後）/ right product", right))
    return table


def _figures(run: Run, metrics: dict[str, Any], margins: list[float]) -> Iterator[tuple[str, bytes]]:
    history = run.training / "history.jsonl"
    if history.is_file():
        yield "training_curves", to_png(training_curves(read_jsonl(history)))
    base, tuned = ({check: metrics[f"checks_{side}"][check] for check in CHECKS} for side in ("base", "tuned"))
    yield "rubric", to_png(rubric_bars(base, tuned, labels=CHECKS))
    counts = {"win": metrics["wins"], "tie": metrics["ties"], "loss": metrics["losses"]}
    yield "win_tie_loss", to_png(win_tie_loss(counts, metrics["win_rate"], metrics["win_rate_ci95"]))
    yield "margins", to_png(margin_histogram(margins))


def _synthetic(rows: list[dict]) -> bool:
    return any(row.get("synthetic") for row in rows)
