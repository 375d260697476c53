"""What a model would learn from a set of pairs instead of the task, and what can be mended without judgement."""
