"""Trains several recipes on the sample set and writes docs/results/recipes.md: what each does to the text, not only to the loss.

.venv/bin/python scripts/compare_recipes.py            # about 20 minutes on 2 cores
.venv/bin/python scripts/compare_recipes.py --only 3   # the first three
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import date
from pathlib import Path

from adslm_helpers.dataset.build import build_dataset
from adslm_helpers.evaluation.evaluate import quick_look
from adslm_helpers.figure_style import to_png
from adslm_helpers.plots import recipe_comparison
from adslm_helpers.recipe import load_recipe
from adslm_helpers.run import Run, read_json, versions, write_bytes, write_json, write_text
from adslm_helpers.training.train import train

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
GRID = (
    {"learning_rate": 5e-4, "beta": 0.1, "num_train_epochs": 2, "sft_weight": 1.0},
    {"learning_rate": 1e-3, "beta": 0.1, "num_train_epochs": 2, "sft_weight": 1.0},
    {"learning_rate": 1e-3, "beta": 0.3, "num_train_epochs": 2, "sft_weight": 1.0},
    {"learning_rate": 1e-3, "beta": 0.1, "num_train_epochs": 3, "sft_weight": 1.0},
    {"learning_rate": 2e-3, "beta": 0.1, "num_train_epochs": 2, "sft_weight": 1.0},
    {"learning_rate": 1e-3, "beta": 0.1, "num_train_epochs": 2, "sft_weight": 0.2},
    {"learning_rate": 5e-4, "beta": 0.1, "num_train_epochs": 2, "sft_weight": 0.0},
    {"learning_rate": 1e-3, "beta": 0.1, "num_train_epochs": 2, "sft_weight": 0.0},
    {"learning_rate": 4e-3, "beta": 0.05, "num_train_epochs": 2, "sft_weight": 0.0},
)
COLUMNS = ("reward_accuracy", "reward_margin", "rubric_pass_tuned", "right_product_tuned", "degenerate_tuned", "win_rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new", action="store_true", help="keep the rows of docs/results/recipes.json and measure the others")
    arguments = parser.parse_args()
    known = read_json(RESULTS / "recipes.json") if arguments.new else []
    with tempfile.TemporaryDirectory() as folder:
        base = Run("recipes", folder)
        build_dataset(base, "sample", load_recipe("tiny"))
        write([_known(known, overrides) or measure(base, n, overrides) for n, overrides in enumerate(GRID)])


def _known(rows: list[dict], overrides: dict) -> dict | None:
    return next((row for row in rows if all(row[key] == value for key, value in overrides.items())), None)


def measure(base: Run, number: int, overrides: dict) -> dict:
    """Trains one recipe and looks at one answer to every held-out prompt."""
    run = base.fork(f"recipe-{number}")
    result = train(run, load_recipe("tiny", watch_prompts=0, **overrides))  # nobody stops the bad ones: they are what is shown
    look = quick_look(run, n_prompts=1000)
    texts = look.pop("texts")
    row = {**overrides, "seconds": round(result.seconds), **look, "examples": [text["tuned"] for text in texts[:3]]}
    print(
        {key: row[key] for key in (*overrides, "seconds", *COLUMNS, "rubric_pass_base", "degenerate_kinds_tuned")},
        *row["examples"],
        sep="\n  ",
        flush=True,
    )
    return row


def _is_default(row: dict) -> bool:
    default = load_recipe("tiny")
    return all(row[key] == getattr(default, key) for key in GRID[0])


def _shown(text: str, most: int = 70) -> str:
    """A text on one line; a ruined one is cut, and says so."""
    line = " ".join(text.split()) or "（空 / empty）"
    return line if len(line) <= most else f"{line[:most]}… ({len(line)} characters)"


def write(rows: list[dict]) -> None:
    """The table, the figure and the numbers behind them."""
    head = (
        "| lr | beta | epochs | SFT weight | s | reward accuracy | margin | rubric pass | right product | degenerate | win rate | |\n"
        + "|---" * 12
        + "|"
    )
    lines = [
        f"| {r['learning_rate']:g} | {r['beta']:g} | {r['num_train_epochs']} | {r['sft_weight']:g} | {r['seconds']} | {r['reward_accuracy']:.2f} "
        f"| {r['reward_margin']:.2f} | {r['rubric_pass_tuned']:.2f} | {r['right_product_tuned']:.2f} | {r['degenerate_tuned']:.3f} | {r['win_rate']:.2f} |{' default |' if _is_default(r) else ' |'}"
        for r in rows
    ]
    first = rows[0]
    base = f"| (base) | | | | | | | {first['rubric_pass_base']:.2f} | {first['right_product_base']:.2f} | {first['degenerate_base']:.3f} | | |"
    examples = "\n".join(
        f"* lr {r['learning_rate']:g}, beta {r['beta']:g}, SFT {r['sft_weight']:g}: {' ／ '.join(_shown(text) for text in r['examples'])}"
        for r in rows
    )
    names = ", ".join(f"{name} {version}" for name, version in versions().items() if version)
    write_text(
        RESULTS / "recipes.md",
        f"# What a recipe does to the text\n\nMeasured {date.today()} on a 2-core CPU with `python scripts/compare_recipes.py` ({names}): the embedded model, the sample set, "
        f"one answer to each of {first['n_prompts']} held-out prompts at temperature 0.8. LoRA r 16, alpha 32, batch 8.\n\n{head}\n{base}\n"
        + "\n".join(lines)
        + "\n\nThe first three texts of each, as drawn:\n\n"
        + examples
        + "\n\n![comparison](recipes.png)\n",
    )
    named = [
        {"name": f"lr {r['learning_rate']:g}, beta {r['beta']:g}, {r['num_train_epochs']} ep, SFT {r['sft_weight']:g}", **r}
        for r in rows
        if _is_default(r) or r["sft_weight"] < 1  # four bars stay readable: the default, and less and less of the SFT term
    ]
    write_bytes(RESULTS / "recipes.png", to_png(recipe_comparison([row for row in named if row["learning_rate"] >= 1e-3])))
    write_json(RESULTS / "recipes.json", rows)


if __name__ == "__main__":
    main()
