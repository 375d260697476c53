"""The instruction in the prompt: where it stands, that it stays whole, and that both branches hold the same pairs and the same answers."""

from types import SimpleNamespace

import jinja2
import pytest

from adslm_helpers.errors import RecipeError
from adslm_helpers.recipe import load_recipe
from adslm_helpers.training.guided.instruction import default_system_message, with_instruction
from adslm_helpers.training.guided.teacher import encode_guided
from adslm_helpers.training.prompts import REASONS

P = "短く書いてください。"
ROW = {"prompt": "家計簿アプリの見出し", "chosen": "今すぐ始める", "rejected": "とても便利です"}
CHAT = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}[assistant]"
WITH_DEFAULT = "{% if messages[0]['role'] != 'system' %}[system]既定です\n{% endif %}" + CHAT
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHAT
SILENT = CHAT.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")


class Letters:
    """A tokenizer with one token a letter and a chat template of the usual kind."""

    all_special_tokens, eos_token_id = ("</s>",), 2

    def __init__(self, template=CHAT):
        self.template = template

    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": [3 + ord(letter) for letter in text]}

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        def refuse(words):
            raise jinja2.TemplateError(words)

        return jinja2.Template(self.template, keep_trailing_newline=True).render(messages=messages, raise_exception=refuse)


def recipe(**changes):
    values = {"engine": "fast", "method": "preference_guided", "preference_text": P, "max_length": 110, "max_prompt_length": 80}
    return load_recipe("smoke", **{**values, **changes})


def taught_text(placement, prompt=ROW["prompt"], template=CHAT):
    plain, taught = encode_guided(Letters(template), [{**ROW, "prompt": prompt}], recipe(preference_placement=placement))
    assert P not in plain.pairs[0].prompt_text
    assert taught[0].prompt_ids == Letters()(taught[0].prompt_text)["input_ids"]
    return taught[0].prompt_text


def test_each_placement_puts_the_instruction_where_it_says():
    brief = ROW["prompt"]
    assert taught_text("user_end") == f"[user]{brief}\n{P}\n[assistant]"
    assert taught_text("system") == f"[system]{P}\n[user]{brief}\n[assistant]"
    assert taught_text("prefix") == f"{P}[user]{brief}\n[assistant]"


def test_the_last_user_turn_of_a_dialogue_is_added_to_and_a_system_message_is_kept():
    turns = [("system", "広告の担当です"), ("user", "こんにちは"), ("assistant", "はい"), ("user", "見出しを")]
    dialogue = [{"role": role, "content": content} for role, content in turns]
    assert (
        taught_text("user_end", dialogue)
        == f"[system]広告の担当です\n[user]こんにちは\n[assistant]はい\n[user]見出しを\n{P}\n[assistant]"
    )
    assert taught_text("system", dialogue).startswith(f"[system]{P}\n広告の担当です\n[user]こんにちは")
    assert dialogue[-1]["content"] == "見出しを", "the rows of the caller are his"


def test_the_system_message_that_a_template_adds_by_itself_is_not_lost():
    """Qwen2.5's template says 'You are Qwen ...' only where a prompt has no system message: the instruction would replace it."""
    assert default_system_message(Letters(WITH_DEFAULT)) == "既定です"
    assert taught_text("system", template=WITH_DEFAULT).startswith(f"[system]{P}\n既定です\n[user]")
    assert [default_system_message(Letters(template)) for template in (CHAT, NO_SYSTEM, SILENT)] == [""] * 3


def test_long_prompts_are_cut_alike_in_both_branches_and_the_instruction_is_never_cut():
    row = {**ROW, "prompt": "むかしむかし、" * 20 + "最後の依頼です"}
    for placement in ("user_end", "system", "prefix"):
        plain, taught = encode_guided(Letters(), [row], recipe(preference_placement=placement))
        pair, other = plain.pairs[0], taught[0]
        kept = pair.prompt_text.removeprefix("[user]").removesuffix("\n[assistant]")
        assert pair.cut_tokens > 0 and len(pair.prompt_ids) <= 80 and plain.shortened == 1
        assert kept.endswith("最後の依頼です") and f"[user]{kept}\n" in other.prompt_text and P in other.prompt_text
        assert len(other.prompt_ids) - len(pair.prompt_ids) >= len(P)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_no_instruction_leaves_both_branches_the_same(text):
    plain, taught = encode_guided(Letters(), [ROW], recipe(preference_text=text))
    assert taught == plain.pairs


def test_pairs_that_one_branch_cannot_hold_leave_both_and_are_counted():
    class Shifting(Letters):
        """Reads what comes after a star differently where the instruction is there, as merges across a boundary do."""

        def __call__(self, text, add_special_tokens=False):
            ids = super().__call__(text)["input_ids"]
            return {"input_ids": [i + 1 for i in ids] if P in text and "★" in text else ids}

    rows = [{**ROW, "chosen": "★"}, ROW, {**ROW, "chosen": "長" * 109}, {**ROW, "chosen": "</s>"}, {**ROW, "chosen": "長" * 30}]
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=69))
    plain, taught = encode_guided(Shifting(), rows, recipe(), model)
    wanted = {"instruction_boundary": 1, "response_too_long": 1, "special_tokens": 1, "instruction_too_long": 1}
    assert dict(plain.dropped) == wanted and set(wanted) <= set(REASONS)
    assert len(plain.lines("train")) == 1 + len(wanted), "every reason has its words"
    (pair,), (other,) = plain.pairs, taught
    assert plain.kept == [1], "what a pair counts for is looked up by its row"
    assert (pair.chosen_ids, pair.rejected_ids) == (other.chosen_ids, other.rejected_ids) and pair.chosen == ROW["chosen"]
    assert len(encode_guided(Shifting(), rows, recipe())[1]) == 2, "without a model nobody asks for its positions"


@pytest.mark.parametrize(
    ("template", "changes", "words"),
    [
        (CHAT, {"preference_text": "終わり</s>です"}, "special token '</s>'"),
        (CHAT, {"preference_text": "短く\udcff"}, "holds what is no text"),
        (NO_SYSTEM, {"preference_placement": "system"}, "takes no system message. -> Set preference_placement to 'user_end'"),
        (SILENT, {"preference_placement": "system"}, "leaves the instruction '短く書いてください。' out"),
    ],
)
def test_an_instruction_that_would_not_arrive_is_refused_in_words(template, changes, words):
    with pytest.raises(RecipeError, match=words):
        encode_guided(Letters(template), [ROW], recipe(**changes))


def test_an_empty_brief_gets_no_empty_line():
    assert with_instruction([{"role": "user", "content": ""}], P, "user_end") == [{"role": "user", "content": P}]
