"""What is wrong with single texts: they break their brief, an ad rule or an encoding, are not Japanese, or are broken."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from ...text.ad_rules import find_breaches
from ...text.brief import Brief, parse_brief, prompt_text, whole_prompt
from ...text.characters import FAULTS, character_faults
from ...text.degenerate import KINDS, find_degeneration
from .finding import EXAMPLES, Finding, examples_of, pair_examples, place_of, quoted
from .shortcuts import sample
from .words import finding

MOST_ROWS = 50_000
"""Of more rows a sample is judged: a share of 1 % is then known to within 0.1 points."""
LANGUAGE = ("language", "no_kana", "foreign")
_KEPT, _MARGIN, _FAR = 0.9, 0.05, 0.2
_MANY, _SOME = 0.2, 10  # one chosen text in five, and not by chance: below, they are to be looked at one by one
_ASKED = {
    "length": ("文字数の指定", "the stated length"),
    "product": ("商品名", "the product"),
    "appeal": ("訴求", "the selling point"),
    "required": ("使う言葉の指定", "words to use"),
    "forbidden": ("使わない言葉の指定", "words to avoid"),
}


def obedience(rows: Sequence[dict]) -> dict[str, dict[str, list[int | None]]]:
    """For each thing that prompts ask (keys of Brief.kept): whether each side keeps it, by row; None where it is not asked."""
    briefs: dict[str, Brief] = {}
    kept: dict[str, dict[str, list[int | None]]] = defaultdict(
        lambda: {side: [None] * len(rows) for side in ("chosen", "rejected")}
    )
    for number, row in enumerate(rows):
        prompt = whole_prompt(row["prompt"])
        brief = briefs.get(prompt) or briefs.setdefault(prompt, parse_brief(row["prompt"]))
        for side in ("chosen", "rejected"):
            for name, value in brief.kept(row[side]).items():
                kept[name][side][number] = int(value)
    return kept


def find_disobedience(rows: Sequence[dict]) -> list[Finding | None]:
    """Constraints of the prompts that chosen keeps less often than rejected; the length also where chosen often breaks it."""
    worse = []
    for name, sides in obedience(rows).items():
        numbers = [n for n, value in enumerate(sides["chosen"]) if value is not None]
        chosen, rejected = (sum(sides[side][n] for n in numbers) / len(numbers) for side in ("chosen", "rejected"))
        if chosen < rejected - _MARGIN or (name == "length" and chosen < _KEPT):
            broken = [n for n in numbers if not sides["chosen"][n]]
            worse.append((name, chosen, rejected, len(numbers), broken))
    length = [found for found in worse if found[0] == "length"]
    words = [found for found in worse if found[0] != "length"]
    return [_disobeyed("length_disobeyed", rows, length), _disobeyed("words_disobeyed", rows, words)]


def _disobeyed(code: str, rows: Sequence[dict], found: list[tuple]) -> Finding | None:
    if not found:
        return None
    found.sort(key=lambda one: one[1] - one[2])
    ja = "、".join(f"{_ASKED[name][0]}を守るのは chosen の {c:.0%}、rejected の {r:.0%}（{n:,}行）" for name, c, r, n, _ in found)
    en = "; ".join(f"{c:.0%} of chosen and {r:.0%} of rejected keep {_ASKED[name][1]} ({n:,} rows)" for name, c, r, n, _ in found)
    _, chosen, rejected, _, broken = found[0]
    return finding(
        code, "error" if chosen < rejected - _FAR else "warn", round(chosen, 4),
        f"{ja}です。", f"{en}.", pair_examples(rows, broken),
    )  # fmt: skip


def find_character_faults(rows: Sequence[dict]) -> list[Finding | None]:
    """Mojibake (and lost characters); width and invisible characters. Every text is looked at."""
    hits: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, row in enumerate(rows):
        for side in ("prompt", "chosen", "rejected"):
            for fault in character_faults(whole_prompt(row[side])):
                hits[fault].append((number, side))
    return [
        _characters("mojibake", rows, hits, ("mojibake", "replacement"), (0.05, 0.0)),
        _characters("width", rows, hits, ("invisible", "halfwidth_kana", "mixed_digits", "decomposed"), (1.1, 0.01)),
    ]


def _characters(
    code: str, rows: Sequence[dict], hits: dict, faults: tuple[str, ...], bounds: tuple[float, float]
) -> Finding | None:
    counts = {fault: len({number for number, _ in hits[fault]}) for fault in faults if fault in hits}
    if not counts:
        return None
    places = sorted({place for fault in counts for place in hits[fault]})
    number = len({row for row, _ in places})
    ja = "、".join(f"{FAULTS[fault][0]} {count:,}" for fault, count in counts.items())
    en = ", ".join(f"{FAULTS[fault][1]} {count:,}" for fault, count in counts.items())
    return finding(
        code, _graded(number / len(rows), *bounds), number,
        f"文字に問題のある行が {number:,} 行あります（{ja}）。", f"{number:,} rows have faulty characters ({en}).",
        [f"{place_of(rows[n], n)}: {side} {quoted(rows[n][side])}" for n, side in places[:EXAMPLES]],
    )  # fmt: skip


def find_broken_texts(rows: Sequence[dict]) -> list[Finding | None]:
    """Chosen texts that are not Japanese where the prompt is, and such as are broken."""
    looked, sampled = sample(rows, MOST_ROWS)
    kinds = [find_degeneration(row["chosen"], prompt=prompt_text(row["prompt"])) for row in looked]
    foreign = [n for n, found in enumerate(kinds) if set(found) & set(LANGUAGE)]
    broken = [n for n, found in enumerate(kinds) if set(found) - set(LANGUAGE)]
    words = [{KINDS[kind][0]: KINDS[kind][1] for kind in found if kind not in LANGUAGE} for found in kinds]
    counts = Counter(pair for found in words for pair in found.items())
    ja = "、".join(f"{kind} {count:,}" for (kind, _), count in counts.most_common())
    en = ", ".join(f"{kind} {count:,}" for (_, kind), count in counts.most_common())
    return [
        finding(
            "language", _graded(len(foreign) / len(looked)), len(foreign),
            f"日本語の依頼に日本語でない chosen が答えている行が {len(foreign):,} 行あります{sampled[0]}。",
            f"In {len(foreign):,} rows a Japanese prompt is answered by a chosen text that is not Japanese{sampled[1]}.",
            examples_of(looked, foreign),
        ) if foreign else None,
        finding(
            "degenerate", _graded(len(broken) / len(looked)), len(broken),
            f"chosen が壊れた文の行が {len(broken):,} 行あります（{ja}）{sampled[0]}。",
            f"{len(broken):,} rows have a broken chosen text ({en}){sampled[1]}.",
            examples_of(looked, broken),
        ) if broken else None,
    ]  # fmt: skip


def chosen_breaches(row: dict, breaches: Callable[[str], list] | None = None) -> list:
    """What the chosen text breaks of the ad rules, by `breaches(text)`, or by `find_breaches` with the prompt as its brief.

    A row with `is_ad` False (a question of the trade, not a brief) breaks none.
    """
    if row.get("is_ad") is False:
        return []
    return breaches(row["chosen"]) if breaches else find_breaches(row["chosen"], brief=prompt_text(row["prompt"]))


def find_breaking_texts(rows: Sequence[dict], breaches: Callable[[str], list] | None = None) -> Finding | None:
    """Chosen texts that break an ad rule (`chosen_breaches`)."""
    looked, sampled = sample(rows, MOST_ROWS)
    found = [chosen_breaches(row, breaches) for row in looked]
    hit = [n for n, those in enumerate(found) if those]
    if not hit:
        return None
    serious = [n for n in hit if any(breach.severity == "error" for breach in found[n])]
    counts = Counter(rule for those in found for rule in {breach.rule for breach in those})
    rules = ", ".join(f"{rule} {count:,}" for rule, count in counts.most_common(5))
    share = len(serious) / len(looked)
    shown = [*serious, *(n for n in hit if n not in set(serious))][:EXAMPLES]
    return finding(
        "ad_rules", "error" if share >= _MANY and len(serious) >= _SOME else "warn" if serious else "info", len(hit),
        f"広告の規則に触れるおそれのある chosen が {len(hit):,} 行、うち重いもの（error）が {len(serious):,} 行あります（{rules}）{sampled[0]}。",
        f"{len(hit):,} chosen texts may break ad rules, {len(serious):,} of them seriously (error) ({rules}){sampled[1]}.",
        [f"{place_of(looked[n], n)}: {_worst(found[n]).rule}「{_worst(found[n]).words}」 {quoted(looked[n]['chosen'])}" for n in shown],
    )  # fmt: skip


def _worst(breaches: list):
    return next((breach for breach in breaches if breach.severity == "error"), breaches[0])


def _graded(share: float, error: float = 0.1, warn: float = 0.01) -> str:
    return "error" if share >= error else "warn" if share >= warn else "info"
