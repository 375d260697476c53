"""Whether an answer belongs to its own prompt."""

from adslm_helpers.text.relevance import on_topic

TOPICS = ["登山", "珈琲", "陶芸"]
WORDS = [f"{topic}について、読みたくなる文を。{topic}の話" for topic in TOPICS]


def test_answers_about_their_own_prompt_and_about_another():
    answers = ["登山の朝は早い", "珈琲の香り", "陶芸の土"]
    assert on_topic(answers, WORDS, TOPICS) == [True] * 3
    assert on_topic(answers[1:] + answers[:1], WORDS, TOPICS) == [False] * 3


def test_what_all_prompts_say_makes_no_answer_fit():
    assert on_topic(["読みたくなる文を"] * 3, WORDS, TOPICS) == [False] * 3
    assert on_topic(["", "x", "全く別の話"], WORDS, TOPICS) == [False] * 3


def test_with_one_topic_there_is_nothing_to_mistake_it_for():
    assert on_topic(["何でも", ""], WORDS[:1] * 2, TOPICS[:1] * 2) == [True, True]


def test_two_answers_to_one_prompt_share_its_topic():
    assert on_topic(["登山の朝", "登山の夜", "珈琲"], [WORDS[0], WORDS[0], WORDS[1]], ["登山", "登山", "珈琲"]) == [True] * 3


def test_a_word_that_two_topics_share_equally_suits_both():
    words = ["靴の見出し。送料無料", "傘の見出し。送料無料", "鞄の見出し"]
    assert on_topic(["送料無料", "送料無料", "送料無料"], words, ["靴", "傘", "鞄"]) == [True, True, False]
