"""All that makes the PDF: which runs it needs, their results as facts, its sentences, tables and figures.

It imports facelib, and nothing imports it.
"""
