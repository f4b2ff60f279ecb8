"""What keys and values in fewer bytes cost: bits per byte of a text, and how often the likeliest token stays the same.

    python -m benchmarks.caches MODEL TEXT [--row 512] [--rows 16]

The text is cut into rows of so many tokens; each is read at once, through the cache, so that every token attends to the
keys and values as they are held. One line of JSON for each way of holding them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import torch

import yanmo
from yanmo.files import read_text
from yanmo.inference.model import Model
from yanmo.models.held import CACHES, hold


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Cost of keys and values in fewer bytes.")
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--row", type=int, default=512)
    parser.add_argument("--rows", type=int, default=16)
    args = parser.parse_args()
    model = yanmo.load(args.model, device="cpu")
    ids = model.tokenizer.encode(read_text(args.text))[: args.row * args.rows + 1]
    exact: tuple[float, torch.Tensor] | None = None
    for cache in CACHES:
        hold(model.network, cache)
        bits, likeliest = measured(model, ids, args.row)
        exact = exact or (bits, likeliest)
        row = {"cache": cache, "tokens": len(ids) - 1, "row": args.row, "bits_per_byte": round(bits, 5)}
        row["change_percent"] = round(100 * (bits / exact[0] - 1), 4)
        row["same_likeliest_percent"] = round(100 * float((likeliest == exact[1]).float().mean()), 2)
        row["bytes_of_a_token"] = model.network.new_cache(1, 1).nbytes
        print(json.dumps(row), flush=True)
    return 0


@torch.inference_mode()
def measured(model: Model, ids: list[int], row: int) -> tuple[float, torch.Tensor]:
    """Bits per byte of all tokens but the first, and the likeliest token at each place."""
    network, loss, likeliest = model.network, 0.0, []
    for start in range(0, len(ids) - 1, row):
        part = torch.tensor([ids[start : start + row + 1]])
        hidden = network.decode(part[:, :-1], cache=network.new_cache(1, row))
        shares = network.logits(hidden).float().log_softmax(-1)[0]
        loss -= float(shares.gather(1, part[0, 1:, None]).double().sum())
        likeliest.append(shares.argmax(-1))
    nbytes = len(model.tokenizer.decode(ids[1:], skip_special_tokens=False).encode("utf-8"))
    return loss / math.log(2) / nbytes, torch.cat(likeliest)


if __name__ == "__main__":
    sys.exit(main())
