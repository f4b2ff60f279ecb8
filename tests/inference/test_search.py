"""Beam search finds the texts of transformers' beam search, each prompt as it would alone."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference.engines import writer
from tests.models.tiny import VARIANTS, make, random_ids
from yanmo.errors import InputError
from yanmo.inference import search
from yanmo.inference.defaults import read_ends
from yanmo.inference.generate import Ends, Options
from yanmo.inference.model import Model
from yanmo.inference.search import Beams, largest, search_ids
from yanmo.kernels import native
from yanmo.models.checkpoint import load_network

PATIENCE = {"first": True, "likely": False, "never": "never"}
EARLY = {"marian": 1.5, "t5": 9.0, "gpt2": 5.0, "bart": 2.5}  # added to the end token, so that some texts end early


def numbers(length: int, seed: int) -> list[int]:
    return random_ids(1, length, seed=seed)[0].tolist()


@pytest.fixture(scope="module", params=[*EARLY, "m2m"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Model]:
    """(variant, transformers' model, ours)."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    theirs = make(*VARIANTS[name], folder)
    network = load_network(folder)
    return name, theirs, Model(network, None, read_ends(folder, network.config))


def expected(name: str, model: Any, prompt: list[int], beams: Beams, new: int) -> list[tuple[list[int], float]]:
    start = len(prompt) if name == "gpt2" else 1
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        out = model.generate(
            torch.tensor([prompt]),
            num_beams=beams.beams,
            num_return_sequences=beams.n,
            length_penalty=float(beams.length_penalty),
            early_stopping=PATIENCE[beams.patience],
            max_length=start + new,
            do_sample=False,
            use_cache=name != "t5",  # transformers sizes T5's cache by its encoder
            return_dict_in_generate=True,
            output_scores=True,
        )
    end = model.config.eos_token_id
    found = []
    for row, score in zip(out.sequences[:, start:].tolist(), out.sequences_scores.tolist()):
        length = row.index(end) + 1 if end in row else new
        found.append((row[:length], score))
    return found


@pytest.mark.parametrize("patience", PATIENCE)
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5])
def test_the_texts_are_those_of_transformers(pair: Any, patience: str, penalty: float) -> None:
    name, theirs, ours = pair
    prompts, new = [numbers(n, 40 + n) for n in (7, 3, 11, 1)], 11
    beams = Beams(beams=4, n=3, length_penalty=penalty, patience=patience)
    found = search_ids(ours.network, prompts, beams, Options(max_new_tokens=new), ours.ends)
    for prompt, texts in zip(prompts, found, strict=True):
        wanted = expected(name, theirs, prompt, beams, new)
        assert [t.ids for t in texts] == [ids for ids, _ in wanted]
        assert all(abs(t.score - score) < 1e-3 * max(1, abs(score)) for t, (_, score) in zip(texts, wanted))


