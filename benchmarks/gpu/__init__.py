"""Minutes of a GPU: is it right, is it fast, and what comes out. `kit` packs, `python -m benchmarks.gpu` runs."""
