"""The short table that an evaluation ends with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .instruction import guided_rows


def summary_table(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and value of the numbers that the verdict rests on; a row for what was not measured is left out."""
    return list(_rows(metrics))


def _rows(metrics: dict[str, Any]) -> Iterator[tuple[str, str]]:
    def ranged(key: str, form: str = ".1%") -> str:
        low, high = metrics[f"{key}_ci95"]
        return f"{metrics[key]:{form}}  [{low:{form}}, {high:{form}}]"

    def change(key: str, form: str = ".1%") -> str:
        return f"{metrics[f'{key}_base']:{form}} -> {metrics[f'{key}_tuned']:{form}}"

    yield "検証損失 / held-out loss", ranged("heldout_loss", ".4f")
    yield "報酬の正解率 / reward accuracy", ranged("reward_accuracy")
    yield "勝率（前→後）/ win rate, tuned over base", ranged("win_rate")
    yield "  勝ち・引分・負け / win, tie, loss", f"{metrics['wins']} / {metrics['ties']} / {metrics['losses']}"
    if "wins_by_prompt" in metrics:
        won, lost, p = (metrics[key] for key in ("wins_by_prompt", "losses_by_prompt", "sign_test_p"))
        yield "  依頼ごとの勝ち・負け / won and lost prompts", f"{won} / {lost}, p = {p:.2g}"
    yield "評価基準を満たす文・前 / rubric pass, base", ranged("rubric_pass_base")
    yield "評価基準を満たす文・後 / rubric pass, tuned", ranged("rubric_pass_tuned")
    yield "壊れた文（前→後）/ degenerate", change("degenerate")
    if metrics["right_product_base"] is not None:
        yield "正しい商品名（前→後）/ right product", change("right_product")
    for key, label in _CHANGES.items():
        if metrics.get(f"{key}_base") is not None:
            yield label, change(key, ".1f" if key == "self_chrf" else ".1%")
    if metrics.get("kl_to_base") is not None:
        yield "元のモデルからの距離 / KL to the base, nats a token", f"{metrics['kl_to_base']:.3f}"
    for ja, en, value in guided_rows(metrics.get("guided")):
        yield f"{ja} / {en}", value
    for other in metrics.get("candidates", ()):
        yield f"候補 / candidate {other['name']}", f"{other['win_rate']:.1%} ({other['verdict']})"


_CHANGES = {
    "breach": "広告ルール違反（前→後）/ ad-rule breaches",
    "memorised": "学習データの丸写し（前→後）/ copied training texts",
    "self_chrf": "文どうしの近さ（前→後）/ likeness among texts, chrF",
    "keywords": "要点の語（前→後）/ key terms named",
}
