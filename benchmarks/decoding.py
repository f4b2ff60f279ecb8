"""What B1, B2 and B3 share: one GPT-2 with random weights, read and continued by Yanmo and by the peers.

Ours, Llama, Transformers     open the model; `read` a prompt and `write` greedily, `scores` of given ids
memory                        how often the weights' bytes alone could be read in a second
check                         the logits of each against float32; ours against our own plain modules, id for id
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.llamacpp import Peer, write_gpt2
from yanmo.errors import Error, need

PROMPT_TOKENS, NEW_TOKENS, SEED = 32, 100, 1


def make(row: str, **sizes: int) -> tuple[Any, list[int]]:
    """GPT-2 of transformers with random weights, 124M parameters unless other sizes are given, and a prompt."""
    import torch

    transformers = need("transformers", "bench", f"the benchmark {row}")
    torch.manual_seed(SEED)
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    return network, torch.randint(0, network.config.vocab_size, (PROMPT_TOKENS,)).tolist()


class Ours:
    """The packed network, a prompt read by its modules and each further token by a recorded step."""

    def __init__(self, folder: Path, bits: Any) -> None:
        import torch

        from yanmo.inference.quantize import quantize
        from yanmo.inference.step import Step
        from yanmo.models.checkpoint import load_network
        from yanmo.models.packed import packed_bytes

        network = load_network(folder, dtype=torch.float32)
        self.network: Any = quantize(network, bits)  # type: ignore[arg-type]
        self.step = Step(self.network)
        self.nbytes = packed_bytes(self.network)

    def read(self, ids: list[int], room: int) -> tuple[Any, Any]:
        """The cache and the logits (V,) after a prompt."""
        import torch

        with torch.inference_mode():
            cache = self.network.new_cache(1, room)
            hidden = self.network.decode(torch.tensor([ids]), cache=cache)
            return cache, self.network.logits(hidden[:, -1])[0].float()

    def write(self, prompt: list[int], count: int) -> tuple[list[int], float]:
        """Greedy ids, and the tokens in a second after the first one."""
        import torch

        cache, logits = self.read(prompt, len(prompt) + count)
        ids, found = torch.zeros(1, dtype=torch.long), [int(logits.argmax())]
        start = time.perf_counter()
        for _ in range(count - 1):
            ids[0] = found[-1]
            found.append(int(self.step(ids, cache)[0].argmax()))
        return found, (count - 1) / (time.perf_counter() - start)

    def rate(self, prompt: list[int]) -> Callable[[], float]:
        """A measurement for `compare`: tokens in a second."""
        return lambda: self.write(prompt, NEW_TOKENS)[1]

    def scores(self, prompt: list[int], following: list[int], *, plain: bool = False) -> Any:
        """The logits after the prompt and after each id that follows, (N, V); plain: by the modules alone."""
        import torch

        cache, logits = self.read(prompt, len(prompt) + len(following))
        found = [logits]
        with torch.inference_mode():
            for i in following:
                ids = torch.tensor([i])
                if plain:
                    found.append(self.network.logits(self.network.decode(ids[None], cache=cache)[:, -1])[0])
                else:
                    found.append(self.step(ids, cache)[0].clone())
        return torch.stack(found)


class Llama:
    """llama.cpp on a file of the same weights in `kind`."""

    def __init__(self, network: Any, file: Path, kind: str, room: int) -> None:
        import torch

        write_gpt2(network, file, kind)
        self.peer = Peer(file, room, torch.get_num_threads())

    def write(self, prompt: list[int], count: int) -> tuple[list[int], float]:
        """Greedy ids, and the tokens in a second after the first one."""
        self.peer.forget()
        found = [int(self.peer.feed(prompt).argmax())]
        start = time.perf_counter()
        for _ in range(count - 1):
            found.append(int(self.peer.feed(found[-1:]).argmax()))
        return found, (count - 1) / (time.perf_counter() - start)

    def rate(self, prompt: list[int]) -> Callable[[], float]:
        """A measurement for `compare`: tokens in a second."""
        return lambda: self.write(prompt, NEW_TOKENS)[1]

    def scores(self, prompt: list[int], following: list[int]) -> Any:
        """The logits after the prompt and after each id that follows, (N, V)."""
        import torch

        self.peer.forget()
        rows = [self.peer.feed(ids).copy() for ids in (prompt, *([i] for i in following))]
        return torch.stack([torch.from_numpy(row) for row in rows])


def transformers_rate(network: Any, prompt: list[int]) -> Callable[[], float]:
    """Tokens in a second of transformers' generate, the reading of the prompt taken off."""
    import torch

    ids = torch.tensor([prompt])
    options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "do_sample": False, "eos_token_id": None}

    def once() -> float:
        with torch.inference_mode():
            start = time.perf_counter()
            network.generate(ids, max_new_tokens=1, **options)
            prefilled = time.perf_counter()
            network.generate(ids, max_new_tokens=NEW_TOKENS, **options)
            return (NEW_TOKENS - 1) / (time.perf_counter() - prefilled - (prefilled - start))

    return once


def memory(nbytes: int) -> Callable[[], float]:
    """Steps in a second if nothing but the weights' bytes were read: the faster of two of torch's reductions."""
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


def check(row: str, network: Any, ours: Ours, prompt: list[int], limit: float, llama: Llama | None = None) -> str:
    """Say how far apart the logits are on the same ids; an Error past the limits, since then nothing is measured."""
    import torch

    written, _ = ours.write(prompt, NEW_TOKENS)
    following = torch.randint(0, network.config.vocab_size, (NEW_TOKENS - 1,)).tolist()
    with torch.inference_mode():
        exact = network(torch.tensor([prompt + following])).logits[0, len(prompt) - 1 :]
    plain = ours.scores(prompt, written[:-1], plain=True).argmax(1).tolist()
    if plain != written:
        raise Error(f"{row}: recorded steps and the plain modules do not choose the same ids, so nothing is measured")
    apart = _apart(ours.scores(prompt, following), exact)
    said = f"the {NEW_TOKENS} ids are those of the plain modules; logits against float32: ours apart by {apart:.2%}"
    if llama is not None:
        theirs = _apart(llama.scores(prompt, following), exact)
        said += f", llama.cpp's by {theirs:.2%}"
        if not theirs < 3 * limit:
            raise Error(f"{row}: llama.cpp's logits are {theirs:.2%} from the model's, so nothing is measured")
    if not apart < limit:
        raise Error(f"{row}: our logits are {apart:.2%} from the model's, so nothing is measured")
    return said


def _apart(found: Any, exact: Any) -> float:
    return float((found - exact).norm() / exact.norm())
