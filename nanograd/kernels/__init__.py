"""Floor 3. Faster twins of the formulas in nanograd/ops, under the same file names: cpu/ in Numba."""
