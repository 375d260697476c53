"""The embedded teaching model: a few million weights, Qwen2 architecture, trained here from scratch on made-up ad briefs.

`python -m adslm_helpers.models.tiny` trains it again. It answers the sample set's kind of brief, half well and half badly on
purpose, and nothing else: a model to learn DPO on, not one to advertise with.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data_files import data_path
from ..dataset.samples import corpus, draw_brief
from ..run import read_json, write_json, write_text
from ..text.rubric import judge
from .generation import generate_texts
from .portable import fix_model_config, fix_tokenizer_config, fix_tokenizer_file
from .templates import render_prompt

VOCABULARY = 2048
_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SHAPE = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Letters of one script stay together and apart from the next script, so that a product is the same tokens after any particle.
_SCRIPTS = (
    r"[\p{Han}々〆]+|\p{Hiragana}+|[\p{Katakana}ー]+|[A-Za-z]+|\p{N}|[^\p{Han}々〆\p{Hiragana}\p{Katakana}ー A-Za-z\p{N}]| +"
)


def embedded_model_path() -> Path:
    """The folder of the shipped teaching model."""
    return data_path("tiny_ad_lm")


def build_tokenizer(texts: Iterator[str], vocabulary: int = VOCABULARY) -> Any:
    """A byte-level BPE tokenizer (any NFC text round-trips) with the ChatML template, trained on `texts`.

    transformers 5 loads every tokenizer of a Qwen2 model with Qwen's own splitting, transformers 4 with the one in the file. Both give
    the same ids here: the merges are learned on characters within one script, so none crosses a character's bytes or a script.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.Split(Regex(_SCRIPTS), behavior="isolated")
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = normalizers.NFC(), split
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    merges = _byte_merges([token for token in learned["vocab"] if len(token) == 1], learned["merges"])
    tokens = dict.fromkeys([*_SPECIALS, *alphabet, *(left + right for left, right in merges)])
    kept = set(list(tokens)[:vocabulary])
    tokenizer = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(tokens) if token in kept}, [pair for pair in merges if "".join(pair) in kept]
        )
    )
    tokenizer.normalizer, tokenizer.decoder = normalizers.NFC(), decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def _byte_merges(characters: list[str], merges: list[list[str]]) -> list[tuple[str, str]]:
    """Merges over bytes (in GPT-2's spelling): first those that build each character, then the learned ones over characters."""
    printable = [
        *range(33, 127),
        *range(161, 173),
        *range(174, 256),
    ]  # these bytes are spelt as themselves, the others from 256 on
    others = [byte for byte in range(256) if byte not in printable]
    spelling = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}

    def spelt(text: str) -> str:
        return "".join(spelling[byte] for byte in text.encode("utf-8"))

    building = [(spelt(c)[:end], spelt(c)[end]) for c in sorted(characters) for end in range(1, len(spelt(c)))]
    return list(dict.fromkeys([*building, *((spelt(left), spelt(right)) for left, right in merges)]))


def build_model(tokenizer: Any, seed: int = 0, **shape: int) -> Any:
    """A random Qwen2 causal LM for `tokenizer`, float32, tied embeddings; `shape` overrides SHAPE."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{**SHAPE, **shape},
    )
    return Qwen2ForCausalLM(config)


def encode_batch(tokenizer: Any, items: list[tuple[str, str]]) -> tuple[Any, Any, Any]:
    """(prompt, text) pairs as input_ids, attention_mask and labels, each [B, S]; labels are -100 outside text and its one EOS."""
    import torch

    rows = []
    for prompt, text in items:
        head = tokenizer(render_prompt(tokenizer, prompt), add_special_tokens=False)["input_ids"]
        tail = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        rows.append((head, tail))
    longest = max(len(head) + len(tail) for head, tail in rows)
    input_ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    labels = torch.full((len(rows), longest), -100)
    for i, (head, tail) in enumerate(rows):
        end = len(head) + len(tail)
        input_ids[i, :end] = torch.tensor(head + tail)
        labels[i, len(head) : end] = torch.tensor(tail)
    attention_mask = (torch.arange(longest)[None, :] < torch.tensor([len(h) + len(t) for h, t in rows])[:, None]).long()
    return input_ids, attention_mask, labels


def train_tiny_model(steps: int = 1500, batch: int = 48, learning_rate: float = 3e-3, seed: int = 0) -> tuple[Any, Any, dict]:
    """Trains tokenizer and model on the endless corpus; returns both and the facts of the run. About ten minutes on 2 cores."""
    import torch

    started = time.time()
    pairs = ((brief.prompt, text) for brief, text, _ in corpus(seed))
    tokenizer = build_tokenizer(part for pair in itertools.islice(pairs, 20_000) for part in pair)
    model = build_model(tokenizer, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _schedule(step, steps))
    running = None
    for step, items in zip(range(1, steps + 1), _batches(pairs, batch, seed), strict=False):
        input_ids, attention_mask, labels = encode_batch(tokenizer, items)
        loss = model(input_ids=input_ids, attention_mask=attention_mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if step % 100 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {running:.4f}  {time.time() - started:.0f} s", flush=True)
    facts = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed, "loss": round(running, 4)}
    weights = sum(p.numel() for p in model.parameters())
    return model.eval(), tokenizer, {**facts, "seconds": round(time.time() - started), "parameters": weights}


def _batches(pairs: Iterator[tuple[str, str]], batch: int, seed: int) -> Iterator[list[tuple[str, str]]]:
    """Batches of similar length (a quarter less padding), in random order."""
    rng = random.Random(seed)
    while True:
        pool = sorted(itertools.islice(pairs, 8 * batch), key=lambda pair: len(pair[0]) + len(pair[1]))
        groups = [pool[i : i + batch] for i in range(0, len(pool), batch)]
        rng.shuffle(groups)
        yield from groups


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over 100 steps, then cosine to zero."""
    return min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / steps)))


