"""Floor 6. One command for the hour when a GPU is there: python -m nanograd.gpucheck --out FOLDER

budget        steps with a time budget each: what one of them breaks, the others go on without
figures       counted, not measured: arithmetic and bytes of a model and of its kernels
measure       times by the device's own clock; the ceilings of this card
kernel_table  each hot operation at GPT-2's shapes: time, floor, share of the floor
training      whole steps: equal to the CPU's, and how fast
parity        the tests that need a GPU, and compute-sanitizer, as programs of their own
history       what was verified, and which kernels have changed since
"""
