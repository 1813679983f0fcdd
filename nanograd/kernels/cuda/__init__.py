"""CUDA kernels for arrays on a GPU: .cu files, the header that runs them on the CPU as well (nk.h), and their twins."""
