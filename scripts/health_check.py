"""Trains good and ruinous recipes with the watch on their texts and writes docs/results/health.md: what it saw, and what each run ends with.

.venv/bin/python scripts/health_check.py            # about 20 minutes on 2 quiet cores
.venv/bin/python scripts/health_check.py --new      # those that docs/results/health.json does not hold yet
"""

from __future__ import annotations

import argparse
import math
import tempfile
from datetime import date
from pathlib import Path

from adslm_helpers.dataset.build import build_dataset, load_split
from adslm_helpers.evaluation.compare import compare_texts, comparison_metrics, heldout_prompts
from adslm_helpers.models.tuned import load_tuned
from adslm_helpers.recipe import load_recipe
from adslm_helpers.run import Run, read_json, read_jsonl, versions, write_json, write_text
from adslm_helpers.training.drift import FALL_PER_TOKEN, KL_LIMIT
from adslm_helpers.training.history import read_alarms
from adslm_helpers.training.signs import LEVEL, excess, sign_test
from adslm_helpers.training.snapshots import Ending, choose_ending, load_ending
from adslm_helpers.training.train import train
from adslm_helpers.widgets.live import live_view

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
RUINOUS = {"sft_weight": 0.0, "beta": 0.1}
GRID = (
    {"learning_rate": 5e-4, **RUINOUS, "seed": 42},
    {"learning_rate": 1e-3, **RUINOUS, "seed": 42},
    {"learning_rate": 4e-3, **RUINOUS, "beta": 0.05, "seed": 42},
    {"learning_rate": 5e-4, **RUINOUS, "seed": 1},
    *({"learning_rate": 1e-3, "sft_weight": 1.0, "beta": 0.1, "seed": seed} for seed in (42, 1, 2, 3, 4)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, help="the first N recipes only")
    parser.add_argument("--new", action="store_true", help="keep the rows of docs/results/health.json and measure the others")
    arguments = parser.parse_args()
    rows = read_json(RESULTS / "health.json") if arguments.new else []
    with tempfile.TemporaryDirectory() as folder:
        for number, overrides in enumerate(GRID[: arguments.only]):
            if not any(row["recipe"] == overrides for row in rows):
                rows.append(measure(Run(f"health-{number}", folder), overrides))
                write(rows)


def measure(run: Run, overrides: dict) -> dict:
    """Trains one recipe under watch; the texts of the last step and of the ending are those of all held-out prompts."""
    recipe = load_recipe("tiny", samples_per_prompt=1, **overrides)
    build_dataset(run, "sample", load_recipe("tiny"))
    eval_rows = load_split(run, "eval")
    result = train(run, recipe, [live_view()])
    health = [row for row in read_jsonl(run.training / "health.jsonl") if row["step"]]
    ending = choose_ending(run.training, best=True)
    loaded, texts = load_tuned(run), {}
    for name, adapter in (("last", _last(run, health[-1])), ("ending", ending)):
        load_ending(loaded.model, adapter)
        texts[name] = _texts(loaded, eval_rows, recipe)
    return {
        "recipe": overrides, "seconds": round(result.seconds), "steps": result.steps, "final": result.final,
        "alarms": [[alarm.step, alarm.kind, alarm.severity] for alarm in read_alarms(run.training)],
        "health": [{key: row[key] for key in ("step", "eval_loss", "kl", "healthy", "reasons", "score", "seconds")} for row in health],
        "ending": ending.step, "said": ending.line(),
        **{f"{name}_{key}": value for name, compared in texts.items() for key, value in _numbers(compared).items()},
        "base_pass": comparison_metrics(texts["last"])["rubric_pass_base"],
    }  # fmt: skip


def _last(run: Run, row: dict) -> Ending:
    """The weights at which the training stood, ruined or not: the newest snapshot is always kept."""
    return Ending(row["step"], row["step"], run.training / row["snapshot"]["folder"], False, "", "")


def _texts(loaded, rows: list[dict], recipe) -> list[dict]:
    return compare_texts(loaded.model, loaded.tokenizer, heldout_prompts(rows, recipe), recipe)


def _numbers(compared: list[dict]) -> dict:
    metrics = comparison_metrics(compared)
    names = {"pass": "rubric_pass_tuned", "product": "right_product_tuned", "degenerate": "degenerate_tuned"}
    return {**{short: metrics[name] for short, name in names.items()}, "examples": [row["tuned"] for row in compared[:3]]}


def write(rows: list[dict]) -> None:
    """The table, the texts and the numbers behind them."""
    head = (
        "| lr | beta | SFT weight | seed | steps | reward accuracy | KL | rubric pass at the last step | alarms (step) | ends with step | rubric pass there | right product there |\n"
        + "|---" * 12
        + "|"
    )
    lines = [
        f"| {r['recipe']['learning_rate']:g} | {r['recipe']['beta']:g} | {r['recipe']['sft_weight']:g} | {r['recipe']['seed']} | {r['steps']} "
        f"| {r['final']['eval_rewards/accuracies']:.2f} | {max(h['kl'] for h in r['health']):.2f} | {r['last_pass']:.2f} "
        f"| {', '.join(f'{kind} ({step})' for step, kind, _ in r['alarms']) or 'none'} | {r['ending']} | {r['ending_pass']:.2f} | {r['ending_product']:.2f} |"
        for r in rows
    ]
    texts = [
        f"* lr {r['recipe']['learning_rate']:g}, SFT {r['recipe']['sft_weight']:g}, seed {r['recipe']['seed']}, {name}: {' ／ '.join(_shown(text) for text in r[f'{side}_examples'])}"
        for r in rows
        for side, name in (("last", f"step {r['health'][-1]['step']}"), ("ending", f"ends with step {r['ending']}"))
    ]
    evaluations = [
        f"| {r['recipe']['learning_rate']:g} | {r['recipe']['sft_weight']:g} | {r['recipe']['seed']} | {h['step']} | {h['eval_loss']:.3f} | {h['kl']:.2f} | {h['score']:.2f} "
        f"| {'healthy' if h['healthy'] else ', '.join(h['reasons'])} |"
        for r in rows
        for h in r["health"]
    ]
    second = (
        "| lr | SFT weight | seed | step | held-out loss | KL | text score of 16 | signs |\n"
        + "|---" * 8
        + "|\n"
        + "\n".join(evaluations)
    )
    names = ", ".join(f"{name} {version}" for name, version in versions().items() if version)
    write_json(RESULTS / "health.json", rows)
    write_text(
        RESULTS / "health.md",
        f"# What the watch on the text sees\n\nMeasured {date.today()} on a CPU with `python scripts/health_check.py` ({names}): the embedded model, the sample set, 16 watched "
        f"prompts at 4 evaluations; rubric pass and right product by one answer to every held-out prompt (base: {rows[0]['base_pass']:.2f}). Step 0 is the base.\n\n{head}\n"
        + "\n".join(lines)
        + f"\n\nEvery evaluation (the loss holds the SFT term where there is one):\n\n{second}"
        + "\n\nThe first three texts of each:\n\n"
        + "\n".join(texts)
        + "\n\n"
        + NOTES,
    )


def _shown(text: str, most: int = 70) -> str:
    """A text on one line; a ruined one is cut, and says so."""
    line = " ".join(text.split()) or "（空 / empty）"
    return line if len(line) <= most else f"{line[:most]}… ({len(line)} characters)"


def calibration(n: int = 16) -> str:
    """How often chance alone raises a sign, and how often a real change does, summed exactly over all outcomes of `n` answers."""
    rows = []
    for base, now in (
        (0.02, 0.02),
        (0.05, 0.05),
        (0.1, 0.1),
        (0.2, 0.2),
        (0.35, 0.35),
        (0.5, 0.5),
        (0, 0.2),
        (0, 0.3),
        (0, 0.5),
        (0.1, 0.5),
    ):
        outcomes = [(b, c) for b in range(n + 1) for c in range(b + 1, n + 1) if excess(c, b, n) <= LEVEL]
        damage = sum(_binomial(b, n, base) * _binomial(c, n, now) for b, c in outcomes)
        worse, better = (1 - base) * now, base * (1 - now)
        paired = sum(
            math.comb(n, w) * math.comb(n - w, v) * worse**w * better**v * (1 - worse - better) ** (n - w - v)
            for w in range(n + 1)
            for v in range(n + 1 - w)
            if sign_test(w, v) <= LEVEL
        )
        rows.append(f"| {base:.0%} | {now:.0%} | {damage:.1%} | {paired:.1%} |")
    head = "| bad answers, base | bad answers, in training | broken texts raise a sign | any other sign |\n|---|---|---|---|\n"
    return head + "\n".join(rows)


def _binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


NOTES = f"""## What 16 answers can tell

The signs are tests at {LEVEL:g} against the base's own answers to the same prompts: a beta-binomial one for broken texts, an exact sign test for
the others (brief_forgotten, falls_short, off_topic, unstopped, shrunk). Exact rates for one evaluation; where both shares are equal, every sign is a false alarm:

{calibration()}

## What it costs

An evaluation answers 16 prompts in one batch, to at most twice the longest chosen text and `max_new_tokens` (the batch ends with its longest
answer), and scores 16 chosen texts twice for the KL: 48 passes over a prompt and the decoding of one batch. The held-out evaluation that it goes
with makes four passes over every pair, 600 for 150 pairs, so the watch adds about a tenth to it on every device; decoding 64 tokens of 16 answers
reads the weights 64 times. The seconds of each are in health.jsonl.

Drift limits: a chosen text that lost {FALL_PER_TOKEN:g} nats a token, a KL of {KL_LIMIT:g} nats a token. The table above holds what both kinds of run reach.
"""


if __name__ == "__main__":
    main()
