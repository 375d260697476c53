"""A stand-in for Google Colab's package: the same names, arguments, order of checks and errors; a folder for all that it reaches.

Put `tests/fake_colab` on the path and set FAKE_COLAB to a folder. There lie: `my_drive/` (what the user has in Drive), `secrets.json`
({"HF_TOKEN": {"value": ..., "access": true}}), `uploads/` (what the user picks in the dialog), `downloads/`. Every call is noted in
`calls.jsonl`, without its answer. FAKE_COLAB_DRIVE says what Drive does: see `drive.py`. `google` itself stays a namespace package.
"""
