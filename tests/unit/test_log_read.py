"""Exports as ad systems write them, and files that are none: what is read, what is refused, and on which line."""

import csv
import gzip
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adslm_helpers.dataset import log_blocks
from adslm_helpers.dataset.log_columns import understood, unique_names
from adslm_helpers.dataset.log_dates import periods
from adslm_helpers.dataset.log_read import REASONS, read_log
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


