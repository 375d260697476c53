"""Forms and live views for notebooks; everything also works without a front end, as plain text."""
