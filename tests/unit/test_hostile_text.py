"""Text of ads, prompts, models and libraries on every way out: shown, not obeyed. Secrets: struck out."""

import json
import re
from html.parser import HTMLParser

import pytest

from adslm_helpers import foreign_text
from adslm_helpers.cli import main
from adslm_helpers.dataset.build import build_dataset
from adslm_helpers.environment import hub_token
from adslm_helpers.environment.repair import InstallPlan, _refusal
from adslm_helpers.errors import AdslmError, DataError, SetupError
from adslm_helpers.evaluation.compare import comparison_metrics, outcome
from adslm_helpers.evaluation.report import render_report
from adslm_helpers.evaluation.verdict import verdict
from adslm_helpers.export.card import CardFacts, model_card
from adslm_helpers.export.public import clean_folder
from adslm_helpers.foreign_text import brief, csv_cell, harmless, markdown, redacted, visible
from adslm_helpers.models.loading import _why_not
from adslm_helpers.recipe import load_recipe
from adslm_helpers.run import Run, read_json, write_text
from adslm_helpers.tables import Table
from adslm_helpers.text.brief import parse_brief
from adslm_helpers.text.rubric import judge
from adslm_helpers.widgets.form import run_form
from adslm_helpers.widgets.live import LiveView

TOKEN = "hf_PLANTEDplantedPLANTED0123"
SCRIPT, IMAGE = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'
TITLE, TURN, TEMPLATE = "\x1b]0;owned\x07", "\u202egnp.exe", "{{7*7}}{%raw%}"
PAYLOAD = f"靴{SCRIPT}{IMAGE}{TITLE}{TURN}{TEMPLATE}[a](javascript:x)![i](http://x/i.png) | a | `b` https://me:{TOKEN}@hub/x"


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]


def assert_harmless(text, html=False):
    assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text and TOKEN not in text
    if html:
        tags = Tags(text)
        assert not {"script", "img", "a", "iframe"} & set(tags.tags) and not any(
            name.startswith("on") for name in tags.attributes
        )
        assert "{{7*7}}" in text


@pytest.fixture
def pairs(tmp_path):
    """A file of pairs with the payload in every place, a broken line and a row that is dropped included."""
    rows = [
        {
            "prompt": f"商品：{PAYLOAD}{n}\n見出しを書いて",
            "chosen": f"良い{PAYLOAD}",
            "rejected": f"悪い{PAYLOAD}",
            PAYLOAD: PAYLOAD,
            "x": [1],
        }
        for n in range(12)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in [*rows, {PAYLOAD: 1}, {**rows[0], "chosen": {PAYLOAD: 1}}]]
    path = tmp_path / "広告.jsonl"
    path.write_text("\n".join([*lines, '{"' + PAYLOAD.replace('"', "") + '": 1, broken']), encoding="utf-8")
    return path


def test_a_dataset_report_shows_hostile_rows(pairs):
    report = build_dataset(Run("spring"), pairs, load_recipe("smoke"))
    assert report.kept == 12 and sum(report.dropped.values()) == 3
    assert_harmless("\n".join(report.lines()))
    assert_harmless(report._repr_html_())
    assert not {"script", "img"} & set(Tags(report._repr_html_()).tags)


def test_the_command_line_prints_no_codes_and_no_secret(pairs, capsys):
    assert main(["dataset", str(pairs), "--run", "spring", "--preset", "smoke"]) == 0
    assert main(["dataset", f"{pairs}{TITLE}{TURN}", "--run", "spring"]) == 2
    assert main(["dataset", f"https://me:{TOKEN}@hub/x.jsonl", "--run", "spring"]) == 2
    assert main(["dataset", "--run", f"../{TITLE}"]) == 2
    said = capsys.readouterr()
    assert_harmless(said.out + said.err)
    assert "\\u001b]0;owned" in said.err and "https:/***@hub" in said.err


def test_the_data_itself_is_left_as_it_is(pairs):
    """What an ad says is what is trained on, odd characters and all; it is made harmless where it is shown."""
    run = Run("spring")
    build_dataset(run, pairs, load_recipe("smoke"))
    kept = (run.dataset / "train.jsonl").read_text(encoding="utf-8") + (run.dataset / "eval.jsonl").read_text(encoding="utf-8")
    assert kept.count("\u202egnp.exe") >= 36 and kept.count(TOKEN) >= 36


