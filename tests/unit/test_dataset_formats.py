"""Readers: every row with its line, whatever the container and the encoding; broken rows are handed on, not lost."""

import gzip
import json
import sys
import types

import pytest

from adslm_helpers.dataset.formats import read_rows
from adslm_helpers.errors import DataError

PAIR = {"prompt": "靴の見出し", "chosen": "軽い靴で、遠くまで。", "rejected": "靴です。"}


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def numbers(rows):
    return [row.place.number for row in rows]


def refusal(source):
    with pytest.raises(DataError) as caught:
        list(read_rows(source))
    assert "→" in caught.value.ja and "->" in caught.value.en
    return caught.value


def test_a_broken_jsonl_line_is_handed_on_and_the_lines_below_it_survive(tmp_path):
    lines = [json.dumps(PAIR), "", '{"prompt": ', json.dumps(PAIR, ensure_ascii=False)]
    rows = list(read_rows(write(tmp_path, "a.jsonl", "\n".join(lines))))
    assert numbers(rows) == [1, 3, 4]
    assert [row.problem.code if row.problem else None for row in rows] == [None, "not_json", None]
    assert rows[1].place_ja.endswith("a.jsonl 3行目") and rows[1].place_en.endswith("a.jsonl line 3")
    assert rows[2].value == PAIR


def test_line_separator_inside_json_text_does_not_cut_the_row(tmp_path):
    row = {**PAIR, "chosen": "一\u2028二\x85三"}
    rows = list(read_rows(write(tmp_path, "a.jsonl", json.dumps(row, ensure_ascii=False) + "\r\n")))
    assert [row.value["chosen"] for row in rows] == ["一\u2028二\x85三"]


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5_000, "\x00\x00", '{"a": "\x00"}'])
def test_a_hostile_line_is_a_problem_not_a_traceback(tmp_path, line):
    rows = list(read_rows(write(tmp_path, "a.jsonl", line + "\n" + json.dumps(PAIR))))
    assert rows[0].problem.code == "not_json" and rows[1].value == PAIR


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp932", "utf-16"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_every_office_encoding_reads_the_same(tmp_path, encoding, name):
    text = {
        "a.jsonl": json.dumps(PAIR, ensure_ascii=False),
        "a.csv": "prompt,chosen,rejected\n" + ",".join(PAIR.values()),
        "a.json": json.dumps([PAIR], ensure_ascii=False),
    }[name]
    assert [row.value for row in read_rows(write(tmp_path, name, text.encode(encoding)))] == [PAIR]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_one_broken_byte_costs_one_row_and_never_turns_the_file_into_mojibake(tmp_path, name):
    head = b"" if name == "a.jsonl" else b"prompt,chosen,rejected\n"
    good = json.dumps(PAIR, ensure_ascii=False) if name == "a.jsonl" else ",".join(PAIR.values())
    lines = [good.encode(), good.encode()[:-3].replace("靴".encode(), "靴".encode()[:2], 1), good.encode()]
    rows = list(read_rows(write(tmp_path, name, head + b"\n".join(lines))))
    assert [row.problem.code if row.problem else None for row in rows] == [None, "bad_encoding", None]
    assert rows[0].value == rows[2].value == PAIR


def test_bytes_of_no_encoding_name_line_and_byte(tmp_path):
    error = refusal(write(tmp_path, "a.csv", b"prompt,chosen,rejected\nabc,\xff\xfe\xfd\x80\x81\xff,x\n"))
    assert "2行目" in error.ja and "27バイト目" in error.ja
    assert "line 2 (byte 27)" in error.en


def test_csv_line_numbers_count_lines_not_rows(tmp_path):
    text = 'prompt,chosen,rejected\r\np1,"一行目\r\n二行目",r1\r\n\r\n,,\r\np2,c2,r2\r\n'
    rows = list(read_rows(write(tmp_path, "a.csv", text)))
    assert numbers(rows) == [2, 6]
    assert rows[0].value["chosen"] == "一行目\r\n二行目"