@pytest.mark.skipif(native.library() is None, reason="columns are found by index in native code")
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3-windows", "marian"])
@pytest.mark.parametrize("bits", [0, 8])
def test_beams_that_are_found_by_index_are_those_that_are_copied(
    name: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = writer(name) if not bits else copy.deepcopy(writer(name)).quantize(bits)
    prompts = [numbers(n, n) for n in (5, 2, 9, 6)]
    options, ends = Options(max_new_tokens=12), Ends(eos_ids=frozenset((3, 9)), start_id=model.ends.start_id)
    beams = Beams(beams=4, n=4, length_penalty=0.5)
    found = search_ids(model.network, prompts, beams, options, ends)
    monkeypatch.setattr(search, "by_index", lambda network: False)
    for texts, copied in zip(found, search_ids(model.network, prompts, beams, options, ends), strict=True):
        assert [t.ids for t in texts] == [t.ids for t in copied]
        if bits and name != "marian":  # a recorded step: the same numbers, bit for bit
            assert [t.score for t in texts] == [t.score for t in copied]
        assert all(abs(a.score - b.score) < 1e-3 for a, b in zip(texts, copied))


def test_texts_end_at_different_steps_and_prompts_leave_the_batch(pair: Any) -> None:
    name, _, ours = pair
    prompts = [numbers(n, n) for n in (5, 9, 2, 6, 6)]
    shares = ours.logits(prompts[:1], **({} if name == "gpt2" else {"decoder_ids": [[ours.ends.start_id]]}))[0, -1]
    often = frozenset(shares.topk(9).indices.tolist())  # tokens that come soon, taken for end tokens
    ends = Ends(eos_ids=often, start_id=ours.ends.start_id)
    beams, options = Beams(beams=3, n=2), Options(max_new_tokens=14)
    together = search_ids(ours.network, prompts, beams, options, ends)
    alone = [search_ids(ours.network, [prompt], beams, options, ends)[0] for prompt in prompts]
    assert [[t.ids for t in texts] for texts in together] == [[t.ids for t in texts] for texts in alone]
    assert len({len(texts[0].ids) for texts in together}) > 1, "some prompts end before others"


@pytest.mark.parametrize("name", ["llama", "lstm", "qwen3-windows", "mt5"])
def test_one_beam_is_greedy_and_more_find_likelier_texts(name: str) -> None:
    model, prompt = writer(name), numbers(6, 3)
    options, ends = Options(max_new_tokens=8), Ends(start_id=model.ends.start_id)
    from tests.inference.engines import plain

    greedy = Model(model.network, None, ends)
    one = search_ids(model.network, [prompt], Beams(beams=1), options, ends)[0][0]
    assert one.ids == plain(greedy, prompt, options)[0] and one.finish == "length"
    many = search_ids(model.network, [prompt], Beams(beams=8, n=8, length_penalty=0.0), options, ends)[0]
    scores = [text.score for text in many]
    assert scores == sorted(scores, reverse=True) and len({tuple(t.ids) for t in many}) == 8
    assert many[0].score >= one.score * 8 - 1e-4, "a score of one beam is a mean"


def test_sources_stand_once_in_memory_whatever_the_beams(monkeypatch: pytest.MonkeyPatch) -> None:
    model = writer("marian")
    rows = []
    decode = model.network.decode

    def watched(ids: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        out = decode(ids, *given, **more)
        rows.append((len(ids), len(more["cache"].memory[0][0])))
        return out

    monkeypatch.setattr(model.network, "decode", watched)
    prompts = [numbers(n, n) for n in (4, 8)]
    search_ids(model.network, prompts, Beams(beams=5), Options(max_new_tokens=4), model.ends)
    assert rows == [(2, 2), (10, 2), (10, 2), (10, 2)]


@pytest.mark.parametrize("name", ["marian", "t5"])
def test_ended_prompts_leave_the_batch_and_sources_are_read_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = writer(name), []
    decode, projected = model.network.decode, []
    key = model.network.decoder.layers[0].cross.key

    def watched(ids: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        out = decode(ids, *given, **more)
        rows.append((len(ids), len(more["cache"].memory[0][0]), more["cache"].rows, len(more["memory"])))
        return out

    monkeypatch.setattr(model.network, "decode", watched)
    handle = key.register_forward_hook(lambda *given: projected.append(1))
    prompts = [numbers(n, n) for n in (5, 9, 2, 6)]
    with torch.inference_mode():
        memory = model.network.encode(torch.tensor([prompts[0]]))
        first = decode(torch.tensor([[model.ends.start_id]]), memory=memory)
        often = frozenset(model.network.logits(first)[0, -1].topk(9).indices.tolist())
    projected.clear()
    try:
        ends = Ends(eos_ids=often, start_id=model.ends.start_id)
        texts = search_ids(model.network, prompts, Beams(beams=3), Options(max_new_tokens=14), ends)
    finally:
        handle.remove()
    assert len(texts) == 4 and len(projected) == 1, "keys of the source are computed in the first step alone"
    assert rows[0] == (4, 4, 4, 4)
    left = [memories for _, memories, _, _ in rows[1:]]
    assert rows[1:] == [(3 * n, n, 3 * n, n) for n in left]
    assert left == sorted(left, reverse=True) and left[-1] < 4


@torch.no_grad()
def uncovered(model: Model, prompt: list[int], text: list[int]) -> float:
    """Σ over the source of log min(1, what was attended to it in all), from one pass over the whole text."""
    record: list[torch.Tensor] = []
    memory = model.network.encode(torch.tensor([prompt]))
    ids = torch.tensor([[model.ends.start_id, *text[:-1]]])
    model.network.decode(ids, memory=memory, attended=record)
    weights = torch.stack(record)[:, 0].mean((0, 1))  # (T, S)
    return float(weights.sum(0).clamp(max=1).log().sum())


@pytest.mark.parametrize("pair", ["marian", "t5"], indirect=True)
def test_coverage_is_what_a_pass_over_the_whole_text_finds(pair: Any) -> None:
    model = pair[2]
    prompts = [numbers(n, n) for n in (3, 7, 5)]
    beams = Beams(beams=4, n=3, coverage_penalty=0.7, length_penalty=1.2)
    found = search_ids(model.network, prompts, beams, Options(max_new_tokens=6), model.ends)
    for prompt, texts in zip(prompts, found, strict=True):
        assert [t.score for t in texts] == sorted((t.score for t in texts), reverse=True)
        for text in texts:
            wanted = text.logprob / len(text.ids) ** 1.2 + 0.7 * uncovered(model, prompt, text.ids)
            assert abs(text.score - wanted) < 1e-4
    with pytest.raises(InputError, match="no encoder-decoder"):
        search_ids(writer("llama").network, [[3]], beams, Options(), Ends())


def test_groups_that_pay_for_what_others_took_find_other_texts() -> None:
    model, prompts = writer("llama"), [numbers(6, 3), numbers(4, 5)]
    options, ends = Options(max_new_tokens=6), Ends()
    more = {"beams": 6, "n": 6, "length_penalty": 0.0}
    for prompt, texts in zip(prompts, search_ids(model.network, prompts, Beams(**more, groups=3), options, ends)):
        for text in texts:
            shares = model.logits([[*prompt, *text.ids]])[0].log_softmax(-1)
            known = sum(float(shares[len(prompt) + i - 1, id]) for i, id in enumerate(text.ids))
            assert abs(text.logprob - known) < 1e-4 and abs(text.score - known) < 1e-4
    plain = search_ids(model.network, prompts, Beams(beams=2, n=2), options, ends)
    same = search_ids(model.network, prompts, Beams(beams=6, n=6, groups=3, diversity=0.0), options, ends)
    assert [[t.ids for t in texts] for texts in same] == [[t.ids for t in texts] for texts in plain]
    apart = search_ids(model.network, prompts, Beams(**more, groups=6, diversity=1e6), options, ends)
    for texts in apart:  # six groups of one beam, none of which takes a token that another took in that step
        assert len(texts) == 6 and all(len({text.ids[i] for text in texts}) == 6 for i in range(6))


def test_groups_end_at_different_steps(pair: Any) -> None:
    _, _, model = pair
    prompts = [numbers(n, n) for n in (5, 2, 6)]
    beams, options = Beams(beams=4, n=4, groups=2, diversity=3.0), Options(max_new_tokens=12)
    together = search_ids(model.network, prompts, beams, options, model.ends)
    alone = [search_ids(model.network, [prompt], beams, options, model.ends)[0] for prompt in prompts]
    assert [[t.ids for t in texts] for texts in together] == [[t.ids for t in texts] for texts in alone]


def test_wrong_settings_are_one_sentence() -> None:
    model = writer("llama")
    for wrong, named in [
        ({"beams": 0}, "beams is 0"),
        ({"n": 5}, "n is 5"),
        ({"patience": "long"}, "patience is 'long'"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"coverage_penalty": -1}, "coverage_penalty is -1"),
        ({"diversity": True}, "diversity is True"),
        ({"groups": 3}, "4 beams cannot be shared out over 3 groups"),
    ]:
        with pytest.raises(InputError, match=named):
            Beams(**wrong)
    with pytest.raises(InputError, match="61 tokens; take fewer"):
        search_ids(model.network, [[3]], Beams(beams=40), Options(), model.ends)
    with pytest.raises(InputError, match="no sampling"):
        search_ids(model.network, [[3]], Beams(), Options(seed=3), model.ends)
    assert search_ids(model.network, [], Beams(), Options(), model.ends) == []
    assert search_ids(model.network, [[3]], Beams(), Options(max_new_tokens=0), model.ends)[0][0].ids == []


def test_a_models_own_doors(tmp_path: Path) -> None:
    from benchmarks.b0 import make_model

    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0}
    make_model(pytest.importorskip("transformers"), tmp_path, **sizes)
    import yanmo

    model = yanmo.load(tmp_path)
    best = model.search("The ink", beams=3, n=2, max_new_tokens=5)
    assert abs(best[0].logprob / len(best[0].ids) - best[0].score) < 1e-6
    assert len(best) == 2 and best[0].score >= best[1].score and isinstance(best[0].text, str)
    assert model.search(["The ink"], beams=3, n=2, max_new_tokens=5) == [best]
    with pytest.raises(InputError, match="nearest: 'beams'"):
        model.search("The ink", beam=3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 12), st.integers(0, 99), st.booleans())
def test_the_largest_of_many_are_those_of_a_sort(length: int, count: int, seed: int, ties: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(length, generator=draw)
    scores = (scores * 3).round() if ties else scores
    scores[torch.rand(length, generator=draw) < 0.3] = -torch.inf
    count = min(count, length)
    values, places = largest(scores, count)
    assert torch.equal(values, scores.sort(descending=True).values[:count])
    assert torch.equal(scores[places], values) and len(set(places.tolist())) == count
