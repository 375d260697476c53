"""One training on several GPUs or machines: the command for it, and its start. Works without torch."""
