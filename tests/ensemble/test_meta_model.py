import dataclasses
from typing import get_args

import pytest
import torch
from torch import nn

from ensemble_tune.ensemble.config import MetaConfig, MetaKind, MetaOutput
from ensemble_tune.ensemble.meta_model import Block, MetaModel, build_meta_model, hide_members

KINDS = [kind for kind in get_args(MetaKind) if kind not in ("mean", "weighted", "greedy", "linear")]
MEMBERS, CLASSES = 3, 5


def _config(kind: MetaKind = "plain", **changes: object) -> MetaConfig:
    config = MetaConfig(kind=kind, width=16, depth=2, size=(32, 32), precision="float32")
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def _probabilities(frames: int = 2, size: tuple[int, int] = (24, 33)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(frames, MEMBERS, CLASSES, *size, generator=generator).mul(2).softmax(2)


def _trained(model: MetaModel) -> MetaModel:
    """A model whose head is no longer zero."""
    nn.init.normal_(model.head.weight)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", get_args(MetaOutput))
@pytest.mark.parametrize("training", [True, False])
def test_an_untrained_meta_model_is_the_mean(kind: MetaKind, output: MetaOutput, training: bool) -> None:
    model = build_meta_model(_config(kind, output=output, scale=0.5), MEMBERS, CLASSES).train(training)
    probabilities = _probabilities()
    torch.testing.assert_close(model(probabilities), probabilities.mean(1).clamp(min=0.5 / 255).log())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"output": "correction"},
        {"use_image": True},
        {"scale": 0.5},
        {"width": 8},
        {"log_probabilities": True},
        {"precision": "bfloat16"},
    ],
)
def test_every_kind_turns_probabilities_into_logits(kind: MetaKind, changes: dict[str, object]) -> None:
    config = _config(kind, **changes)
    model = _trained(build_meta_model(config, MEMBERS, CLASSES))
    image = torch.zeros(2, 3, 24, 33, dtype=torch.uint8) if config.use_image else None
    logits = model(_probabilities(), image)
    assert logits.shape == (2, CLASSES, 24, 33)
    assert logits.dtype is torch.float32
    logits.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_weights_say_of_no_class_more_than_the_member_that_says_most_and_less_than_the_one_that_says_least() -> None:
    probabilities = _probabilities()
    found = _trained(build_meta_model(_config(), MEMBERS, CLASSES)).eval()(probabilities).exp()
    assert (found <= probabilities.amax(1) + 1e-6).all() and (found >= probabilities.amin(1) - 1e-6).all()
    assert not torch.allclose(found, probabilities.mean(1))


def test_stored_and_float_probabilities_mean_the_same() -> None:
    model = _trained(build_meta_model(_config(), MEMBERS, CLASSES)).eval()
    stored = (_probabilities() * 255).round().to(torch.uint8)
    torch.testing.assert_close(model(stored), model(stored.float() / 255))


def test_the_image_is_seen_only_if_asked_for() -> None:
    black, white = (torch.full((2, 3, 24, 33), value, dtype=torch.uint8) for value in (0, 255))
    for use_image in (False, True):
        model = _trained(build_meta_model(_config(use_image=use_image), MEMBERS, CLASSES)).eval()
        equal = torch.equal(model(_probabilities(), black), model(_probabilities(), white))
        assert equal is not use_image


def test_a_missing_image_and_a_foreign_number_of_members_are_refused() -> None:
    with pytest.raises(ValueError, match="but got none"):
        build_meta_model(_config(use_image=True), MEMBERS, CLASSES)(_probabilities())
    with pytest.raises(ValueError, match="fuses 2 members, but got 3"):
        build_meta_model(_config(), 2, CLASSES)(_probabilities())


def test_the_seed_decides_the_weights_and_nothing_else_is_drawn_from() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (build_meta_model(_config(seed=seed), MEMBERS, CLASSES) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.stem[0].weight, same.stem[0].weight)
    assert not torch.equal(one.stem[0].weight, other.stem[0].weight)


def test_a_hidden_member_repeats_the_mean_of_those_left_and_never_all_are_hidden() -> None:
    torch.manual_seed(0)
    probabilities = _probabilities(frames=200, size=(1, 2))
    hidden = hide_members(probabilities, 0.6)
    kept = (hidden == probabilities).flatten(2).all(2)
    counts = kept.sum(1)
    assert counts.min() == 1
    assert 0.3 < kept.float().mean() < 0.6
    left = (probabilities * kept[:, :, None, None, None]).sum(1) / counts.view(-1, 1, 1, 1)
    torch.testing.assert_close(hidden.mean(1), left)
    for frame in range(200):
        for member in (~kept[frame]).nonzero().flatten():
            torch.testing.assert_close(hidden[frame, member], left[frame])


def test_members_are_hidden_in_training_alone() -> None:
    model = _trained(build_meta_model(_config(base_dropout=0.5), MEMBERS, CLASSES))
    probabilities = _probabilities(frames=8)
    assert torch.equal(model.eval()(probabilities), model(probabilities))
    assert not torch.equal(model.train()(probabilities), model(probabilities))


def test_dilation_doubles_from_block_to_block() -> None:
    model = build_meta_model(_config("dilated_spatial", depth=6), MEMBERS, CLASSES)
    dilations = [
        module.dilation[0]
        for block in model.blocks
        for module in block.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    assert dilations == [1, 2, 4, 8, 16, 16]


def test_groups_mix_within_a_block() -> None:
    """Without the shuffle, a channel would only ever see its own group of 4."""
    torch.manual_seed(0)
    block = Block("group_eca", 32, 0).eval()
    features = torch.rand(1, 32, 5, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(block.convolution(features)[0, 0].sum(), features)
    groups = gradient.abs().sum((0, 2, 3)).view(8, 4).sum(1) > 0
    assert groups.sum() >= 4


def test_a_depthwise_separable_block_is_cheaper_than_a_standard_one() -> None:
    def count(kind: MetaKind) -> int:
        return sum(parameter.numel() for parameter in Block(kind, 64, 0).convolution.parameters())

    assert count("depthwise_cbam") < count("plain") / 6
    assert count("group_eca") < count("plain") / 6


def test_a_meta_model_is_built_in_the_layout_in_which_it_is_trained_and_scored() -> None:
    weights = [p for p in build_meta_model(_config(), MEMBERS, CLASSES).parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert any(weight.shape[1] > 1 for weight in weights)
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
