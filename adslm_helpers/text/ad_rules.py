"""Ad rules as data: which rules of `data/ad_rules.yaml` a text breaks, with the words that break them. A review aid, not legal advice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice

from ..data_files import read_yaml
from ..errors import DataError
from ..foreign_text import brief as shown
from ..recipe_rules import nearest
from .ad_measures import MEASURES
from .folding import Folded

DISCLAIMER_JA = "広告チェックの補助であり、法的助言ではありません"
DISCLAIMER_EN = "A review aid, not legal advice"
SEVERITIES = ("error", "warn", "info")
MOST_PLACES = 50
"""So many places of one rule in one text are told apart; a text that breaks a rule more often is no better known by the rest."""
_NEAR = 12  # characters around a hit in which `error_with` is looked for


@dataclass(frozen=True)
class Breach:
    """One rule that a text breaks: `words` is `text[start:end]` of the text as written; `ja` and `en` say why and what to do."""

    rule: str
    severity: str
    words: str
    start: int
    end: int
    ja: str
    en: str
    source: str


@dataclass(frozen=True)
class Rule:
    """One rule of the data file; the fields are described at its top. `pattern`, `excepted` and `unless` are compiled."""

    id: str
    severity: str
    ja: str
    en: str
    source: str
    platforms: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    not_domains: tuple[str, ...] = ()
    error_in: tuple[str, ...] = ()
    pattern: re.Pattern | None = None
    excepted: re.Pattern | None = None
    unless: re.Pattern | None = None
    unless_brief: re.Pattern | None = None
    error_with: re.Pattern | None = None
    measure: str = ""
    settings: Mapping | None = None
    raw: bool = False
    more_than: int = 0
    fires: tuple = ()
    quiet: tuple = ()

    @property
    def asks_for_domain(self) -> bool:
        return bool(self.domains or self.not_domains or self.error_in)


def find_breaches(
    text: str,
    *,
    platform: str | None = None,
    part: str = "headline",
    domain: str | None = None,
    brief: str = "",
    only: Collection[str] | None = None,
) -> list[Breach]:
    """The breaches of rules in `text`, in the order of the rules, each with its place in the text as written (MOST_PLACES of a rule at most).

    `platform` (google, yahoo, line, meta) adds its lengths and symbols; without one only what holds everywhere. `part`: of the ad, for lengths.
    `domain`: the line of business; where it is None it is guessed from `brief`, and a breach that depends on it says so. `only`: ids of rules.
    Raises DataError for a platform, part or domain that the rules do not know. A review aid, not legal advice.
    """
    guessed = "" if domain else guess_domain(brief) or ""
    rules = _applying(platform, part, domain or guessed, None if only is None else tuple(only))
    folded = Folded(text)
    found: list[Breach] = []
    for rule in rules:
        spans = _spans(rule, folded)
        if spans and not (rule.unless_brief and rule.unless_brief.search(brief)):
            found += [_breach(rule, folded.text, *span, domain or guessed, bool(guessed)) for span in spans]
    return found


def find_ad_breaches(ad: Mapping[str, Sequence[str]], *, platform: str, **settings) -> list[tuple[str, Breach]]:
    """What one whole ad breaks, as (part, breach): its texts by part ({"headline": [...], "description": [...]}), and how many there are.

    On Google, exclamation marks are counted over all texts (part '', places in the texts joined by line feeds). `settings`: domain and brief, as in `find_breaches`.
    """
    found = [
        (part, breach)
        for part, texts in ad.items()
        for t in texts
        for breach in find_breaches(t, platform=platform, part=part, **settings)
    ]
    together = "\n".join(text for texts in ad.values() for text in texts)
    if platform == "google" and not any(breach.rule == "sym.google.excl_count" for _, breach in found):
        found += [("", breach) for breach in find_breaches(together, platform=platform, only=("sym.google.excl_count",))]
    given = Counter(_parts()[part] for part, texts in ad.items() for _ in texts)
    for rule in read_yaml("ad_rules.yaml")["counts"]:
        if rule["platform"] == platform and not rule["at_least"] <= given[rule["part"]] <= rule["at_most"]:
            found.append((rule["part"], _wrong_count(rule, given[rule["part"]])))
    return found


def breach_counts(texts: Mapping[str, Iterable[str]] | Iterable[str], **settings) -> list[dict]:
    """How many texts break each rule, one row per broken rule: rule, severity, a count per side, example, ja, en, source.

    `texts`: by side ({"chosen": [...], "rejected": [...]}), or one list (then the column is 'texts'). `settings` as in `find_breaches`. The
    severity is the worst that was met; most broken first.
    """
    sides = texts if isinstance(texts, Mapping) else {"texts": texts}
    rows: dict[str, dict] = {}
    for side, its_texts in sides.items():
        for text in its_texts:
            worst = {}
            for breach in find_breaches(text, **settings):
                if breach.rule not in worst or _rank(breach) < _rank(worst[breach.rule]):
                    worst[breach.rule] = breach
            for name, breach in worst.items():
                row = rows.setdefault(name, _row(breach, sides))
                row[side] += 1
                row["severity"] = min(row["severity"], breach.severity, key=SEVERITIES.index)
    return sorted(rows.values(), key=lambda row: (SEVERITIES.index(row["severity"]), -sum(row[side] for side in sides)))


def ad_rules() -> list[Rule]:
    """All rules of the data file, compiled, in its order."""
    return list(_rules())


@lru_cache(maxsize=8192)
def guess_domain(brief: str) -> str | None:
    """The line of business that the words of a brief speak of; None where no word of the list stands in it."""
    plain = Folded(brief).plain
    return next((name for name, words in _domain_words() if words.search(plain)), None)


@cache
def _rules() -> tuple[Rule, ...]:
    data = read_yaml("ad_rules.yaml")
    return tuple(_rule(entry, data) for entry in data["rules"])


def _rule(entry: dict, data: dict) -> Rule:
    values = dict(entry)
    measure = dict(values.pop("measure", {}))
    brief_words = values.pop("unless_brief", None)
    excepted, unless, patterns = (values.pop(name, None) for name in ("except", "unless", "patterns"))
    lists = ("platforms", "parts", "domains", "not_domains", "error_in", "fires", "quiet")
    return Rule(
        **{name: tuple(value) if name in lists else value for name, value in values.items() if name != "error_with"},
        pattern=_any_of(patterns),
        excepted=_any_of(excepted),
        unless=_any_of(unless),
        unless_brief=_any_of([data[brief_words]] if brief_words else None),
        error_with=_any_of([entry["error_with"]] if "error_with" in entry else None),
        measure=measure.pop("name", ""),
        settings=measure,
    )


def _any_of(patterns: list[str] | None) -> re.Pattern | None:
    return re.compile("|".join(patterns)) if patterns else None


@lru_cache(maxsize=512)
def _applying(platform: str | None, part: str, domain: str, only: tuple[str, ...] | None) -> tuple[Rule, ...]:
    data = read_yaml("ad_rules.yaml")
    parts = _parts()
    if platform is not None:
        _known("媒体", "platform", platform, data["platforms"])
    _known("広告の部分", "part", part, list(parts))
    if domain:
        _known("業種", "domain", domain, list(data["domains"]))
    for name in only or ():
        _known("規則", "rule", name, [rule.id for rule in _rules()])
    return tuple(
        rule
        for rule in _rules()
        if (only is None or rule.id in only)
        and (not rule.platforms or platform in rule.platforms)
        and (not rule.parts or parts[part] in rule.parts)
        and (not rule.domains or domain in rule.domains)
        and domain not in rule.not_domains
    )


def _known(ja: str, en: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise DataError(
            f"{ja} {shown(value)} の広告ルールはありません。→ {nearest(str(value)[:60], known)}",
            f"The ad rules know no {en} {shown(value)}. -> {nearest(str(value)[:60], known)}",
        )


def _spans(rule: Rule, folded: Folded) -> list[tuple[int, int]]:
    """Where `rule` is broken, as places in the text as written."""
    if rule.measure:
        spans = MEASURES[rule.measure](folded.text, rule.settings, read_yaml("ad_rules.yaml")["as_of"].year)
        return list(islice(spans, MOST_PLACES))
    words = folded.text if rule.raw else folded.plain
    if not rule.pattern.search(words):
        return []
    hits = [found.span() for found in rule.pattern.finditer(words)][rule.more_than :]
    if hits and rule.excepted:
        hits = _outside(hits, [found.span() for found in rule.excepted.finditer(words)])
    if not hits or (rule.unless and rule.unless.search(words)):
        return []
    hits = hits[:MOST_PLACES]
    return hits if rule.raw else [folded.span(*hit) for hit in hits]


def _outside(hits: list[tuple[int, int]], exceptions: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The hits that lie in no exception; both in the order of the text."""
    kept, place = [], 0
    for start, end in hits:
        while place < len(exceptions) and exceptions[place][1] < end:
            place += 1
        if not (place < len(exceptions) and exceptions[place][0] <= start):
            kept.append((start, end))
    return kept


