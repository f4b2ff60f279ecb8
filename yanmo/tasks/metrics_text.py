"""Written text scored against a reference: BLEU and chrF by sacrebleu, with their signatures.

In: references beside hypotheses, one of each a row. Out: figures from 0 to 100, and what makes them comparable.

    tokenizer     "zh" where the references are Chinese, "char" where they are Japanese or Thai, else sacrebleu's "13a"
    written       BLEU (Papineni et al. 2002), chrF (Popović 2015), the share of rows that equal their reference
    signatures    sacrebleu's (Post 2018), to be printed beside every figure
    counted       each row's n-grams, of which the BLEU of any part of the rows is made
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from yanmo.errors import need
from yanmo.tasks.metrics_answers import HAN

Formula = Callable[[np.ndarray], np.ndarray]  # sums (…, k) → figures (…)

PURPOSE = "scoring a translation"
KANA, THAI = re.compile("[ぁ-ヿ]"), re.compile("[\u0e00-\u0e7f]")


def tokenizer(references: Sequence[str]) -> str:
    """The name of sacrebleu's tokenizer for the language of the references, by their letters."""
    sample = "".join(references[:2000])
    letters = max(sum(character.isalpha() for character in sample), 1)
    if len(KANA.findall(sample)) > 0.1 * letters or len(THAI.findall(sample)) > 0.3 * letters:
        return "char"
    return "zh" if len(HAN.findall(sample)) > 0.3 * letters else "13a"


@functools.lru_cache(maxsize=4)
def _bleu(tokens: str) -> Any:
    # the effective order is of single sentences, whose own score is not used; without it each of them is a warning
    return need("sacrebleu.metrics", "tasks", PURPOSE).BLEU(tokenize=tokens, effective_order=True)


def written(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Figures of a whole file."""
    chrf = need("sacrebleu.metrics", "tasks", PURPOSE).CHRF()
    rows, formula = counted(references, hypotheses)
    equal = [left.strip() == right.strip() for left, right in zip(references, hypotheses)]
    return {
        "bleu": float(formula(rows.sum(0))[()]),
        "chrf": float(chrf.corpus_score(list(hypotheses), [list(references)]).score),
        "exact": float(np.mean(equal)),
    }


def signatures(references: Sequence[str]) -> dict[str, str]:
    """What sacrebleu prints beside its figures, by figure."""
    metrics = need("sacrebleu.metrics", "tasks", PURPOSE)
    bleu, chrf = metrics.BLEU(tokenize=tokenizer(references)), metrics.CHRF()
    for one in (bleu, chrf):
        one.corpus_score(["a"], [["a"]])  # the number of references is known only then
    return {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}


def counted(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[np.ndarray, Formula]:
    """(rows, 10) of n-grams that match, n-grams that are there, and both lengths, with the formula for their sums."""
    bleu = _bleu(tokenizer(references))
    found = [bleu.sentence_score(text, [reference]) for text, reference in zip(hypotheses, references)]
    rows = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in found], dtype=float)

    def formula(sums: np.ndarray) -> np.ndarray:
        def one(whole: list[int]) -> float:
            found = bleu.compute_bleu(whole[:4], whole[4:8], whole[8], whole[9], smooth_method=bleu.smooth_method)
            return float(found.score)

        flat = sums.reshape(-1, 10).astype(int).tolist()
        return np.array([one(whole) for whole in flat]).reshape(sums.shape[:-1])

    return rows.reshape(-1, 10), formula


ORDER, RECALL_WEIGHT = 6, 4.0  # chrF2: n-grams of 1 to 6 characters, beta squared


def counted_chrf(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[np.ndarray, Formula]:
    """(rows, 18): n-grams of the hypothesis, of the reference, and in both, of each order, with chrF of their sums."""
    rows = [
        [count for order in range(1, ORDER + 1) for count in _in_both(_grams(text, order), _grams(reference, order))]
        for text, reference in zip(hypotheses, references)
    ]
    return np.array(rows, dtype=float).reshape(-1, 3 * ORDER), _chrf


def _grams(text: str, order: int) -> Counter[str]:
    packed = "".join(text.split())
    return Counter(packed[i : i + order] for i in range(len(packed) - order + 1))


def _in_both(given: Counter[str], wanted: Counter[str]) -> tuple[int, int, int]:
    # a reference too short for n-grams of an order counts none against the hypothesis: sacrebleu's rule
    return given.total() if wanted else 0, wanted.total(), (given & wanted).total()


def _chrf(sums: np.ndarray) -> np.ndarray:
    given, wanted, same = np.moveaxis(sums.reshape(*sums.shape[:-1], ORDER, 3), -1, 0)
    here = (given > 0) & (wanted > 0)  # orders that both sides are long enough for
    orders = np.maximum(here.sum(-1), 1)
    precision = (here * same / np.maximum(given, 1)).sum(-1) / orders
    recall = (here * same / np.maximum(wanted, 1)).sum(-1) / orders
    below = RECALL_WEIGHT * precision + recall
    product = 100 * (1 + RECALL_WEIGHT) * precision * recall
    return np.divide(product, below, out=np.zeros(np.shape(below)), where=below > 0)
