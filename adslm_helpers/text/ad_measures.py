"""What the ad rules count and no pattern can: lengths, symbols by kind, pairs of brackets, lists of words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache

from .ad_width import ad_length, end_of_limit

Spans = Iterator[tuple[int, int]]

_PAIRS = dict(zip("「『（(【[［｛{〈《≪＜“", "」』）)】]］｝}〉》≫＞”", strict=True))
_CLOSING = {closing: opening for opening, closing in _PAIRS.items()}
_BRACKET = re.compile(f"[{re.escape(''.join((*_PAIRS, *_CLOSING)))}]")
_SYMBOL = re.compile(r"[^\w\s]|_")
_UNCOUNTED = frozenset("。、・,.") | {"bracket", ""}  # any number of them; brackets are counted as pairs
# Faces and the numbers of a list end in a bracket that nothing opened.
_LONE_CLOSING = re.compile(r"(?:[:;=8xX][-^']?|(?:^|[\s、。：:])[0-9０-９a-zA-Z①-⑳]{1,2})$")
_ARROW = re.compile(r"[=＝\-－ー―>＞]$")
_SEPARATORS = re.compile(r"[\s|｜/／・,，、]+")
_KANA_OF_A_SENTENCE = re.compile(r"[\u3041-\u3096。!?！？…]")
_KANA_NOUN = re.compile(r"おすすめ|お得|お試し")
_LETTER = re.compile(r"[^\W_]")
_NOTE_YEAR = re.compile(r"※.{0,40}")
_YEAR = re.compile(r"(?<!\d)20\d\d")


def length(text: str, settings: dict, year: int) -> Spans:
    """The characters beyond the limit `at_most` (in `unit`)."""
    if ad_length(text, settings["unit"]) > settings["at_most"]:
        yield end_of_limit(text, settings["unit"], settings["at_most"]), len(text)


def yahoo_count(text: str, settings: dict, year: int) -> Spans:
    """Each symbol beyond `at_most` of its kind; ! and ? are one kind, brackets are counted elsewhere."""
    seen: Counter[str] = Counter()
    for symbol in _SYMBOL.finditer(text):
        kind = _symbol_kind(symbol[0])
        if kind not in _UNCOUNTED:
            seen[kind] += 1
            if seen[kind] > settings["at_most"]:
                yield symbol.span()


def yahoo_run(text: str, settings: dict, year: int) -> Spans:
    """Symbols of one kind in succession, spaces between or not, and a bracket that opens right after its own kind closed."""
    left = None
    for right in _SYMBOL.finditer(text):
        if left and not text[left.end() : right.start()].strip():
            kind = _symbol_kind(left[0])
            if kind and kind == _symbol_kind(right[0]) and (kind != "bracket" or _opens_again(left[0], right[0])):
                yield left.start(), right.end()
        left = right


def yahoo_brackets(text: str, settings: dict, year: int) -> Spans:
    """Brackets without a partner of their own kind and width, and every pair beyond `at_most`."""
    yield from _lone_brackets(text, str)
    opened = [bracket.span() for bracket in _BRACKET.finditer(text) if bracket[0] in _PAIRS]
    yield from opened[settings["at_most"] :]


def unmatched_bracket(text: str, settings: dict, year: int) -> Spans:
    """The first bracket without a partner; the width of the two does not matter, nor faces, nor the 1) of a list."""
    for start, end in _lone_brackets(text, _folded_bracket):
        lead = text[max(0, start - 4) : start]
        if not (text[start] in ")）" and _LONE_CLOSING.search(lead)) and not (text[start] == "＞" and _ARROW.search(lead)):
            yield start, end
            return


def keyword_list(text: str, settings: dict, year: int) -> Spans:
    """The whole text, where it is at least `words` words side by side and no sentence: no hiragana, no mark at an end."""
    if len(text) <= 200 and not _KANA_OF_A_SENTENCE.search(_KANA_NOUN.sub("", text)):
        words = [word for word in _SEPARATORS.split(text) if _LETTER.search(word)]
        long = [word for word in words if len(word) > 1]
        if len(words) >= settings["words"] and 2 * len(long) > len(words) and any(not word.isascii() for word in words):
            yield 0, len(text)


def survey_age(text: str, settings: dict, year: int) -> Spans:
    """A note that names years, of which the newest lies more than `years` before `year`."""
    for note in _NOTE_YEAR.finditer(text):
        years = [int(found[0]) for found in _YEAR.finditer(unicodedata.normalize("NFKC", note[0]))]
        if years and ("調べ" in note[0] or "調査" in note[0]) and max(years) < year - settings["years"]:
            yield note.span()


MEASURES: dict[str, Callable[[str, dict, int], Spans]] = {
    one.__name__: one for one in (length, yahoo_count, yahoo_run, yahoo_brackets, unmatched_bracket, keyword_list, survey_age)
}
"""What `measure: {name: ...}` in the rules may name; each takes the text as written, its settings and the year of the rules."""


def _lone_brackets(text: str, kind: Callable[[str], str]) -> Spans:
    open_now: list[tuple[str, int]] = []
    for bracket in _BRACKET.finditer(text):
        character = bracket[0]
        if character in _PAIRS:
            open_now.append((kind(character), bracket.start()))
        elif open_now and open_now[-1][0] == kind(_CLOSING[character]):
            open_now.pop()
        else:
            yield bracket.span()
    for _, place in open_now:
        yield place, place + 1


@lru_cache(maxsize=4096)
def _symbol_kind(character: str) -> str:
    """Symbols of one kind have one name; '' for what only joins a character (marks, selectors)."""
    if character in _PAIRS or character in _CLOSING:
        return "bracket"
    plain = unicodedata.normalize("NFKC", character)
    if unicodedata.category(character)[0] not in "PS":
        return ""
    return "!" if plain[0] in "!?" else plain


def _opens_again(before: str, character: str) -> bool:
    """Whether one bracket follows itself, or opens right after its own kind closed, whatever the widths."""
    return before == character or (
        before in _CLOSING and character in _PAIRS and _folded_bracket(_CLOSING[before]) == _folded_bracket(character)
    )


@lru_cache(maxsize=256)
def _folded_bracket(character: str) -> str:
    return unicodedata.normalize("NFKC", character)
