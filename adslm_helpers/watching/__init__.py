"""Watching a run from outside, by the files that it leaves: while it trains, after it ended, and one checkpoint tried out."""