def test_the_page_shows_hostile_texts_models_and_reasons():
    sides = [judge(PAYLOAD, text) for text in (f"前{PAYLOAD}", f"後{PAYLOAD}")]
    row = {"prompt": PAYLOAD, "seed": 1, "base": f"前{PAYLOAD}", "tuned": f"後{PAYLOAD}", "outcome": outcome(sides[0].score, sides[1].score),
           "base_judgement": sides[0].to_dict(), "tuned_judgement": sides[1].to_dict(), "reference": None}  # fmt: skip
    run = Run("spring")
    with run.step("dataset", source=PAYLOAD, rows_in=2, kept=1, train=1, eval=1):
        pass
    run.update(model={"name": PAYLOAD, "skipped": [{"name": PAYLOAD, "kind": "x", "reason": PAYLOAD}]})
    numbers = {"model": PAYLOAD, "synthetic_data": False, "heldout_loss": 0.3, "heldout_loss_ci95": [0.2, 0.4], "reward_accuracy": 0.9,
               "reward_accuracy_ci95": [0.8, 1.0], "reward_margin": 2.5, "reward_margin_ci95": [2.2, 2.8], "n_heldout_pairs": 15,
               **comparison_metrics([row])}  # fmt: skip
    said = verdict(numbers)
    numbers |= {"verdict": said.code, "verdict_ja": said.ja, "verdict_en": said.en}
    page = render_report(run, load_recipe("tiny"), numbers, [row], {"rubric": b"\x89PNG"})
    assert page.count("data:image/png;base64,iVBORw==") == 1 or "data:image/png;base64,iVBORg==" in page
    assert_harmless(page.replace("<img alt", "<x alt"), html=True)


def test_a_card_holds_no_markup_of_others():
    recipe = load_recipe("smoke", model="org/base`|<b>")
    card = model_card(CardFacts(PAYLOAD, PAYLOAD, recipe, {"source": PAYLOAD, "dropped": {}}, {}, None, "float32"))
    assert_harmless(card)
    text = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert "<" not in text and not re.search(r"(?<!\\)\](?=\()|(?<!\\)!|(?<!:\u200b)//", text)
    assert card.count("```") % 2 == 0 and card.startswith("---\n") and card.count("\n---\n") == 1
    assert re.search(r"^# 靴", card, re.MULTILINE)


def test_a_name_cannot_write_into_the_cards_front_matter():
    card = model_card(CardFacts("x", "org/base\nlicense: mit", load_recipe("smoke"), {}, {}, None, None))
    assert "license: mit" not in card.split("\n---\n")[0] and "base_model" not in card.split("\n---\n")[0]


def test_tables_and_widgets(monkeypatch):
    table = Table([{"a": PAYLOAD}])
    assert_harmless(repr(table))
    assert_harmless(table._repr_html_(), html=True)
    form = run_form({})
    form.build()
    form.fields["run"].value = PAYLOAD
    form.fields["data"].value = PAYLOAD
    assert "実行名" in form.message.value
    assert_harmless(form.message.value)
    assert set(Tags(form.message.value).tags) <= {"div", "br"}


def test_the_live_view_prints_no_codes(capsys):
    view = LiveView(4)
    view._try("curves", lambda: (_ for _ in ()).throw(RuntimeError(PAYLOAD)))
    assert_harmless(capsys.readouterr().out)


def test_an_error_is_harmless_whatever_it_quotes():
    error = DataError(f"{PAYLOAD}。→ 直す", f"{PAYLOAD}. -> Mend it.")
    for text in (str(error), repr(error), "".join(error._render_traceback_()), error.ja, error.en, repr(error.args)):
        assert_harmless(text)
    assert "\n" in str(error)


# --- secrets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [TOKEN, f"token={TOKEN}&x", f"https://user:{TOKEN}@huggingface.co/org/x", f"https://{TOKEN}@host", f'"Authorization": "Bearer {TOKEN}"',
     f"\\n{TOKEN}\\n", f"({TOKEN})", "https://me:secret-word@host/x", "Bearer abcdefghijklmnop.qrst"],
)  # fmt: skip
def test_tokens_and_passwords_are_struck_out(text):
    shown = redacted(text)
    assert "***" in shown and not any(secret in shown for secret in (TOKEN, "secret-word", "qrst"))


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"])
def test_the_values_of_known_variables_are_struck_out_whatever_they_look_like(monkeypatch, name):
    monkeypatch.setenv(name, " no-usual-shape-1 \n")
    assert redacted("x no-usual-shape-1 y") == "x *** y"
    monkeypatch.setenv(name, "no")
    assert redacted("no, nothing") == "no, nothing"


