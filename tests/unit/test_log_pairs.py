"""From arms to pairs: what is kept, why the rest is not, and that nothing is lost on the way."""

import numpy as np
import pandas as pd
import pytest

from adslm_helpers.dataset.ad_log.candidates import SMALL, candidate_pairs
from adslm_helpers.dataset.ad_log.pairs import PairRules, pairs_from_log
from adslm_helpers.dataset.ad_log.posterior import p_better
from adslm_helpers.dataset.ad_log.prompts import prompt_from_key
from adslm_helpers.dataset.ad_log.sample import sample_log
from adslm_helpers.dataset.ad_log.support import needed_impressions
from adslm_helpers.dataset.rows import Place, RawRow
from adslm_helpers.dataset.validate import validate
from adslm_helpers.errors import DataError
from adslm_helpers.text.brief import parse_brief

KEY = {"brief": "家計簿アプリ", "channel": "", "device": "", "position": "", "period": ""}


def arm(text, n, clicks, **key):
    return {**KEY, **key, "text": text, "impressions": n, "clicks": clicks, "conversions": np.nan, "cost": np.nan, "rows": 1}


def log_of(*arms):
    return pd.DataFrame(list(arms))


CLEAR = log_of(
    arm("よい文", 10_000, 600),
    arm("悪い文", 10_000, 200),
    arm("別の文", 10_000, 590),
    arm("ほかの依頼の文", 10_000, 30, brief="加湿器"),
)


def balanced(result):
    count = result.counted
    assert count["pairs"] == count["kept"] + sum(result.dropped.values()) and count["kept"] == len(result.rows)
    assert all(result.dropped.values())
    return result


def test_a_clear_difference_is_a_pair_and_an_unclear_one_is_counted():
    result = balanced(pairs_from_log(CLEAR))
    assert {(row["chosen"], row["rejected"]) for row in result.rows} == {("よい文", "悪い文"), ("別の文", "悪い文")}
    assert result.counted == {"arms": 4, "keys": 2, "pairs": 3, "kept": 2} and result.dropped == {"below_p": 1}
    assert all(row["prompt"] == "【テーマ】家計簿アプリの広告文を書いてください。" for row in result.rows)


def test_texts_of_two_briefs_are_never_compared():
    """Between briefs the CTR differs by things that no text has to do with."""
    apart = log_of(arm("よい文", 10_000, 900), arm("悪い文", 10_000, 10, brief="加湿器"))
    result = balanced(pairs_from_log(apart))
    assert result.counted["pairs"] == 0 and result.needed["keys_with_one_text"] == 2
    for part in ("channel", "device", "position", "period"):
        assert pairs_from_log(log_of(arm("よい文", 9999, 900), arm("悪い文", 9999, 10, **{part: "x"}))).counted["pairs"] == 0


def test_rows_say_what_they_rest_on_and_are_pair_rows():
    result = pairs_from_log(CLEAR)
    row = next(row for row in result.rows if row["chosen"] == "よい文")
    assert (row["n_a"], row["clicks_a"], row["n_b"], row["clicks_b"]) == (10_000, 600, 10_000, 200)
    assert row["p_win"] > 0.99 and row["brief"] == "家計簿アプリ" and "channel" not in row
    checked = validate(RawRow(row, Place("log", at, "row")) for at, row in enumerate(result.rows, 1))
    assert len(checked.pairs) == len(result.rows) and not checked.notes


def test_the_lift_is_shrunk_and_the_truth_is_near_it():
    log = sample_log(1500, 5, 3000, seed=2)
    true = dict(zip(log.text, log.true_ctr, strict=True))
    rows = pairs_from_log(log).rows
    raw = np.mean([(row["clicks_a"] / row["n_a"]) / max(row["clicks_b"] / row["n_b"], 1e-9) - 1 for row in rows])
    shrunk, truth = (
        np.mean([row["lift"] for row in rows]),
        np.mean([true[row["chosen"]] / true[row["rejected"]] - 1 for row in rows]),
    )
    assert shrunk < 0.85 * raw and shrunk == pytest.approx(truth, rel=0.15)


def test_the_expected_false_share_is_what_comes_out():
    log = sample_log(4000, 5, 1500, seed=3)
    true = dict(zip(log.text, log.true_ctr, strict=True))
    result = balanced(pairs_from_log(log))
    wrong = np.mean([true[row["chosen"]] < true[row["rejected"]] for row in result.rows])
    assert len(result.rows) > 1500 and wrong == pytest.approx(result.expected_false_share, abs=0.01)


def test_texts_that_do_not_differ_give_no_pair_and_the_reason():
    rng = np.random.default_rng(1)
    n = rng.integers(200, 400, 400)
    log = log_of(*(arm(f"文{i}", n[i], rng.binomial(n[i], 0.03), brief=f"依頼{i // 4}") for i in range(400)))
    result = balanced(pairs_from_log(log))
    assert result.rows == [] and result.dropped == {"below_p": 600}
    assert [finding.code for finding in result.warnings] == ["no_pairs"] and result.warnings[0].severity == "error"
    assert "0 組" in result.lines()[0] and "supports 0 pairs" in result.lines()[1]


