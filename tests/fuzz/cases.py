"""How a fuzz case runs: counted, stopped when it hangs, in an empty place where every file that it leaves is seen."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import pickle
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from adslm_helpers.errors import AdslmError

COUNT: Counter[str] = Counter()
FACTOR = int(os.environ.get("ADSLM_FUZZ") or 1)
HANGS_AFTER_S = 120  # of one case; they take milliseconds


def fuzzed(cases: int, **strategies: st.SearchStrategy) -> Callable:
    """A test that runs for `cases` examples (times ADSLM_FUZZ); one that hangs ends the whole run with its stack."""

    def wrap(test: Callable) -> Callable:
        @functools.wraps(test)
        def counted(*arguments, **options):
            COUNT[test.__module__.rpartition("test_fuzz_")[2]] += 1
            faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True, file=sys.__stderr__)
            try:
                return test(*arguments, **options)
            finally:
                faulthandler.cancel_dump_traceback_later()

        return settings(max_examples=cases * FACTOR)(given(**strategies)(counted))

    return wrap


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """An empty folder to work in, which is also where the process stands and where its user lives."""
    before, variables = Path.cwd(), {name: os.environ.get(name) for name in ("HOME", "ADSLM_RUNS")}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        home = Path(folder).resolve()
        os.environ.update(HOME=str(home), ADSLM_RUNS=str(home / "runs"))
        os.chdir(home)
        try:
            yield home
        finally:
            os.chdir(before)
            for name, value in variables.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def everything(folder: Path) -> set[str]:
    """The names of all that is below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def checked_words(error: AdslmError) -> None:
    """An error of ours can be printed anywhere, says what to do, and stays short."""
    for text, arrow in ((error.ja, "→"), (error.en, "->")):
        text.encode("utf-8")
        assert arrow in text and len(text) < 20_000, text[:300]
        assert not any(ord(character) < 32 and character not in "\n\t" for character in text), text[:300]


class Touch:
    """What an unpickled object would do here: leave a file named `unpickled`."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


PICKLE = pickle.dumps(Touch())
# Pieces that parsers trip over.
TOKENS = (
    b"", b"\0", b"\n", b"\r", b"\r\n", b'"', b"'", b",", b"\t", b";", b"{", b"}", b"[", b"]", b":", b"\\", b"\\ud800", b"\\u0000", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\xfe\xff", b"\x81\x40", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xc2\x85", b"NaN", b"-Infinity", b"1e999", b"null",
    b"9" * 4301, b"[" * 3000, b'{"a":' * 1500, b"{}", b"[]", b'"prompt":"x",', b'"chosen":"x",', b"\x1f\x8b\x08", b"PK\x03\x04", b"PAR1",
    b"\x1b]0;x\x07", "\u202e".encode(), "靴".encode(), "靴".encode("cp932"), b"=cmd|' /C calc'!A0", b"!!python/object/apply:os.system", PICKLE,
)  # fmt: skip
_EDITS = st.lists(
    st.tuples(
        st.sampled_from(("flip", "cut", "insert", "repeat", "truncate", "overwrite")),
        st.integers(0, 1 << 20),
        st.integers(0, 1 << 20),
        st.sampled_from(TOKENS),
    ),
    max_size=6,
)


def damage(content: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    """`content` after some edits of bytes."""
    for kind, at, size, token in edits:
        i = at % (len(content) + 1)
        j = min(len(content), i + 1 + size % 40)
        if kind == "flip" and i < len(content):
            content = content[:i] + bytes([content[i] ^ (1 << size % 8)]) + content[i + 1 :]
        elif kind == "cut":
            content = content[:i] + content[j:]
        elif kind == "insert":
            content = content[:i] + token + content[i:]
        elif kind == "repeat":
            content = content[:i] + content[i:j] * (2 + size % 5) + content[j:]
        elif kind == "truncate":
            content = content[:i]
        elif kind == "overwrite":
            content = content[:i] + token + content[i + len(token) :]
    return content


def damaged(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """One of the seeds, some bytes of it edited."""
    return st.builds(damage, st.sampled_from(seeds), _EDITS)


# Any text, halves of surrogate pairs included, and what has a meaning somewhere.
TEXTS = st.one_of(
    st.text(st.characters(codec=None), max_size=40),
    st.sampled_from(
        ("", " ", "\u3000", "\0", "\ud800", "靴の見出し", '<script>alert(1)</script>', '"><img src=x onerror=y>', "{{7*7}}", "=HYPERLINK(\"x\")",
         "\x1b]0;x\x07", "\u202egnp", "| a | b |", "```", "../../etc/passwd", "/dev/zero", "~nobody/x", "con", "5e-6", "nan", "1" * 5000)
    ),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(10**4400, 10**4401), st.floats(), TEXTS,
        st.just({"role": "user", "content": "靴"}), st.just([{"role": "user", "content": "靴"}]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)  # fmt: skip
