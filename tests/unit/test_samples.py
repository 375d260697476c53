"""The sample set: as many distinct pairs as asked, each good side good, each worse side worse in its one named way."""

import json
import random
from collections import Counter
from itertools import islice, pairwise

import pytest

from adslm_helpers.data_files import data_path, read_yaml
from adslm_helpers.dataset import samples
from adslm_helpers.dataset.samples import DEFECTS, corpus, draw_brief, grammar_problems, is_unseen, sample_pairs
from adslm_helpers.dataset.surface import surface_rules
from adslm_helpers.errors import DataError
from adslm_helpers.text.rubric import judge

BREAKS = {
    "vague": "appeal",
    "wrong_product": "product",
    "no_call_to_action": "call_to_action",
    "over_length": "length",
    "claim": "claims",
    "shouting": "no_shouting",
}
TINY = {
    "channels": {"見出し": [26], "件名": [24]},
    "audiences": {f"方{n}": {"hooks": ["皆様へ。"], "questions": ["お困り？"]} for n in range(12)},
    "kinds": {"goods": {"appeals": ["送料無料"], "ctas": ["ご注文はこちら"], "extras": ["軽い作りです。", "丈夫です。"]}},
    "products": {"長靴下": {"kind": "goods", "benefits": ["足が温まる"]}, "雨傘": {"kind": "goods", "benefits": ["雨でも歩ける"]}},
    "briefs": ["{product}の{channel}を、{audience}向けに{limit}文字以内で。訴求は「{appeal}」です。"] * 3 + ["{product}の{channel}を、{audience}向けに。"],
    "texts": ["{product}なら{appeal}。{cta}", "{hook}{question}{benefit}{product}なら{appeal}。{cta}"],
    "defects": {"vague": ["便利な{product}。{cta}"], "no_call_to_action": ["{product}なら{appeal}。{ending}"], "claim": ["{claim}{product}。{appeal}。{cta}"]},
    "endings": ["好評です"],
    "claims": ["日本一の"],
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return sample_pairs(1000, seed=0)


@pytest.fixture(scope="module")
def many():
    return sample_pairs(3000, seed=11)


def triple(row):
    return row["prompt"], row["chosen"], row["rejected"]


def test_a_thousand_asked_a_thousand_distinct_given_on_many_prompts(rows):
    assert len(rows) == len({triple(row) for row in rows}) == 1000
    assert len({row["prompt"] for row in rows}) >= 300


def test_three_thousand_asked_three_thousand_distinct_given(many):
    assert len(many) == len({triple(row) for row in many}) == 3000
    assert len({row["prompt"] for row in many}) >= 900


def test_real_data_has_several_pairs_for_a_prompt_and_so_has_the_sample(rows):
    """The split by prompt would be untested where every prompt stands once."""
    assert sum(count > 1 for count in Counter(row["prompt"] for row in rows).values()) > 100


def test_one_seed_one_set():
    assert sample_pairs(60, seed=4) == sample_pairs(60, seed=4)
    assert sample_pairs(60, seed=4) == sample_pairs(90, seed=4)[:60]
    assert not {triple(row) for row in sample_pairs(60, seed=4)} & {triple(row) for row in sample_pairs(60, seed=5)}


def test_every_row_says_that_it_is_made_up_and_what_is_wrong_with_it(rows):
    counts = Counter(row["defect"] for row in rows)
    assert set(counts) == set(DEFECTS) == set(BREAKS) and max(counts.values()) - min(counts.values()) <= 1
    assert all(row["synthetic"] is True for row in rows)
    assert all(row[part] in row["prompt"] for row in rows for part in ("product", "audience", "channel"))


def test_every_chosen_text_passes_the_rubric(many):
    assert [row for row in many if not judge(row["prompt"], row["chosen"]).passed] == []


def test_every_rejected_text_fails_its_named_check_and_no_other(many):
    judged = [(row, judge(row["prompt"], row["rejected"])) for row in many]
    assert [row for row, found in judged if found.failures != [BREAKS[row["defect"]]] or found.degenerate] == []


def test_the_worse_side_is_of_matched_length_and_not_always_the_shorter(many):
    matched = [(len(row["chosen"]), len(row["rejected"])) for row in many if row["defect"] != "over_length"]
    near = sum(abs(chosen - rejected) <= max(6, 0.2 * chosen) for chosen, rejected in matched)
    assert near >= 0.9 * len(matched)
    assert 0.3 < sum(rejected < chosen for chosen, rejected in matched) / len(matched) < 0.7


def test_no_surface_rule_tells_the_sides_apart(rows, many):
    for sample in (rows, many):
        assert [rule for rule in surface_rules(sample) if rule.accuracy >= 0.80] == []


def test_the_teaching_model_never_reads_a_brief_of_the_sample(rows, many):
    assert all(is_unseen(row["product"], row["audience"], row["channel"]) for row in rows + many)
    read = [brief for brief, _, _ in islice(corpus(seed=0), 2000)]
    assert not any(is_unseen(brief.product, brief.audience, brief.channel) for brief in read)
    assert not {brief.prompt for brief in read} & {row["prompt"] for row in rows + many}


def test_one_combination_in_eight_is_kept_out():
    grammar = read_yaml("ad_grammar.yaml")
    sides = [is_unseen(p, a, c) for p in grammar["products"] for a in grammar["audiences"] for c in grammar["channels"]]
    assert 0.10 < sum(sides) / len(sides) < 0.15


def test_the_corpus_marks_its_good_texts_rightly_and_holds_both_kinds():
    texts = list(islice(corpus(seed=3), 1500))
    assert [text for brief, text, good in texts if judge(brief.prompt, text).passed != good] == []
    assert 0.25 < sum(good for _, _, good in texts) / len(texts) < 0.35
    # The teaching model must follow its brief: it rarely reads a text for another product.
    assert sum(judge(brief.prompt, text).checks["product"] for brief, text, _ in texts) > 0.96 * len(texts)


def test_the_grammar_keeps_its_own_rules():
    assert grammar_problems() == []


def test_a_word_that_breaks_the_rules_is_found(monkeypatch):
    world = {
        **TINY,
        "endings": ["今すぐ", "絶対に"],
        "claims": ["よい"],
        "kinds": {"goods": {**TINY["kinds"]["goods"], "ctas": ["好評"]}},
    }
    monkeypatch.setattr(samples, "read_yaml", lambda name: world)
    assert grammar_problems() == ["今すぐ: call to action", "絶対に: claim or shouting", "よい: no claim", "好評: no call"]


def test_products_of_the_grammar_are_not_parts_of_each_other():
    """A rejected text for 英会話 would name the right product when the brief asks for オンライン英会話's shorter sibling."""
    grammar = read_yaml("ad_grammar.yaml")
    names = list(grammar["products"])
    assert len(names) == len(set(names)) >= 50
    assert [(a, b) for a in names for b in names if a != b and a in b] == []
    kinds = Counter(product["kind"] for product in grammar["products"].values())
    assert set(kinds) == set(grammar["kinds"]) and min(kinds.values()) >= 2


def test_the_shipped_file_is_what_the_generator_writes(rows):
    lines = data_path("sample_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1000 and [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize("n", [0, -1])
def test_none_asked_is_a_mistake(n):
    with pytest.raises(DataError, match=f"{n} sample pairs"):
        sample_pairs(n)


def test_more_than_the_world_can_give_is_said_not_waited_for(monkeypatch):
    monkeypatch.setattr(samples, "read_yaml", lambda name: TINY)
    assert len({triple(row) for row in sample_pairs(12)}) == 12
    with pytest.raises(DataError, match=r"distinct pairs, 200 were asked for"):
        sample_pairs(200)


def test_a_brief_can_be_asked_for_with_its_wording():
    rng = random.Random(0)
    briefs = [draw_brief(rng, unseen=True, wording=wording % 4) for wording in range(80)]
    assert [brief.wording for brief in briefs] == [wording % 4 for wording in range(80)]
    assert all(brief.states_limit == (brief.wording != 3) == (f"{brief.limit}文字以内" in brief.prompt) for brief in briefs)
    assert any(one.product != other.product for one, other in pairwise(briefs))
