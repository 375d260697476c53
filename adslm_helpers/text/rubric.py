"""The rubric: what an ad must do for its brief, checked by rules. None stands for "the brief does not ask for it"."""

from __future__ import annotations

import unicodedata
from dataclasses import asdict, dataclass

from .brief import parse_brief, prompt_text
from .degenerate import find_degeneration
from .marks import find_claims, has_call_to_action, shouts

CHECKS = {
    "product": ("商品名が正しい", "right product"),
    "appeal": ("訴求点が入っている", "selling point named"),
    "call_to_action": ("行動を促している", "call to action"),
    "length": ("文字数を守っている", "within the length limit"),
    "claims": ("根拠のない断定がない", "no unproven claim"),
    "no_shouting": ("記号で叫んでいない", "no shouting"),
}


@dataclass(frozen=True)
class Judgement:
    """What the rubric says of one text: `checks` by name (None: not asked), what is broken in it, and whether it passes."""

    checks: dict[str, bool | None]
    degenerate: list[str]

    @property
    def passed(self) -> bool:
        """Every check that applies holds, and the text is not degenerate."""
        return not self.degenerate and all(value is not False for value in self.checks.values())

    @property
    def score(self) -> float:
        """Share of the applying checks that hold; 0 for a degenerate text. What win / tie / loss compares."""
        applied = [value for value in self.checks.values() if value is not None]
        return 0.0 if self.degenerate else sum(applied) / len(applied)

    @property
    def failures(self) -> list[str]:
        """Names of the checks that do not hold."""
        return [name for name, value in self.checks.items() if value is False]

    def to_dict(self) -> dict:
        return {**asdict(self), "passed": self.passed, "score": round(self.score, 4), "failures": self.failures}


def judge(prompt: str | list[dict], text: str, *, stopped: bool = True, is_ad: bool = True) -> Judgement:
    """Holds `text` against what `prompt` asks. `is_ad=False` (a question, not a brief) asks for no call to action."""
    brief = parse_brief(prompt)
    plain = unicodedata.normalize("NFKC", text)
    checks = {
        "product": _names(plain, brief.product),
        "appeal": _names(plain, brief.appeal),
        "call_to_action": has_call_to_action(text) if is_ad else None,
        "length": brief.length_fits(text),
        "claims": not find_claims(text),
        "no_shouting": not shouts(text),
    }
    return Judgement(checks, find_degeneration(text, prompt=prompt_text(prompt), stopped=stopped))


def _names(plain: str, wanted: str | None) -> bool | None:
    return None if wanted is None else unicodedata.normalize("NFKC", wanted) in plain