@pytest.mark.parametrize(
    "text", ["hf:owner/name", "hf_token", "s3://bucket/a@b", "a@b.jp", "runs/hf_x", "https://host/a?b=c@d", "12:30@東京"]
)
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text


def test_colabs_secret_and_a_login_file_are_known_once_they_were_read(colab, tmp_path, monkeypatch):
    monkeypatch.setattr(foreign_text, "_seen", set())
    monkeypatch.setattr(colab.userdata, "get", lambda name: "colab-secret-1234", raising=False)
    assert hub_token.hf_token() == "colab-secret-1234" and redacted("x colab-secret-1234") == "x ***"
    (tmp_path / "login").write_text("login-secret-1234\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "login"))
    hub_token._remember.cache_clear()
    assert hub_token.hf_token() is None and redacted("x login-secret-1234") == "x ***"


def test_what_the_hub_says_of_a_request_is_cleaned_before_it_is_kept():
    error = OSError(f"401 Client Error for url: https://me:{TOKEN}@hub/org/x \x1b[31m{TOKEN}")
    skipped = _why_not("org/x", OSError(f"No such host https://me:{TOKEN}@hub \x1b[31m"), False)
    assert TOKEN not in skipped.ja + skipped.en and "\x1b" not in skipped.en and "***" in skipped.en
    assert TOKEN not in str(_why_not("org/x", error, False))


def test_what_the_installer_says_is_cleaned():
    output = f"ERROR: Could not fetch https://user:secret-word@index/simple\nToken {TOKEN}"
    error = _refusal(InstallPlan(("x",), ("y==1",), ("pip",)), output)
    assert isinstance(error, SetupError) and "secret-word" not in str(error) and TOKEN not in str(error)


def test_no_text_file_of_an_export_holds_a_token(tmp_path):
    write_text(tmp_path / "a" / "recipe.json", json.dumps({"x": f"https://me:{TOKEN}@h"}))
    write_text(tmp_path / "a" / "README.md", TOKEN)
    clean_folder(tmp_path / "a", [])
    assert TOKEN not in (tmp_path / "a" / "README.md").read_text() and read_json(tmp_path / "a" / "recipe.json") == {
        "x": "https://***@h"
    }


# --- the functions themselves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")', "＝1", "  =1", "\u3000=1", "\n=1"]
)
def test_formulas_are_text(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["靴", "", "1+1", -1, 1.5, None, "a=b"])
def test_other_cells_stay(value):
    assert csv_cell(value) == value


def test_visible_spells_out_what_is_obeyed_and_keeps_what_is_read():
    assert visible("a\x1b[2Jb\r\x9bc\u202ed") == "a\\u001b[2Jb\\u000d\\u009bc\\u202ed"
    kept = "改行\nタブ\t絵文字👨‍👩‍👧が が ｶﾞ"
    assert visible(kept) == kept == harmless(kept)
    assert json.loads(visible(json.dumps({"a": "x\x7f\u202e"}, ensure_ascii=False))) == {"a": "x\x7f\u202e"}


def test_markdown_is_one_line_without_markup():
    assert markdown("a|b\n# <b>*c* ![x](http://y)") == "a\\|b \\# &lt;b&gt;\\*c\\* \\!\\[x\\](http:\u200b//y)"
    assert markdown("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.mark.parametrize(
    "text",
    [
        "9" * 200_000,
        "1" + " " * 100_000,
        "訴求" + " " * 100_000,
        "商品" * 50_000,
        "「" * 100_000,
        "※" * 50_000,
        "!" + " " * 100_000 + "x",
    ],
)
def test_texts_that_a_careless_pattern_takes_hours_for(text):
    """A hang is what this guards against: the suite would stand still here."""
    assert parse_brief(text + "文字以内").max_chars in (None, 1) and judge(text, text).score >= 0


def test_limits_of_a_brief_are_still_read():
    assert parse_brief("商品：靴\n20〜30文字で").max_chars == 30 and parse_brief("全角30字以内").max_chars == 30
    assert parse_brief("10 文字以上 15 文字 まで").min_chars == 10 and parse_brief("20文字～30文字").min_chars == 20
    assert parse_brief("訴求点は「軽さ」").appeal == parse_brief("訴求： 「軽さ」").appeal == "軽さ"


def test_brief_never_fails():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, 10**5000, "x" * 10**6, {"a": [1] * 10**5}, AdslmError("あ", "a"), "\ud800", {i: i for i in range(99)}):
        assert len(brief(value)) <= 120
