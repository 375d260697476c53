"""Made-up ad briefs with a good and a worse answer: the sample set, and the corpus of the embedded teaching model.

Both come from `data/ad_grammar.yaml` and share no product x audience x channel combination (`is_unseen`), so the teaching
model has never read the briefs that it is tuned and judged on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count

from ..data_files import read_yaml
from ..errors import DataError
from ..text.marks import find_claims, has_call_to_action, shouts

DEFECTS = ("vague", "wrong_product", "no_call_to_action", "over_length", "claim", "shouting")
# In the corpus the wrong product is rare: the teaching model must follow its brief, and still have much else to learn.
_CORPUS_DEFECTS = (
    ("vague",) * 10
    + ("no_call_to_action",) * 10
    + ("over_length",) * 8
    + ("claim",) * 10
    + ("shouting",) * 10
    + ("wrong_product",)
)
_UNSEEN_SHARE = 8  # one combination in eight
_TRIES = 400
_FRUITLESS = 200  # so many pairs in a row that were all there already: the made-up world is used up
# Sampling at temperature 0.8 favours what the model is sure of, and good texts are more alike than poor ones: from a corpus with three good
# texts in ten the model writes good and poor copy about equally often (measured: its model card).
_GOOD_SHARE = 0.3


@dataclass(frozen=True)
class SampleBrief:
    """One brief of the made-up world and its wording; `limit` in characters."""

    product: str
    audience: str
    appeal: str
    channel: str
    limit: int
    wording: int

    @property
    def prompt(self) -> str:
        values = asdict(self)
        return read_yaml("ad_grammar.yaml")["briefs"][self.wording].format(**values)

    @property
    def states_limit(self) -> bool:
        return "{limit}" in read_yaml("ad_grammar.yaml")["briefs"][self.wording]


def is_unseen(product: str, audience: str, channel: str) -> bool:
    """Whether the combination is kept out of the teaching model's corpus (one in eight, by hash)."""
    digest = hashlib.sha256(f"{product}|{audience}|{channel}".encode()).digest()
    return digest[0] % _UNSEEN_SHARE == 0


def sample_pairs(n: int, seed: int = 0) -> list[dict]:
    """`n` distinct pairs, as rows with prompt, chosen, rejected, defect, synthetic and the brief's parts.

    About a third of the pairs share their prompt with another; defects take turns; the rejected side has about the chosen side's length (except
    'over_length'). Raises DataError when `n` is below 1 or above what the made-up world can give.
    """
    rng = random.Random(f"pairs-{seed}")
    rows: list[dict] = []
    seen: set[tuple[str, str, str]] = set()
    briefs: list[SampleBrief] = []
    if n < 1:
        raise DataError(
            f"見本の件数 {n} は 1 以上にしてください。→ 例: 1000", f"{n} sample pairs cannot be made. -> Ask for 1 or more."
        )
    fruitless = 0
    for attempt in count():
        if len(rows) == n:
            return rows
        if fruitless == _FRUITLESS:
            break
        # Every third pair is a second opinion on the brief before: real data has several pairs for a prompt.
        brief = briefs[-1] if attempt % 3 == 2 else draw_brief(rng, unseen=True)
        briefs.append(brief)
        defect = DEFECTS[len(rows) % len(DEFECTS)]
        if defect in ("vague", "over_length") and not brief.states_limit:
            brief = draw_brief(rng, unseen=True, wording=rng.randrange(3))  # the brief must state what the defect breaks
        chosen, rejected = draw_pair(brief, defect, rng)
        fruitless += 1
        if (brief.prompt, chosen, rejected) in seen:
            continue
        fruitless = 0
        seen.add((brief.prompt, chosen, rejected))
        rows.append(
            {"prompt": brief.prompt, "chosen": chosen, "rejected": rejected, "defect": defect, "synthetic": True, **_facts(brief)}
        )
    raise DataError(
        f"見本は {len(rows)} 件までしか作れません（{n} 件を求められました）。→ 件数を減らしてください。",
        f"The made-up world gives {len(rows)} distinct pairs, {n} were asked for. -> Ask for fewer.",
    )


def corpus(seed: int = 0) -> Iterator[tuple[SampleBrief, str, bool]]:
    """Endless (brief, text, is_good) for the teaching model: some texts are good, no brief is one of the sample set's."""
    rng = random.Random(f"corpus-{seed}")
    while True:
        brief = draw_brief(rng, unseen=False)
        if rng.random() < _GOOD_SHARE:
            yield brief, good_text(brief, rng), True
            continue
        defect = rng.choice(_CORPUS_DEFECTS)
        if defect in ("vague", "over_length") and not brief.states_limit:
            defect = "no_call_to_action"
        yield brief, draw_defect(brief, defect, rng), False


