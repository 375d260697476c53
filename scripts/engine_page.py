"""docs/results/engine.md from the rows of engine.json, the same tables for the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

FAST, BEST, DEFAULTS = "fast", "TRL, reference precomputed", "TRL, its defaults"
ADS = "ads, "


def page(record: dict[str, Any]) -> str:
    """The whole page, Markdown with aligned columns."""
    cells = record["cells"]
    newest = max((cell["trl"] for cell in cells), key=_version, default="")
    versions = next((cell["versions"] for cell in cells if cell["trl"] == newest), {})
    return PAGE.format(
        date=max((cell["date"] for cell in cells), default="?"),
        machine="; ".join(sorted({cell["machine"] for cell in cells})),
        command="`, `".join(record["commands"].values()),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        targets=_table(("target", "wanted", "measured", "where", "met"), targets(record, newest)),
        times=_table(TIMES, [row for cell in cells if cell["trl"] == newest for row in _time_rows(cell)]),
        told="".join(f"\n{cell['name']}: {words}" for cell in cells for words in cell["told"]),
        older=_table(TIMES, [row for cell in cells if cell["trl"] != newest for row in _time_rows(cell)]) or "Not measured.",
        floors=_table(
            ("cell", "GFLOP a step", "floor, s", *(f"x floor: {name}" for name in ("ours", "TRL at its best", "TRL's defaults"))),
            [_floor_row(cell) for cell in cells if cell["trl"] == newest],
        ),
        memory=_table(
            ("cell", "engine", "peak of the process, MiB", "above the libraries, MiB", "ours / this"), _memory_rows(record)
        )
        or "Not measured.",
    )


def targets(record: dict[str, Any], newest: str) -> list[Sequence[str]]:
    """Every target with what was measured for it, over 3 epochs where nothing else is said."""
    now = [cell for cell in record["cells"] if cell["trl"] == newest and not cell["problem"] and cell["device"] == "cpu"]
    ads = [cell for cell in now if cell["name"].startswith(ADS)]
    large, small = ([cell for cell in ads if (cell["vocabulary"] >= 32_000) == wanted] for wanted in (True, False))
    versions = [
        cell for cell in record["cells"] if cell["name"] == f"{ADS}32,000" and not cell["problem"] and cell["device"] == "cpu"
    ]
    ratio = {epochs: [(cell, _ratio(cell, BEST, epochs)) for cell in now] for epochs in (1, 3)}
    rows = [
        _least("TRL at its best, ads, 32k words and more", 3.5, [(cell, _ratio(cell, BEST, 3)) for cell in large]),
        _least("TRL at its best, ads, 4k words", 1.8, [(cell, _ratio(cell, BEST, 3)) for cell in small]),
        _least("TRL's defaults, any cell", 3.0, [(cell, _ratio(cell, DEFAULTS, 3)) for cell in now]),
        _least("TRL at its best, any cell, 1 or 3 epochs", 1.0, ratio[1] + ratio[3]),
    ]
    if len(versions) > 1:  # the fastest version is the one that ours gains least on
        rows.insert(2, _least("the fastest TRL version at its best, ads, 32k", 2.3, [(c, _ratio(c, BEST, 3)) for c in versions]))
    peaks = [row for row in record["memory"] if row["vocabulary"] > 100_000]
    if ours := [row["peak"] for row in peaks if row["engine"] == FAST]:
        theirs = [row for row in peaks if row["engine"] == BEST]
        for row in theirs:
            share = ours[0] / row["peak"]
            rows.append((f"peak memory, {_engine(row)}", "<= 0.60", f"{share:.2f}", row["name"], "yes" if share <= 0.6 else "no"))
    return rows


def _least(what: str, wanted: float, found: list[tuple[dict[str, Any], float]]) -> Sequence[str]:
    """The worst of the cells."""
    if not found:
        return (what, f">= {wanted:.1f}", "not measured", "", "?")
    cell, ratio = min(found, key=lambda one: one[1])
    where = f"{cell['name']} (TRL {cell['trl']})"
    return (what, f">= {wanted:.1f}", f"{ratio:.2f}", where, "yes" if ratio >= wanted else "no")


def _ratio(cell: dict[str, Any], engine: str, epochs: int) -> float:
    return cell["engines"][engine]["ratio"][f"{cell['clock']} {epochs}"]


TIMES = (
    "cell",
    "TRL",
    "engine",
    "s a step",
    "reference, s",
    "1 epoch, s",
    "3 epochs, s",
    "ratio 1",
    "ratio 3",
    "wall, s",
    "wall ratio 3",
    "losses",
)


def _time_rows(cell: dict[str, Any]) -> Iterator[Sequence[str]]:
    clock = cell["clock"]
    for name, times in cell["engines"].items():
        step, reference = times[clock], times[f"reference_{clock}"]
        ratios = [f"{times['ratio'][key]:.2f}" for key in (f"{clock} 1", f"{clock} 3", "wall 3")]
        if cell["problem"]:
            ratios = ["-"] * 3
        yield (
            cell["name"], cell["trl"], _with_tiles(name, cell), f"{step:.2f}", f"{reference:.2f}", f"{step + reference:.2f}",
            f"{step + reference / 3:.2f}", ratios[0], ratios[1], f"{times['wall']:.2f}", ratios[2],
            cell["problem"] or f"{cell['loss_difference']:.0e}",
        )  # fmt: skip


def _with_tiles(name: str, cell: dict[str, Any]) -> str:
    tiles = cell["tiles"]
    return f"{name} ({tiles[0]} x {tiles[1]})" if tiles and name not in (FAST, DEFAULTS) else name


def _floor_row(cell: dict[str, Any]) -> Sequence[str]:
    floor, clock = cell["floor"]["3"], cell["clock"]
    times = [cell["engines"].get(name) for name in (FAST, BEST, DEFAULTS)]
    distances = [f"{(one[clock] + one[f'reference_{clock}'] / 3) / floor:.2f}" if one else "-" for one in times]
    return (cell["name"], f"{cell['gflop']:.0f}", f"{floor:.2f}", *distances)


def _memory_rows(record: dict[str, Any]) -> Iterator[Sequence[str]]:
    for row in record["memory"]:
        ours = next((one["peak"] for one in record["memory"] if one["name"] == row["name"] and one["engine"] == FAST), None)
        share = f"{ours / row['peak']:.2f}" if ours else "-"
        yield (row["name"], _engine(row), f"{row['peak']:,.0f}", f"{row['peak'] - row['libraries']:,.0f}", share)


def _engine(row: dict[str, Any]) -> str:
    return f"{row['engine']} ({row['tiles'][0]} x {row['tiles'][1]})" if row["tiles"] else row["engine"]


def _version(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdigit()]


def _table(head: Sequence[str], rows: Any) -> str:
    """Aligned in a terminal too; empty without rows."""
    rows = [list(row) for row in rows]
    if not rows:
        return ""
    widths = [max(map(_width, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "| " + " | ".join(text + " " * (width - _width(text)) for text, width in zip(row, widths, strict=True)) + " |"
        for row in (head, *rows)
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


PAGE = """# 学習エンジンの速さ / How fast the engine is

