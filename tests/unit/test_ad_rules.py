"""Ad rules: the data file keeps its own examples, hits are found in the text as written, nothing is slow, nothing is unknown."""

import datetime
import json
import random
from collections import Counter

import pytest

from adslm_helpers.data_files import data_path, read_yaml
from adslm_helpers.errors import DataError
from adslm_helpers.text.ad_measures import MEASURES
from adslm_helpers.text.ad_rules import (
    MOST_PLACES,
    SEVERITIES,
    ad_rules,
    breach_counts,
    find_ad_breaches,
    find_breaches,
    guess_domain,
)
from adslm_helpers.text.ad_width import ad_length, characters, half_width
from adslm_helpers.text.folding import Folded

RULES = {rule.id: rule for rule in ad_rules()}

# Written for these tests: plain copy of many trades, and copy with one thing wrong in each.
HONEST = """
自動車保険を最大20社一括見積もり / 車買取なら最大10社の査定額を比較 / 中古車の査定はかんたん60秒 / 引越し料金を最大50%OFFで比較 /
賃貸の敷金・礼金0円物件を探す / 家賃保証会社が選べるお部屋探し / 新築マンションの資料請求はこちら / 駅徒歩5分のデザイナーズ物件 /
注文住宅のカタログを無料で請求 / インプラント治療は実績豊富な歯科へ / 矯正歯科の無料カウンセリング / ニキビ治療の皮膚科クリニック /
AGA治療はオンライン診療で / 医療脱毛なら都内5院のクリニック / レーシック・ICLの眼科 / 花粉症の方に、目にやさしい眼鏡 /
薬剤師の転職なら専任担当がサポート / 看護師求人は日勤のみもあり / 未経験からのエンジニア転職 / 年収アップの転職を支援 /
派遣の時給検索はこちら / 資格取得は通信講座で / 英会話を無料体験レッスン / 子どもプログラミング教室を体験 / 大学受験の個別指導塾 /
合格実績を公開中の予備校 / 宅配クリーニングは1点から / 送料無料のオーダースーツ / 母の日ギフトはお花の定期便 /
ふるさと納税の返礼品ランキング / お米10kgが送料無料 / 無添加の青汁をお試しセットで / 野菜不足が気になる方の青汁 /
プロテインの定期便は20%OFF / ダイエット中の置き換えスムージー / 糖質オフの冷凍宅配弁当 / 美容液の初回限定セット980円 /
敏感肌のための化粧水 / 白髪染めトリートメントをお試し / 日焼け止めは石けんで落とせる / 格安SIMで毎月のスマホ代を節約 /
光回線のキャッシュバック特典 / ウイルス対策ソフトの体験版 / クラウド会計ソフトで確定申告 / 勤怠管理システムの比較資料 /
法人カードの年会費を比較 / カードローンは即日審査に対応 / 住宅ローンの金利を比較 / NISAの始め方を無料セミナーで /
外貨預金の手数料を見直す / FXのデモ取引を体験 / 生命保険の見直し相談は無料 / がん保険の保障内容を比較 / ペット保険の資料請求 /
火災保険を3分で見積もり / 格安航空券を一括検索 / 温泉旅館の直前割プラン / 沖縄ツアーが1名29,800円から / 世界一周クルーズの資料請求 /
日本一周の旅をキャンピングカーで / ホテル予約は公式サイトから / レンタカーは当日予約もOK / 遊園地の前売りチケット /
最新映画を31日間無料で視聴 / 電子書籍の無料まんがを毎日更新 / 人気のアプリゲームを無料で遊ぶ / 家計簿アプリで支出を見える化 /
睡眠の質を記録するアプリ / 乗換案内アプリで遅延の通知が届く / 重要な予定を忘れないカレンダー / ノートPCの最大64GBメモリ /
トップスの新作が入荷 / 卓上デスクトップPCの販売 / リフトアップ美顔器のレンタル / オフィス家具を最短翌日にお届け / 害虫駆除は24時間受付 /
ネズミ退治・ハチ駆除の相談 / 水漏れの修理は料金を事前に提示 / 遺品整理は見積もり無料 / 葬儀費用の相談は24時間 / 墓じまいの費用を比較 /
婚活パーティーに一人で参加 / 結婚式場の見学予約 / 七五三の写真撮影プラン / 成人式の振袖レンタル / ベビーカーのレンタルは往復送料込み /
お子さまの絶対音感を育てる教室 / 免震構造で衝撃吸収のランドセル / メーカー5年保証の洗濯機 / 返金保証付きの枕 /
全品10%ポイント還元は11月30日まで / 先着100名様に粗品を進呈 / 果汁100%のりんごジュース / オーガニックコットン100%のタオル /
必ずお読みください：ご利用条件 / 政治・経済のニュースを要点で / 自治体の補助金を検索 / 感染対策グッズのまとめ買い /
容量不足に外付けSSDを / 【東京】料理教室の体験会 / 「初めてでも安心」の着付け教室 / 資料請求はこちら>> / スマホでかんたん！年賀状作成 /
どう選ぶ？初めてのキャンプ用品 / 暮らしに、いいものを。 / 毎日をもっと自由に / 理想の住まいを、あなたへ / この夏は海へ /
おいしいを、もっと / 「ただいま」が楽しみになる家 / トイレのつまりを最短30分で / カニの訳あり品を産地から /
おせちの予約は11月30日まで / クリスマスケーキのご予約
"""
WRONG = """
顧客満足度No.1の英会話 / 3年連続売上日本一 / 満足度98％！選ばれる塾 / 世界初の製法で作った味噌 / 業界最安値に挑戦 /
業界最速のスピード査定 / シェア第一位の会計ソフト / トップクラスの合格率 / 当社が最安です / 必ず痩せるサプリ /
たった2週間でマイナス8kg / 1ヶ月で10キロ痩せた / 飲むだけで簡単ダイエット / シミが消える美容液 / シワを消すクリーム /
ニキビが治る洗顔 / アトピーを治す化粧水 / アンチエイジングの決定版 / 免疫力アップのヨーグルト / 血液サラサラの玉ねぎ茶 /
糖尿病の予防に青汁 / 高血圧を改善するお茶 / がんに効くキノコ / 副作用の心配なし / 副作用ゼロの育毛剤 / 医師の9割が推奨 /
医師も認めた効果 / 絶対儲かるFX / 必ず勝てる投資術 / 元本保証で年利10% / ノーリスクで不労所得 / スマホで簡単に稼げる /
誰でも月収100万円 / 損しない投資信託 / 一攫千金のチャンス / 今だけ半額セール / 通常価格9,800円→1,980円 /
本日限り70%OFF / 先着順でプレゼント / 期間限定の特別価格 / 重要なお知らせがあります / 新着メッセージが3件あります /
システム警告：ウイルスを検出 / お使いのスマホが感染しています / ストレージ容量が不足しています / お荷物をお届けにあがりましたが不在のため /
アップデートが必要です / バッテリーが劣化しています / 当選おめでとうございます / 衝撃の事実が判明 / 知らないと損する節税術 /
ここだけの話、実は / 〇〇した結果… / 【閲覧注意】顔の毛穴 / あなたは太っていませんか / 40代で薄毛のあなたへ / 借金でお困りのあなた /
ドコモ社員も使う裏技 / Apple公式が推奨 / 医師が絶賛したサプリ / セクシーな美女と遊べる / 目の保養アプリ / 使ってみたら肌がもちもち /
{keyword:}ならこちら / 「今すぐ登録 / スマホ 格安 比較 おすすめ / 人気のアプリが
"""


