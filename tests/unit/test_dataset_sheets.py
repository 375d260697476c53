"""Workbooks and gz files: the values as a person sees them, and words for what is damaged, locked or made to fill the memory."""

import datetime
import gzip
import os
import tempfile
import zipfile

import pytest

from adslm_helpers.dataset import sheets
from adslm_helpers.dataset.sheets import sheet_rows
from adslm_helpers.dataset.unpack import unpacked
from adslm_helpers.errors import DataError

openpyxl = pytest.importorskip("openpyxl")


def book(path, **tables):
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for name, rows in tables.items():
        sheet = workbook.create_sheet(name)
        for row in rows:
            sheet.append(row)
    workbook.save(path)
    return path


def refusal(path, **options):
    with pytest.raises(DataError) as caught:
        list(sheet_rows(path, **options))
    assert "→" in caught.value.ja and "->" in caught.value.en and str(path) in caught.value.en
    return caught.value.en


def repacked(path, target, **parts):
    """A copy of a workbook with some parts written anew."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            change = parts.get(name.rpartition("/")[2].partition(".")[0])
            new.writestr(name, change(old.read(name)) if change else old.read(name))
    return target


def test_values_come_with_their_types_and_the_nth_list_is_the_nth_row(tmp_path):
    day = datetime.datetime(2026, 4, 1)
    path = book(
        tmp_path / "a.xlsx", 表=[["prompt", "数", None], [], ["靴\n軽い", 3, None], [day, 0.5, True], ["_x000D_\n", None, 1]]
    )
    assert list(sheet_rows(path)) == [["prompt", "数"], [], ["靴\n軽い", 3], [day, 0.5, True], ["\n", None, 1]]


def test_a_formula_counts_as_its_stored_result(tmp_path):
    path = book(tmp_path / "a.xlsx", a=[["x", "y"], [1, "=1+1"]])
    kept = repacked(
        path, tmp_path / "b.xlsx", sheet1=lambda xml: xml.replace(b"<v />", b"<v>2</v>").replace(b"<v></v>", b"<v>2</v>")
    )
    assert list(sheet_rows(kept)) == [["x", "y"], [1, 2]]


def test_merged_text_stands_in_every_cell_and_a_merged_number_once(tmp_path):
    """A total that grew because its cell was merged would be a false log."""
    path = book(tmp_path / "a.xlsx", a=[["見出し", None, "数"], ["靴", "A", 5], [None, "B", None], ["鞄", "C", 7]])
    workbook = openpyxl.load_workbook(path)
    for merged in ("A1:B1", "A2:A3", "C2:C3"):
        workbook.active.merge_cells(merged)
    workbook.save(path)
    assert list(sheet_rows(path)) == [["見出し", "見出し", "数"], ["靴", "A", 5], ["靴", "B"], ["鞄", "C", 7]]


def test_the_sheet_with_the_table_is_found_or_has_to_be_named(tmp_path):
    table, note = [["a", "b"], [1, 2]], [["この表の使い方"], [], ["4月分"]]
    assert list(sheet_rows(book(tmp_path / "a.xlsx", メモ=note, 空=[], データ=table))) == table
    path = book(tmp_path / "b.xlsx", 四月=table, 五月=[["a", "b"], [3, 4]])
    assert "四月, 五月" in refusal(path) and "b.xlsx#四月" in refusal(path)
    assert list(sheet_rows(path, "五月"))[1] == [3, 4]
    assert "nearest: 五月" in refusal(path, sheet="五月分")
    assert "holds no row" in refusal(book(tmp_path / "c.xlsx", x=[], y=[]))


def test_hidden_sheets_are_not_chosen_unless_named(tmp_path):
    path = book(tmp_path / "a.xlsx", 見える=[["a", "b"], [1, 2]], 隠れ=[["a", "b"], [3, 4]])
    workbook = openpyxl.load_workbook(path)
    workbook["隠れ"].sheet_state = "hidden"
    workbook.save(path)
    assert list(sheet_rows(path))[1] == [1, 2] and list(sheet_rows(path, "隠れ"))[1] == [3, 4]


def test_other_office_files_are_refused_in_words(tmp_path):
    for name, content, word in (("a.xls", b"\xd0\xcf\x11\xe0" + b"\0" * 600, "password"), ("a.xlsx", b"a,b\n1,2\n", "not Excel")):
        (tmp_path / name).write_bytes(content)
        assert word in refusal(tmp_path / name)
    for part, content, word in (
        ("mimetype", "application/vnd.oasis.opendocument.spreadsheet", "ods"),
        ("xl/workbook.bin", "x", "xlsb"),
        ("word/document.xml", "<a/>", "Word"),
        ("x.csv", "a,b", "zip"),
    ):
        with zipfile.ZipFile(tmp_path / "z.xlsx", "w") as archive:
            archive.writestr(part, content)
        assert f"is {word}," in refusal(tmp_path / "z.xlsx")


def test_a_damaged_workbook_is_told(tmp_path):
    path = book(tmp_path / "a.xlsx", a=[["x", "y"]] + [[n, "z"] for n in range(300)])
    refusal(repacked(path, tmp_path / "b.xlsx", sheet1=lambda xml: xml[:-200]))
    refusal(repacked(path, tmp_path / "c.xlsx", workbook=lambda xml: xml[:-20]))
    (tmp_path / "d.xlsx").write_bytes(path.read_bytes()[:-300])
    refusal(tmp_path / "d.xlsx")


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = book(tmp_path / "a.xlsx", a=[["x", "y"], ["z" * 30_000, 1]])
    for limit, size in (("LARGEST_SHEET", 40_000), ("_LARGEST_PART", 10_000)):
        with monkeypatch.context() as patch:
            patch.setattr(sheets, limit, size)
            assert "too large when unpacked" in refusal(path)
    assert len(list(sheet_rows(path))) == 2


def test_entities_are_refused(tmp_path):
    """The billion laughs, in a part that openpyxl would parse."""
    path = book(tmp_path / "a.xlsx", a=[["x", "y"], ["z", 1]])
    bomb = b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    for part in ("sheet1", "workbook", "styles"):
        changed = repacked(path, tmp_path / f"{part}.xlsx", **{part: lambda xml: bomb + xml[xml.find(b"<", 3) :]})
        assert "DTD" in refusal(changed)


def test_a_row_far_below_and_a_cell_far_to_the_right_end_in_words(tmp_path, monkeypatch):
    path = book(tmp_path / "a.xlsx", a=[["x", "y"], ["z", 1]])
    far = repacked(
        path,
        tmp_path / "b.xlsx",
        sheet1=lambda xml: xml.replace(b'r="A2"', b'r="A900000000"').replace(b'<row r="2"', b'<row r="900000000"'),
    )
    monkeypatch.setattr(sheets, "_MOST_ROWS", 1000)
    assert "more than 1,000 rows" in refusal(far)
    wide = repacked(path, tmp_path / "c.xlsx", sheet1=lambda xml: xml.replace(b'r="B2"', b'r="ZZZ2"'))
    assert "18,278 columns" in refusal(wide)


def test_gz_is_unpacked_and_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n") + gzip.compress(b"1,2\n"))  # two members are one file
    with unpacked(path) as plain:
        assert plain.name == "a.csv" and plain.read_bytes() == b"a,b\n1,2\n"
    assert os.listdir(tmp_path / "t") == []


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"a,b\n", "gzip"),
        (b"", "gzip"),
        (gzip.compress(b"abc" * 100)[:-9], "gzip"),
        (gzip.compress(b"abc")[:10] + b"\xff\xff\xff", "gzip"),
        (gzip.compress(b"\0" * 3_000_000), "more than 1 MiB"),
    ],
    ids=["text", "empty", "cut", "broken", "bomb"],
)
def test_gz_that_is_none_or_too_large(tmp_path, monkeypatch, content, word):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=word), unpacked(path, limit=1 << 20):
        pass
    assert os.listdir(tmp_path / "t") == []
