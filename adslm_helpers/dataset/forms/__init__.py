"""The forms in which preference data come, told from the content, and each of them as prompt, chosen and rejected."""
