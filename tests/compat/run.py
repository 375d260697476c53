"""One environment of packages per TRL era, and in each the tiny recipe through the whole road, compared with the newest.

python tests/compat/run.py [VERSION ...] [--write docs/compat.md]

Environments are kept in .compat/ (torch and matplotlib shared); the newest set is always run, for it is the reference.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".compat"
LOCKS = Path(__file__).parent / "locks"
PROBE_SECONDS = 1200
AT_ONCE = 2
LN_2 = math.log(2)
FAST = ("loss", "rewards/margins", "eval_loss")
"""What engine `fast` is compared by, with the TRL of the same environment."""


def known_versions() -> list[str]:
    """Every TRL that has a lock file, the oldest first."""
    found = [path.stem.removeprefix("trl-") for path in LOCKS.glob("trl-*.txt")]
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def environment(version: str) -> Path:
    """The interpreter of the environment for a TRL version; built where it is missing or its lock file has changed."""
    folder, lock = HOME / f"trl-{version}", LOCKS / f"trl-{version}.txt"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.is_file() and ready.read_text() == lock.read_text():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    _pip("--python", str(python), "install", "--no-compile", "--no-deps", "-r", str(lock))
    # After the set's own packages: they come first on the path, and pip does not see the shared ones.
    (next(folder.glob("lib/python*/site-packages")) / "shared.pth").write_text(str(HOME / "shared"))
    ready.write_text(lock.read_text())
    return python


def shared_packages() -> None:
    """torch (as requirements.txt pins it), matplotlib and what reads and audits data, once for all environments."""
    pinned = re.findall(
        r"^(?:torch|matplotlib|duckdb|openpyxl|RapidFuzz|sacrebleu)==.*$",
        (ROOT / "requirements.txt").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    ready = HOME / "shared" / "ready"
    if not ready.is_file() or ready.read_text() != "\n".join(pinned):
        shutil.rmtree(HOME / "shared", ignore_errors=True)
        _pip("install", "--no-compile", "--target", str(HOME / "shared"), *pinned)
        ready.write_text("\n".join(pinned))


def probe(version: str, python: Path) -> dict:
    """What the probe found under one version; {"error": its last words} where it failed."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), str(Path(__file__).with_name("probe.py")), folder]
        try:
            done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {PROBE_SECONDS} s"}
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    return json.loads(results[0].removeprefix("RESULT "))


def deviation(found: dict, reference: dict, key: str) -> float:
    """Largest difference of two curves; infinite when they have not the same number of points, NaN when one holds a NaN."""
    ours, theirs = found[key], reference[key]
    if len(ours) != len(theirs) or not ours:
        return math.inf
    differences = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def failures(found: dict, reference: dict) -> list[str]:
    """Every promise that a version breaks, in words; empty: it passes."""
    if "error" in found:
        return [found["error"]]
    ending, fast = found["ending"], found["fast"]
    promises = {
        f"first loss {found['first_loss']:.5f} is not ln 2": abs(found["first_loss"] - LN_2) <= 1e-4,
        f"EOS in a response: {found['eos_per_response']}": found["eos_per_response"] == [1],
        f"pre-flight: {found['preflight']}": len(found["preflight"]) >= 7 and all(found["preflight"].values()),
        "other ids or another mask than in the newest TRL": found["scored"] == reference["scored"],
        f"loss differs by {deviation(found, reference, 'loss'):.1e}": deviation(found, reference, "loss") <= 1e-4,
        f"margins differ by {deviation(found, reference, 'margins'):.1e}": deviation(found, reference, "margins") <= 1e-4,
        f"eval loss differs by {deviation(found, reference, 'eval_loss'):.1e}": deviation(found, reference, "eval_loss") <= 1e-4,
        f"resumed from {found['resumed_from']}, not from 10": found["resumed_from"] == 10,
        f"resumed adapter differs by {found['resumed_difference']:.1e}": found["resumed_difference"] <= 1e-6,
        **{f"engine fast: {key} differs from TRL's by {fast[key]:.1e}": fast[key] <= 1e-4 for key in FAST},
        f"engine fast: resumed from {fast['resumed_from']}, adapter differs by {fast['resumed_difference']:.1e}": fast[
            "resumed_from"
        ]
        == 10
        and fast["resumed_difference"] <= 1e-6,
        f"a ruined text was not gone back from: {ending}": ending["healthy"] is False
        and ending["ending"] < ending["last"]
        and ending["difference"] == 0,
        f"export changed {found['exported']['changed_texts']} texts": found["exported"]["changed_texts"] == 0,
    }
    return [words for words, kept in promises.items() if not kept]


