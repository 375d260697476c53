"""Checkpoints that can be trusted: sealed when they are whole, looked at before they are used, set aside when they are not."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..run import remove_temporary, sha256, write_json, write_text
from .ranks import first_decides, together

SEAL = "seal.json"
_STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
# transformers before 4.40 writes under tmp-checkpoint-N and renames; a kill leaves that.
_UNFINISHED = ("checkpoint-*", "tmp-checkpoint-*")


@dataclass(frozen=True)
class Unusable:
    """A checkpoint that training cannot go on from, and what became of it."""

    path: Path
    kind: str
    """'unfinished' (no seal: its writing was cut off), 'pruned' (its removal was cut off) or 'altered'."""
    files: tuple[str, ...]
    """The files that are absent, cut short or changed; empty where there is no seal to compare them with."""
    kept_as: Path | None = None
    """Where an altered one lies now; the others are removed."""

    @property
    def ja(self) -> str:
        """What happened and what was done, in Japanese."""
        if self.kind == "altered":
            where = f" {self.kept_as} に名前を変えて残しました。" if self.kept_as else ""
            return f"{self.path} は保存後に変わっているため使いません（{', '.join(self.files)}）。{where}".rstrip()
        return f"{self.path} は{'書き込み' if self.kind == 'unfinished' else '削除'}の途中で止まったもので、使わずに消します。"

    @property
    def en(self) -> str:
        """What happened and what was done, in English."""
        if self.kind == "altered":
            where = f"; kept as {self.kept_as}" if self.kept_as else ""
            return f"{self.path} has changed since it was saved and is not used ({', '.join(self.files)}){where}."
        return f"{self.path} was cut off while it was {'written' if self.kind == 'unfinished' else 'removed'}: not used, removed."

    def line(self) -> str:
        """One bilingual line."""
        return f"{self.ja} / {self.en}"


def seal(checkpoint: Path) -> Path:
    """Writes seal.json, the last file of a checkpoint: path, bytes and SHA-256 of all others. What has none is half-written.

    Reads every file once: adapter and optimizer of a LoRA run, some MB.
    """
    return write_json(
        checkpoint / SEAL, {"format": "adslm-seal/1", "files": [_entry(checkpoint, path) for path in _files(checkpoint)]}
    )


def broken(checkpoint: Path) -> Unusable | None:
    """Why this checkpoint cannot be used; None when every file is as it was sealed. Looks only."""
    try:
        entries = json.loads((checkpoint / SEAL).read_bytes())["files"]
        good = {entry["path"] for entry in entries if _matches(checkpoint, entry)}
        wrong = sorted({entry["path"] for entry in entries} - good)
    except FileNotFoundError:
        return Unusable(checkpoint, "unfinished", ())
    except (ValueError, TypeError, KeyError):
        return Unusable(checkpoint, "altered", (SEAL,))
    return Unusable(checkpoint, "altered", tuple(wrong)) if wrong else None


def last_valid(training: Path) -> Path | None:
    """The newest checkpoint of a training folder that is sealed and unchanged; None where there is none. Looks only."""
    return next((path for path in reversed(checkpoints(training)) if broken(path) is None), None)


def checkpoints(training: Path) -> list[Path]:
    """Every checkpoint folder of a training folder by its step, usable or not."""
    found = [path for path in (training / "checkpoints").glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done at this checkpoint, by its name."""
    return int(checkpoint.name.rsplit("-", 1)[-1])


def discard_unusable(training: Path) -> list[Unusable]:
    """Clears away what training cannot go on from, and says what: only for whoever holds the run's lock, with no trainer at work.

    Half-written and half-removed ones are deleted. One that was whole and has changed is evidence (a disk? a person?): it gets a name
    that transformers does not look at.
    """
    newest, told = last_valid(training), []
    for path in sorted(path for pattern in _UNFINISHED for path in (training / "checkpoints").glob(pattern) if path.is_dir()):
        found = broken(path)
        if found is None:
            remove_temporary(path)
            continue
        gone = found.files and not any((path / name).exists() for name in found.files)
        if gone and newest and _NAME.fullmatch(path.name) and step_of(path) < step_of(newest):
            found = Unusable(path, "pruned", found.files)  # the trainer was killed while it made room
        if found.kind == "altered":
            told.append(Unusable(path, "altered", found.files, _rename_aside(path)))
        else:
            remove_checkpoint(path)
            told.append(found)
    return told


def clear_up(training: Path) -> list[str]:
    """`discard_unusable`; what there is to say, in bilingual lines."""
    return [found.line() for found in discard_unusable(training)]


