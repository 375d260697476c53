"""The room of notebook 03: held-out numbers with intervals, the same briefs before and after, a verdict, a report."""
