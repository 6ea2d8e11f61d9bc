"""One image of a face: read, aligned, cut, darkened.

Knows nothing of data sets or networks. Everything is a function of pixels.
"""
