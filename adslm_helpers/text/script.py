"""Which writing systems a text uses: a Japanese brief wants Japanese, and a Latin brand name or an address is no fault."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

JAPANESE_SHARE = 0.2

_KANA = re.compile(r"[\u3041-\u30ff]")
_JAPANESE = re.compile(r"[\u3041-\u30ff\u3400-\u9fff\U00020000-\U0003ffff々〆ー]")
_KANJI = re.compile(r"[\u4e00-\u9fff]")
# As long as the names of the internet may be: without a bound, a text of one long word takes minutes.
_ADDRESS = re.compile(
    r"(?:https?://|www\.)\S+|\S{1,64}@\S{1,255}|(?<![\w-])[\w-]{1,63}(?:\.[\w-]{1,63}){0,9}\.(?:com|jp|net|org|io)\b(?:/\S*)?",
    re.IGNORECASE,
)
_FOREIGN = {
    "hangul": "[\uac00-\ud7a3]", "cyrillic": "[\u0400-\u052f]", "thai": "[\u0e01-\u0e5b]", "arabic": "[\u0620-\u06ff]",
    "hebrew": "[\u05d0-\u05ea]", "devanagari": "[\u0900-\u097f]",
}  # fmt: skip
# Faces are drawn with single letters of these scripts: (´Д`), ٩(ˊᗜˋ*)و. Two side by side, or three in a text, are writing. No face uses a
# Hangul syllable.
_WRITING = {name: re.compile(letters if name == "hangul" else f"{letters}{letters}|{letters}(?:.*{letters}){{2}}", re.DOTALL) for name, letters in _FOREIGN.items()}  # fmt: skip


def speaks_japanese(text: str, prompt: str = "") -> bool:
    """Whether a text is written in Japanese, as far as its letters tell: addresses, and Latin words that the prompt uses, do not count.

    True for a text without letters, and for every text where the prompt itself holds no Japanese.
    """
    plain, asked = (unicodedata.normalize("NFKC", words) for words in (text, prompt))
    if asked.strip() and not _JAPANESE.search(asked):
        return True
    plain = _ADDRESS.sub(" ", plain)
    for word in set(re.findall(r"[A-Za-z]{2,}", asked)):
        plain = plain.replace(word, " ")
    letters = [character for character in plain if character.isalpha()]
    return not letters or sum(bool(_JAPANESE.match(character)) for character in letters) >= JAPANESE_SHARE * len(letters)


def lacks_kana(text: str) -> bool:
    """Whether a text of 20 characters or more that has kanji holds no kana: a string of kanji, or Chinese."""
    return len(text) >= 20 and bool(_KANJI.search(text)) and not _KANA.search(text)


def foreign_scripts(text: str, prompt: str = "") -> list[str]:
    """Names of the foreign scripts in which something is written in `text`, those that the prompt uses left out.

    hangul, cyrillic, thai, arabic, hebrew, devanagari, or simplified: kanji that Chinese alone uses (in GB 2312, not in JIS X 0213).
    """
    plain, asked = (unicodedata.normalize("NFKC", words) for words in (text, prompt))
    found = [name for name, pattern in _WRITING.items() if pattern.search(plain) and not re.search(_FOREIGN[name], asked)]
    if any(_is_simplified(character) and character not in asked for character in plain):
        found.append("simplified")
    return found


@lru_cache(maxsize=8192)
def _is_simplified(character: str) -> bool:
    """The two standards decide, not a list of ours: 2,278 kanji."""
    return bool(_KANJI.match(character)) and _encodes(character, "gb2312") and not _encodes(character, "euc_jis_2004")


def _encodes(character: str, standard: str) -> bool:
    try:
        character.encode(standard)
    except UnicodeEncodeError:
        return False
    return True
