"""What a training of vectors is asked for and leaves behind, and what it says in words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AdslmError
from ...models.generation import generate_texts
from ...recipe import DpoRecipe
from ...run import Run, read_json, sha256
from ...text.degenerate import find_degeneration
from ..fast.objective import pair_losses
from ..health import watched_prompts
from ..prompts import EncodedPair
from .embeddings import FILE

if TYPE_CHECKING:
    from torch import Tensor

RESULT = "result.json"
_MOST_TEXTS = 8
_NOTICEABLE = 0.1


@dataclass(frozen=True)
class PromptResult:
    """Vectors that were trained, and the held-out pairs read without them, with those it started from and with the trained ones."""

    run: str
    model: str
    kind: str
    text: str
    virtual_tokens: int
    learning_rate: float
    steps: int
    seconds: float
    pairs: dict[str, int]
    dropped: dict[str, dict[str, int]]
    without: dict[str, float]
    """Of the held-out pairs, see `measured`."""
    before: dict[str, float]
    after: dict[str, float]
    texts: list[dict[str, Any]]
    """Held-out prompts answered without and with the vectors; 'broken' names what is wrong with a text."""
    notes: list[str]
    asked: dict[str, Any]
    file: str
    copy: str
    """Where `adslm train` is told to look for it."""
    sha256: str = ""
    reused: bool = False

    def lines(self) -> list[str]:
        """The result in a few bilingual lines."""
        told = [
            *self.notes,
            f"ベクトル / vectors: {self.virtual_tokens} x {self.kind}   学習率 / learning rate: {self.learning_rate:g}",
        ]
        told += [f"出発点 / started from: {self.text}"] * bool(self.text)
        told.append(f"ステップ / steps: {self.steps}   秒 / seconds: {self.seconds:.0f}")
        told += ["同じ条件の学習が済んでいるので、その結果を使います。/ Already trained like this: reused."] * self.reused
        named = (("ベクトルなし / without", self.without), ("学習前 / before", self.before), ("学習後 / after", self.after))
        told.append(f"検証の対 / held-out pairs: {self.pairs['eval']}")
        told += [f"  {label}: {_in_words(values)}" for label, values in named]
        told += [self.verdict()]
        for row in self.texts[:2]:
            told += [
                f"  依頼 / brief: {row['prompt']}",
                f"    なし / without: {row['without']}",
                f"    あり / with:    {row['with']}",
            ]
        return [*told, f"ファイル / file: {self.copy}", f"次に / next: {self.next_command()}"]

    def verdict(self) -> str:
        """What the numbers say, in one bilingual sentence."""
        loss, bare = self.after["loss"], self.without["loss"]
        broken = [sum(bool(row["broken"][side]) for row in self.texts) for side in ("without", "with")]
        if broken[1] > broken[0]:
            return (
                f"このベクトルを付けると文が壊れます（{broken[1]}/{len(self.texts)} 件、なしでは {broken[0]} 件）。→ 学習率かエポック数を下げてください。"
                f" / With these vectors texts break ({broken[1]} of {len(self.texts)}, without them {broken[0]}). -> Lower learning rate or epochs."
            )
        if loss >= bare:
            return (
                "検証の対では、ベクトルなしより良くなっていません。教師には向きません。→ 学習率かエポック数を変えてください。"
                " / On the held-out pairs they are no better than no vectors: not fit to teach. -> Try another learning rate or more epochs."
            )
        n, nats, bare_nats = self.pairs["eval"], self.after["nats_per_token"], self.without["nats_per_token"]
        wider = round(self.after["rewards/accuracies"] * n)
        ja, en = (
            (
                f"ただし選ばれた文そのものが出にくくなりました（1トークンあたり {bare_nats:.2f} → {nats:.2f} nat）。文を読み、学習を長くするか学習率を変えてください。",
                f"But the chosen texts themselves became less likely ({bare_nats:.2f} to {nats:.2f} nats a token): read the texts; train longer, or with "
                "another learning rate.",
            )
            if nats > bare_nats * (1 + _NOTICEABLE)
            else ("", "")
        )
        return (
            f"検証の {n} 対のうち {wider} 対で、このベクトルは選ばれた文の側へ差を広げます。{ja}"
            f" / On {wider} of {n} held-out pairs these vectors move the margin towards the chosen text. {en}"
        ).strip()

    def next_command(self) -> str:
        """The command that trains with these vectors as the teacher's."""
        path = Path(self.copy)
        shown = os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)
        return f"adslm train --run {self.run} --method preference_guided --prompt-embeddings {shown}"


