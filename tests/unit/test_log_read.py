"""Exports as ad systems write them, and files that are none: what is read, what is refused, and on which line."""

import gzip
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adslm_helpers.dataset.ad_log import blocks as log_blocks
from adslm_helpers.dataset.ad_log.dates import periods
from adslm_helpers.dataset.ad_log.read import REASONS, read_log
from adslm_helpers.errors import DataError

PLAIN = "キーワード,見出し,表示回数,クリック数\n靴,軽い靴,1000,30\n靴,安い靴,900,10\n"


def read(folder, content, name="log.csv", **options):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    log = read_log(path, **options)
    assert log.rows_in == log.arms["rows"].sum() + sum(log.dropped.values())
    return log


def refusal(folder, content, name="log.csv", **options):
    with pytest.raises(DataError) as caught:
        read(folder, content, name, **options)
    assert "→" in caught.value.ja and "->" in caught.value.en
    return caught.value


def arms(log):
    """(text, impressions, clicks) of each arm."""
    return [tuple(row) for row in log.arms[["text", "impressions", "clicks"]].itertuples(index=False)]


GOOGLE_JA = """広告レポート
2026年10月1日～2026年10月31日
広告の状態,キャンペーン,広告グループ,広告見出し 1,広告見出し 2,説明文 1,デバイス,日,表示回数,クリック数,クリック率,費用,コンバージョン
有効,秋,靴,軽い靴,送料無料, --,モバイル,2026/10/05,"3,052",150,4.91%,"¥12,300",3.00
有効,秋,靴,軽い靴,送料無料, --,モバイル,2026/10/06,948,50,5.27%,"¥4,100",1.00
有効,秋,靴,丈夫な靴, --, --,モバイル,2026/10/05,800,12,1.50%, --, --
合計: 広告,,,,,,,,"4,800",212,4.42%,"¥16,400",4.00
合計: アカウント, --, --,,,,,,"4,800",212,4.42%,"¥16,400",4.00
"""


def test_google_ads_in_japanese(tmp_path):
    log = read(tmp_path, GOOGLE_JA)
    assert arms(log) == [("丈夫な靴", 800, 12), ("軽い靴 | 送料無料", 4000, 200)]
    assert log.dropped == {"total_row": 2} and [problem.place.number for problem in log.problems] == [7, 8]
    assert log.facts["header_line"] == 3 and log.facts["preamble_lines"] == 2
    assert log.columns["text"] == "広告見出し 1 + 広告見出し 2" and log.columns["channel"] == ""
    assert log.ignored == ["広告の状態", "説明文 1"]
    assert log.arms["period"].tolist() == ["2026-10"] * 2 and log.arms["device"].tolist() == ["モバイル"] * 2
    assert log.arms["conversions"].isna().tolist() == [True, False] and log.arms["cost"][1] == 16400
    assert log.facts["rate_rows"] == 3 and log.facts["rate_differs"] == 0


def test_google_ads_in_english_as_utf16_tsv(tmp_path):
    text = (
        "Ad report\r\nOctober 1, 2026 - October 31, 2026\r\n"
        "Campaign\tAd group\tHeadline\tDevice\tDay\tImpr.\tClicks\tCTR\tCost\tConversions\r\n"
        'Fall\tshoes\tLight "shoes"\tMobile phones\tOct 5, 2026\t1,000\t30\t3.00%\t12.50\t1.00\r\n'
        "Total: Account\t\t\t\t\t1,000\t30\t3.00%\t12.50\t1.00\r\n"
    )
    log = read(tmp_path, text.encode("utf-16"), "report.csv")
    assert arms(log) == [('Light "shoes"', 1000, 30)] and log.dropped == {"total_row": 1}
    assert log.facts["encoding"] == "utf-16" and log.facts["delimiter"] == "\t" and log.arms["period"][0] == "2026-10"


def test_yahoo_in_cp932_with_crlf(tmp_path):
    text = (
        "キャンペーン名,広告グループ名,タイトル,説明文,インプレッション数,クリック数,ご利用額,日別\r\n"
        "夏,水着,①水着が半額～,説明,１，２００,24,－,2026/7/1\r\n合計,,,,1200,24,0,\r\n"
    )
    log = read(tmp_path, text.encode("cp932"))
    assert arms(log) == [("①水着が半額～", 1200, 24)] and log.dropped == {"total_row": 1} and log.facts["encoding"] == "cp932"


