"""Numbers by hand, and rules that name a planted shortcut and stay silent on honest data."""

import random

import pytest

from adslm_helpers.dataset.statistics import describe, describe_table, surface_rules


def row(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def honest(n, seed=0):
    """Pairs whose sides come from one distribution: nothing tells them apart."""
    rng = random.Random(seed)
    letters = "あいうえおかきくけこさしすせそアイウエオ商品広告新着便利、。！ー「」123ABC"
    text = lambda: "".join(rng.choice(letters) for _ in range(rng.randrange(18, 26)))  # noqa: E731
    return [row(f"商品{number // 2}の見出し", text(), text()) for number in range(n)]


def test_describe_counts_by_hand():
    rows = [row("p", "aaaa", "b"), row("p", "aa", "bbb"), row("q", "aaaa", "b"), row("p", "aa", "bbb")]
    stats = describe(rows)
    assert stats["rows"] == 4 and stats["duplicates"] == 1
    assert stats["distinct"] == {"prompt": 2, "chosen": 2, "rejected": 2, "triple": 3}
    assert stats["chars"]["chosen"] == {"min": 2, "median": 3, "mean": 3, "p95": 4, "max": 4}
    assert stats["length_ratio"] == {"chars": 1.5} and stats["chosen_longer"] == 0.5


def test_tokens_are_counted_without_special_tokens():
    def tokenizer(texts, add_special_tokens):
        assert add_special_tokens is False
        return {"input_ids": [[1] * (2 * len(text)) for text in texts]}

    rows = [row([{"role": "user", "content": "p"}], "aaaa", "b"), row("q", "aa", "b")]
    stats = describe(rows, tokenizer)
    assert stats["tokens"]["chosen"]["max"] == 8 and stats["length_ratio"]["tokens"] == 3.0
    table = describe_table(stats)
    assert table.loc[("chosen", "tokens"), "max"] == 8 and table.loc[("rejected", "chars"), "distinct"] == 1
    assert len(table) == 6 and len(describe_table(describe(rows))) == 3


def test_rule_accuracy_is_wins_plus_half_the_ties():
    # "！": 2 pairs with more in rejected, 1 with more in chosen, 1 tie -> (2 + .5) / 4
    rows = [row("p", "い", "あ！"), row("p", "う！", "え！！"), row("p", "お！", "か"), row("p", "き", "く")]
    rule = next(rule for rule in surface_rules(rows) if rule.name == "count of '！'")
    assert (rule.accuracy, rule.side) == (0.625, "rejected")
    # ending: row 1 and the added one for rejected, row 3 for chosen, rows 2 and 4 tie -> (2 + 1) / 5
    ends = next(rule for rule in surface_rules([*rows, row("p", "け", "こ！")], least=0.5) if rule.name == "ends with '！'")
    assert (ends.accuracy, ends.side) == (0.6, "rejected")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("length in characters", lambda text: text + text[:4] + "あい"),
        ("count of '★'", lambda text: text[:5] + "★" + text[6:]),
        ("ends with '☆'", lambda text: text[:-1] + "☆"),
        ("count of 'です'", lambda text: text[:3] + "です" + text[5:]),
        (
            "share of katakana",
            lambda text: text.replace("い", "イ").replace("う", "ウ").replace("か", "カ").replace("き", "キ") + "アアア",
        ),
    ],
)
def test_a_planted_shortcut_is_named_and_an_honest_set_has_none(name, spoil):
    rows = honest(300)
    assert surface_rules(rows, least=0.80) == []
    planted = [row(r["prompt"], r["chosen"], spoil(r["rejected"])) for r in rows]
    found = {rule.name: rule for rule in surface_rules(planted, least=0.80)}
    assert found[name].side == "rejected"
