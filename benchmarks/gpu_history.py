"""Which CUDA kernels have changed since a GPU verified them: python -m benchmarks.gpu_history

Reads benchmarks/gpu_history.jsonl, to which `python -m nanograd.gpucheck` appends. CI prints this; it never fails.
"""

from nanograd.gpucheck.history import changed_since, kernel_digests, read_history


def report() -> str:
    """One line, or one more for each kernel file that no GPU has seen as it is."""
    try:
        records, now = read_history(), kernel_digests()
    except (ValueError, OSError) as error:
        return f"CUDA kernels: {error}"
    changed = changed_since(records, now)
    if not changed:
        return f"CUDA kernels: all {len(now)} files are as a GPU last verified them"
    lines = [f"  {name}: {why}" for name, why in changed.items()]
    return "\n".join([f"CUDA kernels: {len(changed)} of {len(now)} files await a GPU", *lines])


if __name__ == "__main__":
    print(report())
