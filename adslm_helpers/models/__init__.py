"""Models: which one, whether it fits, how it is loaded, how it answers; and the embedded teaching model."""
