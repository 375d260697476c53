"""Each fault is made and found by its own code; honest, shuffled and shipped data are not accused; the known files fail as known."""

import json
import os
import random
import string
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adslm_helpers.data_files import data_path
from adslm_helpers.dataset.audit.audit import audit
from adslm_helpers.dataset.audit.finding import Finding
from adslm_helpers.dataset.audit.leaks import random_split_leak
from adslm_helpers.dataset.audit.words import WORDS
from adslm_helpers.dataset.formats import read_rows
from adslm_helpers.dataset.split import split_pairs
from adslm_helpers.dataset.validate import validate
from adslm_helpers.errors import DataError
from adslm_helpers.run import read_jsonl

SEED = Path(os.environ.get("ADSLM_SHARED") or Path(__file__).parents[3] / "shared") / "data" / "adtech_seed"
needs_seed = pytest.mark.skipif(not SEED.exists(), reason="the seed data is not beside this clone")


def row(prompt, chosen, rejected, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def honest(n=400, seed=0):
    """Pairs whose sides come from one distribution, two to a prompt."""
    rng = random.Random(seed)
    letters = "あいうえおかきくけこさしすせそたちつてとなにぬねのアイウエオ商品広告新着便利、。ー"
    # It ends in a noun: a particle at the end would break an ad rule.
    text = lambda: "".join(rng.choice(letters) for _ in range(rng.randrange(18, 26))) + rng.choice("店品靴傘")  # noqa: E731
    names = [letters[i] + letters[j] + "店" for i in range(20) for j in range(20, 40)]
    return [row(f"{names[k // 2 % len(names)]}の見出しを書いてください", text(), text()) for k in range(n)]


def found(rows, *args, **more):
    return {finding.code: finding for finding in audit(rows, *args, **more).findings}


def shuffled(rows, seed=0):
    rng = random.Random(seed)
    return [r if rng.random() < 0.5 else {**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows]


def test_honest_data_have_no_finding_and_may_be_trusted():
    rows = honest()
    result = audit(rows, split_pairs(rows, 0.15, 0))
    assert result.findings == [] and result.trustworthy and result.passed
    assert result.counts["prompts"] == 200 and result.counts["eval_groups"] >= 20
    assert "見つかりません" in result.verdict_ja and "Nothing" in result.verdict_en


def test_the_shipped_sample_and_its_shuffled_labels_are_not_accused():
    """Its defects are made by rules, so letters alone go far: a warning with its number, and no error."""
    rows = read_jsonl(data_path("sample_pairs.jsonl"))
    result = audit(rows)
    assert result.passed and result.trustworthy
    assert {f.code for f in result.findings if f.severity == "warn"} <= {"prompt_blind"}
    assert not {"surface_rule", "prompt_blind", "length_imbalance"} & found(shuffled(rows[:500]), breaches=lambda text: []).keys()


def test_few_prompts_are_an_error_only_where_many_rows_hide_it():
    many = [{**r, "prompt": f"{'甲乙丙丁'[n % 4]}店の見出し"} for n, r in enumerate(honest(200))]
    assert (found(many)["few_prompts"].severity, found(many)["few_prompts"].number) == ("error", 4)
    assert found(many[:30])["few_prompts"].severity == "warn"
    assert "50 × 「甲店の見出し」" in found(many)["few_prompts"].examples


def test_few_answers_name_those_that_come_back():
    same = [{**r, "rejected": "便利なアプリです。"} for r in honest(200)]
    finding = found(same)["few_rejected"]
    assert (finding.severity, finding.number, finding.examples) == ("error", 1, ["200 × 「便利なアプリです。」"])


def test_a_mark_at_the_end_is_a_shortcut_by_rule_and_by_probe():
    spoilt = [{**r, "rejected": r["rejected"] + "！"} for r in honest(300)]
    result = found(spoilt)
    assert result["surface_rule"].severity == "error" and "末尾が「！」" in result["surface_rule"].ja
    assert result["prompt_blind"].severity == "error" and "「！」→ rejected" in result["prompt_blind"].ja


def test_what_no_single_feature_tells_the_probe_does():
    """Each rejected text holds one of twelve phrases: no rule has 80 %, letters together have nearly all."""
    rng = random.Random(1)
    phrases = [a + b for a in "ゑゐヱヰ" for b in "ゞヾゝ"]
    spoilt = [{**r, "rejected": r["rejected"][:9] + rng.choice(phrases) + r["rejected"][11:]} for r in honest(600)]
    result = found(spoilt)
    assert "surface_rule" not in result and result["prompt_blind"].severity == "error"


def test_length_is_compared_in_characters_and_in_tokens():
    rows = [{**r, "chosen": r["chosen"] * 4} for r in honest(100)]
    assert found(rows)["length_imbalance"].severity == "error" and "4.1 倍" in found(rows)["length_imbalance"].ja

    def tokenizer(texts, add_special_tokens):
        return {"input_ids": [[1] * (len(text) * (2 if text.isascii() else 1)) for text in texts]}

    latin = [{**r, "chosen": "".join(random.Random(n).choices(string.ascii_letters, k=22))} for n, r in enumerate(honest(100))]
    assert "length_imbalance" not in found(latin)
    assert "トークン数で 2.0 倍" in found(latin, tokenizer=tokenizer)["length_imbalance"].ja


def test_constraints_that_rejected_keeps_better():
    briefs = "商品：ゆめ枕\n訴求：送料無料\n{n}店の見出しを20文字以内で。「安眠」を使って、「絶対」は使わずに書いてください"
    texts = [
        ("絶対に眠れる長い長い見出しを書いてしまった例", "ゆめ枕は送料無料。安眠へ"),
        ("ゆめ枕は送料無料。安眠に", "絶対だめ"),
    ]
    rows = [row(briefs.format(n=n), *texts[n % 4 == 3]) for n in range(40)]
    result = found(rows)
    assert (result["length_disobeyed"].severity, result["length_disobeyed"].number) == ("error", 0.25)
    for word in ("商品名", "訴求", "使う言葉", "使わない言葉"):
        assert f"{word}" in result["words_disobeyed"].ja
    assert "chosen の 25%、rejected の 75%" in result["words_disobeyed"].ja


def test_copies_near_copies_and_contradictions():
    rows = honest(100)
    assert found(rows, dropped_duplicates=50)["duplicates"].number == 50
    assert found([*rows, rows[0]])["duplicates"].number == 1
    other = {**rows[3], "chosen": rows[3]["chosen"] + "！", "rejected": rows[3]["rejected"].replace("、", " ")}
    assert found([*rows, other])["near_duplicates"].number == 1
    assert found([*rows, {**rows[0], "chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}])["reversed_pairs"].number == 1
    ring = [row("輪の店の見出し", a, b) for a, b in ("甲乙", "乙丙", "丙甲", "戊甲", "甲丁")]  # the last two lead in and out
    ladder = [row("段の店の見出し", a, b) for a, b in ("甲乙", "乙丙", "甲丙")]
    assert found([*rows, *ring, *ladder])["contradictions"].number == 3


def test_characters_language_and_broken_texts():
    rows = honest(100)
    spoilt = list(rows)
    spoilt[0] = {**rows[0], "chosen": "送料無料の靴".encode().decode("latin-1")}
    spoilt[1] = {**rows[1], "rejected": "ｱﾌﾟﾘで\u200b時短"}
    spoilt[2] = {**rows[2], "chosen": "The best shoes for your daily walk."}
    spoilt[3] = {**rows[3], "chosen": "ねねねねねねねねねねねね", "source": "team.csv:12", "id": "ab12"}
    result = found(spoilt)
    assert result["mojibake"].number == 1 and "row 1: chosen" in result["mojibake"].examples[0]
    assert result["width"].number == 1 and "半角カナ 1" in result["width"].ja and "見えない文字 1" in result["width"].ja
    assert "row 3" in result["language"].examples[-1]
    assert result["degenerate"].examples[1:] == ["team.csv:12 (ab12): chosen 「ねねねねねねねねねねねね」"]


def test_ad_rules_are_counted_on_ads_only_and_by_any_judge():
    rows = [{**r, "chosen": r["chosen"][:10] + "業界最安値の店"} for r in honest(60)]
    assert "claim.no1" in found(rows)["ad_rules"].en and found(rows)["ad_rules"].severity == "error"
    assert "ad_rules" not in found([{**r, "is_ad": False} for r in rows])

    def judge(text):
        return [SimpleNamespace(rule="house.word", severity="warn", words="店")]

    finding = found(honest(60), breaches=judge)["ad_rules"]
    assert (finding.severity, finding.number) == ("info", 60) and "house.word「店」" in finding.examples[0]


def test_leaks_are_told_by_prompt_answer_and_likeness():
    rows = honest(300)
    train, held = rows[:250], rows[250:]
    same_prompt = {**held[0], "prompt": train[0]["prompt"].replace("の", " の ")}
    same_answer = {**held[1], "chosen": train[1]["chosen"] + "！"}
    near_answer = {**held[2], "rejected": "ぴ" + train[2]["rejected"][1:]}
    result = found([*train, *held], (train, [same_prompt, same_answer, near_answer, *held[3:]]))
    assert (result["prompts_on_both_sides"].severity, result["prompts_on_both_sides"].number) == ("error", 0.02)
    assert result["answers_on_both_sides"].number == 0.02 and result["near_answers_on_both_sides"].number == 0.02


def test_few_groups_take_the_promise_back():
    rows = honest(60)
    result = audit(rows, (rows[:40], rows[40:]))
    assert not result.trustworthy and result.counts["eval_groups"] == 10
    assert "約束できません" in result.verdict_ja and "not promised" in result.verdict_en
    # many held-out groups that share their answers with training are worth no more
    rows = honest(300)
    known = [{**r, "chosen": rows[n]["chosen"]} for n, r in enumerate(rows[240:])]
    result = audit(rows, (rows[:240], known))
    assert result.counts["eval_groups"] >= 20 and not result.trustworthy and "半分以上が学習側にも" in result.verdict_ja


def test_the_leak_of_a_random_split_by_hand():
    # three rows of one prompt, one of another; half held out: a row of the three is safe with chance 1/4
    rows = [row("甲", "a", "b"), row("甲", "c", "d"), row("甲", "e", "f"), row("乙", "g", "h")]
    assert random_split_leak(rows, 0.5) == 3 * 0.75 / 4


def test_one_prompt_and_no_rows():
    assert not audit([row("一つの依頼", f"あ{n}", f"い{n}") for n in range(5)]).trustworthy
    with pytest.raises(DataError):
        audit([])


def test_every_finding_says_what_it_does_and_how_to_mend_it_in_both_languages():
    assert all(all(words[:4]) for words in WORDS.values())
    rows = [{**r, "rejected": r["rejected"] + "！"} for r in honest(120)]
    result = audit(rows)
    for finding in result.findings:
        assert finding.effect_ja and finding.cure_en and 1 <= len(finding.examples) <= 3
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["findings"][0]["severity"] == "error"
    text = "\n".join(result.lines())
    assert "[要対処]" in text and "[ERROR]" in text and "→" in text and "->" in text


def test_the_page_escapes_what_the_data_hold():
    rows = [{**r, "chosen": "<script>alert(1)</script>", "rejected": "\x1b[31m赤"} for r in honest(60)]
    page = audit(rows)._repr_html_()
    assert "<script>" not in page and "\x1b" not in page and "&lt;script&gt;" in page
    assert "<b>" not in "".join(Finding("x", "warn", 1, "<b>", "").lines()).replace("<b>", "", 1)


def test_long_sets_are_sampled_and_say_so(monkeypatch):
    monkeypatch.setattr("adslm_helpers.dataset.audit.shortcuts.MOST_PAIRS", 100)
    monkeypatch.setattr("adslm_helpers.dataset.audit.texts.MOST_ROWS", 100)
    rows = [{**r, "rejected": r["rejected"] + "！", "chosen": "ねねねねねねねね" + r["chosen"][:9]} for r in honest(300)]
    result = found(rows)
    assert "（100行の標本で）" in result["surface_rule"].ja and "sample of 100 rows" in result["degenerate"].en


def test_long_texts_are_sampled_more_thinly_and_one_very_long_text_is_read(monkeypatch):
    monkeypatch.setattr("adslm_helpers.dataset.audit.shortcuts._MOST_CHARACTERS", 10_000)
    assert "標本" in found([{**r, "chosen": r["chosen"] * 2} for r in honest(600)])["surface_rule"].ja
    rows = [row(f"{name}の店", "長い。" * 5_000, "短い。") for name in "甲乙"]
    assert {"length_imbalance", "degenerate"} <= found(rows).keys()


def test_what_takes_long_is_announced(monkeypatch):
    said = []
    audit(honest(40), say=said.append)
    assert said == []
    monkeypatch.setattr("adslm_helpers.dataset.audit.audit._SLOW", 40)
    audit(honest(40), say=said.append)
    assert len(said) >= 5 and all("監査" in line and "Audit" in line for line in said)


@needs_seed
def test_the_known_set_fails_for_its_six_reasons_and_no_other():
    read = validate(read_rows(SEED / "pairs_v3.jsonl"))
    result = audit(read.pairs, split_pairs(read.pairs, 0.15, 42), dropped_duplicates=read.dropped["duplicate"])
    errors = {f.code: f for f in result.findings if f.severity == "error"}
    assert errors.keys() == {"few_prompts", "few_rejected", "surface_rule", "prompt_blind", "length_disobeyed", "few_eval_groups"}
    assert errors["few_prompts"].number == 9 and errors["few_rejected"].number == 29
    assert errors["surface_rule"].number >= 0.95 and "！" in errors["surface_rule"].ja and errors["prompt_blind"].number >= 0.95
    assert "chosen の 28%、rejected の 100%" in errors["length_disobeyed"].ja
    assert "100% の行のプロンプトが学習側にも" in errors["few_eval_groups"].ja and not result.trustworthy
    codes = found(shuffled(read.pairs[::6]))
    assert not {"surface_rule", "prompt_blind", "few_rejected"} & codes.keys() and codes["length_disobeyed"].severity == "warn"


@needs_seed
def test_the_older_set_fails_for_its_copies_and_its_endings():
    read = validate(read_rows(SEED / "pairs_v1.jsonl"))
    result = found(read.pairs, dropped_duplicates=read.dropped["duplicate"])
    assert (result["duplicates"].number, result["duplicates"].severity) == (2284, "error")
    assert result["surface_rule"].number == 1.0 and "末尾が「！」（多い方が chosen: 100.0%）" in result["surface_rule"].ja


@needs_seed
def test_the_small_sets_are_told_for_their_length():
    pairs = validate(read_rows(SEED / "sample5_adtech_qa.jsonl")).pairs
    result = {f.code: f for f in audit(pairs).findings if f.severity == "error"}
    assert result.keys() == {"length_imbalance"} and round(result["length_imbalance"].number) == 7


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXTS}), min_size=1, max_size=2
)


@given(st.lists(st.builds(row, st.one_of(TEXTS, MESSAGES), TEXTS, TEXTS), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_text_and_any_dialogue_is_audited(rows):
    result = audit(rows)
    assert json.dumps(result.to_dict(), allow_nan=False) and result._repr_html_() and result.counts["rows"] == len(rows)
    assert all(len(finding.examples) <= 3 for finding in result.findings)
