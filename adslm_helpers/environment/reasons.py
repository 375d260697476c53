"""Why a precision is chosen: one sentence for each case, Japanese and English."""

REASONS = {
    "cpu": (
        "CPU では float32 がいちばん確実で、多くの場合いちばん速いためです。",
        "On a CPU float32 is the safest choice and usually the fastest.",
    ),
    "cuda_bf16": (
        "この GPU は bfloat16 を直接計算でき、桁あふれの心配がないためです。アダプターは float32 です。",
        "This GPU computes bfloat16 in hardware, and it does not overflow. Adapters stay float32.",
    ),
    "cuda_fp16": (
        "この GPU（T4 の世代）に本物の bfloat16 はないため、float16 の自動混合精度で計算します。"
        "桁あふれを防ぐため、アダプターと量子化しない重みは float32 です。",
        "This GPU (T4 generation) has no real bfloat16, so it computes in float16 by AMP. "
        "Adapters and unquantised weights stay float32, so that nothing overflows.",
    ),
    "cuda_fp32": (
        "この GPU では半精度にしても速くならないため、float32 で計算します。",
        "This GPU gains nothing from half precision, so it computes in float32.",
    ),
    "mps_4bit": (
        "4-bit の重みには bfloat16 を組み合わせます（float16 は桁あふれします）。",
        "4-bit weights go with bfloat16 (float16 overflows).",
    ),
    "mps_fp32": (
        "Apple の GPU では float32 がいちばん確実で、メモリに収まるためです（float16 は Qwen2 系で桁あふれするため使いません）。",
        "On an Apple GPU float32 is the safest choice, and it fits into memory (never float16: the Qwen2 family overflows).",
    ),
    "mps_bf16": (
        "float32 ではメモリに収まらないため、重みを bfloat16 にします。アダプターは float32 です。",
        "In float32 it would not fit into memory, so the weights are bfloat16. Adapters stay float32.",
    ),
    "mps_tight": (
        "メモリが足りないおそれがありますが、bfloat16 には macOS 14 と torch 2.6 以上が必要で、float16 は桁あふれするためです。",
        "Memory may not suffice, but bfloat16 needs macOS 14 and torch 2.6, and float16 overflows.",
    ),
}
