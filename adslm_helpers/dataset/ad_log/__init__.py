"""From an ad performance log to the pairs that it supports: read, judged row by row, summed, compared by posteriors."""
