"""What a chat format leaves in a text, and a brief given back instead of an answer."""

from __future__ import annotations

import math
import re
import unicodedata

# Control tokens of the families that the catalogue names (ChatML, Llama, Mistral, Gemma, T5-like), Alpaca's headings, byte tokens of
# SentencePiece, the letters that stand for space and newline in byte-level BPE, control characters, the replacement character.
_RESIDUE = re.compile(
    r"<\|[A-Za-z_/ ]{1,40}\|>|<\|im_|<\|endoftext|\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos|pad|unk|mask|NL)>|</?(?:start|end)_of_turn>"
    r"|</?think>|\[(?:PAD|UNK|CLS|SEP|MASK)\]|<0x[0-9A-Fa-f]{2}>|###|[ĠĊ]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]"
)
# A turn that the model began itself: a role alone on its line, or before a colon at the start of a line.
_ROLE = re.compile(
    r"^[^\S\n]*(?:(?:user|assistant|system|human)[^\S\n]*(?::|$)|(?:ユーザー|アシスタント|システム)[^\S\n]*:)",
    re.IGNORECASE | re.MULTILINE,
)
_REQUEST = re.compile(r"(?:ください|下さい|なさい|せよ|お願いします|書いて|作って|教えて)$")
_LABELLED = re.compile(r"^[^\s:]{1,10}\s*:\s*\S")
_SENTENCE_END = re.compile(r"[\n。?!]")
_LEAST_ECHO = 8
# Of a longer brief this much is looked for: every piece of it is, and a brief of a whole book would keep that busy for minutes.
_LONGEST = 2000
# "RTBについて説明してください" answered by "RTBについて説明します。..." shares 60-75 % of its prompt with a good answer.
_ECHO_SHARE = 0.8


def has_residue(text: str) -> bool:
    """Whether control tokens, a chat role or unreadable characters stand in a text."""
    plain = unicodedata.normalize("NFKC", text)
    return bool(_RESIDUE.search(plain) or _ROLE.search(plain))


def echoes(prompt: str, text: str) -> bool:
    """Whether `text` gives the brief back: four fifths of it in one piece, a whole request of it, or two of its "name: value" lines.

    A prompt of fewer than 8 characters is no brief; a product name or a selling point that is quoted is no echo.
    """
    asked, plain = (unicodedata.normalize("NFKC", words).strip() for words in (prompt[:_LONGEST], text))
    if len(asked) < _LEAST_ECHO or not plain:
        return False
    piece = max(_LEAST_ECHO, math.ceil(_ECHO_SHARE * len(asked)))
    if piece <= len(plain) and any(asked[i : i + piece] in plain for i in range(len(asked) - piece + 1)):
        return True
    lines = [line.strip() for line in asked.splitlines()]
    if sum(bool(_LABELLED.match(line)) and line in plain for line in lines) >= 2:
        return True
    sentences = [part.strip() for line in lines if not _LABELLED.match(line) for part in _SENTENCE_END.split(line)]
    return any(len(part) >= _LEAST_ECHO and bool(_REQUEST.search(part)) and part in plain for part in sentences)
