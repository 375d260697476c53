"""The memory plan against reality: DPO + LoRA steps on random models of known shape, predicted and measured peak side by side.

make memory-check

Each configuration runs in a fresh process: imports and a first training of a toy model, then the peak of the real one is read from
zero. What is compared is the peak above that start, so that the size of the interpreter cannot hide an error of the formula.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
BAND = (0.85, 1.15)
NARROW = {"hidden": 256, "layers": 8, "intermediate": 1024, "heads": 4, "kv_heads": 4}
WIDER = {"hidden": 512, "layers": 8, "intermediate": 2048, "heads": 8, "kv_heads": 8}
# Width and grouped heads of a model of half a billion weights, fewer layers.
GROUPED = {"hidden": 896, "layers": 6, "intermediate": 4864, "heads": 14, "kv_heads": 2}
LARGE = 151_936


@dataclass(frozen=True)
class Case:
    """One configuration; `trl` None is the TRL of this interpreter."""

    name: str
    shape: dict[str, int]
    vocabulary: int = 4096
    batch: int = 4
    length: int = 256
    checkpointing: bool = False
    in_4bit: bool = False
    dtype: str = "float32"
    trl: str | None = None
    small_tiles: bool = True
    architecture: str = "qwen2"
    attention: str = "sdpa"
    eval_batch: int = 1
    padded: bool = False
    """The rejected texts are half as long: fused attention then repeats grouped keys and values to all heads."""
    engine: str = "trl"
    prompt: int = 8
    """Tokens of every prompt."""


CASES = (
    Case("plain", NARROW, batch=8),
    Case("wider", WIDER, batch=2),
    Case("checkpointing", NARROW, batch=4, length=512, checkpointing=True),
    Case("short texts, large batch", NARROW, batch=32, length=96),
    Case("grouped heads", GROUPED, batch=2, length=192, padded=True),
    Case("grouped heads, checkpointing", GROUPED, batch=1, length=512, checkpointing=True, padded=True),
    Case("large vocabulary, TRL's own tiles", NARROW, LARGE, batch=2, checkpointing=True, small_tiles=False),
    Case("large vocabulary, small tiles", NARROW, LARGE, batch=2, checkpointing=True),
    Case("large vocabulary, no checkpointing", NARROW, LARGE, batch=4),
    Case("4-bit", {**GROUPED, "layers": 12}, batch=1, length=512, in_4bit=True, checkpointing=True),
    Case("4-bit, no checkpointing", GROUPED, batch=1, in_4bit=True),
    Case("bfloat16", NARROW, batch=8, dtype="bfloat16"),
    Case("eager attention", NARROW, batch=4, length=512, attention="eager"),
    Case("gpt2", NARROW, batch=8, architecture="gpt2"),
    Case("gpt_neox", NARROW, batch=8, architecture="gpt_neox"),
    Case("TRL 0.29.1", NARROW, 32_000, batch=4, trl="0.29.1"),
    Case("TRL 0.24, plain", NARROW, batch=8, trl="0.24.0"),
    Case("TRL 0.24, large vocabulary", NARROW, LARGE, batch=1, trl="0.24.0", checkpointing=True),
    Case("TRL 0.24, evaluation is the peak", NARROW, LARGE, batch=1, length=64, trl="0.24.0", eval_batch=8),
    Case("TRL 1.9.0, large vocabulary", NARROW, LARGE, batch=1, trl="1.9.0", checkpointing=True),
    Case("TRL 0.18.1, large vocabulary", NARROW, LARGE, batch=1, trl="0.18.1", checkpointing=True),
    Case("TRL 0.9.6, large vocabulary", NARROW, LARGE, batch=1, trl="0.9.6", checkpointing=True),
    Case("fast, short prompts", NARROW, batch=4, engine="fast"),
    Case("fast, ads", WIDER, 32_000, batch=4, length=128, prompt=96, engine="fast"),
    Case("fast, large vocabulary", NARROW, LARGE, batch=4, prompt=192, engine="fast"),
    Case("fast, large vocabulary, checkpointing", NARROW, LARGE, batch=8, prompt=192, checkpointing=True, engine="fast"),
    Case("fast, long rows", NARROW, batch=2, length=768, prompt=512, engine="fast"),
    Case("fast, grouped heads", GROUPED, batch=4, length=192, prompt=128, engine="fast"),
    Case("fast, bfloat16", NARROW, batch=8, prompt=128, dtype="bfloat16", engine="fast"),
    Case(
        "fast, 4-bit", {**GROUPED, "layers": 12}, batch=2, length=512, prompt=384, in_4bit=True, checkpointing=True, engine="fast"
    ),
    Case("fast, the check is the peak", NARROW, LARGE, batch=1, length=128, prompt=96, eval_batch=32, engine="fast"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted against measured memory of training.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--only", help="only cases whose name contains this; the other rows are kept")
    parser.add_argument("--again", action="store_true", help="measure nothing: predict the recorded measurements anew")
    parser.add_argument("--environments", type=Path, default=ROOT / ".compat", help="folder with trl-VERSION environments")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(Case(**json.loads(arguments.child)))))
        return
    rows = list(predicted_again() if arguments.again else measured(arguments.only or "", arguments.environments))
    failed = [row["name"] for row in rows if "error" in row]
    outside = [row["name"] for row in rows if "error" not in row and not BAND[0] <= row["ratio"] <= BAND[1]]
    print(
        f"{len(rows) - len(outside) - len(failed)} of {len(rows)} within {BAND[0]}-{BAND[1]}; outside: {outside}, failed: {failed}"
    )
    sys.exit(bool(outside or failed))


def measured(only: str, environments: Path) -> Iterator[dict[str, Any]]:
    """Each case in turn, written down as soon as it is measured; rows of other cases stay as they are."""
    for case in CASES:
        if only not in case.name:
            continue
        python = interpreter(case, environments)
        if python is None:
            print(f"{case.name:<36} no environment for TRL {case.trl}: run `make compat` first", flush=True)
            continue
        row = run(case, python)
        print(line(row), flush=True)
        if "error" not in row:
            write([row, *(old for old in read() if old["name"] != case.name)])
        yield row


def predicted_again() -> Iterator[dict[str, Any]]:
    """The recorded measurements with today's prediction, after a change of the formula."""
    rows = read()
    for row in rows:
        case = Case(**{field.name: row[field.name] for field in dataclasses.fields(Case) if field.name in row})
        row |= dataclasses.asdict(case)
        row |= predict(case, row["head"], row["measured_mib"])
        print(line(row))
    write(rows)
    yield from rows