def _breach(rule: Rule, text: str, start: int, end: int, domain: str, guessed: bool) -> Breach:
    near = rule.error_with and rule.error_with.search(Folded(text[max(0, start - _NEAR) : end + _NEAR]).plain)
    severity = "error" if near or domain in rule.error_in else rule.severity
    ja, en = rule.ja, rule.en
    if guessed and rule.asks_for_domain:
        ja, en = f"{ja}（業種 {domain} は依頼文の語からの推定です）", f"{en} (Line of business guessed from the brief: {domain}.)"
    return Breach(rule.id, severity, text[start:end], start, end, ja, en, rule.source)


def _wrong_count(rule: dict, n: int) -> Breach:
    low, high = rule["at_least"], rule["at_most"]
    ja = f"1つの広告の {rule['part']} は {low}〜{high} 本です（今は {n} 本）。"
    en = f"An ad takes {low} to {high} texts of the part {rule['part']}; there are {n}."
    return Breach(rule["id"], "error", "", 0, 0, ja, en, rule["source"])


def _row(breach: Breach, sides: Iterable[str]) -> dict:
    return {
        "rule": breach.rule,
        "severity": breach.severity,
        **dict.fromkeys(sides, 0),
        "example": breach.words,
        "ja": breach.ja,
        "en": breach.en,
        "source": breach.source,
    }


def _rank(breach: Breach) -> int:
    return SEVERITIES.index(breach.severity)


@cache
def _parts() -> dict[str, str]:
    """Every name of a part of an ad -> the name that the rules use."""
    return {alias: name for name, aliases in read_yaml("ad_rules.yaml")["parts"].items() for alias in (name, *aliases)}


@cache
def _domain_words() -> tuple[tuple[str, re.Pattern], ...]:
    return tuple((name, re.compile(words)) for name, words in read_yaml("ad_rules.yaml")["domains"].items())
