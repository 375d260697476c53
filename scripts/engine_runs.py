"""What `benchmark_engine.py` has its children do: trainings of one cell by every engine, in turn, timed step by step.

A cell is a shape of pairs and a vocabulary. Every run starts from the same random model, adapter, data and order, so that the losses of
all engines must be the same, step by step. Steps are timed within `trainer.train()`, from batch to optimizer; the reference pass by itself.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import inspect
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

from engine_floor import Lengths, floor_seconds, measured_rates, reference_operations, step_operations

from adslm_helpers.models.catalog import ModelFacts

# Hidden 512, eight layers: 41.6 M weights with a vocabulary of 32,000.
SMALL = {"hidden": 512, "layers": 8, "intermediate": 1536, "heads": 8, "kv_heads": 4}
# Qwen2.5-1.5B.
LARGE = {"hidden": 1536, "layers": 28, "intermediate": 8960, "heads": 12, "kv_heads": 2}
SHAPES = {"ads": (96, 32), "long answers": (16, 128), "long prompts": (256, 48), "mixed": None}
"""Tokens of the prompt and of each answer; mixed: log-normal around those of 'ads', as in real data."""
FAST, BEST = "fast", "TRL, reference precomputed"
TRL = {
    "TRL, its defaults": {"checkpointing": True, "precompute": False},
    "TRL, no checkpointing": {"checkpointing": False, "precompute": False},
    BEST: {"checkpointing": False, "precompute": True},
}
LARGE_TILES, SMALL_TILES = (4096, 32768), (512, 4096)
RANK = 16


@dataclass(frozen=True)
class Cell:
    """One comparison: every engine trains `steps` steps on the same pairs, `rounds` times in turn."""

    shape: str
    vocabulary: int
    steps: int = 2
    rounds: int = 3
    batch: int = 4
    engines: tuple[str, ...] = (*TRL, FAST)
    device: str = "cpu"
    in_4bit: bool = False

    @property
    def large(self) -> bool:
        return self.device == "cuda"

    @property
    def facts(self) -> ModelFacts:
        size = LARGE if self.large else SMALL
        heads, kv = size["heads"], size["kv_heads"]
        return ModelFacts(
            "qwen2", size["hidden"], size["layers"], size["intermediate"], self.vocabulary, heads, kv, size["hidden"] // heads
        )


def measure(cell: Cell) -> Iterator[dict[str, Any]]:
    """One row for the floor, one for every run, in the order of the runs; {"tiles": ...} where TRL has a choice."""
    import torch

    pairs = make_pairs(cell)
    batches = [_lengths(pairs[start : start + cell.batch]) for start in range(0, len(pairs), cell.batch)]
    dtype = torch.bfloat16 if cell.large else torch.float32
    steps = [step_operations(cell.facts, batch, RANK) for batch in batches]
    reference = [reference_operations(cell.facts, batch) for batch in batches]
    base = None if cell.in_4bit else make_model(cell)  # a quantised model is loaded anew for each run

    def model() -> Any:
        return make_model(cell) if base is None else copy.deepcopy(base)

    tiles = _better_tiles(cell, model, pairs)
    yield {"tiles": tiles}
    for number in range(cell.rounds):
        rates = measured_rates(cell.facts, batches[0], RANK, cell.device, dtype)
        yield {
            "round": number,
            "floor": {
                "step": sum(floor_seconds(one, rates) for one in steps) / len(steps),
                "reference": sum(floor_seconds(one, rates) for one in reference) / len(reference),
                "operations": sum(sum(one.values()) for one in steps) / len(steps),
                "rates": rates,
            },
        }
        # The order turns, so that no engine always follows the same one.
        engines = cell.engines[number % len(cell.engines) :] + cell.engines[: number % len(cell.engines)]
        for engine in engines:
            yield {"round": number, "engine": engine, **one_run(cell, engine, model, pairs, tiles)}


def _better_tiles(cell: Cell, model: Callable[[], Any], pairs: Sequence[Any]) -> list[int] | None:
    """The tiles with which TRL is quicker, found on one step each, which also warm everything up; None for a TRL without tiles."""
    first = pairs[: cell.batch]
    one_run(cell, FAST, model, first, None)
    if not has_tiles() or cell.device == "cuda":
        one_run(cell, BEST, model, first, None)
        return None
    return min(([*tiles] for tiles in (LARGE_TILES, SMALL_TILES)), key=lambda t: one_run(cell, BEST, model, first, t)["wall"][0])


def one_run(
    cell: Cell, engine: str, model: Callable[[], Any], pairs: Sequence[Any], tiles: Sequence[int] | None
) -> dict[str, Any]:
    """Seconds of every step, wall and CPU, of the reference pass on the same pairs, the losses, and on a GPU the peak in MiB."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        trainer, reference, told = build(cell, engine, model(), pairs, tiles, Path(folder) / "training")
        marks = _marks(cell.device)
        trainer.add_callback(marks)
        trainer.train()
        rows = [row for row in trainer.state.log_history if "loss" in row]
        peak = torch.cuda.max_memory_allocated() / 2**20 if cell.device == "cuda" else None
        found = {
            "wall": marks.differences(0),
            "cpu": marks.differences(1),
            "reference": reference,
            "losses": [row["loss"] for row in rows],
            "logps": [row["logps/chosen"] for row in rows],
            "peak_mib": peak,
            "told": told,
        }
        del trainer
    gc.collect()
    if cell.device == "cuda":
        torch.cuda.empty_cache()
    return found


