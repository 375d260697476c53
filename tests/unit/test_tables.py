"""Tables hold texts of models and users: they must be escaped, and readable without HTML."""

from adslm_helpers.tables import Table


def test_text_is_escaped_and_line_breaks_kept():
    page = Table(
        [{"前 / before": "<script>alert(1)</script>", "n": 3}, {"前 / before": "一行目\n二行目", "n": None}]
    )._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "一行目\n二行目" in page and "pre-wrap" in page and page.count("<tr>") == 3


def test_plain_text_has_a_line_a_row():
    assert repr(Table([{"a": "x\ny", "b": 1.5}])) == "a | b\nx / y | 1.5"
    assert repr(Table([])) == "" and Table([])._repr_html_() == "<table></table>"