def table(results: dict[str, dict], reference: dict) -> list[str]:
    """The rows of docs/compat.md."""
    names = ("transformers", "peft", "accelerate", "datasets", "numpy")
    rows = [
        f"| TRL | {' | '.join(names)} | loss | margins | eval loss | resumed adapter | engine fast | seconds | |",
        "|---|" + "---|" * (len(names) + 7),
    ]
    for version, found in results.items():
        broken = failures(found, reference)
        if "error" in found:
            rows.append(f"| {version} |" + " |" * (len(names) + 6) + f" {found['error']} |")
            continue
        curves = " | ".join(f"{deviation(found, reference, key):.0e}" for key in ("loss", "margins", "eval_loss"))
        versions = " | ".join(str(found["versions"][name]) for name in names)
        verdict = "; ".join(broken) or "ok"
        rows.append(
            f"| {version} | {versions} | {curves} | {found['resumed_difference']:.0e} | {max(found['fast'][key] for key in FAST):.0e} | {found['seconds']:.0f} | {verdict} |"
        )
    return rows


def page(results: dict[str, dict], reference: dict) -> str:
    """docs/compat.md."""
    passed = sum(not failures(found, reference) for found in results.values())
    done = "\n".join(f"- {version}: {'; '.join(line.split(' / ')[-1] for line in [*found.get('done_by_us', []), *found.get('fast', {}).get('done_by_us', [])]) or 'nothing'}"
                     for version, found in results.items())  # fmt: skip
    return f"""# The same recipe under every TRL

{passed} of {len(results)} sets of packages pass. Measured {date.today()} with `make compat` (Python {platform.python_version()},
torch {reference["versions"]["torch"]}, CPU, one thread, two sets at a time).

Each row is an environment of its own with the packages of that TRL's time (`tests/compat/locks/`). In each, `tests/compat/probe.py` imports every
module of the package and takes the embedded model and 240 sample pairs through the whole road: 20 steps of 2 x 4 pairs with the SFT term, an
evaluation and a checkpoint every 5 steps, the same run stopped at step 12 and resumed, a run with a ruinous learning rate that the watch has to stop and take back to its last healthy
checkpoint, evaluation, export with the merged model read back. It passes when

- the pre-flight passes, the first loss without the SFT term is ln 2, and every response has exactly one EOS;
- the ids and the mask that are scored are those of the newest TRL, for every pair;
- losses, margins and held-out losses of all steps differ from those of the newest TRL by at most 1e-4 (older transformers log four digits: 5e-5);
- our own engine (`engine="fast"`) has the same losses, margins and held-out losses as the TRL of that environment, to 1e-4 (the largest difference is in the table);
- the resumed adapter equals the undisturbed one to 1e-6 (with both engines), a run whose texts go bad is stopped and ends with its last healthy adapter, and no exported text differs.

{chr(10).join(table(results, reference))}

Differences are the largest ones to TRL {list(results)[-1]}. What a version lacks and was done another way (said once in each training's result):

{done}

What the library levels out, and where: `adslm_helpers/training/trl_api.py` and `trl_rows.py`.
"""


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"pip {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=f"of {', '.join(known_versions())}; default: all")
    parser.add_argument("--write", type=Path, help="write the page here")
    arguments = parser.parse_args()
    newest = known_versions()[-1]
    versions = [
        version for version in known_versions() if not arguments.versions or version in arguments.versions or version == newest
    ]
    if unknown := set(arguments.versions) - set(versions):
        parser.error(f"no lock file for {', '.join(sorted(unknown))}")
    shared_packages()
    with ThreadPoolExecutor(AT_ONCE) as workers:
        print(f"environments for {len(versions)} sets ...", flush=True)
        pythons = list(workers.map(environment, versions))
        results = {}
        for version, found in zip(versions, workers.map(probe, versions, pythons), strict=True):
            results[version] = found
            print(f"TRL {version}: {found.get('error') or str(found['seconds']) + ' s'}", flush=True)
    reference = results[newest]
    if "error" in reference:
        return 1
    passed = sum(not failures(found, reference) for found in results.values())
    print("\n".join([*table(results, reference), "", f"{passed} of {len(results)} pass"]))
    if arguments.write:
        arguments.write.write_text(page(results, reference), encoding="utf-8")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
