"""Faces drawn by code and data sets of them: everything runs on these where there is no real data.

Their results are called synthetic wherever they appear.
"""
