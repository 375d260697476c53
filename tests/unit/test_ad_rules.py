"""Ad rules: the data file keeps its own examples, hits are found in the text as written, nothing is slow, nothing is unknown."""

import datetime
import json
import random
from collections import Counter

import pytest

from adslm_helpers.data_files import data_path, read_yaml
from adslm_helpers.errors import DataError
from adslm_helpers.text.ad_measures import MEASURES
from adslm_helpers.text.ad_rules import MOST_PLACES, SEVERITIES, ad_rules, breach_counts, find_breaches, guess_domain
from adslm_helpers.text.ad_width import ad_length, characters, half_width
from adslm_helpers.text.folding import Folded

RULES = {rule.id: rule for rule in ad_rules()}


def names(text, **settings):
    return [breach.rule for breach in find_breaches(text, **settings)]


def example(rule, one):
    """(text, settings, severity or None) of an example; it speaks of the rule's first platform and part unless it says otherwise."""
    one = {"text": one} if isinstance(one, str) else dict(one)
    text, severity = one.pop("text"), one.pop("severity", None)
    return text, {"platform": (*rule.platforms, None)[0], "part": (*rule.parts, "headline")[0], **one}, severity


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_keeps_its_examples(rule):
    for kind in ("fires", "quiet"):
        for one in getattr(rule, kind):
            text, settings, severity = example(rule, one)
            found = [b for b in find_breaches(text, **settings) if b.rule == rule.id and severity in (None, b.severity)]
            assert bool(found) == (kind == "fires"), f"{text} {settings} {found}"


def test_the_file_is_dated_and_every_rule_is_complete():
    data = read_yaml("ad_rules.yaml")
    assert isinstance(data["as_of"], datetime.date)
    assert len(RULES) == len(data["rules"]) >= 40
    for rule in RULES.values():
        assert rule.severity in SEVERITIES and rule.source and rule.ja and rule.en and rule.fires and rule.quiet, rule.id
        assert rule.ja.endswith(("。", "）")) and rule.en.endswith("."), rule.id
        assert (rule.pattern is None) == bool(rule.measure), f"{rule.id} needs patterns or a measure"
        assert not rule.measure or rule.measure in MEASURES
        assert set(rule.platforms) <= set(data["platforms"]) and set(rule.parts) <= set(data["parts"]), rule.id
        assert {*rule.domains, *rule.not_domains, *rule.error_in} <= set(data["domains"]), rule.id


@pytest.mark.parametrize(
    "text", ["最大10社の査定額を比較", "最大75%OFF", "入金保証100%の口座", "虫歯の治療なら駅前の歯科", "インプラント治療の医院"]
)
def test_what_real_ads_rightly_say_is_no_error(text):
    assert [b for b in find_breaches(text) if b.severity == "error"] == []


def test_no_good_text_of_the_sample_breaks_a_rule_and_its_named_defects_do():
    rows = [json.loads(line) for line in data_path("sample_pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert breach_counts([row["chosen"] for row in rows]) == []
    for defect, rules in {"claim": {"claim.no1", "claim.guarantee"}, "shouting": {"text.shouting", "text.exclamations"}}.items():
        assert all(rules & set(names(row["rejected"])) for row in rows if row["defect"] == defect)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("この靴はﾅﾝﾊﾞｰﾜﾝです", "ﾅﾝﾊﾞｰﾜﾝ"),
        ("今年も１００％満足", "１００％"),
        ("㍿の№１の靴", "№１"),
        ("か\u3099く、世界一", "世界一"),
        ("Ｎｏ．１の靴", "Ｎｏ．１"),
        ("①位の靴", "①位"),
    ],
)
def test_a_breach_quotes_the_text_as_written(text, words):
    (breach,) = find_breaches(text)
    assert breach.words == words == text[breach.start : breach.end]


def test_places_hold_in_any_text():
    rng = random.Random(5)
    letters = "No.1最大高必ず100％！!？?「」（）(【】ﾊﾞﾟかが\u3099\u3099㍿…①‼⁉🎁\ufe0f\u200d 　靴の〜～Ａ\ud800※調べ2024{}:가각\u1100\u1161"
    broken = 0
    for _ in range(400):
        text = "".join(rng.choices(letters, k=rng.randrange(40)))
        folded = Folded(text)
        assert [folded.span(i, i + 1) for i in range(len(folded.plain))] == sorted(
            folded.span(i, i + 1) for i in range(len(folded.plain))
        )
        for breach in find_breaches(text, platform=rng.choice(["google", "yahoo", "line", "meta"])):
            broken += 1
            assert 0 <= breach.start < breach.end <= len(text) and breach.words == text[breach.start : breach.end], breach
    assert broken > 400


@pytest.mark.parametrize("text", ["", " ", "ﾞ", "\ufe0f", "\ud800", "が", "㌔ﾒｰﾄﾙ", "각\u1100\u1161\u11a8"])
def test_folding_keeps_every_character_in_its_place(text):
    folded = Folded(text)
    assert folded.span(0, len(folded.plain)) == (0, len(text)) and folded.span(0, 0) == (0, 0)


