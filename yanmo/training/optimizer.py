"""Updates: AdamW, Muon, and schedules as pure functions of progress.

In: a network whose parameters have gradients. Out: changed parameters.

    Optimizer            AdamW for all, or Muon for hidden matrices and AdamW for the rest; its state is named tensors
    Parts                what it needs to know of a network that lies in parts
    split_parameters     which parameter is treated how, and why
    SCHEDULES            progress in [0, 1] → factor on the learning rate

AdamW (Loshchilov & Hutter 2019) is in adamw.py, Muon (Jordan et al. 2024) in muon.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yanmo.errors import FileError
from yanmo.models.config import LABEL_HEADS
from yanmo.training.adamw import AdamW
from yanmo.training.muon import Directions, Muon
from yanmo.training.sharded import local

ADAM_EPS = 1e-8


class Parts(NamedTuple):
    """Of a network that lies in parts: what split_parameters said of it whole, and what orthogonalises its matrices."""

    treated: dict[str, list[str]]
    directions: Directions | None


class Optimizer:
    """One step over all trainable parameters of a network; `kind` is "adamw" or "muon"."""

    def __init__(
        self,
        network: nn.Module,
        kind: str,
        learning_rate: float,
        *,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: float = 0.95,
        muon_dtype: torch.dtype = torch.float32,
        parts: Parts | None = None,
    ) -> None:
        """momentum: Muon's. parts: of a network that lies in parts."""
        assert kind in ("adamw", "muon"), kind
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        groups = split_parameters(network) if parts is None else _named(network, parts.treated)
        if kind == "adamw":
            groups["decayed"] = {**groups["decayed"], **groups.pop("hidden")}
        hidden = groups.pop("hidden", {})
        self.names = {id(p): name for group in (*groups.values(), hidden) for name, p in group.items()}
        self.parameters = [p for group in (*groups.values(), hidden) for p in group.values()]
        decays: list[dict[str, Any]] = [
            {"params": list(groups["decayed"].values()), "weight_decay": weight_decay},
            {"params": list(groups["plain"].values()), "weight_decay": 0.0},
        ]
        values: dict[str, Any] = {"lr": learning_rate, "betas": betas, "eps": ADAM_EPS}
        self.in_pieces = parts is None and all(map(_simple, self.parameters))
        self.adamw: Any
        if self.in_pieces:
            self.adamw = AdamW(decays, **values)
        else:
            fused = all(p.device.type in ("cpu", "cuda", "mps", "xpu") for p in self.parameters)
            self.adamw = torch.optim.AdamW(decays, fused=fused, **values)
        self.muon = Muon(hidden.values(), muon_dtype, parts and parts.directions, momentum=momentum)
        self.momenta = self.muon.momenta

    @torch.no_grad()
    def step(self, factor: float = 1.0, scale: float = 1.0) -> None:
        """Update every parameter that has a gradient, with `factor` × the learning rate and `scale` × the gradient."""
        rate = self.learning_rate * factor
        for group in self.adamw.param_groups:
            group["lr"] = rate
        if self.in_pieces:
            self.adamw.step(scale)
            self.muon.step(rate, self.weight_decay, scale)
            return
        gradients = [local(p.grad) for p in self.parameters if p.grad is not None]
        if gradients and scale != 1:
            torch._foreach_mul_(gradients, scale)
        self.adamw.step()
        self.muon.step(rate, self.weight_decay)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None
            if parameter.grad_dtype != parameter.dtype:  # `lowered` leaves it so
                parameter.grad_dtype = parameter.dtype

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, named `kind/parameter`."""
        tensors = {f"momentum/{self.names[key]}": tensor for key, tensor in self.momenta.items()}
        for parameter, entries in self.adamw.state.items():
            for key, value in entries.items():
                tensors[f"{key}/{self.names[id(parameter)]}"] = torch.as_tensor(value)
        return tensors

    def like(self) -> dict[str, Tensor]:
        """For each tensor of `state` that has the shape of a parameter, that parameter."""
        kinds = ("momentum", "exp_avg", "exp_avg_sq")
        return {f"{kind}/{self.names[id(p)]}": p for kind in kinds for p in self.parameters}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave; a missing, unknown or mis-shaped tensor is an error."""
        by_name = {self.names[id(p)]: p for p in self.parameters}
        entries: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            parameter = by_name.get(name)
            expected = None if parameter is None else (torch.Size([]) if kind == "step" else parameter.shape)
            if (
                parameter is None
                or kind not in ("momentum", "step", "exp_avg", "exp_avg_sq")
                or tensor.shape != expected
            ):
                raise FileError(
                    f"the checkpoint's optimizer has {key} {tuple(tensor.shape)}, which this model and optimizer lack; "
                    "continue with the recipe that made it"
                )
            if kind == "momentum" and id(parameter) in self.momenta:
                self.momenta[id(parameter)].copy_(tensor)
            else:
                entries.setdefault(name, {})[kind] = tensor.to(parameter.device, copy=True)
        missing = [self.names[k] for k in self.momenta if f"momentum/{self.names[k]}" not in tensors]
        adamw = {self.names[id(p)] for group in self.adamw.param_groups for p in group["params"]}
        wrong = missing + [n for n, e in entries.items() if n not in adamw or len(e) != 3]
        if wrong:
            raise FileError(
                f"the checkpoint's optimizer does not fit at {wrong[0]}; continue with the recipe that made it"
            )
        self.adamw.state.clear()
        for name, entry in entries.items():
            self.adamw.state[by_name[name]] = entry


