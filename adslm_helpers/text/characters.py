"""What is wrong with the characters of a text (mojibake, width, what cannot be seen), and the same text with that mended."""

from __future__ import annotations

import re
import unicodedata

FAULTS = {
    "mojibake": ("文字化け", "mojibake"),
    "replacement": ("失われた文字（U+FFFD）", "lost characters (U+FFFD)"),
    "invisible": ("見えない文字", "invisible characters"),
    "halfwidth_kana": ("半角カナ", "half-width kana"),
    "mixed_digits": ("全角と半角の数字の混在", "full-width and half-width digits in one text"),
    "decomposed": ("分解された濁点など（NFC でない）", "decomposed characters (not NFC)"),
}
"""What can be wrong, in words. Only 'replacement', and mojibake whose bytes are lost, cannot be mended."""

# UTF-8 read as CP932 (縺ゅ, 繧, 繝), UTF-8 read as Latin-1 or CP1252 (ã‚, ãƒ, â€), Shift_JIS read as CP1252 (‚±‚ñ, ƒAƒv), the control
# characters of Latin-1. One of them may be what somebody means: two, or one in a text that reads as Japanese in another encoding, are not.
_UTF8_AS_CP932 = re.compile("[縺繧繝][\uff61-\uff9fぁ-ん一-龥]?")
_UTF8_AS_LATIN = re.compile("ã[\u0080-\u00bf‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸ€]|[äåæçèéï][\u0080-\u00bf‚-›€]{2}|â€|Â[\u00a0-\u00bf]")
_CP932_AS_LATIN = re.compile("[‚ƒ][\u0080-\u00ffA-z‚-›]")
_MOJIBAKE = (_UTF8_AS_CP932, _UTF8_AS_LATIN, _CP932_AS_LATIN, re.compile("[\x80-\x9f]"))
# (what the text was read as, what its bytes are)
_MISREAD = (("cp932", "utf-8"), ("cp1252", "utf-8"), ("cp1252", "cp932"))
# Zero-width space and non-joiner, word joiner, byte order mark, soft hyphen, direction marks. The joiner holds emoji together and may stay
# there; the Persian non-joiner has no use in Japanese.
_EMOJI = "\u2600-\u27bf\ufe0f\U0001f000-\U0001faff"
_INVISIBLE = re.compile(
    f"[\u200b\u200c\u2060\ufeff\u00ad\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|(?<![{_EMOJI}])\u200d|\u200d(?![{_EMOJI}])"
)
_KANA = re.compile("[\uff61-\uff9f]+")
_FULL_DIGITS = re.compile("[０-９]")
_HALF_DIGITS = re.compile("[0-9]")
_TO_HALF = {ord("０") + digit: ord("0") + digit for digit in range(10)}
_SUSPECT = re.compile("[^\n -~ぁ-んァ-ー一-龥々、。！？「」（）・]")
_JAPANESE = re.compile("[ぁ-んァ-ー一-龥]")


def character_faults(text: str) -> list[str]:
    """The names (keys of FAULTS) of all that is wrong with the characters of `text`; empty when nothing is."""
    if text.isascii():
        return []
    checks = {
        "mixed_digits": bool(_FULL_DIGITS.search(text) and _HALF_DIGITS.search(text)),
        "mojibake": _is_mojibake(text),
    }
    if _SUSPECT.search(text):
        checks |= {
            "replacement": "\ufffd" in text,
            "invisible": bool(_INVISIBLE.search(text)),
            "halfwidth_kana": bool(_KANA.search(text)),
            "decomposed": not unicodedata.is_normalized("NFC", text),
        }
    return [name for name in FAULTS if checks.get(name)]


def mended(text: str) -> str:
    """`text` with its characters mended: mojibake where the bytes are whole, NFC, full-width kana, one width of digits, all visible.

    Nothing is made up: what was lost stays lost. `mended(mended(text)) == mended(text)`.
    """
    if text.isascii():
        return text
    text = recovered(text)
    if _is_mojibake(text):
        return text  # a change to it could lose the bytes for good
    text = _INVISIBLE.sub("", text)
    text = _KANA.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)
    text = unicodedata.normalize("NFC", text)
    return text.translate(_TO_HALF) if _FULL_DIGITS.search(text) and _HALF_DIGITS.search(text) else text


def recovered(text: str) -> str:
    """`text` read in the right encoding, where it is mojibake whose bytes are whole; else as it is."""
    while (better := _right_reading(text)) is not None:  # each is shorter than the one before
        text = better
    return text


def _is_mojibake(text: str) -> bool:
    return any(len(pattern.findall(text)) >= 2 for pattern in _MOJIBAKE) or _right_reading(text) is not None


def _right_reading(text: str) -> str | None:
    if not any(pattern.search(text) for pattern in _MOJIBAKE):
        return None
    readings = (_reread(text, wrong, right) for wrong, right in _MISREAD)
    return next((reading for reading in readings if reading and _is_better(reading, text)), None)


def _reread(text: str, wrong: str, right: str) -> str | None:
    """The bytes behind `text`, read as `right`; None where they do not come out whole both ways."""
    try:
        found = b"".join(_byte(character, wrong) for character in text)
        return found.decode(right)
    except UnicodeError:
        return None


def _byte(character: str, encoding: str) -> bytes:
    """Browsers and spreadsheets turn the five bytes that CP1252 leaves open into control characters."""
    if encoding == "cp1252" and "\x80" <= character <= "\x9f":
        return character.encode("latin-1")
    return character.encode(encoding)


def _is_better(reading: str, text: str) -> bool:
    """Whether it is shorter, and Japanese: by chance, bytes hardly ever make that."""
    return len(reading) < len(text) and len(_JAPANESE.findall(reading)) >= max(2, len(reading) / 3)