@pytest.mark.parametrize("piece", ["※調2", "必ずa痩", "重要な通知アプリが1", "医師12 「", "！ 　", "{keyword:ﾊﾞ"])
def test_a_long_text_takes_no_longer_than_its_length(piece):
    """A pattern that backtracks over all of it would take minutes."""
    text = piece * (200_000 // len(piece))
    counts = Counter(breach.rule for breach in find_breaches(text, platform="yahoo", part="description"))
    assert counts["len.yahoo.desc"] == 1 and max(counts.values()) <= MOST_PLACES


def test_a_platform_adds_lengths_and_symbols_and_without_one_there_are_none():
    text = "★期間の長い大きな見出しがここに立っています！"
    assert names(text) == []
    assert {"len.google.headline", "sym.google.excl"} == set(names(text, platform="google"))
    assert {"len.yahoo.title", "sym.yahoo.charset"} == set(names(text, platform="yahoo"))
    assert names(text, platform="line") == ["len.line.title"]
    assert names(text, platform="google", part="説明文") == names(text, platform="line", part="description") == []


def test_what_is_beyond_the_limit_is_quoted():
    (breach,) = find_breaches("初月無料の家計簿アプリを今すぐ始めよう", platform="google", part="見出し")
    assert breach.words == "始めよう" and "30" in breach.ja and "30" in breach.en


def test_the_line_of_business_decides_how_severe_and_a_guess_is_said():
    (plain,) = find_breaches("腰痛が治る")
    (given,) = find_breaches("腰痛が治る", domain="food")
    (guessed,) = find_breaches("腰痛が治る", brief="【テーマ】青汁の見出しを書いてください。")
    assert (plain.severity, given.severity, guessed.severity) == ("warn", "error", "error")
    assert "推定" in guessed.ja and "guessed from the brief: food" in guessed.en
    assert "推定" not in plain.ja + given.ja and given.ja in guessed.ja
    (wins,) = find_breaches("腰痛が治る", domain="medical", brief="青汁の見出し")
    assert wins.severity == "warn"
    assert "推定" not in find_breaches("日本一の青汁", brief="青汁の見出し")[0].ja


@pytest.mark.parametrize(
    ("brief", "domain"),
    [
        ("家計簿アプリの見出し", "app"),
        ("投資アプリの見出し", "finance"),
        ("歯科クリニックのコピー", "medical"),
        ("ｻﾌﾟﾘの説明文", "food"),
        ("株式会社の傘", None),
        ("", None),
    ],
)
def test_the_line_of_business_is_guessed_from_the_words_of_the_brief(brief, domain):
    assert guess_domain(brief) == domain


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"platform": "gogle"}, "'google'?"),
        ({"part": "headlin"}, "'headline'?"),
        ({"domain": "foods"}, "'food'?"),
        ({"only": ["claim.no"]}, "'claim.no1'?"),
        ({"platform": ""}, "google, yahoo"),
    ],
)
def test_an_unknown_name_is_a_mistake_not_a_check_that_is_left_out(settings, hint):
    with pytest.raises(DataError) as raised:
        find_breaches("靴", **settings)
    assert hint in raised.value.ja and hint in raised.value.en


def test_one_table_counts_texts_by_side_each_once_per_rule():
    rows = breach_counts({"chosen": iter(["必ず必ず満足", "靴"]), "rejected": ["必ず痩せる", "日本一の靴", "世界一の靴"]})
    assert [(row["rule"], row["severity"], row["chosen"], row["rejected"]) for row in rows] == [
        ("claim.guarantee", "error", 1, 1),
        ("claim.no1", "error", 0, 2),
        ("med.diet", "error", 0, 1),
    ]
    assert all(row["example"] and row["source"] for row in rows)
    assert [row["texts"] for row in breach_counts(["靴！", "傘！"], platform="google")] == [2]


@pytest.mark.parametrize(
    ("text", "google", "yahoo", "letters"),
    [
        ("abc 12", 6, 6, 6), ("家計簿", 6, 6, 3), ("ｶｹｲﾎﾞ", 5, 10, 5), ("…※①☆♪“", 12, 12, 6), ("¥100·", 5, 5, 5), ("Ａ！", 4, 4, 2),
        ("か\u3099", 2, 2, 1), ("🎁", 2, 2, 1), ("❤\ufe0f", 2, 2, 1), ("1\ufe0f\u20e3", 2, 2, 1), ("café", 4, 4, 4), ("〜～ー", 6, 6, 3), ("", 0, 0, 0),
    ],
)  # fmt: skip
def test_lengths(text, google, yahoo, letters):
    assert (half_width(text), half_width(text, "yahoo"), characters(text)) == (google, yahoo, letters)


def test_a_placeholder_counts_as_its_default_text():
    assert ad_length("{KeyWord:靴}の通販", "google") == 8 and ad_length("{KeyWord:靴}の通販", "characters") == 4


def test_yahoo_marks_the_symbol_that_is_one_too_many():
    (breach,) = [b for b in find_breaches("快適！便利？安心！静か", platform="yahoo") if b.rule == "sym.yahoo.count"]
    assert (breach.words, breach.start) == ("！", 8)


def test_a_guarantee_far_from_any_effect_is_a_warning():
    assert [b.severity for b in find_breaches("絶対に楽しい。" + "あ" * 20 + "稼ぐ")] == ["warn"]
    assert {b.rule: b.severity for b in find_breaches("絶対に稼ぐ")} == {"claim.guarantee": "error", "fin.assert": "error"}
