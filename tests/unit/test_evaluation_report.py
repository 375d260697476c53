"""The page for people who do not read code: escaped, self-contained, honest about made-up data and about losses."""

import base64
import inspect
import re
from html.parser import HTMLParser

import jinja2
import pytest

from adslm_helpers.evaluation.compare import comparison_metrics, outcome
from adslm_helpers.evaluation.report import percent, reasons, render_report, spread
from adslm_helpers.evaluation.verdict import verdict
from adslm_helpers.recipe import EMBEDDED, load_recipe
from adslm_helpers.run import Run
from adslm_helpers.text import degenerate
from adslm_helpers.text.brief import whole_prompt
from adslm_helpers.text.rubric import judge

EVIL = '<script>alert("x")</script><img src=x onerror=y>&"\''
PNG = b"\x89PNG not really"
HELDOUT = {
    "heldout_loss": 0.3111, "heldout_loss_ci95": [0.29, 0.33], "reward_accuracy": 0.955, "reward_accuracy_ci95": [0.93, 0.98],
    "reward_margin": 2.5, "reward_margin_ci95": [2.2, 2.8], "n_heldout_pairs": 150,
}  # fmt: skip


def compared(prompt="商品：靴\n見出しを書いて", base="靴です。好評です", tuned="靴です。ご注文はこちら"):
    sides = [judge(prompt, text) for text in (base, tuned)]
    return {
        "prompt": prompt, "seed": 1, "base": base, "tuned": tuned, "outcome": outcome(sides[0].score, sides[1].score),
        "base_judgement": sides[0].to_dict(), "tuned_judgement": sides[1].to_dict(), "reference": None,
    }  # fmt: skip


def page(rows=None, source="sample", figures=None, ratings=None, **metrics):
    rows = rows or [
        compared(f"商品：靴{n}\n見出しを書いて", f"靴{n}です。好評です", f"靴{n}です。ご注文はこちら") for n in range(30)
    ]
    run = Run("spring")
    with run.step("dataset", source=source) as notes:
        notes |= {"rows_in": 1001, "kept": 1000, "train": 850, "eval": 150}
    numbers = {"model": "org/some-model", "synthetic_data": False, **HELDOUT, **comparison_metrics(rows)}
    said = verdict(numbers)
    lists = {"verdict_reasons": [list(pair) for pair in said.reasons], "next_steps": [list(pair) for pair in said.next_steps]}
    numbers |= {"verdict": said.code, "verdict_ja": said.ja, "verdict_en": said.en, **lists, **metrics}
    return render_report(run, load_recipe("tiny"), numbers, rows, figures or {}, ratings)


