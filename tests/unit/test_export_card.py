from dataclasses import replace

from adslm_helpers.export.card import CardFacts, model_card
from adslm_helpers.recipe import EMBEDDED, DpoRecipe, load_recipe

METRICS = {
    "heldout_loss": 0.512, "reward_accuracy": 0.9, "reward_accuracy_ci95": [0.8, 0.95], "reward_margin": 1.5,
    "win_rate": 0.71, "win_rate_ci95": [0.62, 0.79], "wins": 30, "ties": 11, "losses": 9, "n_prompts": 25, "n_texts": 50,
    "rubric_pass_base": 0.41, "rubric_pass_base_ci95": [0.3, 0.5], "rubric_pass_tuned": 0.73, "right_product_base": None,
    "right_product_tuned": None, "degenerate_base": 0.1, "degenerate_tuned": 0.02,
}  # fmt: skip
FACTS = CardFacts(
    name="spring-1",
    base="Qwen/Qwen2.5-0.5B-Instruct",
    recipe=load_recipe("tiny", beta=0.3),
    dataset={
        "source": "/home/taro/秘密/ads.csv",
        "rows_in": 1234,
        "dropped": {"duplicate": 4, "empty": 3},
        "split": {"train": 1000, "eval": 227, "eval_prompts": 201},
    },
    result={"pairs": {"train": 998, "eval": 226}, "steps": 250, "seconds": 91.5},
    metrics=METRICS,
    merged_dtype="bfloat16",
)


def test_the_card_says_counts_licence_intervals_and_before_after():
    card = model_card(FACTS)
    for told in (
        "license: apache-2.0", "base_model: Qwen/Qwen2.5-0.5B-Instruct", "Apache-2.0", "1234, 7", "998", "227（prompts: 201）",
        "| `beta` | 0.3 | 0.1 |", "90.0% [80.0%, 95.0%]", "41.0% [30.0%, 50.0%] | 73.0%", "30 wins, 11 ties, 9 losses", "bfloat16",
        "Better:", 'from_pretrained("merged")', 'PeftModel.from_pretrained(model, "adapter")', "comparisons.jsonl",
    ):  # fmt: skip
        assert told in card, told
    assert "names the right product" not in card  # not measured: no row


def test_the_card_holds_no_folder_of_the_data_or_the_base():
    card = model_card(
        replace(
            FACTS,
            base="ours",
            recipe=DpoRecipe(models=("/home/taro/ours",)),
            dataset={**FACTS.dataset, "source": "C:\\秘密\\ads.csv"},
        )
    )
    assert "taro" not in card and "秘密" not in card and "ads.csv" in card and "license: other" in card
    assert "was a local folder" in card and "base_model:" not in card


def test_the_teaching_model_is_called_one():
    assert "teaching model" not in model_card(FACTS)
    card = model_card(replace(FACTS, base=EMBEDDED, dataset={**FACTS.dataset, "source": "sample:500"}))
    assert "教材用のモデル" in card and "Do not advertise" in card and "synthetic" in card and "data/tiny_ad_lm" in card


def test_without_evaluation_no_quality_is_claimed():
    card = model_card(replace(FACTS, metrics=None, merged_dtype=None))
    assert "まだ評価していません" in card and "Not evaluated" in card
    assert "win" not in card.split("## 限界")[0].split("## 評価")[1] and 'from_pretrained("merged")' not in card


def test_a_ruined_model_is_called_ruined():
    assert "Do not use this result" in model_card(replace(FACTS, metrics={**METRICS, "degenerate_tuned": 0.6}))


def test_table_cells_cannot_break_the_table():
    card = model_card(replace(FACTS, dataset={**FACTS.dataset, "source": "hf:a|b\n| c"}))
    assert "| hf:a\\|b \\| c |" in card
