"""Any text through every way out: it is shown and not obeyed, and no secret passes."""

import csv
import html
import io
import json
import re
from html.parser import HTMLParser

from hypothesis import strategies as st

from adslm_helpers.errors import DataError
from adslm_helpers.foreign_text import brief, csv_cell, harmless, markdown, redacted, visible
from adslm_helpers.run import read_json, read_jsonl, write_json, write_jsonl
from adslm_helpers.tables import Table
from adslm_helpers.text.brief import parse_brief
from adslm_helpers.text.rubric import judge

from .cases import TEXTS, VALUES, fuzzed, place

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
TOKEN = st.text("abcXYZ019", min_size=16, max_size=40).map("hf_".__add__)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@fuzzed(80, rows=st.lists(st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=3), min_size=1, max_size=3))
def test_a_table_shows_any_text(rows):
    table = Table(rows)
    seen = Tags(table._repr_html_())
    assert set(seen.tags) <= {"table", "tr", "th", "td"} and not OBEYED.search(seen.text) and not OBEYED.search(repr(table))
    for value in (value for row in rows for value in row.values()):
        assert harmless(value) in html.unescape(table._repr_html_())


@fuzzed(200, text=TEXTS)
def test_what_is_shown_can_be_printed_and_in_json_is_the_same_value(text):
    shown = visible(text)
    shown.encode("utf-8")
    assert not OBEYED.search(shown) and visible(shown) == shown
    assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text
    error = DataError(f"{text}。→ 直す", f"{text}. -> Mend it.")
    assert not OBEYED.search(str(error)) and not OBEYED.search("".join(error._render_traceback_()))


@fuzzed(150, before=TEXTS, token=TOKEN, after=TEXTS, url=st.booleans())
def test_no_token_passes_whatever_stands_around_it(before, token, after, url):
    text = f"{before} https://user:{token}@host/{after}" if url else f"{before} {token} {after}"
    assert token not in redacted(text) and token not in str(DataError(text, text)) and token not in markdown(text)


@fuzzed(100, values=st.lists(TEXTS, min_size=1, max_size=3))
def test_no_cell_begins_as_a_formula(values):
    out = io.StringIO(newline="")
    csv.writer(out).writerow([csv_cell(value) for value in values])
    for cell, value in zip(next(csv.reader(io.StringIO(out.getvalue(), newline=""))), values, strict=True):
        assert cell in (value, f"'{value}") and not re.match(r"[\s\u3000]*[=+\-@＝＋－＠]", cell)


@fuzzed(100, value=VALUES)
def test_any_value_has_words_and_comes_back_from_a_file(value):
    brief(value).encode("utf-8", "surrogatepass")
    assert len(brief(value)) <= 120
    with place() as folder:
        try:
            write_json(folder / "a.json", {"x": value})
            write_jsonl(folder / "a.jsonl", [{"x": value}])
        except ValueError:  # NaN, or an integer of thousands of digits: refused before anything is written
            assert not (folder / "a.json").exists() or (folder / "a.jsonl").exists() is False
            return
        assert read_json(folder / "a.json") == {"x": value} and read_jsonl(folder / "a.jsonl") == [{"x": value}]


@fuzzed(150, prompt=TEXTS, text=TEXTS, limit=st.one_of(st.text("0123456789０９٣~〜 字文以内上", max_size=12), TEXTS))
def test_the_rubric_judges_any_text(prompt, text, limit):
    judgement = judge(f"商品：{prompt}\n{limit}文字以内で", text)
    assert 0 <= judgement.score <= 1 and parse_brief(prompt + limit) is not None
