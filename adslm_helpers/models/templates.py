"""One way from a prompt to the text a model reads, for training, evaluation and chat alike."""

from __future__ import annotations

from typing import Any

from ..errors import ModelError

# Models without a chat template of their own: the form their authors trained with. Set on the tokenizer, so that it is exported with it.
TEMPLATES = {
    "microsoft/DialoGPT-small": "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}",
    "rinna/japanese-gpt-neox-3.6b-instruction-sft": (
        "{% for m in messages %}{{ 'システム: ' if m['role'] == 'assistant' else 'ユーザー: ' }}{{ m['content'] }}<NL>{% endfor %}"
        "{% if add_generation_prompt %}システム: {% endif %}"
    ),
}
# A newline keeps prompt and answer in separate tokens, whatever the tokenizer merges.
PLAIN_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def ensure_chat_template(tokenizer: Any, name: str) -> str | None:
    """Gives `tokenizer` a chat template where it has none; says in one sentence what it did, or None."""
    if getattr(tokenizer, "chat_template", None):
        return None
    tokenizer.chat_template = TEMPLATES.get(name, PLAIN_TEMPLATE)
    return f"{name} has no chat template; the {'form it was trained with' if name in TEMPLATES else 'plain form (prompt, newline)'} is used"


def as_messages(prompt: str | list[dict]) -> list[dict]:
    """A prompt as chat messages: a string is one user message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def render_prompt(tokenizer: Any, prompt: str | list[dict]) -> str:
    """The exact text after which the model writes its answer, special tokens included (tokenise with add_special_tokens=False).

    Raises ModelError where the model's chat template refuses the dialogue (Gemma's takes no system message) or is broken.
    """
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(as_messages(prompt), tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError) as error:
        roles = ", ".join(message["role"] for message in as_messages(prompt))
        raise ModelError(
            f"モデルのチャットテンプレートが、この依頼（{roles}）を受け付けません（{type(error).__name__}: {error}）。"
            "→ system の発言を除くか、別のモデルにしてください。",
            f"The model's chat template refuses this prompt ({roles}): {type(error).__name__}: {error}. "
            "-> Leave out the system message, or take another model.",
        ) from None
