"""What an ad does wrong or right on its surface: claims without proof, shouting, a call to action. A review aid, not legal advice."""

from __future__ import annotations

import re
import unicodedata

from .ad_rules import Breach, find_breaches

CLAIMS = ("claim.no1", "claim.guarantee")
SHOUTING = ("text.shouting", "text.exclamations")
_CALL = re.compile(
    r"今すぐ|こちら|ダウンロード|ください|始めよう|(?:試そう|しよう|みよう|選ぼう)|(?:見る|試す|始める|選ぶ|予約|注文|チェック|ませんか)[!。★]*$"
    r"|ご(?:注文|予約|購入|相談)を|お(?:試し|申し込み)を"
)


def find_claims(text: str) -> list[Breach]:
    """Superlatives (none where the text itself names its survey) and guarantees in `text`."""
    return find_breaches(text, only=CLAIMS)


def shouts(text: str) -> bool:
    """Two marks in a row, or more than two exclamation marks in one text."""
    return bool(find_breaches(text, only=SHOUTING))


def has_call_to_action(text: str) -> bool:
    """Whether the text asks its reader to do something."""
    return bool(_CALL.search(unicodedata.normalize("NFKC", text).strip()))