@pytest.mark.parametrize("empty", [log_of(arm("文", 100, 3)).iloc[:0], log_of(arm("文", 0, 0), arm("別の文", 0, 0))])
def test_a_log_without_anything_is_answered_not_crashed(empty):
    result = balanced(pairs_from_log(empty))
    assert result.rows == [] and result.warnings


def test_a_key_without_clicks_says_nothing():
    result = pairs_from_log(log_of(arm("一", 10**6, 0), arm("二", 10, 0), arm("三", 500, 20, brief="加湿器")))
    assert result.dropped == {"no_click_in_key": 1} and result.needed["keys_without_click"] == 1


def test_a_text_that_breaks_a_rule_is_never_chosen_but_may_be_rejected():
    log = log_of(arm("日本一の文", 10_000, 900), arm("よい文", 10_000, 500), arm("日本一の悪い文", 10_000, 100))
    result = balanced(pairs_from_log(log, gate=lambda text: ["claim.no1"] if "日本一" in text else []))
    assert [(row["chosen"], row["rejected"]) for row in result.rows] == [("よい文", "日本一の悪い文")]
    assert result.dropped == {"policy:claim.no1": 2}


def test_keys_of_one_prompt_that_disagree_give_no_pair_and_agreeing_ones_give_one():
    """The prompt does not name the month: the model would be taught both ways, or twice the same."""
    months = [arm("甲", 9000, 300 + 300 * (m != 9), period=f"2026-{m:02}") for m in (8, 9)]
    months += [arm("乙", 9000, 450, period=f"2026-{m:02}") for m in (8, 9)]
    result = balanced(pairs_from_log(log_of(*months)))
    assert result.rows == [] and result.dropped == {"contradicted": 2}
    same = [arm(text, 9000, clicks, period=f"2026-{m:02}") for m in (8, 9) for text, clicks in (("甲", 600), ("乙", 300))]
    assert balanced(pairs_from_log(log_of(*same))).dropped == {"repeated": 1}
    named = PairRules(template="{brief}の広告文を書いてください（{period}）。")
    assert balanced(pairs_from_log(log_of(*months), named)).counted["kept"] == 2


def test_one_text_is_in_no_more_pairs_than_the_caps_say():
    log = log_of(*(arm(f"文{i}", 10**6, 10_000 + 2000 * i) for i in range(12)))
    result = balanced(pairs_from_log(log, PairRules(max_pairs_per_text=3)))
    uses = pd.Series([row[side] for row in result.rows for side in ("chosen", "rejected")]).value_counts()
    assert uses.max() == 3 and result.dropped == {"capped": 66 - len(result.rows)}
    everywhere = [arm(t, 9000, c, brief=f"依頼{i}") for i in range(8) for t, c in (("いつもの文", 900), (f"文{i}", 300))]
    result = balanced(pairs_from_log(log_of(*everywhere), PairRules(max_uses_of_text=5)))
    assert result.counted["kept"] == 5 and result.dropped == {"capped_overall": 3}


def test_the_expected_false_share_stays_below_its_bound_where_p_is_lowered():
    log = sample_log(1200, 5, 1000, seed=5)
    strict, loose = PairRules(p_win=0.8), PairRules(p_win=0.8, max_false_share=0.15)
    result = balanced(pairs_from_log(log, strict))
    assert 0.045 < result.expected_false_share <= 0.05 and result.dropped["false_share"] > 50
    assert 0.05 < pairs_from_log(log, loose).expected_false_share <= 0.15


def test_the_order_of_the_log_changes_nothing():
    log = sample_log(200, 6, 10**6, seed=6)
    assert pairs_from_log(log).rows  # with many P of exactly 1
    shuffled = log.sample(frac=1, random_state=1)

    def found(table):
        return sorted(
            (row["chosen"], row["rejected"], row["p_win"]) for row in pairs_from_log(table, PairRules(max_pairs_per_text=1)).rows
        )

    assert found(log) == found(shuffled) and found(log)


def test_a_key_with_thousands_of_texts_grows_with_the_texts_and_says_what_it_left():
    sizes = [1500, 15_000]
    looked = [sum(len(first) for first, _ in candidate_pairs(np.array([size]))) for size in sizes]
    assert looked[1] / looked[0] == pytest.approx(10, rel=0.02) and looked[0] <= 6 * 1500
    n, rate = 20_000, np.linspace(0.02, 0.04, 1500)
    clicks = np.random.default_rng(7).binomial(n, rate)
    result = balanced(pairs_from_log(log_of(*(arm(f"文{i}", n, c) for i, c in enumerate(clicks)))))
    assert result.counted["pairs"] == 1500 * 1499 // 2 and result.dropped["not_considered"] == result.counted["pairs"] - looked[0]
    assert result.counted["kept"] > 500 and "not_considered" in [finding.code for finding in result.warnings]


