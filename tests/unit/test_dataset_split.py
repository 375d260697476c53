"""The split: no prompt on both sides, whatever its width and spaces, and a sensible share however uneven the groups."""

import random

import pytest

from adslm_helpers.dataset.split import prompt_key, split_by_prompt
from adslm_helpers.errors import DataError


def rows_of(*sizes):
    return [
        {"prompt": f"依頼{group}", "chosen": f"c{n}", "rejected": f"r{n}"}
        for group, size in enumerate(sizes)
        for n in range(size)
    ]


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
        train, held = split_by_prompt(rows, 0.15, seed)
        assert not prompts(train) & prompts(held)
        assert len(prompts(train) | prompts(held)) == 30


def test_dialogues_are_grouped_by_all_of_their_messages():
    def row(text):
        return {
            "prompt": [{"role": "system", "content": text}, {"role": "user", "content": "靴"}],
            "chosen": "a",
            "rejected": "b",
        }

    train, held = split_by_prompt([row("一"), row("二"), row("一")], 0.3, 0)
    assert len(train) + len(held) == 3 and not prompts(train) & prompts(held)


def test_the_same_seed_gives_the_same_sides_in_any_row_order():
    rows = rows_of(*range(1, 40))
    expected = prompts(split_by_prompt(rows, 0.15, 7)[1])
    shuffled = rows.copy()
    random.Random(1).shuffle(shuffled)
    held = split_by_prompt(shuffled, 0.15, 7)[1]
    assert prompts(held) == expected
    assert held == [row for row in shuffled if row in held]
    assert any(prompts(split_by_prompt(rows, 0.15, seed)[1]) != expected for seed in range(5))


@pytest.mark.parametrize("seed", range(25))
def test_uneven_groups_hold_out_about_the_share_of_rows_and_never_the_giant(seed):
    sizes = (2119, 862, 358, 70, 67, 43, 20, 19, 7)  # the seed file: a greedy fill takes 60 % or nothing
    train, held = split_by_prompt(rows_of(*sizes), 0.15, seed)
    assert len(train) + len(held) == 3565
    assert 0.12 <= len(held) / 3565 <= 0.15 * 1.15
    assert not {"依頼0", "依頼1"} & prompts(held)


@pytest.mark.parametrize("sizes", [(1, 1), (50, 50), (1, 99), (10, 10, 10), (1,) * 7])
def test_few_groups_still_leave_both_sides_filled(sizes):
    train, held = split_by_prompt(rows_of(*sizes), 0.15, 3)
    assert train and held and len(held) <= len(train)


def test_even_groups_meet_the_share():
    held = split_by_prompt(rows_of(*[2] * 500), 0.15, 0)[1]
    assert len(held) == 150


def test_one_prompt_cannot_be_split():
    with pytest.raises(DataError) as caught:
        split_by_prompt(rows_of(20), 0.15, 0)
    assert "→" in caught.value.ja and "->" in caught.value.en
