"""The split: no prompt on both sides, whatever its width and spaces, and a sensible share however uneven the groups."""

import random

import pytest

from adslm_helpers.dataset.near_duplicates import near_key
from adslm_helpers.dataset.split import prompt_key, split_pairs
from adslm_helpers.errors import DataError


def rows_of(*sizes):
    return [
        {"prompt": f"依頼{group}", "chosen": f"c{n}", "rejected": f"r{n}"}
        for group, size in enumerate(sizes)
        for n in range(size)
    ]


def both_sides(rows, fraction, seed):
    split = split_pairs(rows, fraction, seed)
    return split.train, split.eval


def prompts(rows):
    return {prompt_key(row["prompt"]) for row in rows}


def test_prompts_that_differ_in_width_or_spaces_only_stay_together():
    rows = rows_of(*[3] * 30)
    rows += [
        {**row, "prompt": row["prompt"].replace("依頼", "依頼\u3000").translate({48 + d: 0xFF10 + d for d in range(10)})}
        for row in rows
    ]
    rows += [{**row, "prompt": " 依頼  5\n"} for row in rows[:2]]
    for row in rows[:90]:
        row["prompt"] = row["prompt"].replace("依頼", "依頼 ")
    for seed in range(10):
        train, held = both_sides(rows, 0.15, seed)
        assert not prompts(train) & prompts(held)
        assert len(prompts(train) | prompts(held)) == 30


def test_dialogues_are_grouped_by_all_of_their_messages():
    def row(text):
        return {
            "prompt": [{"role": "system", "content": text}, {"role": "user", "content": "靴"}],
            "chosen": "a",
            "rejected": "b",
        }

    train, held = both_sides([row("一"), row("二"), row("一")], 0.3, 0)
    assert len(train) + len(held) == 3 and not prompts(train) & prompts(held)


def test_the_same_seed_gives_the_same_sides_in_any_row_order():
    rows = rows_of(*range(1, 40))
    expected = prompts(both_sides(rows, 0.15, 7)[1])
    shuffled = rows.copy()
    random.Random(1).shuffle(shuffled)
    held = both_sides(shuffled, 0.15, 7)[1]
    assert prompts(held) == expected
    assert held == [row for row in shuffled if row in held]
    assert any(prompts(both_sides(rows, 0.15, seed)[1]) != expected for seed in range(5))


@pytest.mark.parametrize("seed", range(25))
def test_uneven_groups_hold_out_about_the_share_of_rows_and_never_the_giant(seed):
    sizes = (2119, 862, 358, 70, 67, 43, 20, 19, 7)  # the seed file: a greedy fill takes 60 % or nothing
    train, held = both_sides(rows_of(*sizes), 0.15, seed)
    assert len(train) + len(held) == 3565
    assert 0.12 <= len(held) / 3565 <= 0.15 * 1.15
    assert not {"依頼0", "依頼1"} & prompts(held)


@pytest.mark.parametrize("sizes", [(1, 1), (50, 50), (1, 99), (10, 10, 10), (1,) * 7])
def test_few_groups_still_leave_both_sides_filled(sizes):
    train, held = both_sides(rows_of(*sizes), 0.15, 3)
    assert train and held and len(held) <= len(train)


def test_even_groups_meet_the_share():
    held = both_sides(rows_of(*[2] * 500), 0.15, 0)[1]
    assert len(held) == 150


def test_one_prompt_cannot_be_split():
    with pytest.raises(DataError) as caught:
        both_sides(rows_of(20), 0.15, 0)
    assert "→" in caught.value.ja and "->" in caught.value.en