@pytest.mark.parametrize(
    ("header", "brief"),
    [
        ("Ad set name,Title,Reporting starts,Impressions,Link clicks,Clicks (all),Amount spent (JPY),Results", "Ad set name"),
        (
            "広告セットの名前,タイトル,レポート開始日,インプレッション,リンクのクリック,クリック(すべて),消化金額 (JPY),結果",
            "広告セットの名前",
        ),
    ],
)
def test_meta_link_clicks_go_before_all_clicks(tmp_path, header, brief):
    row = "shoes,Light,2026-10-01,1000,30,55,500,2\n,,2026-10-01,1000,30,55,500,2\n"
    log = read(tmp_path, "\ufeff" + header + "\n" + row)
    assert arms(log) == [("Light", 1000, 30)] and log.columns["brief"] == brief and log.dropped == {"no_text": 1}
    assert log.columns["conversions"] in ("Results", "結果") and len(log.ignored) == 1


def test_merged_headings_above_units_below_and_a_heading_over_two_lines(tmp_path):
    text = 'キーワード,見出し,実績,,\n,,"表示\n回数（回）",ｸﾘｯｸ数［回］,費用（円）\n,,回,回,円\n靴,軽い靴,1000,30,500円\n'
    log = read(tmp_path, text)
    assert arms(log) == [("軽い靴", 1000, 30)] and log.arms["cost"][0] == 500
    assert log.columns["brief"] == "キーワード" and log.columns["impressions"] == "表示 回数（回）"
    assert log.dropped == {"no_text": 1} and log.problems[0].place.number == 4


def test_a_repeated_heading_is_no_row_of_numbers(tmp_path):
    log = read(tmp_path, PLAIN + PLAIN)
    assert log.dropped == {"heading_row": 1} and arms(log) == [("安い靴", 1800, 20), ("軽い靴", 2000, 60)]


def test_a_workbook_is_read_like_a_csv_file(tmp_path):
    import datetime

    import openpyxl

    book = openpyxl.Workbook()
    for row in (
        ["レポート"],
        ["キーワード", "見出し", "日付", "表示回数", "クリック数"],
        ["靴", "軽い靴", datetime.datetime(2026, 10, 5), 1000, 30.0],
        [],
        ["靴", "軽い靴", datetime.datetime(2026, 10, 6), "1,000", 30.5],
        ["合計", None, None, 2000, 60],
    ):
        book.active.append(row)
    book.save(tmp_path / "log.xlsx")
    log = read_log(tmp_path / "log.xlsx")
    assert arms(log) == [("軽い靴", 1000, 30)] and log.arms["period"][0] == "2026-10"
    assert log.dropped == {"not_whole": 1, "total_row": 1} and [problem.place.number for problem in log.problems] == [5, 6]


def test_a_gz_file_names_itself_not_what_it_was_unpacked_to(tmp_path):
    log = read(tmp_path, gzip.compress(PLAIN.encode() + b"x,y,-1,0\n"), "log.csv.gz")
    assert log.problems[0].place.source == str(tmp_path / "log.csv.gz") and len(log.arms) == 2
    assert "adslm-gz" not in str(refusal(tmp_path, gzip.compress(b"a,b\n1,2\n"), "log.gz"))


@pytest.mark.parametrize(
    ("impressions", "clicks", "reason"),
    [
        ("1000", "1001", "clicks_over_impressions"),
        ("-5", "0", "negative"),
        ("▲5", "0", "negative"),
        ("NaN", "0", "not_a_number"),
        ("inf", "0", "not_a_number"),
        ("1e5", "0", "not_a_number"),
        ("#DIV/0!", "0", "not_a_number"),
        ("4.91%", "0", "not_a_number"),
        ("1,23", "1", "not_a_number"),
        ("=1+1", "0", "not_a_number"),
        ("1_000", "0", "not_a_number"),
        ("3.052", "1", "not_whole"),
        (" --", "0", "missing_number"),
        ("", "0", "missing_number"),
        ("999999999999", "0", "too_large"),
        ("9" * 400, "0", "not_a_number"),
    ],
)
def test_an_impossible_number_costs_its_row_and_is_named_with_its_line(tmp_path, impressions, clicks, reason):
    log = read(tmp_path, PLAIN + f'靴,変な靴,"{impressions}","{clicks}"\n')
    assert log.dropped == {reason: 1} and len(log.arms) == 2
    assert (log.problems[0].code, log.problems[0].place.number) == (reason, 4)
    assert set(log.dropped) <= REASONS.keys()