def test_an_unclosed_quote_is_told_instead_of_swallowing_the_rows_below(tmp_path):
    text = 'prompt,chosen,rejected\np1,c1,r1\np2,"c2,r2\np3,c3,r3\n'
    rows = list(read_rows(write(tmp_path, "a.csv", text)))
    assert [row.problem.code if row.problem else None for row in rows] == [None, "not_csv"]
    assert "3-4" in rows[1].problem.ja


def test_a_comma_without_quotes_does_not_shift_the_answer(tmp_path):
    rows = list(read_rows(write(tmp_path, "a.csv", "prompt,chosen,rejected\np,today, only,r\np,c\n")))
    assert rows[0].problem.code == "too_many_cells"
    assert rows[1].value == {"prompt": "p", "chosen": "c", "rejected": ""}


def test_a_header_with_the_same_name_twice_is_refused(tmp_path):
    assert "'chosen'" in refusal(write(tmp_path, "a.csv", "prompt,chosen,chosen\np,c,r\n")).en


@pytest.mark.parametrize(("name", "mark"), [("a.tsv", "\t"), ("a.csv", "\t"), ("a.csv", ";")])
def test_delimiters(tmp_path, name, mark):
    text = "\n".join(mark.join(cells) for cells in (PAIR.keys(), PAIR.values()))
    assert [row.value for row in read_rows(write(tmp_path, name, text))] == [PAIR]


def test_json_array_items_have_the_line_on_which_they_begin(tmp_path):
    path = write(tmp_path, "a.json", json.dumps([PAIR, {"x": [1, "]"]}, PAIR], indent=1))
    lines = path.read_text().split("\n")
    rows = list(read_rows(path))
    assert [lines[row.place.number - 1].strip() for row in rows] == ["{", "{", "{"]
    assert [row.value for row in rows] == [PAIR, {"x": [1, "]"]}, PAIR]
    assert len(set(numbers(rows))) == 3


def test_other_shapes_of_json(tmp_path):
    assert numbers(read_rows(write(tmp_path, "a.json", json.dumps({"data": [PAIR, PAIR]})))) == [1, 2]
    assert [row.value for row in read_rows(write(tmp_path, "b.json", json.dumps(PAIR, indent=2)))] == [PAIR]
    mislabelled = json.dumps(PAIR) + "\n" + json.dumps(PAIR) + "\n{broken\n"
    assert [bool(row.problem) for row in read_rows(write(tmp_path, "c.json", mislabelled))] == [False, False, True]
    assert [row.value for row in read_rows(write(tmp_path, "d", "\ufeff \n" + json.dumps([PAIR])))] == [PAIR]
    assert [row.value for row in read_rows(write(tmp_path, "e.txt", json.dumps(PAIR)))] == [PAIR]


def test_a_truncated_json_array_names_the_line(tmp_path):
    error = refusal(write(tmp_path, "a.json", json.dumps([PAIR, PAIR], indent=1)[:-10]))
    assert "line 9" in error.en or "line 10" in error.en


def test_parquet_streams_rows_and_a_broken_one_is_told(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([PAIR] * 5), path, row_group_size=2)
    rows = list(read_rows(path))
    assert [row.value for row in rows] == [PAIR] * 5
    assert rows[4].place_ja.endswith("5件目") and rows[4].place_en.endswith("row 5")
    path.write_bytes(path.read_bytes()[:-20])
    assert "Parquet" in refusal(path).en