def interpreter(case: Case, environments: Path) -> Path | None:
    if case.trl is None:
        return Path(sys.executable)
    found = [folder / "bin" / "python" for folder in (environments / f"trl-{case.trl}", environments / case.trl)]
    return next((python for python in found if python.is_file()), None)


def run(case: Case, python: Path) -> dict[str, Any]:
    """The case in a fresh process of that interpreter; 'error' holds the end of what it said where it failed."""
    # A fixed threshold: glibc raises its own with use, and then keeps freed tensors of up to 32 MB for itself.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "1048576", "HF_HUB_OFFLINE": "1"}
    command = [str(python), __file__, "--child", json.dumps(dataclasses.asdict(case))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        return {"name": case.name, "error": done.stderr[-3000:]}
    found = json.loads(done.stdout.splitlines()[-1])
    today = datetime.now(timezone.utc).date().isoformat()
    return {**dataclasses.asdict(case), "date": today, **found, **predict(case, found["head"], found["measured_mib"])}


def measure(case: Case) -> dict[str, Any]:
    """Runs in the child: trains a toy model, then the case, and returns the peak above what the toy left, in MiB."""
    from adslm_helpers.environment.packages import hide_kernel_notice
    from adslm_helpers.models.memory import head_of

    hide_kernel_notice()
    toy = {"hidden": 64, "layers": 2, "intermediate": 128, "heads": 2, "kv_heads": 2}
    train(dataclasses.replace(case, shape=toy, vocabulary=4096))
    gc.collect()
    base = resident()
    train(case)
    head = head_of(case.engine, "cpu")
    if head.kind == "torch" and not case.small_tiles:
        head = dataclasses.replace(head, tile=(4096, 32768))
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "trl", "peft")}
    return {"measured_mib": round(peak() - base), "base_mib": round(base), "versions": versions, "head": dataclasses.asdict(head)}


def predict(case: Case, head: dict[str, Any], measured: float) -> dict[str, Any]:
    """The plan for the same case, in MiB above the libraries, its parts in GiB, and its ratio to the measurement."""
    from adslm_helpers.models.memory import OVERHEAD_GB, Head, plan_memory

    model = facts(case)
    plan = plan_memory(model, recipe(case), device(case), Head(**{**head, "tile": tuple(head["tile"])}), case.prompt)
    mib = 1024 * (plan.total - OVERHEAD_GB["cpu"])
    return {
        "parameters": model.parameters,
        "predicted_mib": round(mib),
        "ratio": round(mib / measured, 3),
        "parts": plan.to_dict(),
    }


