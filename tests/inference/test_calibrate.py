"""Rounding by what a text shows: less is lost than by plain rounding, where inputs belong together."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch

import yanmo
from tests.inference.test_quantize import LLAMA, logits, network
from tests.llama2c import convert
from yanmo import cli
from yanmo.errors import InputError
from yanmo.inference import calibrate
from yanmo.inference.calibrate import Reading, growth, losses_of, reading_of, sums_of
from yanmo.inference.measured import compare, measure
from yanmo.inference.quantize import Bits, pack_by, quantize
from yanmo.inference.rounding import best_scale, lost, meant, round_to
from yanmo.kernels.matrix import pack_groups
from yanmo.models.packed import packed_matrices


@pytest.mark.parametrize(("outputs", "inputs"), [(48, 96), (33, 70), (16, 20)])
def test_with_inputs_that_belong_together_less_is_lost(outputs, inputs):
    torch.manual_seed(1)
    x = torch.randn(400, 8) @ torch.randn(8, inputs) + 0.1 * torch.randn(400, inputs)
    weight, sums = torch.randn(outputs, inputs), x.T @ x
    matrix, plain = round_to(weight, sums), pack_groups(weight, 4)
    assert matrix.panels.shape == plain.panels.shape and matrix.format == plain.format
    assert lost(matrix, weight, sums) < 0.6 * lost(plain, weight, sums)
    assert torch.equal(round_to(weight, sums).panels, matrix.panels)


def test_inputs_that_are_always_zero_and_rows_of_zeros_are_rounded():
    torch.manual_seed(1)
    x = torch.randn(100, 64)
    x[:, 3] = 0
    weight = torch.randn(5, 64)
    weight[2] = 0
    sums = x.T @ x
    assert lost(round_to(weight, sums), weight, sums) < lost(pack_groups(weight, 4), weight, sums)
    with pytest.raises(InputError, match="not finite"):
        round_to(weight, sums * torch.nan)


def test_the_scale_that_is_found_loses_no_more_than_that_of_plain_rounding():
    torch.manual_seed(1)
    block, share = torch.randn(50, 32), torch.rand(32)

    def error(scale: torch.Tensor) -> torch.Tensor:
        wide = scale[:, None]
        return (block - (block / wide).round().clamp(-8, 7) * wide).square() @ share

    largest = block.gather(1, block.abs().argmax(1, keepdim=True))[:, 0]
    plain, found = error((largest / -8).half().float()), error(best_scale(block, share))
    assert (found <= plain).all() and found.sum() < 0.9 * plain.sum()
    assert torch.equal(best_scale(block * 0, share), torch.zeros(50))


def test_what_the_inputs_lost_is_made_up_for_where_the_text_shows_it():
    torch.manual_seed(1)
    weight, floats = torch.randn(7, 20), torch.randn(300, 20) @ torch.randn(20, 20)
    x = floats * 0.8 + 0.1 * torch.randn(300, 20)
    found = meant(weight, x.T @ x, floats.T @ x)
    assert (x @ found.T - floats @ weight.T).norm() < 0.3 * (x @ weight.T - floats @ weight.T).norm()
    assert torch.allclose(meant(weight, x.T @ x, x.T @ x), weight, atol=1e-4)


def test_the_sums_are_those_of_the_inputs():
    made, batch = network(**LLAMA), torch.randint(0, 203, (2, 9))
    layer, whole = made.decoder.layers[1], copy.deepcopy(made.decoder.layers[1])
    seen: list[tuple] = []
    inputs: list[torch.Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, given: seen.append(given))]
    hooks.append(layer.ffn.down.register_forward_pre_hook(lambda _, given: inputs.append(given[0].flatten(0, 1))))
    with torch.no_grad():
        made.decode(batch)
        hooks.pop().remove()
        hooks.pop().remove()
        (hidden, *rest), (x,) = seen[0], inputs
        sums, cross = sums_of(whole, layer, "ffn.down", [hidden] * 2, [hidden] * 2, [tuple(rest)] * 2)
        assert torch.allclose(sums, 2 * x.T @ x, rtol=1e-4, atol=1e-4) and torch.equal(sums, cross)
        layer.ffn.up.weight.mul_(2)
        sums, cross = sums_of(whole, layer, "ffn.down", [hidden], [hidden], [tuple(rest)])
    assert torch.allclose(sums, 4 * x.T @ x, rtol=1e-4, atol=1e-4)
    assert torch.allclose(cross, 2 * x.T @ x, rtol=1e-4, atol=1e-4)
    assert not layer.ffn.down._forward_pre_hooks


def test_a_text_is_cut_into_rows_of_which_the_last_are_kept():
    found = reading_of(list(range(1032)), 100, 0.5)
    assert [tuple(r.shape) for r in (*found.rows, *found.kept)] == [(7, 100), (1, 74), (4, 64), (1, 2)]
    assert torch.cat([r.flatten() for r in (*found.rows, *found.kept)]).tolist() == list(range(1032))
    assert [len(reading_of([1] * n).kept[0]) for n in (512, 4096, 8192)] == [4, 4, 8], "never one row alone"
    assert found.most == 0.5
    with pytest.raises(InputError, match="511 tokens, and at least 512"):
        reading_of([1] * 511)
    with pytest.raises(InputError, match="must be 0 or more"):
        reading_of([1] * 600, most=-0.1)


def test_what_other_text_may_lose_is_wider_where_rows_differ():
    before = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)
    share, most = growth(before, before * 1.02)
    assert share == pytest.approx(0.02) and most == pytest.approx(0.02)
    share, most = growth(before, before + torch.tensor([0.5, 0.2, 0.5], dtype=torch.float64))
    assert share == pytest.approx(0.02) and most == pytest.approx(0.02 + 2.76 * 0.26458 * 3**0.5 / 60, rel=1e-2)
    assert growth(before[:1], before[:1] * 2) == (1, 1)


def test_a_calibrated_network_is_packed_as_a_plain_one_and_differs():
    made = network(**LLAMA)
    reading = Reading([torch.randint(0, 203, (4, 40))], [torch.randint(0, 203, (2, 40))], 10)
    plain = quantize(copy.deepcopy(made), Bits(weights=4))
    small = quantize(copy.deepcopy(made), Bits(weights=4), reading)
    again = quantize(made, Bits(weights=4), reading)
    formats = [{name: m.format for name, m in packed_matrices(n).items()} for n in (plain, small)]
    assert formats[0] == formats[1]
    assert not torch.equal(logits(plain, reading.kept[0]), logits(small, reading.kept[0]))
    assert torch.equal(logits(again, reading.kept[0]), logits(small, reading.kept[0]))
    for bits, fields in ((8, {}), (4, {"decoder_layers": 0, "encoder_layers": 1, "head": "none"})):
        with pytest.raises(InputError, match="a text calibrates decoders"):
            quantize(network(**LLAMA, **fields), bits, reading)


def test_a_real_model_loses_less_of_a_text_that_it_was_not_calibrated_on(shared_data, tmp_path):
    """In 4 bits alone, with no matrix back to 8: a limit that anything holds."""
    weights = shared_data / "weights"
    convert(weights / "stories260K.bin", weights / "stories260K-tok512.bin", tmp_path)
    text = (shared_data / "corpora/tinystories-sample.txt").read_text("utf-8")
    read, near = text[:8_000], text[20_000:70_000]
    model, found = yanmo.load(tmp_path).quantize(4), compare(yanmo.load(tmp_path), 4, read, near, most_loss=10)
    plain, before = measure(model, model.tokenizer.encode(read)).bits_per_byte, found.before.bits_per_byte
    assert before < found.after.bits_per_byte < plain < 1.15 * before
    assert found.after.bits_per_byte - before < 0.85 * (plain - before)
    assert found.formats == Counter(
        m.format for m in {id(m): m for m in packed_matrices(model.network).values()}.values()
    )


def test_matrices_of_a_real_model_keep_8_bits_until_the_limit_holds(shared_data, tmp_path):
    weights = shared_data / "weights"
    convert(weights / "stories260K.bin", weights / "stories260K-tok512.bin", tmp_path)
    text = (shared_data / "corpora/tinystories-sample.txt").read_text("utf-8")[20_000:36_000]
    model = yanmo.load(tmp_path)
    reading = reading_of(model.tokenizer.encode(text)[:4_100])
    before = losses_of(model.network, reading.kept)
    plain = losses_of(quantize(copy.deepcopy(model.network), 4), reading.kept)
    outcome = pack_by(model.network, 4, reading)
    found = growth(before, losses_of(model.network, reading.kept))
    assert 0 < outcome.lost < outcome.at_most <= 0.02 < min(outcome.rounded, growth(before, plain)[0])
    assert found == pytest.approx((outcome.lost, outcome.at_most), rel=1e-3)
    formats = {name: m.format for name, m in packed_matrices(model.network).items()}
    in_8 = {name for name in formats if formats[name] == "rows8" and name.startswith("decoder")}
    assert in_8 == set(outcome.raised) and 0 < len(in_8) < len(formats) - 1


def test_from_python_a_limit_that_8_bits_do_not_hold_is_a_warning(shared_data, tmp_path, monkeypatch):
    weights = shared_data / "weights"
    convert(weights / "stories260K.bin", weights / "stories260K-tok512.bin", tmp_path)
    text = (shared_data / "corpora/tinystories-sample.txt").read_text("utf-8")[:1_500]
    model = yanmo.load(tmp_path)
    assert model.quantize(4, text, most_loss=10) is model
    assert "groups4" in {m.format for m in packed_matrices(model.network).values()}
    monkeypatch.setattr(calibrate, "growth", lambda *_: (0.5, 0.5))
    model = yanmo.load(tmp_path)
    with pytest.warns(UserWarning, match="up to 50.00% is lost, above the limit of 2.00%; give more text"):
        model.quantize(4, text)
    assert {m.format for m in packed_matrices(model.network).values()} == {"rows8"}


def test_the_command_says_what_it_cannot_calibrate_on(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("ink and stone", "utf-8")
    for more in (["--bits", "8"], ["--bits", "4", "--text", str(tmp_path / "text.txt")]):
        with pytest.raises(SystemExit) as end:
            cli.main(["quantize", str(tmp_path), "--calibrate", str(tmp_path / "text.txt"), *more])
        assert end.value.code == 2
        assert "takes --bits 4 and a text that is not that of --text" in capsys.readouterr().err


def test_the_command_cuts_a_text_and_says_what_it_lost(shared_data, tmp_path, capsys):
    weights = shared_data / "weights"
    convert(weights / "stories260K.bin", weights / "stories260K-tok512.bin", tmp_path / "whole")
    text = (shared_data / "corpora/tinystories-sample.txt").read_text("utf-8")
    for count, said in (
        (2_500, ("measured on the last", "calibrated on the first", "4 bits lose", "other text of the kind loses at")),
        (900, ("too short to calibrate 4 bits, which are rounded plainly",)),
    ):
        (tmp_path / "text.txt").write_text(text[:count], "utf-8")
        with pytest.raises(SystemExit) as end:
            cli.main(["quantize", str(tmp_path / "whole"), "--bits", "4", "--text", str(tmp_path / "text.txt")])
        shown = " ".join(capsys.readouterr().out.split())
        assert end.value.code == 0
        for words in said:
            assert words in shown