def build(
    cell: Cell, engine: str, model: Any, pairs: Sequence[Any], tiles: Sequence[int] | None, folder: Path
) -> tuple[Any, list[float], list[str]]:
    """A trainer of this engine, (wall, CPU) seconds of its reference pass, zeros where it has none, and what our engine has to say."""
    import torch

    from adslm_helpers.environment.device import DevicePlan
    from adslm_helpers.training import trl_api
    from adslm_helpers.training.fast import trainer as fast_trainer

    if cell.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    plan = DevicePlan(
        cell.device, "bfloat16" if cell.large else "float32", cell.large, False, "", "", None, "", pad_to_multiple_of=None
    )
    options = TRL.get(engine, {"checkpointing": False, "precompute": True})
    arguments = (recipe(cell, engine, options["checkpointing"]), plan, model, make_tokenizer(), pairs, pairs[:1], folder)
    with _only_training(), timed_reference(len(pairs)) as reference:
        if engine == FAST:
            trainer, told = fast_trainer.build_trainer(*arguments)
            return trainer, reference, told
        trainer = trl_api.build_trainer(*arguments)[0]
    set_tiles(LARGE_TILES if options["checkpointing"] else tiles)
    return trainer, precompute(trainer) if options["precompute"] else [0.0, 0.0], []


@contextlib.contextmanager
def timed_reference(n_pairs: int) -> Iterator[list[float]]:
    """Inside, seconds that our engine's reference pass over the training pairs takes, its key and its file included, are put into the list."""
    from adslm_helpers.training.fast import trainer as fast_trainer

    spent, own = [0.0, 0.0], fast_trainer.kept_logps

    def timed(trainer: Any, pairs: Sequence[Any], *rest: Any, **options: Any) -> Any:
        began = _now(trainer.args.device.type)
        found = own(trainer, pairs, *rest, **options)
        if len(pairs) == n_pairs:
            spent[:] = _since(began, trainer.args.device.type)
        return found

    with mock.patch.object(fast_trainer, "kept_logps", timed):
        yield spent


