"""What an ad does wrong or right on its surface: claims without proof, shouting, a call to action. A review aid, not legal advice."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

# Sources: Consumer Affairs Agency report on No.1 claims (2024-09-26); medical advertising standards, section 4-3(5) on guarantees.
_CLAIMS = {
    "no1": re.compile(
        r"No\.?\s?1|ナンバーワン|日本一|世界(?:一|初)|業界(?:一|初|最)|最(?:高|安|強|速)(?!\d)|第1位", re.IGNORECASE
    ),
    "guarantee": re.compile(r"絶対|必ず|100%(?!\s*オフ)|確実に|誰でも"),
}
# A survey named in the text is the proof that a No.1 claim needs.
_PROOF = re.compile(r"※(?=.{0,40}(?:調べ|調査))(?=.{0,40}20\d\d)")
_RUN_OF_MARKS = re.compile(r"[!?★☆♪♥❗‼]\s*[!?★☆♪♥❗‼]")
_CALL = re.compile(
    r"今すぐ|こちら|ダウンロード|ください|始めよう|(?:試そう|しよう|みよう|選ぼう)|(?:見る|試す|始める|選ぶ|予約|注文|チェック|ませんか)[!。★]*$"
    r"|ご(?:注文|予約|購入|相談)を|お(?:試し|申し込み)を"
)


@dataclass(frozen=True)
class Claim:
    """A claim that needs proof: which rule, and the words that broke it."""

    rule: str
    words: str


def find_claims(text: str) -> list[Claim]:
    """Superlatives and guarantees in `text`; none where the text itself names its survey."""
    plain = unicodedata.normalize("NFKC", text)
    if _PROOF.search(plain):
        return []
    return [Claim(rule, found[0]) for rule, pattern in _CLAIMS.items() for found in pattern.finditer(plain)]


def shouts(text: str) -> bool:
    """Two marks in a row, or more than two exclamation marks in one text."""
    plain = unicodedata.normalize("NFKC", text)
    return bool(_RUN_OF_MARKS.search(plain)) or plain.count("!") > 2


def has_call_to_action(text: str) -> bool:
    """Whether the text asks its reader to do something."""
    return bool(_CALL.search(unicodedata.normalize("NFKC", text).strip()))
