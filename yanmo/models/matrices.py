"""The matrices of a Transformer by the names of their modules, as adapters and their users name them.

    transformer         a network that has them, or an error
    matrices            all that can have an adapter
    chosen_matrices     those that some targets name
    saved_modules       those of which an adapter has its own copy
    weights_of          matrix and bias of the base

"head" is the matrix of the words, which may be the embedding; a label head has "head.out" and may have "head.dense".
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from yanmo.errors import InputError
from yanmo.models.config import LABEL_HEADS
from yanmo.models.families.catalog import FAMILIES
from yanmo.models.lowrank import Projection
from yanmo.models.names import chosen
from yanmo.models.transformer import Transformer


def transformer(network: nn.Module) -> Transformer:
    """The network itself; InputError for one that has no matrices to adapt."""
    if not isinstance(network, Transformer):
        raise InputError(
            "adapters are for Transformers; a recurrent network has none of their matrices, train it whole"
        )
    return network


def matrices(network: nn.Module) -> dict[str, nn.Module | None]:
    """Every matrix that can have an adapter, by its module's name; None stands for words without adapters."""
    network = transformer(network)
    found: dict[str, nn.Module | None] = {
        name: module for name, module in network.named_modules() if isinstance(module, nn.Linear | Projection)
    }
    if network.config.head in ("causal", "masked"):
        found["head"] = network.head.adapted
    return found


def chosen_matrices(network: nn.Module, targets: Iterable[str]) -> list[str]:
    """The names of the matrices that `targets` name; one that names nothing is an InputError."""
    names = list(matrices(network))
    wanted = chosen(names, targets)
    return [name for name in names if name in wanted]


def head_matrices(network: Transformer) -> list[str]:
    """The matrices of the head itself: for labels the last one and, where the family counts it in, the one before."""
    if network.config.head not in LABEL_HEADS:
        return ["head"]
    found = [name for name in ("head.dense", "head.out") if hasattr(network.head, name.removeprefix("head."))]
    if network.family in FAMILIES:
        rules = FAMILIES[network.family].rules(network.config)
        of_base = {rule.ours[0].removesuffix(".weight") for rule in rules if rule.theirs.startswith("~")}
        found = [name for name in found if name not in of_base]
    return found


def saved_modules(network: Transformer, names: Iterable[str] | None) -> list[str]:
    """The modules that `modules_to_save` names."""
    if names is None:
        names = ("head",) if network.config.head in LABEL_HEADS else ()
    found: list[str] = []
    for name in names:
        if name == "embedding":
            if network.config.kind == "encoder-decoder":
                raise InputError(
                    "the embedding of an encoder-decoder serves both sides, and cannot be in modules_to_save"
                )
            found.append(name)
        elif name == "head":
            found += head_matrices(network)
        else:
            found += chosen_matrices(network, [name])
    if "head" in found and network.config.head == "masked":
        raise InputError("the words of a masked model cannot be in modules_to_save; target them: targets=('head', …)")
    return list(dict.fromkeys(found))


def weights_of(network: Transformer, module: str) -> tuple[Tensor, Tensor | None]:
    """Matrix and bias of the base at a module of `matrices` or "embedding"; a packed matrix is dequantised."""
    if module == "head":
        return word_matrix(network), None
    found = network.get_submodule(module)
    if isinstance(found, Projection):
        return found.matrix(network.dtype), found.bias
    return found.weight, getattr(found, "bias", None)  # type: ignore[return-value]


def word_matrix(network: Transformer) -> Tensor:
    """The matrix (V, W) of the words, which may be the embedding."""
    if not network.config.tie_embeddings:
        return network.head.weight
    return network.decoder_embedding.weight if network.config.decoder_vocab_size else network.embedding.weight
