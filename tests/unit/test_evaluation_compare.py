"""Before against after: the same seeds on both sides, counts that add up, rates over the texts that a check applies to."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from adslm_helpers.evaluation import compare
from adslm_helpers.evaluation.compare import compare_texts, comparison_metrics, heldout_prompts, outcome
from adslm_helpers.evaluation.verdict import verdict
from adslm_helpers.recipe import recipe_from_dict
from adslm_helpers.text.rubric import CHECKS, judge

PROMPT = "【テーマ】{}の見出しを、子育て中の方向けに30文字以内で書いてください。訴求は「送料無料」です。"
GOOD, NO_CALL, BROKEN = "送料無料の{}。ご注文はこちら", "送料無料の{}。好評です", "！！！！"


def compared(product, base, tuned, prompt=PROMPT, is_ad=True):
    prompt = prompt.format(product)
    base, tuned = base.format(product), tuned.format(product)
    sides = [judge(prompt, text, is_ad=is_ad) for text in (base, tuned)]
    return {
        "prompt": prompt, "seed": 1, "base": base, "tuned": tuned, "outcome": outcome(sides[0].score, sides[1].score),
        "base_judgement": sides[0].to_dict(), "tuned_judgement": sides[1].to_dict(), "reference": None,
    }  # fmt: skip


def test_the_text_that_keeps_more_of_its_brief_wins():
    assert (outcome(0.5, 0.6), outcome(0.6, 0.5), outcome(0.5, 0.5), outcome(0, 1)) == ("win", "loss", "tie", "win")


def test_metrics_by_hand():
    """靴: no call -> good (win). 傘: good -> no call (loss). 鞄: good -> good (tie). 帽子: no call -> broken (loss)."""
    rows = [
        compared("靴", NO_CALL, GOOD),
        compared("傘", GOOD, NO_CALL),
        compared("鞄", GOOD, GOOD),
        compared("帽子", NO_CALL, BROKEN),
    ]
    metrics = comparison_metrics(rows)
    assert [metrics[key] for key in ("wins", "ties", "losses", "n_prompts", "n_texts")] == [1, 1, 2, 4, 4]
    assert metrics["win_rate"] == 0.375  # (1 + 0.5 + 0 + 0) / 4
    assert (metrics["rubric_pass_base"], metrics["rubric_pass_tuned"], metrics["rubric_gain"]) == (0.5, 0.5, 0.0)
    assert (metrics["degenerate_base"], metrics["degenerate_tuned"]) == (0.0, 0.25)
    assert metrics["degenerate_kinds_tuned"].keys() >= {"run", "symbols"} and metrics["degenerate_kinds_base"] == {}
    assert (metrics["right_product_base"], metrics["right_product_tuned"]) == (1.0, 0.75)
    assert metrics["checks_base"]["call_to_action"] == 0.5 and list(metrics["checks_tuned"]) == list(CHECKS)
    for key in ("win_rate", "rubric_pass_base", "rubric_pass_tuned", "rubric_gain"):
        low, high = metrics[f"{key}_ci95"]
        assert low <= metrics[key] <= high


def test_two_answers_to_one_prompt_count_as_texts_but_not_as_prompts():
    metrics = comparison_metrics([compared("靴", NO_CALL, GOOD), compared("靴", GOOD, GOOD)])
    assert (metrics["n_prompts"], metrics["n_texts"], metrics["win_rate"]) == (1, 2, 0.75)
    assert metrics["win_rate_ci95"] == [0.75, 0.75]


def test_a_check_that_no_brief_asks_for_has_no_rate():
    question = "DMPとCDPの違いは何ですか。"
    rows = [compared("", "集めるデータが違います。", "名前と中身が違うものです。", question, is_ad=False)]
    metrics = comparison_metrics(rows)
    assert metrics["right_product_base"] is None and metrics["checks_tuned"]["call_to_action"] is None
    assert metrics["checks_tuned"]["claims"] == 1.0
    mixed = comparison_metrics([*rows, compared("靴", GOOD, GOOD)])
    assert mixed["right_product_tuned"] == 1.0 and mixed["checks_tuned"]["call_to_action"] == 1.0


def test_one_text_for_two_briefs_is_counted_on_its_side():
    rows = [compared(product, GOOD, "送料無料の靴。ご注文はこちら") for product in ("靴", "傘", "鞄")]
    metrics = comparison_metrics(rows)
    assert (metrics["identical_answers_base"], metrics["identical_answers_tuned"]) == (0.0, 1.0)


def rows_of(*prompts):
    return [{"prompt": prompt, "chosen": f"良い{n}", "rejected": f"悪い{n}"} for n, prompt in enumerate(prompts)]


def test_each_held_out_prompt_is_asked_once_in_file_order_with_its_first_chosen_text():
    recipe = recipe_from_dict({"eval_prompts": 2})
    asked = heldout_prompts(rows_of("靴", "靴", "傘", "鞄"), recipe)
    assert asked == [{"prompt": "靴", "reference": "良い0", "is_ad": True}, {"prompt": "傘", "reference": "良い2", "is_ad": True}]


def test_the_questions_of_the_trade_come_on_top_and_are_no_ads():
    asked = heldout_prompts(rows_of("靴"), recipe_from_dict({"eval_prompts": 1, "ask_adtech_questions": True}))
    assert asked[0]["is_ad"] and len(asked) > 5
    assert not any(item["is_ad"] or item["reference"] for item in asked[1:])


def test_dialogues_are_held_apart_by_all_their_messages():
    def dialogue(system):
        return [{"role": "system", "content": system}, {"role": "user", "content": "靴"}]

    asked = heldout_prompts(rows_of(dialogue("a"), dialogue("b"), dialogue("a")), recipe_from_dict({}))
    assert [item["prompt"] for item in asked] == [dialogue("a"), dialogue("b")]


class Model:
    """Knows only whether its adapter is on."""

    def __init__(self):
        self.adapter = True

    @contextmanager
    def disable_adapter(self):
        self.adapter = False
        yield
        self.adapter = True


@pytest.fixture
def calls(monkeypatch):
    made = []

    def generate(model, tokenizer, prompts, **options):
        made.append((model.adapter, list(prompts), options))
        words = GOOD if model.adapter else NO_CALL
        return [SimpleNamespace(text=words.format(n), stopped=n != 1) for n, _ in enumerate(prompts)]

    monkeypatch.setattr(compare, "generate_texts", generate)
    return made


def test_both_sides_answer_the_same_prompts_with_the_same_seeds_and_only_the_base_without_adapter(calls):
    asked = heldout_prompts(rows_of(PROMPT.format(0), PROMPT.format(1)), recipe_from_dict({}))
    rows = compare_texts(Model(), None, asked, recipe_from_dict({"samples_per_prompt": 2, "seed": 7, "temperature": 0.5}))
    assert sorted(adapter for adapter, _, _ in calls) == [False, False, True, True]
    for one, other in (calls[:2], calls[2:]):
        assert one[0] != other[0] and one[1:] == other[1:]  # same prompts, seed, temperature, batches
    seeds = [options["seed"] for _, _, options in calls]
    assert len(set(seeds)) == 2 and calls[0][2]["temperature"] == 0.5
    assert [row["seed"] for row in rows] == [seeds[0], seeds[0], seeds[2], seeds[2]]


def test_a_comparison_holds_both_texts_their_judgements_and_the_reference(calls):
    asked = heldout_prompts(rows_of(PROMPT.format(0), PROMPT.format(1)), recipe_from_dict({}))
    first, second = compare_texts(Model(), None, asked, recipe_from_dict({"samples_per_prompt": 1}))
    assert (first["base"], first["tuned"], first["reference"]) == (NO_CALL.format(0), GOOD.format(0), "良い0")
    assert (
        first["outcome"] == "win"
        and first["base_judgement"]["failures"] == ["call_to_action"]
        and first["tuned_judgement"]["passed"]
    )
    assert second["outcome"] == "tie" and second["tuned_judgement"]["degenerate"] == ["unstopped"]
    assert comparison_metrics([first, second])["degenerate_base"] == 0.5


def test_each_prompt_is_one_witness_of_the_sign_test():
    """靴 wins both times, 傘 once and loses once, 鞄 loses: one prompt won, one tied, one lost."""
    rows = [
        compared("靴", NO_CALL, GOOD),
        compared("靴", NO_CALL, GOOD),
        compared("傘", NO_CALL, GOOD),
        compared("傘", GOOD, NO_CALL),
        compared("鞄", GOOD, NO_CALL),
    ]
    metrics = comparison_metrics(rows)
    assert [metrics[f"{name}_by_prompt"] for name in ("wins", "ties", "losses")] == [1, 1, 1] and metrics["sign_test_p"] == 1.0
    many = comparison_metrics([compared(f"靴{n}", NO_CALL, GOOD) for n in range(6) for _ in range(3)])
    assert many["wins_by_prompt"] == 6 and many["sign_test_p"] == 2 / 2**6


def test_obedience_is_the_share_of_what_the_brief_states():
    """The base keeps 2 of 3 (product, selling point, not the length), the tuned text 3 of 3; a question states nothing."""
    long = "送料無料の{}。" + "毎日の暮らしに寄りそうやさしい履き心地をご用意しました。"
    rows = [compared("靴", long, GOOD), compared("", "答え", "答え", "DMPとCDPの違いは何ですか。", is_ad=False)]
    metrics = comparison_metrics(rows)
    assert (metrics["obedience_base"], metrics["obedience_tuned"]) == (pytest.approx(2 / 3, abs=1e-4), 1.0)
    assert metrics["obedience_difference"] == pytest.approx(1 / 3, abs=1e-4)
    assert comparison_metrics(rows[1:])["obedience_difference"] is None


def test_length_drift_by_hand():
    metrics = comparison_metrics([compared("靴", "靴です", "靴です靴です"), compared("傘", "傘です", "傘です")])
    assert metrics["length_difference"] == 1.5 and metrics["length_ratio"] == 1.5 and metrics["unchanged"] == 0.5
    assert comparison_metrics([compared("靴", "", "靴")])["length_ratio"] is None


def flipped(row):
    swap = {"win": "loss", "loss": "win", "tie": "tie"}
    return {
        **row, "base": row["tuned"], "tuned": row["base"], "outcome": swap[row["outcome"]],
        "base_judgement": row["tuned_judgement"], "tuned_judgement": row["base_judgement"],
    }  # fmt: skip


def test_with_the_sides_swapped_the_verdict_flips():
    rows = [compared(f"靴{n}", NO_CALL if n % 3 else GOOD, GOOD) for n in range(60)]
    there, back = comparison_metrics(rows), comparison_metrics([flipped(row) for row in rows])
    assert verdict(there).code == "better" and verdict(back).code == "worse"
    assert back["win_rate"] == pytest.approx(1 - there["win_rate"], abs=1e-4)
    assert back["sign_test_p"] == there["sign_test_p"] and back["rubric_gain"] == -there["rubric_gain"]


def test_a_model_that_is_its_base_is_within_noise_at_exactly_one_half():
    rows = [compared(f"靴{n}", words, words) for n in range(40) for words in (GOOD, NO_CALL)]
    metrics = comparison_metrics(rows)
    assert metrics["win_rate"] == 0.5 and metrics["win_rate_ci95"] == [0.5, 0.5] and metrics["sign_test_p"] == 1.0
    said = verdict(metrics)
    assert said.code == "within_noise" and metrics["unchanged"] == 1.0 and "hardly moved" in said.next_steps[0][1]


def test_another_adapter_takes_over_the_bases_answers(calls):
    asked = heldout_prompts(rows_of(PROMPT.format(0), PROMPT.format(1)), recipe_from_dict({}))
    recipe = recipe_from_dict({"samples_per_prompt": 2})
    first = compare_texts(Model(), None, asked, recipe)
    del calls[:]
    second = compare_texts(Model(), None, asked, recipe, against=first)
    assert second == first and [adapter for adapter, _, _ in calls] == [True, True]


def test_key_terms_come_along_where_they_are_a_rubric():
    rows = rows_of("DSPとは", "SSPとは", "DMPとは")
    rows[0] |= {"keywords": [["入札"], ["広告主", "買い手"]], "is_ad": False}
    rows[1] |= {"keywords": "入札"}
    rows[2] |= {"keywords": [["入札"], []], "is_ad": None}
    asked = heldout_prompts(rows, recipe_from_dict({}))
    assert [item.get("keywords") for item in asked] == [[["入札"], ["広告主", "買い手"]], None, None]
    assert [item["is_ad"] for item in asked] == [False, True, True]