def remove_checkpoint(path: Path) -> None:
    """Deletes a checkpoint, its seal first: cut off midway, what is left does not pass for one."""
    (path / SEAL).unlink(missing_ok=True)
    shutil.rmtree(path)


def remove_after(training: Path, step: float) -> list[Path]:
    """Deletes the checkpoints past `step`, newest first, for a run that goes back to it; returns what they were called."""
    later = [path for path in reversed(checkpoints(training)) if step_of(path) > step]
    for path in later:
        remove_checkpoint(path)
    return later


def set_train_batch_size(checkpoint: Path, size: int) -> None:
    """Notes another batch size per device in a sealed checkpoint, for a resume with more accumulation.

    transformers 4 takes the size from the checkpoint whatever its arguments say; from 5.0 it does so with auto_find_batch_size only.
    Cut off anywhere, the checkpoint stays valid: between the two states its seal knows both. Its time of change stays as it was, for by
    that the trainer finds the oldest ones to remove.
    """
    state = _state(checkpoint)
    if state.get("train_batch_size") == size:
        return
    times = checkpoint.stat()
    # As transformers writes it: a logged NaN is no JSON, and stays what it was.
    text = json.dumps({**state, "train_batch_size": size}, indent=2, sort_keys=True) + "\n"
    value = json.loads((checkpoint / SEAL).read_bytes())
    write_json(checkpoint / SEAL, {**value, "files": [*value["files"], _text_entry(_STATE, text)]})
    write_text(checkpoint / _STATE, text)
    seal(checkpoint)
    os.utime(checkpoint, ns=(times.st_atime_ns, times.st_mtime_ns))


def is_finished(checkpoint: Path) -> bool:
    """Whether the training had taken its last step here."""
    state = _state(checkpoint)
    return 0 < state["max_steps"] <= state["global_step"]


def seal_callback() -> Any:
    """A `transformers.TrainerCallback` that seals each checkpoint as it is saved, and has one saved at the last step.

    To be handed in before any callback that uses checkpoints. A kill anywhere leaves a valid one: the trainer removes old ones before
    the new one is sealed, so save_total_limit must be 2 or more.
    """
    from transformers import TrainerCallback

    class Seal(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= state.max_steps:  # not done by every version; what comes after may be killed too
                control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            together()  # each process writes its own random state
            if state.is_world_process_zero:
                seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Seal()


def train_from(trainer: Any, checkpoint: Path | None) -> None:
    """`trainer.train`, from a checkpoint where there is one; one of the last step is loaded and nothing more is trained.

    transformers takes one step too many when it resumes a run with max_steps that had ended inside an epoch.
    """
    trainer.args._n_gpu = min(trainer.args.n_gpu, 1)  # else one process spreads each batch over all GPUs (nn.DataParallel)
    if checkpoint:
        first_decides(lambda: set_train_batch_size(checkpoint, trainer.args.train_batch_size))
    if checkpoint is None or not is_finished(checkpoint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return
    from transformers import TrainerState

    trainer.model.load_adapter(str(checkpoint), trainer.model.active_adapter, is_trainable=True)
    trainer.state = TrainerState.load_from_json(str(checkpoint / _STATE))


def save_adapter(trainer: Any, tokenizer: Any, target: Path) -> None:
    """The adapter and its tokenizer under a temporary name, then as `target`, in place of an earlier one: whole or absent.

    Of several processes the first does it.
    """
    if not trainer.is_world_process_zero():
        return
    partial = target.with_name(f".{target.name}.partial")
    for path in (partial, target):
        if path.is_dir():
            shutil.rmtree(path)
    trainer.save_model(str(partial))
    tokenizer.save_pretrained(partial)
    os.rename(partial, target)


def _state(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state as it wrote it: a logged NaN stands there as it is no JSON. The seal vouches for the file."""
    return json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / SEAL)


def _entry(checkpoint: Path, path: Path) -> dict[str, Any]:
    return {"path": path.relative_to(checkpoint).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)}


def _text_entry(name: str, text: str) -> dict[str, Any]:
    import hashlib

    content = text.encode("utf-8")
    return {"path": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _matches(checkpoint: Path, entry: dict[str, Any]) -> bool:
    path = checkpoint / entry["path"]
    return path.is_file() and path.stat().st_size == entry["bytes"] and sha256(path) == entry["sha256"]


def _rename_aside(path: Path) -> Path:
    target, number = path.with_name(f"altered-{path.name}"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"altered-{path.name}-{number}")
    return path.rename(target)