def facts(case: Case) -> Any:
    from adslm_helpers.models.catalog import ModelFacts

    sizes, gpt2 = case.shape, case.architecture == "gpt2"
    return ModelFacts(
        case.architecture, sizes["hidden"], sizes["layers"], sizes["intermediate"], case.vocabulary, sizes["heads"], sizes["kv_heads"],
        sizes["hidden"] // sizes["heads"], tied=case.architecture != "gpt_neox", positions=1024 if gpt2 else 0,
    )  # fmt: skip


def device(case: Case) -> Any:
    from adslm_helpers.environment.device import DevicePlan

    return DevicePlan("cpu", case.dtype, False, False, "", "", None, "CPU", attention=case.attention)


def recipe(case: Case) -> Any:
    from adslm_helpers.recipe import recipe_from_dict

    return recipe_from_dict(
        {
            "preset": "memory-check", "max_steps": 2, "evals_per_run": 1, "save_steps": 10**6, "gradient_accumulation_steps": 1,
            "per_device_train_batch_size": case.batch, "per_device_eval_batch_size": case.eval_batch, "max_length": case.length,
            "max_prompt_length": max(16, case.prompt), "gradient_checkpointing": case.checkpointing, "load_in_4bit": case.in_4bit,
            "engine": case.engine,
        }
    )  # fmt: skip


def train(case: Case) -> None:
    """Two steps and an evaluation through the package's own trainer. The peak is counted from the moment the model is there."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from adslm_helpers.training import trl_api
    from adslm_helpers.training.fast import trainer as fast_trainer
    from adslm_helpers.training.prompts import EncodedPair

    build_trainer = fast_trainer.build_trainer if case.engine == "fast" else trl_api.build_trainer
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(["<pad>", "</s>", *"abcdefgh"])}, unk_token="a")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    prompt = [5] * case.prompt
    chosen = [7] * (case.length - len(prompt) - 1) + [tokenizer.eos_token_id]
    rejected = [8, *chosen[1:]]  # nothing that both begin with
    if case.padded:
        rejected = rejected[-(case.length // 2) :]
    pairs = [EncodedPair(prompt, chosen, rejected, "a", "b", "c", 0)]
    with tempfile.TemporaryDirectory() as folder:
        model = build(case, folder)
        gc.collect()
        reset_peak()  # making a random model (its output layer before it is tied, the unquantised weights) is no part of training
        trainer, _ = build_trainer(
            recipe(case),
            device(case),
            model,
            tokenizer,
            pairs * case.batch * 2,
            pairs * case.eval_batch,
            Path(folder) / "training",
        )
        set_tiles(case.small_tiles)
        trainer.train()  # with an evaluation after its last step


def build(case: Case, folder: str) -> Any:
    """A random model of the case's shape, by way of the disk where it has to be quantised."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    from adslm_helpers.models.loading import _keep_layout

    shape = case.shape
    config = AutoConfig.for_model(
        case.architecture, hidden_size=shape["hidden"], num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        vocab_size=case.vocabulary, max_position_embeddings=1024, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        **{"n_inner" if case.architecture == "gpt2" else "intermediate_size": shape["intermediate"]},
        **({"num_key_value_heads": shape["kv_heads"]} if case.architecture == "qwen2" else {}),
    )  # fmt: skip
    config.tie_word_embeddings = case.architecture != "gpt_neox"
    torch.manual_seed(0)
    if not case.in_4bit:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=case.attention).to(getattr(torch, case.dtype))
        model.config.use_cache = False
        return model
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    quantisation = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantisation, device_map={"": "cpu"})
    for parameter in _keep_layout(model).parameters():
        if parameter.is_floating_point():
            # A view of the file, which stays mapped as a whole: pages that the system takes back on demand, and no need of the model.
            parameter.data = parameter.data.clone()
    return model


def set_tiles(small: bool) -> None:
    """Small tiles where this TRL has tiles and the case asks for them, else TRL's own."""
    from adslm_helpers.models.memory import head_of_trl
    from adslm_helpers.training.tiles import use_small_tiles

    if head_of_trl("cpu").kind != "torch":
        return
    import trl.kernels.chunked_logprob as kernel
    import trl.trainer.utils as utils

    kernel.TOKEN_CHUNK_SIZE, utils._CHUNKED_LOGPROB_CHUNK_SIZE = 4096, 32768
    if small:
        use_small_tiles("cpu")


