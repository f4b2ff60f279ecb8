"""Beam search with terms: what must be there is there, what must not is not, and the best such text is found."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference.engines import writer
from yanmo.errors import InputError
from yanmo.inference.generate import Ends, Options
from yanmo.inference.search import Beams, search_ids
from yanmo.inference.terms import Standing, Terms, follow, standing

SMALL, LENGTH = 9, 4  # ids of the vocabulary that are let through, tokens of a text


def holds(text: tuple[int, ...], way: tuple[int, ...]) -> bool:
    return any(text[i : i + len(way)] == way for i in range(len(text) - len(way) + 1))


ways = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple)


@given(st.lists(st.lists(ways, min_size=1, max_size=2), max_size=3), st.lists(st.integers(0, 3), max_size=12))
def test_a_standing_knows_which_terms_a_text_holds(wanted: list[list[tuple[int, ...]]], text: list[int]) -> None:
    terms = Terms(tuple(map(tuple, wanted)))
    met = {n for n, term in enumerate(terms.wanted) if any(holds(tuple(text), way) for way in term)}
    assert standing(terms, text).met == met


def test_a_way_may_begin_again_inside_itself() -> None:
    terms = Terms((((1, 1, 2),),))
    assert standing(terms, [1, 1, 1, 2]).met == {0}
    assert follow(terms, Standing(), 1).ids(terms) == 1


@pytest.mark.parametrize("name", ["marian", "llama", "lstm"])
@pytest.mark.parametrize(
    "terms",
    [
        Terms(wanted=(((3, 5),),)),
        Terms(wanted=(((6,),), ((2, 4), (7,)))),
        Terms(wanted=(((8, 3),),), forbidden=((2,), (5, 5))),
        Terms(forbidden=((1,), (2, 2), (4,))),
    ],
)
def test_the_best_text_that_holds_the_terms_is_found(name: str, terms: Terms) -> None:
    """Against all texts of four tokens; every other token is forbidden, so that they can be counted."""
    model, prompt = writer(name), [3, 4, 5]
    size = model.config.output_size
    ends = Ends(start_id=model.ends.start_id, never_ids=tuple(range(SMALL, size)))
    texts = list(itertools.product(range(SMALL), repeat=LENGTH))
    start = [model.ends.start_id] if name == "marian" else prompt
    rows = torch.tensor([[*start, *text] for text in texts])
    given = {"ids": torch.tensor([prompt] * len(rows)), "decoder_ids": rows} if name == "marian" else {"ids": rows}
    alone = model.logits(**given)[:, len(start) - 1 : -1].log_softmax(-1)
    scores = alone.gather(2, torch.tensor(texts)[..., None]).squeeze(-1).sum(1)
    allowed = [
        (float(score), text)
        for score, text in zip(scores, texts)
        if all(any(holds(text, way) for way in term) for term in terms.wanted)
        and not any(holds(text, way) for way in terms.forbidden)
    ]
    best = max(allowed)
    beams = min(64, size // 3)
    found = search_ids(
        model.network, [prompt], Beams(beams=beams, length_penalty=0.0), Options(max_new_tokens=LENGTH), ends, [terms]
    )[0][0]
    assert tuple(found.ids) in {text for _, text in allowed} and found.lacks == 0
    assert found.score == pytest.approx(best[0], abs=0.3 if terms.wanted else 1e-3), (found, best)


@settings(max_examples=10, deadline=None)
@given(st.lists(ways, min_size=1, max_size=3), st.integers(1, 5), st.integers(0, 5))
def test_texts_that_end_hold_all_terms_however_few_the_beams(
    wanted: list[tuple[int, ...]], beams: int, seed: int
) -> None:
    model = writer("marian")
    terms = Terms(tuple((way,) for way in wanted))
    ends = Ends(eos_ids=frozenset({4, 9}), start_id=model.ends.start_id)
    prompts = [[5, 6, 7 + seed], [8]]
    found = search_ids(
        model.network, prompts, Beams(beams=beams), Options(max_new_tokens=30), ends, [terms, Terms(forbidden=((2,),))]
    )
    for text in found[0]:
        assert text.finish == "length" or all(holds(tuple(text.ids), way) for way in wanted)
    assert found[0][0].lacks == 0, "the bank of the texts that hold most is never empty"
    assert all(2 not in text.ids for text in found[1])


@pytest.mark.parametrize("name", ["marian", "llama"])
def test_what_the_model_forces_cannot_be_forbidden(name: str) -> None:
    model, options = writer(name), Options(max_new_tokens=3)
    ends = Ends(start_id=model.ends.start_id, forced_first_id=7, forced_last_id=5)
    for id, named in ((7, "the token 7 is forbidden, and the model begins"), (5, "the token 5 is forbidden, .* ends")):
        with pytest.raises(InputError, match=named):
            search_ids(model.network, [[3, 4]], Beams(), options, ends, [Terms(forbidden=((2,), (id,)))])
    terms = [Terms(wanted=(((6,),),), forbidden=((7, 6), (2,)))]
    best = search_ids(model.network, [[3, 4]], Beams(n=4), Options(max_new_tokens=4), ends, terms)[0]
    assert len(best) == 4 and best[0].ids[2] == 6 and best[0].lacks == 0, "there is one place for it"
    for text in best:
        assert text.score > -1e9 and (text.ids[0], text.ids[-1]) == (7, 5)
        assert text.ids[1] != 6 and 2 not in text.ids


def test_no_impossible_text_is_returned() -> None:
    model, ends = writer("llama"), Ends(forced_first_id=7)
    one = search_ids(model.network, [[3, 4]], Beams(n=4), Options(max_new_tokens=1), ends)[0]
    assert [text.ids for text in one] == [[7]], "the other three would not begin with what is forced"
    every = Terms(forbidden=tuple((id,) for id in range(model.config.output_size)))
    with pytest.raises(InputError, match="prompt 2 has no text without what is forbidden"):
        search_ids(model.network, [[3], [4]], Beams(), Options(max_new_tokens=2), Ends(), [Terms(), every])
