"""Errors: two languages, no traceback, and in every message of the package a way out."""

import ast
import pickle
import re
from pathlib import Path

import pytest

from adslm_helpers import errors
from adslm_helpers.errors import AdslmError, DataError

PACKAGE = Path(errors.__file__).parent
FAMILY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AdslmError)]


def test_the_message_is_japanese_then_english():
    error = DataError("空です。→ 直してください。", "Empty. -> Mend it.")
    assert str(error) == "空です。→ 直してください。\nEmpty. -> Mend it."
    assert (error.ja, error.en) == ("空です。→ 直してください。", "Empty. -> Mend it.")


@pytest.mark.parametrize("kind", FAMILY)
def test_one_except_catches_the_family_and_the_exit_code_is_that_of_a_user_mistake(kind):
    with pytest.raises(AdslmError):
        raise kind("あ", "a")
    assert kind.exit_code == (130 if issubclass(kind, KeyboardInterrupt) else 2)


def test_ipython_shows_the_message_instead_of_a_traceback():
    shown = DataError("空です。\n→ 直す", "Empty. -> Mend it.")._render_traceback_()
    assert shown == ["DataError: 空です。", "→ 直す", "Empty. -> Mend it."]


def test_an_error_survives_a_process_boundary():
    """Exceptions whose arguments are not those of __init__ break in pickle: the worker's error becomes a TypeError."""
    copy = pickle.loads(pickle.dumps(DataError("あ", "a")))
    assert (copy.ja, copy.en) == ("あ", "a")


def _literal(node: ast.expr) -> str | None:
    """The constant words of a string, f-string or sum of them; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
    if isinstance(node, ast.BinOp):
        return (_literal(node.left) or "") + (_literal(node.right) or "")
    return None


def _messages():
    names = {kind.__name__ for kind in FAMILY} | {"NotebookError"}
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names and len(node.args) == 2:
                ja, en = map(_literal, node.args)
                if ja and en:
                    yield f"{file.relative_to(PACKAGE)}:{node.lineno}", ja, en


def test_every_message_says_what_to_do_in_both_languages():
    found = list(_messages())
    assert len(found) > 30, "the search found too little to mean anything"
    poor = [
        place
        for place, ja, en in found
        if "→" not in ja or "->" not in en or not re.search("[ぁ-ん]", ja) or re.search("[ぁ-ん]", en.split("->")[0])
    ]
    assert not poor
