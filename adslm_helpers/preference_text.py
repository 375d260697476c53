"""The instruction of preference-guided DPO where the user writes none: for ads, where the guide's own is for a chat assistant."""

PREFERENCE_TEXT = (
    "商品名と具体的な良さを一つ挙げ、誇張や根拠のない表現を避け、最後に行動を促す、簡潔で誠実な広告文にしてください。"
)
"""'Name the product and one concrete merit, avoid exaggeration and unfounded claims, end with a call to action; short and honest.'"""
