"""The log reader on damaged exports, and on any column map: all rows used or dropped by a known reason, or words; no file, no code run."""

import codecs
import gzip

from hypothesis import strategies as st

from adslm_helpers.dataset.ad_log.columns import ROLES
from adslm_helpers.dataset.ad_log.dates import PERIODS
from adslm_helpers.dataset.ad_log.read import REASONS, read_log
from adslm_helpers.errors import DataError

from .cases import PICKLE, TEXTS, checked_words, damaged, everything, fuzzed, place

LOG = """広告レポート
キャンペーン,広告グループ,広告見出し 1,広告見出し 2,デバイス,日,表示回数,クリック数,クリック率,費用
秋,靴,軽い靴,送料無料,モバイル,2026/10/05,"3,052",150,4.91%,"¥12,300"
秋,靴,"軽い
靴", --,PC,2026/10/06,948,50,5.27%,"¥4,100"
合計,,,,,,"4,000",200,5.00%,"¥16,400"
"""
DAYS = "date,keyword,headline,impressions,clicks\n05/10/2026,shoes,light,100,3\n25/10/2026,shoes,cheap,100,1\n"
SEEDS = [
    LOG.encode(),
    codecs.BOM_UTF8 + LOG.replace("\n", "\r\n").encode(),
    LOG.replace("¥", "").encode("cp932"),
    LOG.replace(",", "\t").encode("utf-16"),
    gzip.compress(LOG.encode()),
    DAYS.encode(),
    b"\0" * 64,
    PICKLE,
]
MAPS = st.dictionaries(
    st.one_of(st.sampled_from(ROLES), TEXTS), st.one_of(st.sampled_from(("日", "表示回数", "")), TEXTS), max_size=3
)


def check(path, **options):
    before = everything(path.parent)
    try:
        log = read_log(path, **options)
    except DataError as error:
        checked_words(error)
    else:
        assert log.rows_in == log.arms["rows"].sum() + sum(log.dropped.values()) and set(log.dropped) <= REASONS.keys()
        assert (log.arms["clicks"] <= log.arms["impressions"]).all() and (log.arms["clicks"] >= 0).all()
        "\n".join(log.lines()).encode()
    assert everything(path.parent) == before


@fuzzed(25, content=damaged(*SEEDS), period=st.sampled_from(PERIODS))
def test_damaged_logs(content, period):
    with place() as folder:
        path = folder / "log.csv"
        path.write_bytes(content)
        check(path, period=period)


@fuzzed(15, columns=MAPS)
def test_any_map(columns):
    with place() as folder:
        path = folder / "log.csv"
        path.write_text(LOG, encoding="utf-8")
        check(path, columns=columns)