def asked_for(run: Run, recipe: DpoRecipe, kind: str, text: str, virtual_tokens: int) -> dict[str, Any]:
    """All that decides the outcome, as plain JSON values."""
    dataset = {side: sha256(run.dataset / f"{side}.jsonl") for side in ("train", "eval")}
    return {"recipe": recipe.to_dict(), "kind": kind, "text": text, "virtual_tokens": virtual_tokens, "dataset": dataset}


def finished(folder: Path, asked: dict[str, Any]) -> PromptResult | None:
    """The result of a finished training of vectors that was asked for the same, its file as it was written; else None."""
    try:
        result = PromptResult(**read_json(folder / RESULT))
        same = result.asked == asked and sha256(folder / FILE) == result.sha256
    except (AdslmError, TypeError, OSError):
        return None
    return replace(result, reused=True) if same else None


def measured(
    logps: Sequence[tuple[float, float]],
    ref_logps: Sequence[tuple[float, float]],
    pairs: Sequence[EncodedPair],
    recipe: DpoRecipe,
) -> dict[str, float]:
    """Held-out means: 'loss' (of DPO, without an SFT term), 'rewards/accuracies' (share of pairs with a margin above the reference's),
    'rewards/margins' (times beta), 'prefers_chosen' (share of pairs whose chosen text is the likelier one), 'nats_per_token' of the chosen.

    logps, ref_logps: (chosen, rejected) of each pair, nats.
    """
    import torch

    lengths = torch.tensor([[len(pair.chosen_ids), len(pair.rejected_ids)] for pair in pairs])
    both = [torch.tensor(rows, dtype=torch.float64).T.reshape(-1) for rows in (logps, ref_logps)]
    losses, chosen, rejected = pair_losses(*both, lengths, recipe)
    found = {
        "loss": losses,
        "rewards/accuracies": (chosen > rejected).double(),
        "rewards/margins": chosen - rejected,
        "prefers_chosen": (both[0].chunk(2)[0] > both[0].chunk(2)[1]).double(),
        "nats_per_token": -both[0].chunk(2)[0] / lengths[:, 0],
    }
    return {name: round(values.mean().item(), 6) for name, values in found.items()}


def spoken_texts(model: Any, tokenizer: Any, rows: Sequence[dict], recipe: DpoRecipe) -> list[dict[str, Any]]:
    """A few held-out prompts answered by the base model without and with the vectors of a `PeftModel`, same seed.

    One prompt at a time: in a padded batch the vectors would stand further away than they were trained.
    """
    watched = watched_prompts(tokenizer, rows, replace(recipe, watch_prompts=min(recipe.watch_prompts, _MOST_TEXTS)))
    prompts = [asked.prompt for asked, _ in watched]
    base = model.get_base_model()
    base.config.use_cache = True
    options = {name: getattr(recipe, name) for name in ("seed", "temperature", "top_p", "max_new_tokens")}
    both = (base, _Led(base, model.get_prompt(batch_size=1).detach()))
    without, led_by_vectors = (generate_texts(one, tokenizer, prompts, batch_size=1, **options) for one in both)
    return [
        {
            "prompt": prompt,
            "without": bare.text,
            "with": led.text,
            "broken": {
                "without": find_degeneration(bare.text, prompt=asked.text, stopped=bare.stopped),
                "with": find_degeneration(led.text, prompt=asked.text, stopped=led.stopped),
            },
        }
        for (asked, _), prompt, bare, led in zip(watched, prompts, without, led_by_vectors, strict=True)
    ]


class _Led:
    """The base model with vectors before what it reads, for `generate_texts`: PEFT's own generate leaves them out in some versions."""

    def __init__(self, base: Any, prompt: Tensor):
        self.base, self.prompt = base, prompt

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def generate(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        import torch

        embeds = self.base.get_input_embeddings()(input_ids)
        embeds = torch.cat([self.prompt.to(embeds), embeds], 1)
        mask = torch.cat([attention_mask.new_ones(self.prompt.shape[:2]), attention_mask], 1)
        options = {"bos_token_id": options["eos_token_id"], **options}  # transformers 4.38 asks for one, and uses none
        return torch.cat([input_ids, self.base.generate(inputs_embeds=embeds, attention_mask=mask, **options)], 1)


def _in_words(values: dict[str, float]) -> str:
    return (
        f"損失 / loss {values['loss']:.3f}, 正解率 / accuracy {values['rewards/accuracies']:.3f}, "
        f"選ばれた文が上 / chosen likelier {values['prefers_chosen']:.3f}, {values['nats_per_token']:.2f} nats/token"
    )
