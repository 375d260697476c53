"""Texts that are broken rather than bad. Thresholds calibrated on 14,000 real Japanese ad texts: all lie above the p99.9."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from .residue import echoes, has_residue
from .script import foreign_scripts, lacks_kana, speaks_japanese

LONGEST_RUN = 4
TRIGRAM_REPETITION = 0.35
PERIODICITY = 0.8
SYMBOL_SHARE = 0.6

KINDS = {
    "empty": ("空の文", "empty texts"),
    "unstopped": ("終わらない文", "texts that do not end"),
    "run": ("同じ文字の連続", "one character repeated"),
    "repetition": ("くり返し", "repetition"),
    "period": ("くり返し", "loops"),
    "symbols": ("記号ばかりの文", "symbols only"),
    "language": ("日本語でない文", "texts that are not Japanese"),
    "no_kana": ("かなのない文", "texts without kana"),
    "foreign": ("別の言語の文字", "foreign script"),
    "residue": ("チャット形式の記号の残り", "residue of the chat format"),
    "echo": ("指示の丸写し", "the brief given back"),
}
"""What a text can be broken by, in words."""

_WORD = re.compile(r"\w", re.UNICODE)


def find_degeneration(text: str, *, prompt: str = "", stopped: bool = True) -> list[str]:
    """The names (keys of KINDS) of all that is broken in `text`; empty when nothing is.

    `stopped`: whether the model ended the text itself. `prompt`: what it answers; without one a Japanese brief is taken for granted.
    """
    plain = unicodedata.normalize("NFKC", text).strip()
    if not plain:
        return ["empty"] if stopped else ["empty", "unstopped"]
    checks = {
        "unstopped": not stopped,
        "run": longest_run(text) >= LONGEST_RUN,
        "repetition": len(plain) >= 12 and trigram_repetition(plain) > TRIGRAM_REPETITION,
        "period": len(plain) >= 8 and periodicity(plain) > PERIODICITY,
        "symbols": _share(plain, lambda c: not _WORD.match(c) and not c.isspace()) > SYMBOL_SHARE,
        "language": not speaks_japanese(plain, prompt),
        "no_kana": lacks_kana(plain),
        "foreign": bool(foreign_scripts(plain, prompt)),
        "residue": has_residue(text),
        "echo": echoes(prompt, plain),
    }
    return [name for name, found in checks.items() if found]


def identical_answers(prompts: Collection[str], texts: Collection[str]) -> set[str]:
    """The texts (without the spaces around them) that stand as the answer to two different prompts."""
    first: dict[str, str] = {}
    repeated = set()
    for prompt, text in zip(prompts, texts, strict=True):
        if first.setdefault(text.strip(), prompt) != prompt:
            repeated.add(text.strip())
    return repeated


def longest_run(text: str) -> int:
    """Length of the longest run of one character. The pairs …… and ーー are typography and count as one; 10000円 is a price."""
    longest = run = 0
    previous = ""
    for character in re.sub(r"…{2}", "…", re.sub(r"ー{2}", "ー", text)):
        run = run + 1 if character == previous and not character.isdigit() else 1
        previous = character
        longest = max(longest, run)
    return longest


def trigram_repetition(text: str) -> float:
    """1 - distinct / all character trigrams: 0 for no repetition."""
    trigrams = [text[i : i + 3] for i in range(len(text) - 2)]
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def periodicity(text: str, longest_period: int = 20) -> float:
    """The largest share of positions that repeat the character one period before, over periods 1-20."""
    best = 0.0
    for period in range(1, min(longest_period, len(text) // 2) + 1):
        pairs = len(text) - period
        best = max(best, sum(text[i] == text[i - period] for i in range(period, len(text))) / pairs)
    return best


def _share(text: str, test) -> float:
    return sum(map(test, text)) / len(text)
