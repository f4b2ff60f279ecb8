"""One script per question: ours and the peer in one run, and a ratio; `python -m benchmarks` lists and runs them.

frame (measuring, results) · table (docs/benchmarks.md) · one file per row, named after it
"""
