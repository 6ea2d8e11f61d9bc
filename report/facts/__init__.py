"""What the report may say, as plain facts: numbers, lists of rows, and verdicts of one word. No English, no LaTeX."""
