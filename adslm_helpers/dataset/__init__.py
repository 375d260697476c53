"""From a file of ad copy to pairs that a model can learn from: read, validate, describe, split, write."""
