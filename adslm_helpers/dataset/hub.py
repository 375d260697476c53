"""A dataset of the Hugging Face Hub, or a folder that its library saved -> raw rows; no code of theirs runs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from ..environment.hub_token import hf_token
from .rows import Place, RawRow, fail, short_error

_SAFE_ARROW = "14.0.1"
_HUB = re.compile(r"hf:(?P<name>\w[\w.-]*(?:/\w[\w.-]*)?)(?::(?P<split>[\w.\[\]%:+-]+))?")


def hub_rows(source: str) -> Iterator[RawRow]:
    """The rows of a Hub dataset, which is fetched at once: a wrong name must fail before a run is touched."""
    match = _HUB.fullmatch(source)
    if not match:
        fail(
            f"{source} は Hugging Face の名前ではありません。→ hf:owner/name か hf:owner/name:split と書いてください。",
            f"{source} is no Hugging Face name. -> Write hf:owner/name or hf:owner/name:split.",
        )
    name, split = match["name"], match["split"] or "train"
    try:
        from datasets import load_dataset

        # datasets before 2.20 runs a dataset's own script unless told not to, from 4.0 on it never does.
        options = {"trust_remote_code": False} if "trust_remote_code" in inspect.signature(load_dataset).parameters else {}
        rows = load_dataset(name, split=split, token=hf_token(), **options)
    except Exception as error:  # the Hub fails in the classes of many libraries; each is told to the user
        fail(
            f"{source} を取得できません（{short_error(error)}）。"
            "→ 名前・分割名・ネットワーク・HF_TOKEN を確かめるか、ファイルを渡してください。",
            f"{source} cannot be loaded ({short_error(error)}). -> Check name, split, network and HF_TOKEN, or give a file.",
        )
    return (RawRow(value, Place(f"hf:{name}:{split}", number, "row")) for number, value in enumerate(rows, 1))


def is_saved(path: Path) -> bool:
    """Whether a folder is one that `Dataset.save_to_disk` wrote."""
    try:
        return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    except OSError:  # a folder that may not be entered
        return False


def saved_rows(path: Path) -> Iterator[RawRow]:
    """The rows of a folder that `Dataset.save_to_disk` wrote; of several splits, that of `train` or the only one."""
    refuse_unsafe_arrow()
    try:
        from datasets import load_from_disk

        found = load_from_disk(str(path))
    except Exception as error:  # as with the Hub: the errors of many libraries
        fail(
            f"{path} を datasets のフォルダーとして読めません（{short_error(error)}）。→ 保存し直すか、JSONL で書き出してください。",
            f"{path} cannot be read as a folder of datasets ({short_error(error)}). -> Save it again, or export it as JSONL.",
        )
    if isinstance(found, dict):
        if "train" not in found and len(found) != 1:
            names = ", ".join(found)
            fail(
                f"{path} には分割が複数あります（{names}）。→ 中のフォルダーを1つ指定してください。",
                f"{path} holds several splits ({names}). -> Give one of the folders in it.",
            )
        found = found["train"] if "train" in found else next(iter(found.values()))
    for number, value in enumerate(found, 1):
        yield RawRow(value, Place(str(path), number, "row"))


def refuse_unsafe_arrow() -> None:
    """DataError for a pyarrow that may run code of the file which it reads."""
    import pyarrow
    from packaging.version import Version

    if Version(pyarrow.__version__) < Version(_SAFE_ARROW):
        fail(
            f"pyarrow {pyarrow.__version__} は、Parquet を読むときに中のプログラムを動かすことがあります（CVE-2023-47248）。"
            "→ pyarrow を 14.0.1 以上にするか、JSONL か CSV にしてください。",
            f"pyarrow {pyarrow.__version__} may run code that a Parquet file holds (CVE-2023-47248). "
            "-> Use pyarrow 14.0.1 or newer, or save the rows as JSONL or CSV.",
        )