def resident() -> float:
    """MiB of this process now."""
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def reset_peak() -> None:
    """Linux counts the peak anew from here; elsewhere the peak is that of the whole process."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """MiB: the highest resident memory since `reset_peak`."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['name']:<36} failed:\n{row['error']}"
    return f"{row['name']:<36}{row['predicted_mib']:>7}{row['measured_mib']:>7}{row['ratio']:>7.2f}"


def read() -> list[dict[str, Any]]:
    """The rows of docs/results/memory.json."""
    path = RESULTS / "memory.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []


def write(rows: list[dict[str, Any]]) -> None:
    """docs/results/memory.md and memory.json, in the order of CASES."""
    order = [case.name for case in CASES]
    rows = sorted((row for row in rows if row["name"] in order), key=lambda row: order.index(row["name"]))
    about = {
        "date": max(row["date"] for row in rows),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": "make memory-check",
        "rows": rows,
    }
    (RESULTS / "memory.json").write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    head = "| configuration | weights | batch x length | vocabulary | TRL | predicted MiB | measured MiB | ratio |\n|---|---|---|---|---|---|---|---|"
    body = "\n".join(
        f"| {row['name']} | {row['parameters'] / 1e6:.0f} M {row['dtype']}{' 4-bit' if row['in_4bit'] else ''} | {row['batch']} x {row['length']}"
        f"{' ckpt' if row['checkpointing'] else ''} | {row['vocabulary']:,} | {row['versions']['trl'] if row['engine'] == 'trl' else '-'} | {row['predicted_mib']:,} "
        f"| {row['measured_mib']:,} | {row['ratio']:.2f} |"
        for row in rows
    )
    (RESULTS / "memory.md").write_text(
        PAGE.format(date=about["date"], machine=about["machine"], table=f"{head}\n{body}"), encoding="utf-8"
    )


PAGE = """# メモリ計画と実測 / The memory plan against measurements

学習の前に、モデルの設定（config）だけから必要なメモリを見積もります。この表は、その見積もりと実測を比べたものです。
Before anything is downloaded the plan estimates memory from the model's config alone. This table compares it with what was measured.

{date}, {machine}, `make memory-check` (`scripts/memory_check.py`). Random models of Qwen2, GPT-2 and GPT-NeoX shape, LoRA rank 16, two DPO
steps and an evaluation by the package's own trainer, each in a fresh process. Both columns are the peak above the loaded libraries (which
take 0.5 GiB), so that their size cannot hide an error. "ckpt": activations are recomputed. A pair counts twice in a batch.

{table}

Every term counts tensors that the code of torch, peft and trl keeps (`adslm_helpers/models/memory.py`); no factor belongs to a row. Where a
first count missed (the logits of TRL 0.9, 0.29 and 1.9), the overlooked tensors were found in the code and then counted.
The largest difference between versions is what TRL keeps of the logits, in copies of [2 x batch x length, vocabulary]:

| TRL | training | evaluation | what is kept |
|---|---|---|---|
| 0.7.11, 0.8.6 | 5 | 4 | logits of both models, log-softmax of both, a copy of a slice |
| 0.9.6 - 0.11.4 | 5.5 | 4 | the same, and the log-softmax of the chosen half |
| 0.12.2, 0.14.0 | 3 | 2 | log-softmax of the policy, logits and log-softmax of the reference |
| 0.16.1 - 0.24.0 | 3 | 1.5 | logits, their gradient by rows, and the stack of these rows |
| 0.29.1 - 1.5.1 | 4.5 | 4.5 | logits of both models, a shifted copy of each, half a copy for a mean |
| 1.9.0 | 3 | 3 | logits of both models, a flat copy, and 3 x 128 tokens, for the entropy |
| 1.16.0 | - | - | tiles of 4,096 x 32,768; 512 x 4,096 on CPU and MPS, set by this package |

Engine `fast` ("fast" in the name) has the prompt of a pair once, keeps no logits, and one mask of [pairs, row, row] for all layers; its
reference pass, in batches of up to four times a step's tokens, and its check against whole logits before the training are part of the evaluation. How much of a text is prompt is not known before the data is read:
a plan without it takes two whole sequences, so that a training never needs more than was planned.

A 4-bit checkpoint stays mapped into memory as a file; these pages are the system's to take back and are not counted.
Only a CPU was measured. On CUDA and MPS the same counts of tensors are used with other sizes of a number; see docs/devices.md.
"""


if __name__ == "__main__":
    main()
