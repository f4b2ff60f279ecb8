"""Native kernels for the CPU, each beside a twin in plain PyTorch, which is both its fallback and its oracle."""
