"""DPO with one forward pass for both answers of a pair: the prompt once, log-probabilities at answer positions only."""
