"""The four shapes of a prompt embeddings file are read; everything else is refused in words, before any of it is run or believed."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from adslm_helpers.errors import DataError
from adslm_helpers.training.guided.embeddings import read_prompt_embeddings, write_prompt_embeddings

H = 8
VECTORS = torch.arange(3 * H, dtype=torch.float32).reshape(3, H) / 7


def refused(path, *words, hidden_size=H):
    with pytest.raises(DataError) as error:
        read_prompt_embeddings(path, hidden_size)
    assert "→" in error.value.ja and "->" in error.value.en
    for word in words:
        assert word in error.value.en, error.value.en


def embedding():
    layer = torch.nn.Embedding(3, H)
    layer.weight.data = VECTORS.clone()
    return layer


SHAPES = {
    "bare": lambda: VECTORS,
    "parameter": lambda: torch.nn.Parameter(VECTORS),
    "prompt_embeddings": lambda: {"prompt_embeddings": VECTORS},
    "embeddings": lambda: {"embeddings": torch.nn.Parameter(VECTORS)},
    "state dict": lambda: embedding().state_dict(),
    "double": lambda: VECTORS.double(),
    "a part of a larger one": lambda: torch.cat([VECTORS, VECTORS])[3:],
    "transposed": lambda: VECTORS.T.contiguous().T,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_that_torch_save_writes(tmp_path, shape):
    torch.save(SHAPES[shape](), tmp_path / "e.pt")
    read = read_prompt_embeddings(tmp_path / "e.pt", H)
    assert torch.equal(read, VECTORS) and read.dtype == torch.float32 and not read.requires_grad and read.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    torch.save(VECTORS.to(dtype), tmp_path / "e.bin")
    assert torch.equal(read_prompt_embeddings(tmp_path / "e.bin", H), VECTORS.to(dtype).float())


def test_one_vector_counts_as_a_row(tmp_path):
    torch.save(VECTORS[0], tmp_path / "e.pth")
    assert read_prompt_embeddings(str(tmp_path / "e.pth"), H).shape == (1, H)


def test_an_adapter_of_peft_by_its_folder_its_file_and_another_name(tmp_path):
    save_file({"prompt_embeddings": VECTORS}, tmp_path / "adapter_model.safetensors")
    save_file({"weight": VECTORS}, tmp_path / "e.safetensors")
    for path in (tmp_path, tmp_path / "adapter_model.safetensors", tmp_path / "e.safetensors"):
        assert torch.equal(read_prompt_embeddings(path, H), VECTORS)


@pytest.mark.parametrize("name", ["e.pt", "e.safetensors"])
def test_what_is_written_is_read_and_does_not_hang_on_the_file(tmp_path, name):
    path = write_prompt_embeddings(tmp_path / name, torch.nn.Parameter(VECTORS.double()))
    read = read_prompt_embeddings(path, H)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(read, VECTORS)
    read += 1
    assert not torch.equal(read, VECTORS)


def test_a_hidden_size_of_another_model_names_both_numbers(tmp_path):
    torch.save(VECTORS, tmp_path / "e.pt")
    refused(tmp_path / "e.pt", "have 8 numbers", "hidden size is 16", hidden_size=16)


OTHERS = {
    "two keys": ({"prompt_embeddings": VECTORS, "step": VECTORS + 1}, "2 tensors"),
    "a key of LoRA": ({"lora_A.weight": VECTORS}, "lora_A.weight"),
    "a number beside it": ({"prompt_embeddings": VECTORS, "epoch": 3}, "epoch"),
    "a list": ([VECTORS], "list"),
    "three axes": (VECTORS[None], "[1, 3, 8]"),
    "a scalar": (torch.tensor(1.0), "[]"),
    "whole numbers": (VECTORS.long(), "torch.int64"),
    "not a number": (VECTORS / 0, "not finite"),
    "too large for float32": (VECTORS.double() * 1e300, "not finite"),
    "no rows": (torch.zeros(0, H), "[0, 8]"),
    "one row spread over many": (VECTORS[:1].expand(10**9, H), "damaged"),
    "no tensor": ({"prompt_embeddings": [1.0]}, "0 tensors"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_contents_are_refused_by_what_they_are(tmp_path, other):
    value, word = OTHERS[other]
    torch.save(value, tmp_path / "e.pt")
    refused(tmp_path / "e.pt", word)


class Runs:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


class Allocates:
    """`weights_only` allows bytearray, and fills it."""

    def __reduce__(self):
        return (bytearray, (1 << 40,))


@pytest.mark.parametrize(("kind", "name"), [(Runs, "mkdir"), (Allocates, "bytearray")])
def test_a_pickle_that_wants_more_is_not_opened(tmp_path, monkeypatch, kind, name):
    monkeypatch.chdir(tmp_path)
    torch.save({"prompt_embeddings": VECTORS, "x": kind()}, tmp_path / "e.pt")
    refused(tmp_path / "e.pt", name)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(kind()))
    refused(tmp_path / "bare.pt", "neither")
    torch.save(VECTORS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "old.pt", "old format")
    assert not (tmp_path / "ran").exists()


def saved():
    buffer = io.BytesIO()
    torch.save(VECTORS, buffer)
    return buffer.getvalue()


def rebuilt(path, method=zipfile.ZIP_STORED, **changed):
    """The archive of torch.save with some records replaced (None: left out)."""
    with zipfile.ZipFile(io.BytesIO(saved())) as old, zipfile.ZipFile(path, "w", method) as new:
        for name in old.namelist():
            value = changed.pop(name.partition("/")[2].replace("/", "_").replace(".", "_"), old.read(name))
            if value is not None:
                new.writestr(name, value)
        for name, value in changed.items():
            new.writestr(f"archive/{name.replace('_', '/')}", value)
    return path


def pickle_of_size(numel):
    """data.pkl, claiming a storage of `numel` numbers."""
    with zipfile.ZipFile(io.BytesIO(saved())) as archive:
        text = archive.read("archive/data.pkl")
    (at,) = [at for operation, argument, at in pickletools.genops(text) if operation.name == "BININT1" and argument == 24]
    return text[:at] + b"J" + struct.pack("<i", numel) + text[at + 2 :]


def test_an_archive_that_lies_about_its_records(tmp_path):
    assert torch.equal(read_prompt_embeddings(rebuilt(tmp_path / "same.pt"), H), VECTORS)
    refused(rebuilt(tmp_path / "bomb.pt", zipfile.ZIP_DEFLATED, data_0=b"\0" * (1 << 26)), "damaged")
    refused(rebuilt(tmp_path / "size.pt", data_pkl=pickle_of_size(1 << 30)), "damaged")
    refused(rebuilt(tmp_path / "order.pt", byteorder=b"big"), "damaged")
    refused(rebuilt(tmp_path / "short.pt", data_0=b"\0" * 20), "damaged")
    refused(rebuilt(tmp_path / "none.pt", data_0=None), "0 tensors")
    refused(rebuilt(tmp_path / "pickle.pt", data_pkl=None), "damaged")
    refused(rebuilt(tmp_path / "many.pt", **{f"data_{n}": b"" for n in range(1, 40)}), "damaged")
    refused(rebuilt(tmp_path / "long.pt", data_pkl=pickle.dumps(["x" * 100] * 10 + list(range(20000)), 2)), "bytes")


def test_a_file_cut_off_anywhere(tmp_path):
    whole = saved()
    save_file({"weight": VECTORS}, tmp_path / "e.safetensors")
    for content in (whole, (tmp_path / "e.safetensors").read_bytes()):
        for end in range(0, len(content) - 1, 37):
            (tmp_path / "cut.pt").write_bytes(content[:end])
            refused(tmp_path / "cut.pt")


def test_what_is_no_file(tmp_path):
    refused(tmp_path / "none.pt", "There is no file")
    refused(tmp_path, "a folder without adapter_model.safetensors")
    refused("a\0b", "There is no file")
    refused("", "a folder")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.pt")
        refused(tmp_path / "pipe.pt", "no regular file")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "e.pt", "wb") as file:
        file.truncate(1 << 40)  # a sparse file
    refused(tmp_path / "e.pt", "larger than 64 MiB")
