"""How a network is trained, as far as it costs something: objective, adapter, optimizer, what stands beside it.

In: a recipe, and the config of its network. Out: Method.

    Adapter      a few weights that learn in place of all
    Method       everything else that a plan counts with
    of_recipe    the sections of a recipe → Method

An encoder-decoder has rows of different lengths on its two sides; `source` and `target` are these lengths as shares of
the context, which is what a recipe calls length.
"""

from __future__ import annotations

from dataclasses import dataclass

from yanmo.models.config import RecurrentConfig, TransformerConfig
from yanmo.recipe import AdapterSection, ObjectiveSection, Recipe

Config = TransformerConfig | RecurrentConfig

MASKED_SHARE = 0.15  # of an encoder's tokens are predicted (Devlin et al. 2019, §3.1)
INFILLED_SHARE = 0.3  # of the text of infilling is hidden (Lewis et al. 2020, §2.2)
ANSWERS = 0.5  # of the tokens of conversations and preferences are answers: assumed until the data is read
SLACK = 1.25  # columns that span corruption leaves for targets (tokens/corrupted.py)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A low-rank adapter. kind: lora, rslora, dora or rsdora. targets: names of matrices, () the usual ones.

    bits: of the base's matrices, None as they are.
    """

    rank: int
    kind: str = "lora"
    targets: tuple[str, ...] = ()
    bits: int | None = None

    @property
    def lengths(self) -> bool:
        """Whether each row's length is learned too (DoRA)."""
        return self.kind.endswith("dora")


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a network is trained.

    targets: share of the columns that the loss looks at, of the side that predicts. packed: rows hold several
    documents. ema: an average of the weights is kept. reference: the config of a frozen second network, of dpo or a
    teacher's. twice: dpo's reference is the network itself, without its adapter. source, target: columns of the two
    sides of an encoder-decoder, as shares of the context.
    """

    objective: str = "causal"
    adapter: Adapter | None = None
    optimizer: str = "adamw"
    packed: bool = False
    ema: bool = False
    compiled: bool = False
    reference: Config | None = None
    twice: bool = False
    targets: float = 1.0
    source: float = 1.0
    target: float = 1.0

    @property
    def taught(self) -> bool:
        """Whether the reference is a teacher, whose logits stand beside the network's."""
        return self.reference is not None and self.objective != "dpo"


def usual(config: Config) -> Method:
    """Training of all weights with the objective that the config's head is for."""
    is_masked = isinstance(config, TransformerConfig) and config.head == "masked"
    objectives = {"encoder": "masked", "encoder-decoder": "seq2seq"}
    kind = config.kind if isinstance(config, TransformerConfig) else "decoder"
    return Method(objective=objectives.get(kind, "causal"), targets=MASKED_SHARE if is_masked else 1.0)


def of_recipe(recipe: Recipe, config: Config, teacher: Config | None = None) -> Method:
    """What a recipe says; `teacher` is the config of its teacher, where it has one."""
    adapter = _adapter(recipe.adapter)
    source, target = _sides(recipe.objective)
    dpo = recipe.objective.kind == "dpo"
    return Method(
        objective=recipe.objective.kind,
        adapter=adapter,
        optimizer=recipe.train.optimizer,
        packed=True,
        ema=recipe.train.ema > 0,
        compiled=recipe.train.compile,
        reference=config if dpo and adapter is None else teacher,
        twice=dpo and adapter is not None,
        targets=_targets(recipe.objective),
        source=source,
        target=target,
    )


def _adapter(section: AdapterSection) -> Adapter | None:
    if section.kind == "none":
        return None
    return Adapter(rank=section.rank, kind=section.kind, targets=tuple(section.targets), bits=section.bits)


def _targets(objective: ObjectiveSection) -> float:
    if objective.kind == "masked":
        return objective.share or MASKED_SHARE
    return ANSWERS if objective.kind in ("chat", "dpo", "orpo") else 1.0


def _sides(objective: ObjectiveSection) -> tuple[float, float]:
    """Source and target of one row, in lengths of the row.

    Of n tokens s·n are hidden in s·n/m spans of m tokens on average (Raffel et al. 2020, §3.1.4). With spans the source
    fills the row, so n is 1/(1 − s + s/m) rows, and the target holds what is hidden and one mark for each span. With
    infilling the target is the text itself.
    """
    if objective.kind == "spans":
        share, marks = objective.share or MASKED_SHARE, (objective.share or MASKED_SHARE) / objective.span
        return 1.0, min(1.0, SLACK * (share + marks) / (1 - share + marks))
    if objective.kind == "infilling":
        share = objective.share or INFILLED_SHARE
        return 1 - share + share / objective.span, 1.0
    return 1.0, 1.0
