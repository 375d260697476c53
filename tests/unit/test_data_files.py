"""Shipped files: found in a clone and in an installed wheel, and what ships is what the program reads."""

from pathlib import Path

import pytest

from adslm_helpers import data_files
from adslm_helpers.data_files import data_path, read_yaml

SHIPPED = ["ad_grammar.yaml", "adtech_qa.yaml", "sample_pairs.jsonl", "tiny_ad_lm"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_file_is_found_in_a_clone(name):
    assert data_path(name).exists() and data_path(name).parent.name == "data"


def test_an_installed_package_reads_its_own_copy_first(tmp_path, monkeypatch):
    """Beside an installed package lies site-packages/data, which may be anybody's."""
    for folder, text in (("adslm_helpers/_data", "mine"), ("data", "foreign")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text(text)
    monkeypatch.setattr(data_files, "__file__", str(tmp_path / "adslm_helpers" / "data_files.py"))
    assert data_path("a.txt").read_text() == "mine"


def test_an_incomplete_installation_names_the_missing_file():
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        data_path("nothing.yaml")


def test_yaml_is_parsed_once():
    assert read_yaml("ad_grammar.yaml") is read_yaml("ad_grammar.yaml")


def test_the_wheel_carries_the_data_folder():
    pyproject = (Path(data_files.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"data" = "adslm_helpers/_data"' in pyproject
