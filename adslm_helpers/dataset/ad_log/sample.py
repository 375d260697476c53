"""Made-up ad logs whose truth is known: to measure how often a label is wrong, and the sample log that ships. Nothing in them is real."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..samples import SampleBrief, draw_brief, draw_pair, good_text

if TYPE_CHECKING:
    from pandas import DataFrame

# Of a public log of headline tests: the prior Beta(43, 1394) within a test, and 13 times its variance between tests.
_CTR, _STRENGTH = 43 / 1437, 1437
_BETWEEN = {"beta": 0.51, "log_odds": 0.585}  # deviation of the log-odds of keys that makes it 13
_WITHIN = 0.15  # deviation of the log-odds of texts in the other world
_SPREAD = 1.2  # deviation of the logarithm of impressions: a few texts run ten times as often as most

HEADER = (
    "日", "キャンペーン", "ブリーフ", "広告グループ", "広告文", "表示回数", "クリック数", "クリック率", "費用", "コンバージョン",
)  # fmt: skip
_WEEKS = ("2026/10/05", "2026/10/12", "2026/10/19")
# What a defect does to the log-odds of a click. A claim draws clicks: that is why a rule, and not the CTR, must keep it out.
_EFFECT = {
    "vague": -0.35,
    "wrong_product": -0.5,
    "no_call_to_action": -0.3,
    "over_length": -0.25,
    "claim": 0.2,
    "shouting": -0.25,
}
_NOISE = 0.08  # what no defect explains
_DEFECTS = ("vague", "wrong_product", "no_call_to_action", "over_length", "shouting")
_CLAIMS_EVERY = 12  # briefs
_ALONE_EVERY = 9  # briefs with one text only
_SCARCE_EVERY = 25  # briefs that hardly ran


@dataclass(frozen=True)
class _Ad:
    brief: SampleBrief
    text: str
    impressions: int
    ctr: float
    cvr: float


def sample_log(
    n_keys: int, arms_per_key: int = 5, median_impressions: float = 300, seed: int = 0, world: str = "beta"
) -> DataFrame:
    """Arms as `read_log` gives them, and `true_ctr`, from which the clicks were drawn. The same seed gives the same log.

    `world`: how the rates of a key's texts differ. 'beta': as `fit_prior` supposes, one strength for all keys. 'log_odds': by the same share
    of the rate in every key, so that the prior is too wide for keys with a low rate and too narrow for others.
    """
    import pandas

    assert world in _BETWEEN, world

    rng = np.random.default_rng(seed)
    key = np.repeat(np.arange(n_keys), arms_per_key)
    odds = np.log(_CTR / (1 - _CTR)) + rng.normal(0, _BETWEEN[world], n_keys)[key]
    if world == "log_odds":
        true = _rate(odds + rng.normal(0, _WITHIN, len(key)))
    else:
        true = rng.beta(_rate(odds) * _STRENGTH, (1 - _rate(odds)) * _STRENGTH)
    n = np.maximum(1, np.rint(np.exp(rng.normal(np.log(median_impressions), _SPREAD, len(key))))).astype(np.int64)
    clicks = rng.binomial(n, true)
    number = np.arange(len(key)) % arms_per_key
    return pandas.DataFrame(
        {
            "brief": np.char.add("商品", key.astype(str)),
            "channel": "",
            "device": "",
            "position": "",
            "period": "",
            "text": np.char.add(np.char.add(key.astype(str), "-"), number.astype(str)),
            "impressions": n,
            "clicks": clicks,
            "conversions": rng.binomial(clicks, 0.05).astype(float),
            "cost": np.round(clicks * 80.0),
            "rows": 1,
            "true_ctr": true,
        }
    )


def _rate(odds):
    return 1 / (1 + np.exp(-odds))


def sample_export(n_briefs: int = 300, seed: int = 0) -> str:
    """A made-up export in the manner of Google Ads in Japanese: CSV with preamble, totals, thousands separators, percent signs.

    Its briefs are those of the sample set's side of the made-up world, each with two good texts and one or two with a defect. Good texts have the higher CTR, texts
    with an unproven claim a higher one still; some briefs have one text, some hardly ran, and four rows are impossible.
    """
    rng = random.Random(f"log-{seed}")
    draw = np.random.default_rng(seed)
    out = io.StringIO()
    out.write("広告レポート（見本。架空のデータです）\n2026年10月1日 - 2026年10月31日\n")
    table = csv.writer(out, lineterminator="\n")
    table.writerow(HEADER)
    totals = np.zeros(4)
    rows = []
    for ad in _ads(n_briefs, rng):
        for week, share in zip(_WEEKS, draw.dirichlet([8] * len(_WEEKS)), strict=True):
            n = round(ad.impressions * share)
            clicks = int(draw.binomial(n, ad.ctr))
            sales, cost = int(draw.binomial(clicks, ad.cvr)), round(clicks * draw.uniform(60, 100))
            totals += (n, clicks, sales, cost)
            rows.append(_line(week, ad, n, clicks, cost, sales))
    for at, row in zip(rng.sample(range(len(rows)), 4), _impossible(rows[0]), strict=True):
        rows.insert(at, row)
    table.writerows(rows)
    n, clicks, sales, cost = (int(total) for total in totals)
    table.writerow(["合計", "", "", "", "", f"{n:,}", f"{clicks:,}", f"{clicks / n:.2%}", f"{cost:,}", f"{sales:,}.00"])
    return out.getvalue()


def _ads(n_briefs: int, rng: random.Random) -> Iterator[_Ad]:
    seen: set[str] = set()
    while len(seen) < n_briefs:
        brief = draw_brief(rng, unseen=True, wording=rng.choice((0, 0, 1, 1, 3)))
        if brief.prompt in seen:
            continue
        seen.add(brief.prompt)
        number = len(seen)
        middle = np.log(_CTR / (1 - _CTR)) + rng.gauss(0, _BETWEEN["beta"])
        usual = 40 if number % _SCARCE_EVERY == 0 else 9000
        sales = rng.uniform(0.02, 0.08)
        for text, effect in _texts(brief, number, rng):
            odds = middle + effect + rng.gauss(0, _NOISE)
            yield _Ad(brief, text, round(usual * np.exp(rng.gauss(0, 0.5))), _rate(odds), sales * np.exp(rng.gauss(0, 0.2)))


def _texts(brief: SampleBrief, number: int, rng: random.Random) -> list[tuple[str, float]]:
    """(text, effect on the log-odds), each text once."""
    if number % _ALONE_EVERY == 0:
        return [(good_text(brief, rng), 0.0)]
    defects = rng.sample([d for d in _DEFECTS if brief.states_limit or d not in ("vague", "over_length")], 1 + number % 2)
    if number % _CLAIMS_EVERY == 0:
        defects[0] = "claim"
    texts: dict[str, float] = {}
    for defect in defects:
        good, worse = draw_pair(brief, defect, rng)
        texts.setdefault(good, 0.0)
        texts.setdefault(worse, _EFFECT[defect])
    if len(defects) == 1:
        texts.setdefault(good_text(brief, rng), 0.0)
    return list(texts.items())


def _line(week: str, ad: _Ad, n: int, clicks: int, cost: int, sales: int) -> list[str]:
    rate = f"{clicks / n:.2%}" if n else " --"
    group = f"{ad.brief.product}_{ad.brief.audience}"
    return [
        week, ad.brief.product, ad.brief.prompt, group, ad.text, f"{n:,}", f"{clicks:,}", rate, f"{cost:,}" if clicks else " --",
        f"{sales}.00",
    ]  # fmt: skip


def _impossible(row: list[str]) -> list[list[str]]:
    """Rows that no ad server can have counted: more clicks than impressions, a negative, no number, nothing."""
    kinds = (("120", "340", "283.33%"), ("-50", "2", " --"), ("多数", "12", " --"), (" --", "7", " --"))
    return [[*row[:5], *kind, " --", "0.00"] for kind in kinds]
