"""Files of prompt embeddings, damaged and made up: read, or refused with words; nothing in them is run."""

import io
import zipfile

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from adslm_helpers.errors import AdslmError
from adslm_helpers.training.guided.embeddings import read_prompt_embeddings

from .cases import TOKENS, checked_words, damaged, everything, fuzzed, place

# Of torch about storages, of zipfile about names that come twice.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
H = 4


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


SEEDS = (
    saved(torch.ones(2, H)), saved({"prompt_embeddings": torch.ones(2, H)}), saved(torch.nn.Embedding(2, H).state_dict()),
    saved(torch.nn.Parameter(torch.ones(H).bfloat16())), save({"weight": torch.ones(2, H)}), save({"embeddings": torch.ones(H).half()}),
)  # fmt: skip


def check(content, name="e.pt"):
    with place() as folder:
        (folder / name).write_bytes(content)
        before = everything(folder)
        try:
            found = read_prompt_embeddings(folder / name, H)
            assert found.shape[1] == H and found.dtype == torch.float32 and bool(found.isfinite().all())
        except AdslmError as error:
            checked_words(error)
        assert everything(folder) == before


@fuzzed(150, content=damaged(*SEEDS))
def test_a_damaged_file(content):
    check(content)


def archive(records):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in records.items():
            file.writestr(name, content)
    return buffer.getvalue()


def parts(content):
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


@fuzzed(
    150,
    seed=st.sampled_from(SEEDS[:4]),
    pickled=st.data(),
    record=st.one_of(st.none(), st.binary(max_size=64)),
    extra=st.dictionaries(st.sampled_from(("archive/data/1", "archive/byteorder", "archive/version", "x/data.pkl", "archive/constants.pkl")),
                          st.one_of(st.binary(max_size=20), st.sampled_from(TOKENS)), max_size=2),
)  # fmt: skip
def test_an_archive_with_a_damaged_pickle_and_a_whole_directory(seed, pickled, record, extra):
    """Past the checksums of the archive: what the pickle says of sizes, names and its own stack."""
    found = parts(seed)
    found["archive/data.pkl"] = pickled.draw(damaged(found["archive/data.pkl"]))
    if record is not None:
        found["archive/data/0"] = record
    check(archive(found | extra))


@fuzzed(40, content=st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(TOKENS), max_size=6).map(b"".join)))
def test_any_bytes(content):
    check(content, "e.safetensors")
    check(b"PK\x03\x04" + content)
    check(b"\x40\0\0\0\0\0\0\0{" + content)