def precompute(trainer: Any) -> list[float]:
    """TRL's own reference pass over the training pairs, without the hashing and caching around it: (wall, CPU) seconds."""
    from torch.utils.data import DataLoader

    began = _now(trainer.args.device.type)
    loader = DataLoader(trainer.train_dataset, trainer.args.per_device_train_batch_size, collate_fn=trainer.data_collator)
    takes_model = "model" in inspect.signature(trainer.compute_ref_log_probs).parameters
    found: dict[str, list[float]] = {"ref_chosen_logps": [], "ref_rejected_logps": []}
    for batch in trainer.accelerator.prepare(loader):
        both = trainer.compute_ref_log_probs(trainer.model, batch) if takes_model else trainer.compute_ref_log_probs(batch)
        for column, logps in zip(found.values(), both, strict=True):
            column.extend(logps.tolist())
    took = _since(began, trainer.args.device.type)
    for name, column in found.items():
        trainer.train_dataset = trainer.train_dataset.add_column(name, column)
    trainer.precompute_ref_logps = True  # 0.29 and newer
    trainer.precompute_ref_log_probs = trainer._precomputed_train_ref_log_probs = True  # older
    return took


@contextlib.contextmanager
def _only_training() -> Iterator[None]:
    """No evaluation and no checkpoint inside the timed loop, whichever module hands over the settings."""
    named = [
        module
        for name, module in sys.modules.items()
        if name.startswith("adslm_helpers.training.") and hasattr(module, "trainer_settings")
    ]
    from adslm_helpers.training.settings import trainer_settings

    def settings(*arguments: Any, **options: Any) -> dict[str, Any]:
        return {**trainer_settings(*arguments, **options), "eval_strategy": "no", "save_strategy": "no"}

    with contextlib.ExitStack() as stack:
        for module in named:
            stack.enter_context(mock.patch.object(module, "trainer_settings", settings))
        yield


def _marks(device: str) -> Any:
    from transformers import TrainerCallback

    class Marks(TrainerCallback):
        """When the loop began and when each step was done."""

        def __init__(self) -> None:
            self.times: list[tuple[float, float]] = []

        def on_train_begin(self, *arguments: Any, **options: Any) -> None:
            self.times = [_now(device)]

        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            self.times.append(_now(device))

        def differences(self, clock: int) -> list[float]:
            return [after[clock] - before[clock] for before, after in zip(self.times, self.times[1:], strict=False)]

    return Marks()


def _now(device: str) -> tuple[float, float]:
    """(wall, CPU) seconds, once the GPU has done what it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def _since(began: tuple[float, float], device: str) -> list[float]:
    return [after - before for after, before in zip(_now(device), began, strict=True)]


def make_pairs(cell: Cell) -> list[Any]:
    """Random ids in the lengths of the shape, enough for the cell's steps."""
    from adslm_helpers.training.prompts import EncodedPair

    chance = random.Random(0)

    def ids(length: int) -> list[int]:
        return [chance.randrange(3, cell.vocabulary) for _ in range(length)]

    def lengths() -> Lengths:
        if fixed := SHAPES[cell.shape]:
            return fixed[0], fixed[1], fixed[1]
        draw = [round(middle * chance.lognormvariate(0, spread)) for middle, spread in ((96, 0.5), (32, 0.4), (32, 0.4))]
        return min(320, max(24, draw[0])), min(96, max(8, draw[1])), min(96, max(8, draw[2]))

    pairs = []
    for _ in range(cell.steps * cell.batch):
        prompt, chosen, rejected = lengths()
        answers = [4, *ids(chosen - 2), 1], [5, *ids(rejected - 2), 1]  # nothing that both begin with
        pairs.append(EncodedPair(ids(prompt), *answers, "a", "b", "c", 0))
    return pairs


def _lengths(pairs: Sequence[Any]) -> list[Lengths]:
    return [(len(pair.prompt_ids), len(pair.chosen_ids), len(pair.rejected_ids)) for pair in pairs]


