"""What a text is worth, without a model: length, degeneration, what a brief asks, what an ad must not say."""
