"""The room of notebook 02: prompts and masks, the DPO maths, TRL's trainer, the run."""