def draw_brief(rng: random.Random, *, unseen: bool, wording: int | None = None) -> SampleBrief:
    """A random brief from the sample side (`unseen`) or the corpus side of the made-up world."""
    grammar = read_yaml("ad_grammar.yaml")
    while True:
        product = rng.choice(list(grammar["products"]))
        audience = rng.choice(list(grammar["audiences"]))
        channel = rng.choice(list(grammar["channels"]))
        if is_unseen(product, audience, channel) == unseen:
            break
    kind = grammar["kinds"][grammar["products"][product]["kind"]]
    if wording is None:
        wording = rng.choices(range(len(grammar["briefs"])), weights=(3, 3, 3, 1))[0]
    return SampleBrief(product, audience, rng.choice(kind["appeals"]), channel, rng.choice(grammar["channels"][channel]), wording)


def draw_pair(brief: SampleBrief, defect: str, rng: random.Random) -> tuple[str, str]:
    """A good answer and one with `defect`, of about the same length (over_length: as short as the defect allows)."""
    chosen = good_text(brief, rng)
    candidates = [draw_defect(brief, defect, rng) for _ in range(12)]
    # Each row shows its named defect and no other.
    candidates = [text for text in candidates if (len(text) > brief.limit) == (defect == "over_length")] or candidates
    # The sign of the difference is drawn first: always taking the nearest would leave the worse side shorter on average.
    wish = len(chosen) + rng.choice((-2, -1, 1, 2))
    return chosen, min(candidates, key=lambda text: abs(len(text) - wish))


def good_text(brief: SampleBrief, rng: random.Random) -> str:
    """A text that keeps the brief: product, selling point, call to action, length; no claim, no shouting."""
    longest = brief.limit - 1
    return _draw(brief, read_yaml("ad_grammar.yaml")["texts"], rng, 0.55 * brief.limit, longest)


def draw_defect(brief: SampleBrief, defect: str, rng: random.Random) -> str:
    """A plausible text for the brief with just the named defect."""
    grammar = read_yaml("ad_grammar.yaml")
    low, high = 0.5 * brief.limit, brief.limit - 1
    if defect == "wrong_product":
        return good_text(_with_other_product(brief, rng), rng)
    if defect == "over_length":
        return _draw(brief, grammar["texts"], rng, brief.limit + 3, brief.limit + 18)
    if defect == "shouting":
        text = good_text(brief, rng).replace("！", "。")
        marks = rng.choice(("！！", "！！", "！！！", "★★"))
        return text + marks if rng.random() < 0.5 else text.replace("。", marks, 1)
    return _draw(brief, grammar["defects"][defect], rng, low, high)


def _with_other_product(brief: SampleBrief, rng: random.Random) -> SampleBrief:
    """The same brief, answered as if for another product of its kind."""
    products = read_yaml("ad_grammar.yaml")["products"]
    kind = products[brief.product]["kind"]
    # 英会話アプリ inside オンライン英会話 style overlaps would name the right product after all.
    others = [p for p in products if products[p]["kind"] == kind and p not in brief.product and brief.product not in p]
    return SampleBrief(rng.choice(others), brief.audience, brief.appeal, brief.channel, brief.limit, brief.wording)


def _draw(brief: SampleBrief, templates: list[str], rng: random.Random, low: float, high: float) -> str:
    """A text from one of the templates with a length in [low, high]; the nearest one found when none fits."""
    best, distance = "", float("inf")
    for _ in range(_TRIES):
        text = _fill(brief, rng.choice(templates), rng)
        gap = max(low - len(text), len(text) - high, 0)
        if gap < distance:
            best, distance = text, gap
        if not gap:
            break
    return best


def _fill(brief: SampleBrief, template: str, rng: random.Random) -> str:
    grammar = read_yaml("ad_grammar.yaml")
    product, audience = grammar["products"][brief.product], grammar["audiences"][brief.audience]
    kind = grammar["kinds"][product["kind"]]
    extra, more = rng.sample(kind["extras"], 2)
    appeal = brief.appeal if brief.wording != len(grammar["briefs"]) - 1 else rng.choice(kind["appeals"])
    return template.format(
        product=brief.product,
        appeal=appeal,
        benefit=rng.choice(product["benefits"]),
        cta=rng.choice(kind["ctas"]),
        extra=extra,
        more=more,
        hook=rng.choice(audience["hooks"]),
        question=rng.choice(audience["questions"]),
        ending=rng.choice(grammar["endings"]),
        claim=rng.choice(grammar["claims"]),
    )


def _facts(brief: SampleBrief) -> dict:
    return {"product": brief.product, "audience": brief.audience, "channel": brief.channel}


def grammar_problems() -> list[str]:
    """Words of the grammar that would break its own rules (a hook that shouts, a call to action that is none); a check for tests."""
    grammar = read_yaml("ad_grammar.yaml")
    words = [w for a in grammar["audiences"].values() for w in a["hooks"] + a["questions"]] + grammar["endings"]
    words += [w for kind in grammar["kinds"].values() for w in kind["appeals"] + kind["extras"]]
    words += [w for product in grammar["products"].values() for w in product["benefits"]]
    problems = [f"{w}: call to action" for w in words if has_call_to_action(w)]
    problems += [f"{w}: claim or shouting" for w in words if find_claims(w) or shouts(w)]
    problems += [f"{w}: no claim" for w in grammar["claims"] if not find_claims(w)]
    problems += [f"{c}: no call" for kind in grammar["kinds"].values() for c in kind["ctas"] if not has_call_to_action("。" + c)]
    return problems
