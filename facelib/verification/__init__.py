"""How well a model tells people apart: test sets, scores, measures and how sure they are.

It knows trained models and data, not training.
"""
