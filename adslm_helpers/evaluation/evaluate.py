"""`evaluate`: everything that is said of a tuned model, from the files of its run, into runs/NAME/evaluation/."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dataset.build import load_split
from ..errors import RunError
from ..figure_style import to_png
from ..models.tuned import load_tuned
from ..plots import margin_histogram, rubric_bars, training_curves, win_tie_loss
from ..recipe import recipe_from_dict
from ..run import Run, read_json, read_jsonl, write_bytes, write_json, write_jsonl, write_text
from ..text.rubric import CHECKS
from ..watching.run_files import object_in
from .candidates import OWN, Candidate, find_candidates, load_candidates
from .compare import compare_texts, comparison_metrics, heldout_prompts
from .heldout import score_heldout
from .instruction import guided_metrics
from .measure import Measured, measure, over_run, work
from .rating_result import rating_summary
from .report import render_report
from .summary import summary_table
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
        """The table, the verdict, its reasons and what to do next as text, Japanese and English."""
        return [f"{label}: {value}" for label, value in self.table()] + [
            self.verdict.ja,
            self.verdict.en,
            *(f"  ・{ja}\n    {en}" for ja, en in self.verdict.reasons),
            *(f"→ {ja}\n  {en}" for ja, en in self.verdict.next_steps),
            f"report: {self.report}",
        ]


def evaluate(run: Run, others: Sequence[str] = ()) -> Evaluation:
    """Scores the held-out pairs, answers the held-out prompts before and after, and writes metrics, texts, figures and the report.

    `others`: further adapters on the same base (a checkpoint of the run by its name, other runs, exports, folders), which answer the same
    prompts from the same seeds; their numbers are `metrics["candidates"]` (all keys: `measure`; `metrics["guided"]` of a preference-guided
    run: `instruction`). Raises RunError unless the dataset and
    training steps are done, or where nothing has such a name, ModelError where an adapter does not fit. Running it again gives the same
    numbers on the same machine.
    """
    run.require("training")
    recipe = recipe_from_dict(read_json(run.training / "recipe.json"))
    candidates = find_candidates(run, others)
    rows, training = load_split(run, "eval"), load_split(run, "train")
    loaded = load_tuned(run)
    load_candidates(loaded.model, candidates)  # what does not fit leaves an evaluation that was done as it is
    with run.step("evaluation") as notes:
        asked = heldout_prompts(rows, recipe)
        facts = {"model": loaded.name, "synthetic_data": _synthetic(rows), **audited(run)}
        with _progress(work(rows, asked, recipe, len(candidates))) as advance:

            def measured(before: Measured | None = None) -> Measured:
                return measure(loaded, rows, training, asked, recipe, before=before, advance=advance)

            own = measured()
            guided = guided_metrics(loaded.model, loaded.tokenizer, rows, recipe)
            metrics, judged = _judged({**facts, **own.metrics, **guided})
            metrics["candidates"] = list(_held_against(run, loaded.model, candidates, own, measured, facts))
        figures = dict(_figures(run, metrics, own.heldout.margins))
        for name, png in figures.items():
            write_bytes(run.evaluation / "figures" / f"{name}.png", png)
        write_jsonl(run.evaluation / "comparisons.jsonl", own.comparisons)
        write_json(run.evaluation / "metrics.json", metrics)
        report = _write_report(run, metrics, own.comparisons, figures)
        notes |= {"verdict": judged.code}
    return Evaluation(metrics, own.comparisons, judged, report)


def _held_against(
    run: Run, model: Any, candidates: Sequence[Candidate], own: Measured, measured: Callable[[Measured], Measured], facts: dict
) -> Iterator[dict[str, Any]]:
    """The metrics of each candidate, whose adapter leaves the model afterwards; its comparisons are written."""
    folder = run.evaluation / "candidates"
    for path in folder.glob("*.jsonl"):  # of an evaluation that had more of them
        path.unlink()
    for number, candidate in enumerate(candidates, 1):
        model.set_adapter(candidate.adapter)
        other = measured(own)
        model.set_adapter(OWN)
        model.delete_adapter(candidate.adapter)
        path = write_jsonl(folder / f"{number:02d}.jsonl", other.comparisons)
        place = {"name": candidate.name, "folder": str(candidate.folder), "comparisons": f"candidates/{path.name}"}
        metrics, _ = _judged({**facts, **other.metrics, **over_run(own.comparisons, other.comparisons)})
        yield {**place, **metrics}


def refresh_report(run: Run) -> Path:
    """Writes the report of a finished evaluation again, with what the team has rated since."""
    evaluation = load_evaluation(run)
    figures = {path.stem: path.read_bytes() for path in sorted((run.evaluation / "figures").glob("*.png"))}
    return _write_report(run, evaluation.metrics, evaluation.comparisons, figures)


def _write_report(run: Run, metrics: dict[str, Any], comparisons: list[dict], figures: dict[str, bytes]) -> Path:
    recipe = recipe_from_dict(read_json(run.training / "recipe.json"))
    page = render_report(run, recipe, metrics, comparisons, figures, _ratings(run))
    return write_text(run.evaluation / "report.html", page)


def _ratings(run: Run) -> dict[str, Any] | None:
    """What the team has rated, for the page; a file of ratings that is broken is said there, and costs no evaluation."""
    try:
        summary = rating_summary(run)
    except RunError as error:
        return {"ja": error.ja, "en": error.en, "warnings": []}
    return summary.to_dict() if summary.votes else None


def audited(run: Run) -> dict[str, Any]:
    """What the dataset's report says of its held-out side: n_heldout_groups and heldout_trustworthy, and how many pairs of the
    whole set can be told without their prompt, where that is a finding: prompt_blind_accuracy. None where it says nothing."""
    audit = object_in(run.dataset / "report.json").get("audit")
    audit = audit if isinstance(audit, dict) else {}
    counts = audit.get("counts") if isinstance(audit.get("counts"), dict) else {}
    groups, trusted = counts.get("eval_groups"), audit.get("trustworthy")
    findings = audit.get("findings") if isinstance(audit.get("findings"), list) else []
    blind = (one.get("number") for one in findings if isinstance(one, dict) and one.get("code") == "prompt_blind")
    return {
        "n_heldout_groups": groups if isinstance(groups, int) and not isinstance(groups, bool) else None,
        "heldout_trustworthy": trusted if isinstance(trusted, bool) else None,
        "prompt_blind_accuracy": next((float(number) for number in blind if isinstance(number, int | float)), None),
    }


def _judged(metrics: dict[str, Any]) -> tuple[dict[str, Any], Verdict]:
    said = verdict(metrics)
    words = {"verdict": said.code, "verdict_ja": said.ja, "verdict_en": said.en}
    lists = {"verdict_reasons": [list(pair) for pair in said.reasons], "next_steps": [list(pair) for pair in said.next_steps]}
    return {**metrics, **words, **lists}, said


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar of pairs and texts, with the time left, where somebody looks: a terminal or a notebook that is not run headless."""
    from tqdm.auto import tqdm

    headless = os.environ.get("ADSLM_HEADLESS", "0") not in ("", "0")
    with tqdm(total=total, desc="評価 / evaluation", unit="texts", leave=False, disable=True if headless else None) as bar:
        yield lambda done: bar.update(done) and None


def load_evaluation(run: Run) -> Evaluation:
    """The finished evaluation of a run, from its files."""
    run.require("evaluation")
    metrics = read_json(run.evaluation / "metrics.json")
    reasons, steps = (tuple((ja, en) for ja, en in metrics.get(key, ())) for key in ("verdict_reasons", "next_steps"))
    judged = Verdict(metrics["verdict"], metrics["verdict_ja"], metrics["verdict_en"], reasons, steps)
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
