"""Rounding by what a text shows: less is lost than by plain rounding, where inputs belong together."""

from __future__ import annotations

import copy

import pytest
import torch

import yanmo
from tests.inference.test_quantize import LLAMA, logits, network
from tests.llama2c import convert
from yanmo import cli
from yanmo.errors import InputError
from yanmo.inference.calibrate import lost, round_to, sums_of
from yanmo.inference.measured import compare
from yanmo.inference.quantize import Bits, quantize
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


def test_the_sums_are_those_of_the_inputs():
    made, rows = network(**LLAMA), [torch.randint(0, 203, (1, 9)) for _ in range(2)]
    layers = [made.decoder.layers[1].ffn.up, made.decoder.layers[1].ffn.down]
    seen: list[torch.Tensor] = []
    hook = layers[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, 1)))
    found = sums_of(made, layers, rows)
    hook.remove()
    with torch.no_grad():
        assert torch.allclose(found[1], sum(x.T @ x for x in seen), rtol=1e-4, atol=1e-4)
    assert len(seen) == 2 and not layers[0]._forward_pre_hooks


def test_a_calibrated_network_is_packed_as_a_plain_one_and_differs():
    made = network(**LLAMA)
    rows = [torch.randint(0, 203, (1, 40)) for _ in range(4)]
    plain = quantize(copy.deepcopy(made), Bits(weights=4))
    small = quantize(copy.deepcopy(made), Bits(weights=4), rows)
    again = quantize(made, Bits(weights=4), rows)
    formats = [{name: m.format for name, m in packed_matrices(n).items()} for n in (plain, small)]
    assert formats[0] == formats[1]
    assert not torch.equal(logits(plain, rows[0]), logits(small, rows[0]))
    assert torch.equal(logits(again, rows[0]), logits(small, rows[0]))
    for bits, fields in ((8, {}), (4, {"decoder_layers": 0, "encoder_layers": 1, "head": "none"})):
        with pytest.raises(InputError, match="a text calibrates decoders"):
            quantize(network(**LLAMA, **fields), bits, rows)


def test_a_real_model_loses_less_of_a_text_that_it_was_not_calibrated_on(shared_data, tmp_path):
    weights = shared_data / "weights"
    convert(weights / "stories260K.bin", weights / "stories260K-tok512.bin", tmp_path)
    text = (shared_data / "corpora/tinystories-sample.txt").read_text("utf-8")
    read, near = text[:8_000], text[20_000:70_000]
    plain, found = compare(yanmo.load(tmp_path), 4, read), compare(yanmo.load(tmp_path), 4, read, near)
    before = plain.before.bits_per_byte
    assert before < found.after.bits_per_byte < plain.after.bits_per_byte < 1.15 * before
    assert found.after.bits_per_byte - before < 0.85 * (plain.after.bits_per_byte - before)
    assert found.formats == plain.formats


def test_the_command_says_what_it_cannot_calibrate_on(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("ink and stone", "utf-8")
    for more in (["--bits", "8"], ["--bits", "4", "--text", str(tmp_path / "text.txt")]):
        with pytest.raises(SystemExit) as end:
            cli.main(["quantize", str(tmp_path), "--calibrate", str(tmp_path / "text.txt"), *more])
        assert end.value.code == 2
        assert "takes --bits 4 and a text that is not that of --text" in capsys.readouterr().err
