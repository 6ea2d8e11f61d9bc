"""Checks and timings of facelib that are no part of a report."""