def test_missing_file_names_near_files_and_folder_names_its_files(tmp_path):
    write(tmp_path, "pairs_train.jsonl", "{}")
    write(tmp_path, "notes.md", "x")
    for number in range(9):
        write(tmp_path, f"{number}.csv", "x")
    assert "pairs_train.jsonl" in refusal(tmp_path / "pair_train.jsonl").ja
    assert "0.csv" in refusal(tmp_path).en and "notes.md" not in refusal(tmp_path).en


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.jsonl", "\n \n"), ("a.csv", "prompt,chosen,rejected\n"), ("a.json", "[]"), ("a.json", " "), ("a", "")],
)
def test_nothing_to_read_is_an_error(tmp_path, name, content):
    assert "holds no row" in refusal(write(tmp_path, name, content)).en


def test_unknown_kinds_are_refused_with_the_known_ones(tmp_path):
    assert ".xlsx" in refusal(write(tmp_path, "a.docx", b"PK\x03\x04")).ja


def test_hub_rows_have_places_and_failures_have_reasons(monkeypatch):
    asked = []

    def load_dataset(name, split, token):
        asked.append((name, split))
        if name == "none/none":
            raise ConnectionError("no network\nsecond line")
        return [PAIR, PAIR]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    rows = list(read_rows("hf:team/ads:test"))
    assert asked == [("team/ads", "test")] and [row.value for row in rows] == [PAIR, PAIR]
    assert rows[1].place.short == "hf:team/ads:test:2"
    assert "ConnectionError: no network" in refusal("hf:none/none").ja
    with pytest.raises(DataError):
        read_rows("hf:none/none")  # before the first row is asked for
    assert "owner/name" in refusal("hf:../../etc/passwd").en
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "datasets" in refusal("hf:team/ads").en


def test_gz_rows_have_their_place_in_the_packed_file(tmp_path):
    path = write(tmp_path, "a.jsonl.gz", gzip.compress(json.dumps(PAIR).encode() + b"\n{broken\n"))
    rows = list(read_rows(path))
    assert rows[0].value == PAIR and [row.place.source for row in rows] == [str(path)] * 2
    assert rows[1].problem.line_en.startswith(f"{path} line 2")
    array = refusal(write(tmp_path, "a.json.gz", gzip.compress(b'[{"a": 1},')))
    assert str(tmp_path / "a.json.gz") in array.en and "adslm-gz" not in array.en


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl.gz", b"{}", "cannot be unpacked as gzip"),
        ("a.exe.gz", gzip.compress(b"MZ"), ".parquet .xlsx"),
        ("a.csv.gz", gzip.compress(b""), "holds no row"),
        ("a.csv.gz", gzip.compress(b"PK\x03\x04" + b"x" * 50), "holds zip"),
        ("a.jsonl", gzip.compress(b"{}"), "Let its name end in .gz"),
        ("a.csv", b"PK\x03\x04" + b"x" * 50, "end in .xlsx"),
    ],
    ids=["text", "exe", "empty", "zip-in-gz", "gz-as-jsonl", "zip-as-csv"],
)
def test_packed_files_that_are_something_else(tmp_path, name, content, words):
    assert words in refusal(write(tmp_path, name, content)).en


def test_a_table_that_a_spreadsheet_saved_as_unicode_text(tmp_path):
    text = "\r\n".join("\t".join(cells) for cells in (PAIR.keys(), PAIR.values()))
    assert [row.value for row in read_rows(write(tmp_path, "a.txt", text.encode("utf-16")))] == [PAIR]
    assert "of no kind" in refusal(write(tmp_path, "b.txt", "ただの文です")).en


def test_a_folder_that_the_datasets_library_saved(tmp_path, monkeypatch):
    (tmp_path / "saved").mkdir()
    write(tmp_path / "saved", "dataset_dict.json", "{}")
    splits = {"test": [], "train": [PAIR, PAIR]}
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_from_disk=lambda path: splits))
    assert [row.value for row in read_rows(tmp_path / "saved")] == [PAIR, PAIR]
    splits["valid"] = splits.pop("train")
    assert "test, valid" in refusal(tmp_path / "saved").en
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_from_disk=lambda path: 1 / 0))
    assert "ZeroDivisionError" in refusal(tmp_path / "saved").en
