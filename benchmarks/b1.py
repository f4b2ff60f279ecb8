"""B1: decoding one text in 8 bits against llama.cpp, transformers and the memory.

One GPT-2 of 124M parameters with random weights: ours packed in 8 bits with a scale for each row, every step one call
of the native library; the peers' own files. All write their greedy next token for every step. The memory's figure is
the steps per second that reading the packed weights alone would take, by the fastest of torch's reductions over as
many bytes, again and again.

    ROW      what is measured
    run      peer → Result
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.frame import Result, Row, compare
from benchmarks.llamacpp import Peer, write_gpt2
from yanmo.errors import Error, need

PROMPT_TOKENS, NEW_TOKENS, SEED = 32, 100, 1
ROW = Row(
    name="B1",
    job=f"decode {NEW_TOKENS} tokens greedily after {PROMPT_TOKENS}, batch 1, GPT-2 124M, 8 bits",
    unit="token/s",
    goals={"llama-cpp-q8_0": 1.5, "transformers-fp32": 8.0, "memory": 0.75},
)
MOST_ERROR = 0.03  # of the logits, against float32


def run(peer: str, repeats: int, **sizes: int) -> Result:
    """Measure against one of ROW.goals; `sizes` other than GPT-2's are for trying the script."""
    import torch

    transformers = need("transformers", "bench", f"the benchmark {ROW.name}")
    torch.manual_seed(SEED)
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    prompt = torch.randint(0, network.config.vocab_size, (PROMPT_TOKENS,)).tolist()
    with tempfile.TemporaryDirectory() as place:
        network.save_pretrained(place)
        ours = Ours(Path(place))
        nbytes = ours.nbytes
        said = _check(network, ours, Path(place), prompt, peer)
        if peer == "memory":
            return compare(ROW, peer, ours.timed(prompt), _memory(nbytes), equal=said, repeats=repeats)
        if peer == "transformers-fp32":
            theirs, packages = _transformers(network, prompt), ("transformers",)
        else:
            theirs, packages = _llama(Path(place) / "model.gguf", prompt), ("llama-cpp-python",)
        return compare(ROW, peer, ours.timed(prompt), theirs, equal=said, packages=packages, repeats=repeats)


class Ours:
    """The packed network, the prompt read by its modules and each further token by a recorded step."""

    def __init__(self, folder: Path, bits: Any = None) -> None:
        import torch

        from yanmo.inference.quantize import quantize
        from yanmo.inference.step import Step
        from yanmo.models.checkpoint import load_network
        from yanmo.models.packed import PackedLinear

        network = load_network(folder, dtype=torch.bfloat16)
        self.network: Any = quantize(network, bits)  # type: ignore[arg-type]
        self.step = Step(self.network)
        self.nbytes = self.network.embedding.matrix.nbytes
        self.nbytes += sum(m.matrix.nbytes for m in self.network.modules() if isinstance(m, PackedLinear))

    def feed(self, prompt: list[int], follow: Callable[[Any], int]) -> list[Any]:
        """Logits after the prompt and after each token that `follow` chooses from them; NEW_TOKENS of them."""
        import torch

        with torch.inference_mode():
            cache = self.network.new_cache(1, PROMPT_TOKENS + NEW_TOKENS)
            hidden = self.network.decode(torch.tensor([prompt]), cache=cache)
            logits, ids = self.network.logits(hidden[:, -1])[0].float(), torch.zeros(1, dtype=torch.long)
            found = [logits]
            for _ in range(NEW_TOKENS - 1):
                ids[0] = follow(logits)
                logits = self.step(ids, cache)[0]
                found.append(logits)
        return found

    def timed(self, prompt: list[int]) -> Callable[[], float]:
        """Tokens per second of decoding, the prompt read before."""

        def once() -> float:
            starts: list[float] = []

            def follow(logits: Any) -> int:
                starts.append(time.perf_counter())
                return int(logits.argmax())

            self.feed(prompt, follow)
            return (NEW_TOKENS - 1) / (time.perf_counter() - starts[0])

        return once


def _llama(file: Path, prompt: list[int]) -> Callable[[], float]:
    import torch

    peer = Peer(file, PROMPT_TOKENS + NEW_TOKENS, torch.get_num_threads())

    def once() -> float:
        peer.forget()
        logits = peer.feed(prompt)
        start = time.perf_counter()
        for _ in range(NEW_TOKENS - 1):
            logits = peer.feed([int(logits.argmax())])
        return (NEW_TOKENS - 1) / (time.perf_counter() - start)

    return once


def _transformers(network: Any, prompt: list[int]) -> Callable[[], float]:
    import torch

    ids = torch.tensor([prompt])

    def once() -> float:
        with torch.inference_mode():
            options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "do_sample": False, "eos_token_id": None}
            network.generate(ids, max_new_tokens=1, **options)
            start = time.perf_counter()
            network.generate(ids, max_new_tokens=1, **options)
            prefilled = time.perf_counter()
            network.generate(ids, max_new_tokens=NEW_TOKENS, **options)
            return (NEW_TOKENS - 1) / (time.perf_counter() - prefilled - (prefilled - start))

    return once


def _memory(nbytes: int) -> Callable[[], float]:
    """Steps per second if nothing but the weights' bytes were read."""
    import torch

    numbers = torch.ones(nbytes // 4)
    table, vector = numbers[: nbytes // 4096 * 1024].view(-1, 1024), torch.ones(1024)

    def once() -> float:
        best = 0.0
        for job in (numbers.sum, lambda: torch.mv(table, vector)):
            start = time.perf_counter()
            for _ in range(40):
                job()
            best = max(best, 40 / (time.perf_counter() - start))
        return best

    return once


def _check(network: Any, ours: Ours, folder: Path, prompt: list[int], peer: str) -> str:
    """Feed both the same random ids and compare their logits with those of transformers in float32."""
    import torch

    ids = torch.randint(0, network.config.vocab_size, (NEW_TOKENS - 1,)).tolist()
    with torch.inference_mode():
        exact = network(torch.tensor([prompt + ids])).logits[0, PROMPT_TOKENS - 1 :]
    following = iter(ids)
    found = torch.stack([logits.clone() for logits in ours.feed(prompt, lambda _: next(following))])
    error = float((found - exact).norm() / exact.norm())
    said = f"logits of {NEW_TOKENS} positions against transformers in float32: ours apart by {error:.2%}"
    if peer.startswith("llama"):
        write_gpt2(network, folder / "model.gguf", peer.rpartition("-")[2].upper())
        other = Peer(folder / "model.gguf", PROMPT_TOKENS + NEW_TOKENS, torch.get_num_threads())
        rows = [torch.from_numpy(other.feed(prompt).copy())]
        rows += [torch.from_numpy(other.feed([i]).copy()) for i in ids]
        other.close()
        their_error = float((torch.stack(rows) - exact).norm() / exact.norm())
        said += f", llama.cpp by {their_error:.2%}"
        if not their_error < 3 * MOST_ERROR:
            raise Error(
                f"{ROW.name}: llama.cpp's logits are not those of the model ({their_error:.2%}): nothing is measured"
            )
    if not error < MOST_ERROR:
        raise Error(f"{ROW.name}: our logits are {error:.2%} from those of the model, so nothing is measured")
    return said