@pytest.mark.parametrize(
    "number", ["1,000", "¥1,000", "￥1000", "1000円", " 1000 ", "1000.00", "１，０００", "JPY 1,000", "$1000"]
)
def test_a_number_in_any_dress_is_read(tmp_path, number):
    log = read(tmp_path, f'キーワード,見出し,表示回数,クリック数,費用\n靴,軽い靴,2000,3,"{number}"\n')
    assert log.arms["cost"].tolist() == [1000.0]


def test_spellings_of_one_text_are_one_arm_shown_as_most_often_written(tmp_path):
    rows = "靴,ＡＢＣ　靴,10,1\n靴,ABC 靴,10,1\n靴, ABC  靴 ,10,1\n靴,ABC靴,10,1\n"
    log = read(tmp_path, "キーワード,見出し,表示回数,クリック数\n" + rows)
    assert arms(log) == [("ABC 靴", 30, 3), ("ABC靴", 10, 1)] and log.arms["rows"].tolist() == [3, 1]


def test_lines_stay_right_below_quoted_line_breaks_blank_lines_and_broken_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(log_blocks, "_BLOCK", 64)  # rows go across blocks
    rows = '靴,"軽い\n靴",1000,30\n\n靴,a,1,2\n,,,\n靴,"x\n\ny",5,6\n靴,安い,靴,900,10\n靴,b,2,3\n'
    log = read(tmp_path, "キーワード,見出し,表示回数,クリック数\n" + rows)
    assert [(problem.code, problem.place.number) for problem in log.problems] == [
        ("clicks_over_impressions", 5),
        ("blank_row", 6),
        ("clicks_over_impressions", 7),
        ("too_many_cells", 10),
        ("clicks_over_impressions", 11),
    ]
    assert arms(log) == [("軽い 靴", 1000, 30)]


def test_a_quote_that_nothing_closes_costs_one_line(tmp_path):
    rows = "".join(f"靴,靴{n},1000,{n}\n" for n in range(500))
    log = read(tmp_path, PLAIN + '靴,"開いた,1000,30\n' + rows)
    assert log.dropped == {"not_csv": 1} and log.problems[0].place.number == 4 and len(log.arms) == 502


def test_broken_bytes_and_nul_cost_their_row_only(tmp_path):
    content = PLAIN.encode() + b"\xe9\x9d\xb4,\xff\xfe,10,1\n" + "靴,最後,10,1\n".encode()
    log = read(tmp_path, content)
    assert log.dropped == {"bad_encoding": 1} and log.problems[0].place.number == 4 and len(log.arms) == 3
    late = PLAIN.encode() + "靴,軽い靴,1000,30\n".encode() * 8_000 + "靴,x\0y,10,1\n".encode()  # below what is looked at first
    log = read(tmp_path, late)
    assert sum(log.dropped.values()) == 1 and log.problems[0].place.number == 8_004


@given(st.text(alphabet='a0,"\n\r 1-', max_size=300), st.integers(8, 60))
@settings(max_examples=60, deadline=None)
def test_both_ways_of_reading_a_block_agree(text, size):
    """Arrow reads what is clean, the csv module the rest: where one stops and the other begins must not be seen."""
    text = text.replace("\r", "") + "\n"
    where = log_blocks.Layout(["a", "b"], 1, 1, ",", "utf-8")
    fast = log_blocks._fast(text, where, [0, 1], 7)
    slow, broken, kept = log_blocks._slow(text, where, [0, 1], log_blocks.Place("x", 7), last=False)
    assert fast is None or (fast.to_pydict() == slow.to_pydict() and not broken and not kept)


@given(st.lists(st.lists(st.sampled_from(["靴", "", "10", "-1", '"', "1,0", "合計", "\n", "x"]), max_size=6), max_size=12))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_used_or_dropped_whatever_they_hold(tmp_path, rows):
    read(tmp_path, PLAIN + "".join(",".join(row) + "\n" for row in rows))  # checks rows_in


