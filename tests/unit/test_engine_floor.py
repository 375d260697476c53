"""The floor in the engine's benchmark: operations counted by hand, so that no distance to it is flattering."""

from collections import Counter

import pytest

from adslm_helpers.models.catalog import ModelFacts
from scripts.engine_floor import floor_seconds, reference_operations, step_operations

# Width 8, MLP 16, two layers, 4 heads of 2 and 2 of them for keys and values, 10 words.
FACTS = ModelFacts("llama", 8, 2, 16, 10, 4, 2, 2)
PAIR = (5, 3, 4)
"""5 + 2 + 3 = 10 positions, of which the last of the prompt and the answers' 2 and 3 predict something: 6."""
# Who looks at whom: 15 in the prompt, 2 x 5 + 3 of the one answer, 3 x 5 + 6 of the other; in the last layer the prompt's end looks at 5.
LOOKS, LAST = 15 + 13 + 21, 5 + 13 + 21


def test_the_forward_by_hand():
    """Keys and values at all positions of both layers; everything else of the last layer where a token is predicted."""
    found = reference_operations(FACTS, [PAIR])
    assert found["k_proj"] == found["v_proj"] == 2 * (10 + 10) * 8 * 4
    assert found["q_proj"] == found["o_proj"] == 2 * (10 + 6) * 8 * 8
    assert found["gate_proj"] == found["up_proj"] == found["down_proj"] == 2 * (10 + 6) * 8 * 16
    assert found["attention"] == 4 * 8 * (LOOKS + LAST)
    assert found["head"] == 2 * 6 * 10 * 8
    assert found["lora"] == 0  # the reference has its adapter off


def test_the_step_by_hand():
    """Backward: one product for a frozen matrix, four for attention's two, none for what only the embeddings would want."""
    forward, found = reference_operations(FACTS, [PAIR]), step_operations(FACTS, [PAIR], rank=2)
    assert found["attention"] == 3 * forward["attention"]
    for name in ("head", "gate_proj", "o_proj"):
        assert found[name] == 2 * forward[name]
    for name, size in {"q_proj": 64, "k_proj": 32, "v_proj": 32}.items():
        assert found[name] == 2 * forward[name] - 2 * 10 * size
    pairs_of_sizes = 6 * 2 * (20 * (8 + 4) * 2 + 16 * (8 + 8) * 2)  # k and v at 20 positions of both layers, q and o at 16
    assert found["lora"] == pairs_of_sizes - 3 * 2 * 10 * 2 * 8


def test_pairs_add_up_and_each_kind_has_its_rate():
    assert step_operations(FACTS, [PAIR, PAIR], 2) == Counter({k: 2 * v for k, v in step_operations(FACTS, [PAIR], 2).items()})
    assert floor_seconds(Counter(a=6, b=10), {"a": 2.0, "b": 5.0}) == pytest.approx(5.0)
