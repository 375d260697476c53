"""The made-up logs: their truth is as the facts say, labels from them are as wrong as said, and the sample log that ships is whole."""

import csv
import io

import numpy as np
import pytest

from adslm_helpers.data_files import data_path
from adslm_helpers.dataset.ad_log.pairs import pairs_from_log
from adslm_helpers.dataset.ad_log.prompts import KEY
from adslm_helpers.dataset.ad_log.sample import HEADER, sample_export, sample_log
from adslm_helpers.dataset.surface import surface_rules
from adslm_helpers.text.marks import find_claims


@pytest.fixture(scope="module")
def export():
    return sample_export()


def arms_of(text):
    """The arms of the sample export, read by hand: the reader of real exports is another module's matter."""
    import pandas

    table = pandas.DataFrame(list(csv.DictReader(io.StringIO(text.split("\n", 2)[2]))))
    for name in ("表示回数", "クリック数", "コンバージョン"):
        table[name] = pandas.to_numeric(table[name].str.replace(",", ""), errors="coerce")
    fits = (table["日"] != "合計") & (table["クリック数"] <= table["表示回数"]) & (table["表示回数"] >= 0)
    names = {
        "ブリーフ": "brief",
        "広告文": "text",
        "表示回数": "impressions",
        "クリック数": "clicks",
        "コンバージョン": "conversions",
    }
    arms = (
        table[fits]
        .rename(columns=names)
        .groupby(["brief", "text"], as_index=False)[["impressions", "clicks", "conversions"]]
        .sum()
    )
    return arms.assign(**dict.fromkeys(KEY[1:], "")), len(table) - int(fits.sum())


@pytest.mark.parametrize("world", ["beta", "log_odds"])
def test_briefs_differ_thirteen_times_as_much_as_the_texts_of_one(world):
    log = sample_log(8000, 5, 300, 0, world)
    rates = log.groupby("brief").true_ctr
    within = rates.var().mean()
    assert 11 < (rates.mean().var() - within / 5) / within < 15
    assert log.impressions.median() == pytest.approx(300, rel=0.03) and (log.clicks <= log.impressions).all()


def test_one_seed_one_log():
    assert sample_log(50, 3, 300, 1).equals(sample_log(50, 3, 300, 1))
    assert not sample_log(50, 3, 300, 1).equals(sample_log(50, 3, 300, 2))


def test_labels_at_300_impressions_are_wrong_as_rarely_as_promised():
    """Naive labels: at least 30 % wrong. The posterior's: at most 3 %, and few of them."""
    log = sample_log(12_000, 5, 300, seed=0)
    true, ctr = log.true_ctr.to_numpy().reshape(-1, 5), (log.clicks / log.impressions).to_numpy().reshape(-1, 5)
    one, two = np.triu_indices(5, 1)
    differ = ctr[:, one] != ctr[:, two]
    naive = ((ctr[:, one] > ctr[:, two]) != (true[:, one] > true[:, two]))[differ].mean()
    known = dict(zip(log.text, log.true_ctr, strict=True))
    rows = pairs_from_log(log).rows
    wrong = np.mean([known[row["chosen"]] < known[row["rejected"]] for row in rows])
    assert naive >= 0.30 and wrong <= 0.03 and 500 < len(rows) < 0.02 * 120_000


def test_the_log_that_ships_is_what_the_generator_makes(export):
    assert data_path("sample_ad_log.csv").read_bytes() == export.encode("utf-8-sig")
    assert len(export.encode()) < 1_500_000


def test_the_log_that_ships_looks_like_an_export(export):
    lines = export.split("\n")
    assert lines[2] == ",".join(HEADER) and lines[-2].startswith("合計,")
    assert '"3,0' in export and " --" in export and "%" in export


def test_the_log_that_ships_gives_pairs_to_train_on(export):
    """A few hundred pairs on many prompts, told apart by no surface rule; single texts, rule breakers and impossible rows to count."""
    arms, refused = arms_of(export)
    result = pairs_from_log(arms, gate=lambda text: [claim.rule for claim in find_claims(text)])
    assert refused == 1 + 4
    assert 300 <= len(result.rows) <= 900 and len({row["prompt"] for row in result.rows}) >= 150
    assert all(row["prompt"] == row["brief"] for row in result.rows)  # whole instructions: the teaching model knows their wording
    assert surface_rules(result.rows, least=0.8) == []
    assert (
        result.needed["keys_with_one_text"] > 10
        and sum(n for name, n in result.dropped.items() if name.startswith("policy:")) > 10
    )
    assert result.expected_false_share < 0.03 and 0.1 < result.expected_lift < 0.6
    lengths = np.array([[len(row["chosen"]), len(row["rejected"])] for row in result.rows]).mean(0)
    assert lengths[0] / lengths[1] == pytest.approx(1, abs=0.12)