def lines_of(copy):
    return [line for line in copy.replace("\n", " ").split(" / ") if line.strip()]


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


def test_honest_copy_breaks_no_rule_of_severity_error_and_few_others():
    found = {line: find_breaches(line) for line in map(str.strip, lines_of(HONEST))}
    assert len(found) > 90
    assert [(line, b.rule) for line, breaches in found.items() for b in breaches if b.severity == "error"] == []
    assert sum(map(bool, found.values())) <= 3, "a discount and an 公式 may be asked about"


def test_copy_with_something_wrong_is_found():
    assert [line for line in map(str.strip, lines_of(WRONG)) if not names(line, platform="meta", part="carousel")] == []
    assert len(lines_of(WRONG)) > 60


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


def test_a_whole_ad_is_held_to_its_number_of_texts_and_of_exclamation_marks():
    ad = {"見出し": ["家計簿アプリ", "初月無料", "レシートを撮るだけ"], "description": ["家族で使える！", "今日から始めよう！"]}
    found = find_ad_breaches(ad, platform="google")
    assert [(part, breach.rule, breach.words) for part, breach in found] == [("", "sym.google.excl_count", "！")]
    found = find_ad_breaches({"headline": ["家計簿アプリ"] * 2, "description": ["日本一"]}, platform="yahoo")
    assert [(part, breach.rule) for part, breach in found] == [
        ("description", "claim.no1"), ("headline", "count.yahoo.title"), ("description", "count.yahoo.desc")
    ]  # fmt: skip
    assert "2 本" in found[1][1].ja and "there are 2" in found[1][1].en
