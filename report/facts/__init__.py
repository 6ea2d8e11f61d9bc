"""What the results say, a file for each part of the report: its numbers, its sentences and its tables."""