DATES = ["2026-10-05", "2026/10/5", "2026.10.05", "20261005", "2026年10月5日", "2026-10-05T09:30:00+09:00"]
DATES += [
    "2026-10-05 - 2026-10-11",
    "2026/10/05～2026/10/11",
    "Oct 5, 2026",
    "Monday, October 5, 2026",
    "5 Oct 2026",
    "２０２６／１０／０５",
]


@pytest.mark.parametrize("text", DATES)
def test_dates_in_the_forms_of_exports(text):
    assert [periods(text, period)[0] for period in ("month", "week", "day")] == ["2026-10", "2026-W41", "2026-10-05"]


def test_a_month_alone_is_a_month_and_no_date_is_none():
    assert [periods(text, "day") for text in ("2026年10月", "2026-10", "Oct 2026")] == [("2026-10", "2026-10")] * 3
    assert {periods(text, "day") for text in ("2026-02-30", "45000", "", "2026-13", "26/1/5", "x" * 10_000)} == {(None, None)}


def test_day_and_month_are_told_apart_by_the_whole_column_or_asked_for(tmp_path):
    head = "date,keyword,headline,impressions,clicks\n"
    log = read(tmp_path, head + "05/10/2026,shoes,a,10,1\n25/10/2026,shoes,a,10,1\n")
    assert log.arms["period"].tolist() == ["2026-10"]
    assert "YYYY-MM-DD" in refusal(tmp_path, head + "05/10/2026,shoes,a,10,1\n").en
    assert read(tmp_path, head + "05/10/2026,shoes,a,10,1\n", period="all").arms["period"].tolist() == [""]
    log = read(tmp_path, head + "2026-10-05,shoes,a,10,1\nyesterday,shoes,a,10,1\n", period="day")
    assert log.dropped == {"bad_date": 1} and log.arms["period"].tolist() == ["2026-10-05"]


def test_the_user_corrects_the_columns(tmp_path):
    text = "kw,コピーA,コピーB,imp total,clk,クリック数,面\n靴,軽い,靴,1000,30,99,上\n"
    columns = {"brief": "kw", "text": "コピーA + コピーB", "impressions": "Imp Total", "clicks": "clk", "position": "面"}
    log = read(tmp_path, text, columns=columns)
    assert arms(log) == [("軽い | 靴", 1000, 30)] and log.arms["position"][0] == "上" and log.ignored == ["クリック数"]
    assert read(tmp_path, PLAIN, columns={"brief": ""}).arms["brief"].tolist() == ["", ""]
    assert "'clicks'" in refusal(tmp_path, PLAIN, columns={"click": "クリック数"}).ja
    error = refusal(tmp_path, PLAIN, columns={"clicks": "クリック回"})
    assert "'クリック数'" in error.ja and "表示回数" in error.ja
    refusal(tmp_path, PLAIN, columns={"clicks": "表示回数 + クリック数"})
    refusal(tmp_path, PLAIN, columns={"clicks": ""})
    refusal(tmp_path, PLAIN, period="year")


def test_a_missing_column_is_named_with_the_headings_and_how_to_say_it(tmp_path):
    error = refusal(tmp_path, "キーワード,見出し,回数,率\n靴,軽い靴,1000,30\n")
    assert "impressions・clicks" in error.ja and "回数, 率" in error.ja and "--map clicks=" in error.en


def test_two_columns_of_one_name_are_not_chosen_between(tmp_path):
    text = "キーワード,見出し,表示回数,クリック数,クリック数\n靴,軽い靴,1000,30,99\n"
    assert "クリック数 (2)" in refusal(tmp_path, text).ja
    assert arms(read(tmp_path, text, columns={"clicks": "クリック数 (2)"})) == [("軽い靴", 1000, 99)]


def test_the_campaign_stands_for_the_brief_and_shared_briefs_are_pointed_out(tmp_path):
    log = read(tmp_path, "campaign,headline,impressions,clicks\nfall,a,10,1\n")
    assert log.columns["brief"] == "campaign" and log.columns["campaign"] == ""
    text = "campaign,ad group,headline,impressions,clicks\nfall,group 1,a,10,1\nspring,group 1,a,10,1\n"
    log = read(tmp_path, text)
    assert log.facts["shared_briefs"] == 1 and any("--map 'brief=campaign + ad group'" in line for line in log.lines())
    assert read(tmp_path, text, columns={"brief": "campaign + ad group"}).arms["brief"].tolist() == [
        "fall / group 1",
        "spring / group 1",
    ]


