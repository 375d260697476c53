"""The room of notebook 04: the tuned model as files that somebody else can use, checked before they are handed over."""