def pair(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def answers(rows):
    return {near_key(row[side], mask_digits=False) for row in rows for side in ("chosen", "rejected")}


@pytest.mark.parametrize("seed", range(5))
def test_neither_prompts_nor_answers_stand_on_both_sides(seed):
    """Each answer comes back under the next prompt of its group of four: such prompts stay together."""
    rows = [pair(f"依頼{n}", f"文{n // 4}の{n % 4}", f"文{n // 4}の{(n + 1) % 4}！") for n in range(800)]
    split = split_pairs(rows, 0.15, seed)
    assert split.by == "prompt and answer" and split.trustworthy
    assert split.groups == {"train": 200 - split.groups["eval"], "eval": 30}
    assert not answers(split.train) & answers(split.eval) and not prompts(split.train) & prompts(split.eval)
    assert len(split.train) + len(split.eval) == 800 and "応答文も 0 件" in split.statement_ja


def test_an_answer_that_joins_everything_leaves_the_split_to_the_prompts_and_it_says_so():
    rows = [pair(f"依頼{n}", f"文{n}", "便利なアプリです。") for n in range(400)]
    split = split_pairs(rows, 0.15, 0)
    assert (split.by, len(split.eval), split.groups["eval"]) == ("prompt", 60, 60)
    assert "応答文まで分けることはできません" in split.statement_ja and "could not be kept apart" in split.statement_en
    assert split.to_dict()["grouped_by"] == "prompt"


def test_few_large_groups_are_kept_whole_and_not_trusted():
    """Forty groups of ten prompts: sixty held-out prompts would look like evidence, and share their answers with training."""
    rows = [pair(f"依頼{n}", f"文{n % 40}番", f"反対{n}") for n in range(400)]
    split = split_pairs(rows, 0.15, 0)
    assert (split.by, split.groups, split.trustworthy) == ("prompt and answer", {"train": 34, "eval": 6}, False)


def test_prompts_that_differ_in_marks_stay_together_and_in_numbers_do_not():
    rows = [pair(f"依頼{'甲乙丙丁'[n % 4]}{'。' * (n % 2)}", f"c{n}", f"r{n}") for n in range(40)]
    assert split_pairs(rows, 0.3, 0).groups == {"train": 3, "eval": 1}
    assert sum(split_pairs([pair(f"{n}文字以内で", f"c{n}", f"r{n}") for n in range(10, 50)], 0.3, 0).groups.values()) == 40


def test_a_split_of_groups_depends_on_the_seed_not_on_the_order():
    rows = [pair(f"依頼{n // 2}", f"文{n}", f"文{n}の次") for n in range(300)]
    expected = prompts(split_pairs(rows, 0.15, 7).eval)
    shuffled = rows.copy()
    random.Random(1).shuffle(shuffled)
    assert prompts(split_pairs(shuffled, 0.15, 7).eval) == expected
    assert any(prompts(split_pairs(rows, 0.15, seed).eval) != expected for seed in range(5))


def test_fewer_than_twenty_groups_are_not_trusted_and_one_prompt_is_refused():
    assert not split_pairs([pair(f"依頼{n}", f"c{n}", f"r{n}") for n in range(100)], 0.15, 0).trustworthy
    assert split_pairs([pair(f"依頼{n}", f"c{n}", f"r{n}") for n in range(140)], 0.15, 0).trustworthy
    with pytest.raises(DataError):
        split_pairs(rows_of(20), 0.15, 0)


def test_a_shared_answer_between_two_prompts_still_leaves_both_sides_filled():
    split = split_pairs([pair("一", "a", "b"), pair("二", "a", "c")], 0.15, 0)
    assert split.by == "prompt" and len(split.train) == len(split.eval) == 1


def test_one_brief_of_an_ad_log_stays_on_one_side_whatever_channel_its_prompts_name():
    rows = [
        {"prompt": f"「商品{n}」の{channel}を書いてください。", "chosen": f"良い{n}{channel}", "rejected": f"悪い{n}{channel}",
         "brief": f"商品{n}", "origin": "ad_log"}
        for n in range(160) for channel in ("見出し", "説明文")
    ]  # fmt: skip
    for seed in range(5):
        split = split_pairs(rows, 0.15, seed)
        assert not {row["brief"] for row in split.train} & {row["brief"] for row in split.eval} and split.trustworthy


def test_what_people_have_rated_is_not_held_out_again():
    rows = [{"prompt": f"依頼{n}", "chosen": f"良い{n}", "rejected": f"悪い{n}", "rated": n < 60} for n in range(200)]
    for seed in range(5):
        assert not any(row["rated"] for row in split_pairs(rows, 0.15, seed).eval)
    everything = split_pairs([{**row, "rated": True} for row in rows], 0.15, 0)
    assert everything.train and everything.eval