def test_an_empty_count_is_not_zero_and_that_is_said(tmp_path):
    """Meta leaves a cell empty where nobody clicked: dropping such rows without a word would keep only ads with clicks."""
    log = read(tmp_path, PLAIN + "靴,無反応,1000,\n")
    assert log.dropped == {"missing_number": 1} and any("not taken for 0 (1 rows)" in line for line in log.lines())


def test_swapped_columns_and_a_mostly_refused_file_are_said_loudly(tmp_path):
    rows = "".join(f"靴,靴{n},1000,30,6.00%\n" for n in range(5))
    log = read(tmp_path, "キーワード,見出し,表示回数,クリック数,CTR\n" + rows + "靴,x,1,2,\n" * 6)
    text = "\n".join(log.lines())
    assert log.facts["rate_differs"] == 5 and text.count("WARNING") == 2 and "6 of 11" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (PLAIN.split("\n")[0].encode(), "no rows"),
        (b"prompt,chosen,rejected\na,b,c\n", "adslm dataset"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "JSON"),
        (pickle.dumps({"a": list(range(100))}), "->"),
        (b"\x00\x01\x02" * 100, "NUL"),
        (b"\xff\xfea\x00,", "->"),
        (",".join(f"h{n}" for n in range(100_000)).encode() + b"\n", "100,000"),
        (b'"' * 10_000, "->"),
        (b'"never closed,' * 5000, "->"),
        (b"x" * 3_000_000, "->"),
        ((PLAIN.split("\n")[0] + "\n靴,a,1,2\n").encode(), "none of 1"),
        ("記事のタイトル\n本文です。\n".encode(), "--map"),
    ],
)
def test_what_is_no_log_is_refused_in_words(tmp_path, content, words):
    assert words in refusal(tmp_path, content).en


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(DataError):
            read_log(path)


def test_a_line_of_megabytes_is_one_refused_row(tmp_path, monkeypatch):
    monkeypatch.setattr(log_blocks, "_BLOCK", 1 << 16)
    monkeypatch.setattr(log_blocks, "LONGEST_LINE", 1 << 17)
    log = read(tmp_path, PLAIN + "靴," + "x" * (1 << 19) + ",10,1\n靴,後,10,20\n靴,最後,10,1\n")
    assert [(problem.code, problem.place.number) for problem in log.problems] == [("too_long", 4), ("clicks_over_impressions", 5)]
    assert len(log.arms) == 3


def test_nothing_in_a_cell_or_heading_becomes_sql(tmp_path):
    evil = "');DROP TABLE parts;--"
    text = f"キーワード,見出し,表示回数,クリック数,{evil}\n{evil},'; ATTACH 'x',10,1,1\n"
    log = read(tmp_path, text, columns={"device": evil})
    assert log.arms["brief"].tolist() == [evil] and log.arms["device"].tolist() == ["1"]


def test_the_temporary_folder_is_gone_after_ctrl_c(tmp_path):
    """In a process of its own, during a statement that would take hours."""
    log = tmp_path / "log.csv"
    log.write_text(PLAIN, encoding="utf-8")
    code = """if True:
        import sys
        from adslm_helpers.dataset.ad_log import engine as log_engine
        from adslm_helpers.dataset.ad_log import read as log_read
        def slow(sums):
            print("read", flush=True)
            query = "SELECT max(md5(a.i || b.i)) FROM range(1000000) a(i), range(100000) b(i)"
            log_engine.interruptible(sums.connection, lambda: sums.connection.execute(query).fetchall())
        log_engine.Sums.arms = slow
        log_read.read_log(sys.argv[1])"""
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(Path(__file__).parents[2])}
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(log)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"read\n" and list((tmp_path / "tmp").iterdir())
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()  # else a failure would leave it at work for hours
    assert said.strip().endswith(b"KeyboardInterrupt") and list((tmp_path / "tmp").iterdir()) == []
