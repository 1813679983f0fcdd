"""Numba twins for NumPy arrays in float32."""
