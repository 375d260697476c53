"""What an instruction does to the margins of the held-out sample pairs, before any training; prints the table of docs/results/instructions.md.

.venv/bin/python scripts/instruction_effect.py                                # the embedded model, about a minute
.venv/bin/python scripts/instruction_effect.py --model Qwen/Qwen2.5-0.5B-Instruct --text "正直に、短く書いてください。"
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from adslm_helpers.dataset.build import build_dataset, load_split
from adslm_helpers.evaluation.intervals import mean_with_interval
from adslm_helpers.models.loading import load_model
from adslm_helpers.recipe import load_recipe
from adslm_helpers.run import Run
from adslm_helpers.training.guided.explain import margins_of

TEXTS = (
    ("user_end", "誇張せず、正直に書いてください。"),
    ("system", "誇張せず、正直に書いてください。"),
    ("prefix", "誇張せず、正直に書いてください。"),
    ("user_end", "商品名と訴求を必ず入れ、最後に行動を促してください。"),
    ("user_end", "正確に、短く。"),
    ("user_end", "请提供一个有用、诚实、无害且简洁的回答。"),
    ("user_end", "条件：「お申し込みはこちら」を入れる。"),
    ("user_end", "26文字以内で書いてください。"),
    ("user_end", "媒体：見出し（26文字以内）"),
    ("user_end", "媒体：説明文（60文字以内）"),
    ("user_end", "広告文を1つ書いてください。"),
    ("user_end", "あいうえお"),
)
KINDS = ("claim", "no_call_to_action", "over_length", "shouting", "vague", "wrong_product")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a hub id or folder; none: the embedded model")
    parser.add_argument("--text", action="append", default=[], help="an instruction of your own, at the end of the user's words")
    arguments = parser.parse_args()
    recipe = load_recipe("tiny", model=arguments.model, engine="fast", method="preference_guided")
    with tempfile.TemporaryDirectory() as folder:
        run = Run("instructions", Path(folder))
        build_dataset(run, "sample", recipe)
        rows = load_split(run, "eval")
    loaded = load_model(recipe)
    print(*loaded.lines(), f"{len(rows)} held-out pairs", "", sep="\n")
    print("| place | instruction | mp - m0, nats [95 %] | mp > m0 | mp > 0 | " + " | ".join(KINDS) + " |")
    print("|---" * (5 + len(KINDS)) + "|")
    for place, text in [("user_end", text) for text in arguments.text] or TEXTS:
        told = replace(recipe, preference_text=text, preference_placement=place)
        print(_line(place, text, margins_of(loaded.model, loaded.tokenizer, rows, told), rows), flush=True)


def _line(place: str, text: str, pairs: list, rows: list[dict]) -> str:
    shifts = [pair.shift for pair in pairs]
    mean, (low, high) = mean_with_interval(shifts, [pair.prompt for pair in pairs])
    shares = [sum(flags) / len(pairs) for flags in ([s > 0 for s in shifts], [pair.mp > 0 for pair in pairs])]
    kind_of = {row["rejected"] + row["chosen"]: row.get("defect") for row in rows}
    by_kind: dict[str, list[float]] = {}
    for pair in pairs:
        by_kind.setdefault(kind_of.get(pair.rejected + pair.chosen), []).append(pair.shift)
    means = [f"{sum(by_kind[kind]) / len(by_kind[kind]):+.2f}" if kind in by_kind else "-" for kind in KINDS]
    cells = [place, text, f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]", *(f"{share:.0%}" for share in shares), *means]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