def make_model(cell: Cell) -> Any:
    """A random Qwen2; on a GPU in bfloat16 or 4-bit."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    facts = cell.facts
    config = Qwen2Config(
        hidden_size=facts.hidden, num_hidden_layers=facts.layers, num_attention_heads=facts.heads, vocab_size=facts.vocabulary,
        num_key_value_heads=facts.kv_heads, intermediate_size=facts.intermediate, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=1, pad_token_id=0, use_cache=False, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    if not cell.in_4bit:
        with torch.device(cell.device):
            model = AutoModelForCausalLM.from_config(config)
        return model.to(torch.bfloat16) if cell.large else model
    from transformers import BitsAndBytesConfig

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    folder = Path(tempfile.gettempdir()) / f"adslm-bench-{facts.hidden}-{facts.vocabulary}"
    if not (folder / "config.json").is_file():
        AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantisation, device_map={"": cell.device})


def recipe(cell: Cell, engine: str, checkpointing: bool) -> Any:
    from adslm_helpers.recipe import recipe_from_dict

    return recipe_from_dict(
        {
            "preset": "bench", "engine": "fast" if engine == FAST else "trl", "max_length": 1024, "max_prompt_length": 512,
            "per_device_train_batch_size": cell.batch, "gradient_accumulation_steps": 1, "num_train_epochs": 1, "logging_steps": 1,
            "learning_rate": 1e-3, "lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.0, "lora_r": RANK,
            "gradient_checkpointing": checkpointing, "load_in_4bit": cell.in_4bit, "device": cell.device,
        }
    )  # fmt: skip


def make_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<pad>", "</s>", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def has_tiles() -> bool:
    """Whether this TRL folds its logits by tiles whose size can be set."""
    from adslm_helpers.models.memory import head_of_trl

    return head_of_trl("cpu").kind == "torch"


def set_tiles(tiles: Sequence[int] | None) -> None:
    if tiles is None or not has_tiles():
        return
    import trl.kernels.chunked_logprob as kernel
    import trl.trainer.utils as utils

    kernel.TOKEN_CHUNK_SIZE, utils._CHUNKED_LOGPROB_CHUNK_SIZE = tiles


def peak_memory(cell: Cell, engine: str, tiles: Sequence[int] | None) -> dict[str, float]:
    """MiB of a process that trains one step by this engine: the peak as a whole, and what of it is the loaded libraries'."""
    from memory_check import peak, reset_peak, resident

    small = dataclasses.replace(cell, vocabulary=64, steps=1, batch=2)
    one_run(small, engine, lambda: make_model(small), make_pairs(small), tiles)
    gc.collect()
    libraries = resident()
    model = make_model(cell)
    gc.collect()
    reset_peak()  # making a random model is no part of training
    one_run(cell, engine, lambda: model, make_pairs(cell), tiles)
    return {"peak": peak(), "libraries": libraries}


def main() -> None:
    """One JSON value a line: of every cell its rows, or the peak of one engine."""
    from adslm_helpers.environment.packages import hide_kernel_notice

    hide_kernel_notice()
    asked = json.loads(sys.argv[1])
    names = ("torch", "transformers", "trl", "peft")
    versions = {name: metadata.version(name) for name in names}
    print(json.dumps({"versions": versions, "machine": _machine(asked["cells"][0]["device"])}), flush=True)
    if "memory" in asked:
        print(json.dumps(peak_memory(_cell(asked["cells"][0]), asked["memory"], asked["tiles"])), flush=True)
        return
    for number, values in enumerate(asked["cells"]):
        for row in measure(_cell(values)):
            print(json.dumps({"cell": number, **row}), flush=True)


def _machine(device: str) -> str:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")] or [platform.processor()]
    return f"{platform.system()} {platform.machine()}, {names[0]}, {os.cpu_count()} CPUs"


def _cell(values: dict[str, Any]) -> Cell:
    return Cell(**{**values, "engines": tuple(values["engines"])})


if __name__ == "__main__":
    main()