@pytest.mark.parametrize("sizes", [[2, 1, 5], [17, 16, 40], [1, 1], []])
def test_candidates_are_distinct_pairs_within_their_key(sizes):
    ends = np.cumsum(sizes)
    pairs = [pair for first, second in candidate_pairs(np.array(sizes, int)) for pair in zip(first, second, strict=True)]
    assert len(pairs) == len(set(pairs))
    assert all(one < two and np.searchsorted(ends, one, "right") == np.searchsorted(ends, two, "right") for one, two in pairs)
    if all(size <= SMALL for size in sizes):
        assert len(pairs) == sum(size * (size - 1) // 2 for size in sizes)


def test_what_a_log_would_need_is_right_four_times_in_five():
    """At that many impressions a text, the usual gap is found with P >= .95 in 80 % of draws."""
    strength, rate = 1500.0, 0.03
    needed = needed_impressions(strength, rate)
    n, half = needed["impressions_per_text"], rate * needed["typical_gap"] / 2
    rng = np.random.default_rng(8)
    better, worse = rng.binomial(n, rate + half, 4000), rng.binomial(n, rate - half, 4000)
    found = p_better(better, n, worse, n, rate * strength, (1 - rate) * strength) >= 0.95
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_a_log_that_supports_few_pairs_says_what_more_would_take():
    result = balanced(pairs_from_log(sample_log(300, 4, 300)))
    found = result.warnings[0]
    assert (found.code, found.severity, found.number) == ("few_pairs", "warn", len(result.rows)) and 0 < len(result.rows) < 100
    assert 8000 < result.needed["impressions_per_text"] < 25_000 and "000 impressions a text" in found.en


def test_a_ctr_winner_that_sells_less_is_named():
    log = log_of(arm("釣り", 20_000, 2000), arm("まじめ", 20_000, 1000), arm("ふつう", 20_000, 990))
    log["conversions"] = [10.0, 100.0, 95.0]
    result = balanced(pairs_from_log(log))
    assert [finding.code for finding in result.warnings if finding.code == "ctr_winner_loses_cvr"]
    assert all(row["p_cvr_worse"] > 0.9 for row in result.rows if row["chosen"] == "釣り")
    log["conversions"] = [200.0, 100.0, np.nan]
    assert "ctr_winner_loses_cvr" not in [finding.code for finding in pairs_from_log(log).warnings]


def test_prompts_read_as_briefs_and_instructions_are_left_alone():
    assert prompt_from_key({**KEY, "channel": "見出し"}) == "【テーマ】家計簿アプリの見出しを書いてください。"
    prompt = prompt_from_key({**KEY, "channel": "Google 検索"})
    assert prompt == "【テーマ】家計簿アプリの広告文を書いてください。媒体：Google 検索。"
    assert parse_brief(prompt).product == "家計簿アプリ"
    whole = "家計簿アプリの見出しを、大学生向けに26文字以内で書いてください。"
    assert prompt_from_key({**KEY, "brief": whole, "channel": "見出し"}) == whole
    assert prompt_from_key({**KEY, "brief": "{brief} {0}"}) == "【テーマ】{brief} {0}の広告文を書いてください。"


@pytest.mark.parametrize(
    ("template", "named"),
    [("{brif}を書く", "brief"), ("{brief} {chanel}", "channel"), ("{brief.__class__}", "brief"), ("{brief!r}", ""), ("広告文を書く", "{brief}"), ("{brief", "brief")],
)  # fmt: skip
def test_a_template_that_cannot_be_filled_is_refused_in_words(template, named):
    with pytest.raises(DataError) as caught:
        PairRules(template=template)
    assert named in caught.value.en and "→" in caught.value.ja


@pytest.mark.parametrize("wrong", [{"p_win": 0.5}, {"p_win": 1.0}, {"max_pairs_per_text": 0}, {"max_false_share": 1.5}])
def test_rules_out_of_range_are_refused(wrong):
    with pytest.raises(DataError):
        PairRules(**wrong)


def test_a_table_that_is_no_log_is_refused():
    for table, word in ((CLEAR.drop(columns="clicks"), "clicks"), (log_of(arm("文", 5, 9)), "9")):
        with pytest.raises(DataError) as caught:
            pairs_from_log(table)
        assert word in caught.value.en


def test_the_gate_is_asked_of_the_texts_that_won_wherever_they_stand_in_the_log():
    """The arms are worked on in another order than the log's; the text with the most clicks stands last in each key here."""
    log = log_of(
        *(arm(f"商品{key}の文{text}", 20_000, 200 + 200 * text, brief=f"商品{key}") for key in (2, 0, 1) for text in range(3))
    )
    asked = []
    result = balanced(pairs_from_log(log, gate=lambda text: asked.append(text) or []))
    assert set(asked) == {row["chosen"] for row in result.rows} and all("文0" not in text for text in asked)