def measure_tiny_model(model: Any, tokenizer: Any, n: int = 200, seed: int = 1) -> dict:
    """Shares over `n` sampled texts for briefs whose product x audience x channel the model never read."""
    rng = random.Random(seed)
    briefs = [draw_brief(rng, unseen=True) for _ in range(n)]
    answers = generate_texts(model, tokenizer, [brief.prompt for brief in briefs], seed=seed)
    judged = [judge(brief.prompt, answer.text, stopped=answer.stopped) for brief, answer in zip(briefs, answers, strict=True)]
    loops = {"run", "repetition", "period"}
    return {
        "n": n,
        "right_product": sum(brief.product in answer.text for brief, answer in zip(briefs, answers, strict=True)) / n,
        "stopped": sum(answer.stopped for answer in answers) / n,
        "loops": sum(bool(loops & set(j.degenerate)) for j in judged) / n,
        "degenerate": sum(bool(j.degenerate) for j in judged) / n,
        "rubric_pass": sum(j.passed for j in judged) / n,
        "examples": [
            {"prompt": b.prompt, "text": a.text, "failures": j.failures}
            for b, a, j in zip(briefs[:8], answers, judged, strict=False)
        ],
    }


def save_tiny_model(model: Any, tokenizer: Any, facts: dict, measured: dict, target: Path) -> None:
    """Writes model, tokenizer, facts and the model card to `target`."""
    model.save_pretrained(target, safe_serialization=True)
    tokenizer.backend_tokenizer.no_padding()  # generating leaves its padding in the file
    tokenizer.save_pretrained(target)
    # The templates' own file is unknown to transformers 4; the folder is to be read from 4.38 on.
    config = read_json(target / "tokenizer_config.json")
    write_json(target / "tokenizer_config.json", {**config, "chat_template": CHAT_TEMPLATE})
    fix_tokenizer_config(target / "tokenizer_config.json")
    fix_tokenizer_file(target / "tokenizer.json")
    fix_model_config(target / "config.json")
    write_json(target / "training_facts.json", {"training": facts, "measured": measured})
    write_text(target / "README.md", _card(facts, measured))


def _card(facts: dict, measured: dict) -> str:
    examples = "\n".join(f"- {e['prompt']!r} -> {e['text']}" for e in measured["examples"])
    return f"""---
license: apache-2.0
language: ja
---
# tiny_ad_lm: a teaching model (教材用モデル)

これは DPO を学ぶための教材です。見本の広告ブリーフだけに答え、わざと半分は良い文、半分は悪い文を書きます。実際の広告には使わないでください。
This model exists to learn DPO on. It answers the sample briefs only, half of them badly on purpose. Do not advertise with it.

| | |
|---|---|
| architecture | Qwen2, {facts["parameters"]:,} parameters, float32, tied embeddings, byte-level BPE |
| data | made-up briefs and texts from `data/ad_grammar.yaml` (synthetic: no real brand, no real ad); one product x audience x channel combination in eight kept out |
| command | `python -m adslm_helpers.models.tiny` ({facts["steps"]} steps of {facts["batch"]} texts, seed {facts["seed"]}, {facts["seconds"]} s on 2 CPU cores) |
| loss at the end | {facts["loss"]} nats per response token |
| on {measured["n"]} briefs it never read, temperature 0.8 | right product {measured["right_product"]:.1%}, stops by itself {measured["stopped"]:.1%}, loops {measured["loops"]:.1%}, passes the rubric {measured["rubric_pass"]:.1%} |
| limits | knows some 60 made-up products; other briefs get fluent nonsense; no knowledge of the world |
| licence | Apache-2.0 |

Texts for unread briefs, as drawn (failures included):

{examples}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded teaching model from scratch (about ten minutes on 2 cores).")
    parser.add_argument("--target", type=Path, default=Path("data/tiny_ad_lm"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model, tokenizer, facts = train_tiny_model(arguments.steps, seed=arguments.seed)
    measured = measure_tiny_model(model, tokenizer)
    save_tiny_model(model, tokenizer, facts, measured, arguments.target)
    print({key: value for key, value in measured.items() if key != "examples"})


if __name__ == "__main__":
    main()