def _simple(parameter: nn.Parameter) -> bool:
    """Whether AdamW can take it in pieces: float32 on a CPU, in one part."""
    plain = parameter.device.type == "cpu" and type(parameter.data) is Tensor
    return plain and parameter.dtype == torch.float32 and parameter.is_contiguous()


def split_parameters(network: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Sort the trainable parameters by treatment; each stands in one group, under its first name.

    hidden      matrices between hidden vectors: weight decay, and Muon where it is chosen
    decayed     other matrices, e.g. an output matrix that is not tied to the embedding: weight decay, AdamW
    plain       embeddings, tied or not, norms, biases: no weight decay, AdamW. Decay would pull rare tokens' vectors,
                which seldom have a gradient, towards zero, and a norm's weight away from 1.
    """
    embeddings = {id(p) for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    head = _used_by_logits(network)
    groups: dict[str, dict[str, nn.Parameter]] = {"hidden": {}, "decayed": {}, "plain": {}}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or id(parameter) in embeddings
            hidden = parameter.ndim == 2 and id(parameter) not in head
            groups["plain" if plain else "hidden" if hidden else "decayed"][name] = parameter
    return groups


def _used_by_logits(network: Any) -> set[int]:
    """The parameters that the output layer depends on, found by asking autograd, not by their names.

    Of a task they are those of its head, and what a chain of tags learns beside it (tasks/crf.py).
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        return set()
    if network.config.head in LABEL_HEADS:
        own = [network.head, *(part for name, part in network.named_children() if name == "transitions")]
        return {id(p) for part in own for p in part.parameters()}
    width = network.config.width
    with torch.enable_grad():
        dtype = next(network.parameters()).dtype  # of the base: adapters may have another
        scores = network.logits(torch.zeros(1, width, device=parameters[0].device, dtype=dtype))
        if not scores.requires_grad:  # every weight of the output layer is frozen
            return set()
        gradients = torch.autograd.grad(scores.sum(), parameters, allow_unused=True)
    return {id(p) for p, gradient in zip(parameters, gradients) if gradient is not None}


def _named(network: nn.Module, treated: dict[str, list[str]]) -> dict[str, dict[str, nn.Parameter]]:
    parameters = dict(network.named_parameters())
    return {kind: {name: parameters[name] for name in names} for kind, names in treated.items()}


# --- schedules


def warmup_stable_decay(progress: float, warmup: float = 0.02, decay: float = 0.3, floor: float = 0.0) -> float:
    """Rise linearly over `warmup`, stay at 1, fall linearly over the last `decay` to `floor` (Hu et al. 2024, §4)."""
    return _rise(progress, warmup) * (1 - (1 - floor) * _share(progress, 1 - decay, 1))


def cosine(progress: float, warmup: float = 0.02, decay: float = 1.0, floor: float = 0.0) -> float:
    """Rise linearly over `warmup`, then half a cosine down to `floor` (Loshchilov & Hutter 2017); `decay` is unused."""
    turn = math.cos(math.pi * _share(progress, warmup, 1))
    return _rise(progress, warmup) * (floor + (1 - floor) * (1 + turn) / 2)


def linear(progress: float, warmup: float = 0.02, decay: float = 1.0, floor: float = 0.0) -> float:
    """Rise linearly over `warmup`, then fall linearly to `floor`; `decay` is unused."""
    return _rise(progress, warmup) * (1 - (1 - floor) * _share(progress, warmup, 1))


Schedule = Callable[[float, float, float, float], float]
SCHEDULES: dict[str, Schedule] = {"wsd": warmup_stable_decay, "cosine": cosine, "linear": linear}


def _rise(progress: float, warmup: float) -> float:
    return 1.0 if warmup <= 0 else min(1.0, progress / warmup)


def _share(progress: float, begin: float, end: float) -> float:
    """How much of [begin, end] lies behind, in [0, 1]."""
    if begin >= end:
        return float(progress >= begin)
    return min(1.0, max(0.0, (progress - begin) / (end - begin)))