`engine="fast"` と `trl.DPOTrainer` を、同じモデル・データ・シード・ステップ数で交互に学習させ、時間・CPU 時間・最大メモリを比べた結果です。
The same model, data, seed and number of steps, trained by engine `fast` and by `trl.DPOTrainer` in turn.

{date}, {machine}; {versions}. Command: `{command}`.

## 目標 / Targets

Times are ratios (TRL over ours), over 3 epochs unless said otherwise; the worst cell counts.

{targets}

## 時間 / Time

{times}
{told}

"s a step": median of all steps, from the batch to the optimizer. "reference": the reference's log-probabilities of the step's pairs, which
are computed once; "1 epoch" and "3 epochs" add the whole or a third of it. On a CPU these are CPU seconds of one thread (other processes do not
count into them), on a GPU seconds on the wall; the last columns are wall time. "losses": the largest difference between the losses of
any two engines at any step; beyond 1e-4 there is no ratio.

## 古い TRL / Older TRL versions

{older}

Ours runs in the same process with the packages of that time.

## 下限からの距離 / Distance to the floor

{floors}

The floor: the matrix products that the mathematics needs for these pairs (counted in `scripts/engine_floor.py`: prompt once, answers once,
no padding, in the last layer only what is read, no gradient of a frozen weight, the reference once in 3 epochs), each kind at the rate at which
this machine multiplies matrices of that shape. Norms, activations, softmax, the optimizer and Python are not in it, so no engine reaches 1.

## メモリ / Memory

{memory}

Each in a process of its own, one step. The peak counts from the moment the model is there; the libraries alone are the difference of the
two columns. TRL's tiles are 4,096 x 32,768 by default; with 512 x 4,096 it needs less, and on a CPU often no more time.

## どう比べたか / How it was compared

* Random Qwen2: hidden 512, eight layers, MLP 1536, 8 heads with 4 for keys and values (41.6 M weights with 32,000 words), float32, LoRA rank 16
  on the attention; on a GPU the shape of Qwen2.5-1.5B in bfloat16 or 4-bit.
* Shapes: ads 96 + 2 x 32 tokens, long answers 16 + 2 x 128, long prompts 256 + 2 x 48; mixed: log-normal around those of ads.
* The order of the engines turns from round to round; a ratio is taken within a round, and the median of the rounds is shown.
* "TRL, its defaults": activations recomputed, TRL's own tiles, the reference at every step. "no checkpointing": as our recipes run TRL.
  "reference precomputed" as well is TRL at its best. The size of TRL's tiles (4,096 x 32,768, or 512 x 4,096 as this package sets on a CPU)
  is the one that was quicker on a trial step, and stands beside the name.
* TRL's reference pass is its `compute_ref_log_probs` on batches of the training's size, without the hashing and caching around it; ours is
  counted with its key and its file.
"""