class Tags(HTMLParser):
    """What a browser would see: tags with their attributes, and whether every tag is closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())


def test_the_page_is_whole_and_every_tag_is_closed():
    tags = Tags(page(figures={name: PNG for name in ("rubric", "win_tie_loss", "training_curves", "margins")}))
    assert tags.open == [] and [tag for tag, _ in tags.seen].count("table") == 3


@pytest.mark.parametrize("place", ["prompt", "base", "tuned", "model", "source", "dialogue", "verdict"])
def test_markup_in_data_or_in_a_models_text_is_shown_not_run(place):
    if place in ("prompt", "base", "tuned"):
        text = page([compared(**{place: f"商品：靴 {EVIL}"})])
    elif place == "dialogue":
        text = page([compared([{"role": f"user{EVIL}", "content": EVIL}, {"role": "user", "content": "商品：靴"}])])
    elif place == "verdict":
        text = page(verdict_ja=EVIL, verdict_en=EVIL)
    else:
        text = page(**{place: EVIL})
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in text
    seen = [tag for tag, _ in Tags(text).seen]
    assert "script" not in seen and "img" not in seen


def test_the_page_loads_nothing():
    text = page(figures={"rubric": PNG})
    tags = Tags(text).seen
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object"} and "@import" not in text and "url(" not in text
    sources = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href")]
    assert sources == ["data:image/png;base64," + base64.b64encode(PNG).decode()]


def test_only_figures_that_were_made_are_shown():
    assert "<figure>" not in page()
    assert page(figures={"margins": PNG, "training_curves": PNG}).count("<figure>") == 2


def test_the_numbers_on_the_page_are_those_of_the_metrics():
    text = page()
    for shown in (
        "1000 pairs of 1001 rows",
        "org/some-model",
        "0.3111 [0.29, 0.33]",
        "95.5% [0.93, 0.98]",
        "150 pairs",
        "30 briefs, 30 texts",
    ):
        assert shown in text
    assert re.search(r"win rate, after over before</small><b>100\.0%</b>", text) and "勝ち / win" in text


def test_a_check_that_was_not_asked_for_has_a_dash():
    assert percent(None) == "–" and percent(0.0) == "0.0%" and percent(0.9554) == "95.5%"
    row = re.search(r"selling point named</td>(.*?)</tr>", page())[1]
    assert row.count("–") == 2


def test_made_up_data_and_the_teaching_model_are_called_that():
    assert "synthetic" not in page() and "教材用" not in page()
    assert "synthetic" in page(synthetic_data=True) and "教材用" in page(model=EMBEDDED)


def test_losses_are_shown_where_there_are_some_and_at_most_five():
    worse = [compared(f"商品：靴{n}", f"靴{n}です。ご注文はこちら", f"靴{n}です。好評です") for n in range(9)]
    text = page(worse)
    section = text.split("悪くなった例")[1].split("<h2>")[0]
    assert section.count('class="pair"') == 5 and "行動を促している" in section
    assert "悪くなった例" not in page()


def test_what_the_verdict_says_to_do_next_stands_on_the_page():
    steps = [["このモデルは使わないでください。", "Do not use this model."], ["依頼を足す <b>", "Add briefs <b>"]]
    section = page(next_steps=steps, verdict="worse").split("次にすること")[1].split("<h2>")[0]
    assert (
        "このモデルは使わないでください。" in section
        and "Do not use this model." in section
        and "Add briefs &lt;b&gt;" in section
    )


def test_rule_breaches_are_listed_with_the_words_marked_and_never_called_legal_advice():
    row = compared(tuned="業界No.1の靴です。ご注文はこちら")
    text = page([row], breach_rules_base={}, breach_rules_tuned={"claim.no1": 1}, breach_base=0.0, breach_tuned=1.0)
    section = text.split("広告のルールに反するところ")[1].split("<h2>")[0]
    assert re.search(r"claim\.no1.*業界.*<mark>", section.replace("\n", "")) or "<mark>業界No.1</mark>" in section
    assert "not legal advice" in section and "法的助言ではありません" in section
    assert "None that can be found mechanically" in page([compared()])


def test_what_the_team_chose_is_shown_where_it_rated():
    assert "What the team chose" not in page()
    run_page = page(ratings={"ja": "12 勝 3 敗", "en": "12 won, 3 lost", "warnings": [["注意: 少数", "Warning: few"]]})
    assert "12 won, 3 lost" in run_page and "Warning: few" in run_page


def test_other_candidates_stand_in_a_table():
    other = {"name": "checkpoint-50 <i>", "rubric_pass_tuned": 0.5, "win_rate": 0.6, "verdict": "within_noise"}
    other |= {"win_rate_over_run": 0.4, "win_rate_over_run_ci95": [0.3, 0.5]}
    assert "checkpoint-50 &lt;i&gt;" in page(candidates=[other]) and "Beside other adapters" not in page()


def test_an_empty_text_is_called_empty():
    assert "（空 / empty）" in page([compared(tuned="")])


def test_a_missing_number_stops_the_page_instead_of_leaving_a_hole():
    rows = [compared()]
    run = Run("spring")
    with run.step("dataset", source="s", rows_in=1, kept=1, train=1, eval=1):
        pass
    numbers = {
        **HELDOUT,
        **comparison_metrics(rows),
        "model": "m",
        "synthetic_data": False,
        "verdict": "better",
        "verdict_ja": "",
        "verdict_en": "",
    }
    render_report(run, load_recipe("tiny"), numbers, rows, {})
    del numbers["n_heldout_pairs"]
    with pytest.raises(jinja2.UndefinedError):
        render_report(run, load_recipe("tiny"), numbers, rows, {})


def test_examples_are_spread_over_the_list_one_a_prompt():
    rows = [{"prompt": f"p{n}", "seed": seed} for seed in (1, 2) for n in range(100)]
    assert spread(rows, 4) == [{"prompt": f"p{n}", "seed": 1} for n in (0, 25, 50, 75)]
    assert spread(rows[:2], 10) == rows[:2] and spread([], 3) == []


def test_every_way_to_be_broken_has_words():
    """A kind that find_degeneration gives and the page does not know would end the evaluation in a KeyError."""
    kinds = set(re.findall(r'"(\w+)":', inspect.getsource(degenerate.find_degeneration))) | {"empty", "unstopped"}
    assert kinds == set(degenerate.KINDS)
    for kind in kinds:
        (said,) = reasons({"failures": [], "degenerate": [kind]})
        assert re.search("[ぁ-んァ-ヶ一-龥]", said) and re.search("[a-z]", said)


def test_reasons_are_words_for_every_failed_check_and_none_for_a_good_text():
    assert reasons(judge("商品：靴", "靴です。ご注文はこちら").to_dict()) == []
    assert reasons(judge("商品：靴", "傘です。日本一の傘").to_dict()) == [
        "✗ 商品名が正しい / right product",
        "✗ 行動を促している / call to action",
        "✗ 根拠のない断定がない / no unproven claim",
    ]


def test_a_dialogue_is_shown_line_by_line():
    assert whole_prompt("靴") == "靴"
    assert whole_prompt([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]) == "system: a\nuser: b"
