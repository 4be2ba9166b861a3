"""The mixed optimizer: who updates what, schedulers, and a state that survives a restart."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.training.optim import (
    ManyMuon,
    build_optimizer,
    cosine_schedule,
    lr_factor,
    split_parameters,
)


class _Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.inside = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.lm_head = nn.Linear(4, 7, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(self.embed(ids).transpose(1, 2)).transpose(1, 2)
        return self.lm_head(self.norm(self.inside(hidden)))


def _model() -> _Tiny:
    torch.manual_seed(0)
    return _Tiny()


def _train(model: _Tiny, optimizer: torch.optim.Optimizer, steps: int) -> None:
    ids = torch.arange(7)[None]
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids)[0], ids[0]).backward()
        optimizer.step()


def test_only_inner_matrices_go_to_muon() -> None:
    matrices, others = split_parameters(_model())
    assert [name for name, _ in matrices] == ["inside.weight"]
    assert [name for name, _ in others] == [
        "embed.weight",
        "conv.weight",
        "conv.bias",
        "inside.bias",
        "norm.weight",
        "norm.bias",
        "lm_head.weight",
    ]


def test_a_tied_head_is_listed_once_and_not_given_to_muon() -> None:
    model = _model()
    model.lm_head.weight = model.embed.weight
    matrices, others = split_parameters(model)
    assert [name for name, _ in matrices] == ["inside.weight"]
    assert "lm_head.weight" not in [name for name, _ in others]


def test_every_parameter_moves_and_the_loss_falls() -> None:
    model = _model()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    _train(model, build_optimizer(model, 0.02, 0.03), 100)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    ids = torch.arange(7)[None]
    assert nn.functional.cross_entropy(model(ids)[0], ids[0]).item() < 0.2


def test_a_scheduler_reaches_both_inner_optimizers() -> None:
    model = _model()
    optimizer = build_optimizer(model, 0.02, 0.01)
    schedule = cosine_schedule(optimizer, steps=10, warmup=0.2)
    _train(model, optimizer, 1)
    schedule.step()
    rates = [group["lr"] for inner in optimizer.inner for group in inner.param_groups]
    assert rates == pytest.approx([0.01, 0.005, 0.005])


def test_state_tensors_continue_the_same_run() -> None:
    straight = _model()
    _train(straight, build_optimizer(straight, 0.02, 0.01), 6)
    first = _model()
    optimizer = build_optimizer(first, 0.02, 0.01)
    _train(first, optimizer, 3)
    second = _model()
    second.load_state_dict(first.state_dict())
    resumed = build_optimizer(second, 0.02, 0.01)
    resumed.load_state_tensors(optimizer.state_tensors())
    _train(second, resumed, 3)
    for name, parameter in straight.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name)), name


def test_foreign_state_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown parameter 'elsewhere'"):
        build_optimizer(_model(), 0.02, 0.01).load_state_tensors({"elsewhere|step": torch.zeros(())})


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer(_model().requires_grad_(False), 0.02, 0.01)


def test_learning_rate_factor_literals() -> None:
    assert lr_factor(0.015) == pytest.approx(0.5)
    assert lr_factor(0.03) == pytest.approx(1.0)
    assert lr_factor(0.515) == pytest.approx(0.51)
    assert lr_factor(1.0) == pytest.approx(0.02)
    assert lr_factor(2.0) == pytest.approx(0.02)


@pytest.mark.parametrize("kept", [False, True])
def test_many_matrices_at_once_are_what_stock_muon_makes_of_each(kept: bool) -> None:
    shapes = [(24, 24), (24, 24), (40, 24), (8, 24), (40, 24), (24, 8), (1, 5)]
    rng = torch.Generator().manual_seed(3)
    first = [torch.randn(shape, generator=rng) for shape in shapes]
    stock, ours = ([nn.Parameter(one.clone()) for one in first] for _ in range(2))
    options = {"lr": 0.02, "weight_decay": 0.01, "momentum": 0.95}
    optimizers = [torch.optim.Muon(stock, **options), ManyMuon(ours, **options)]
    for step in range(4):
        for number, (one, other) in enumerate(zip(stock, ours, strict=True)):
            gradient = torch.randn(one.shape, generator=rng) * 10.0 ** (number - 3)
            one.grad, other.grad = gradient.clone(), gradient.clone()
            if step == 2 and number == 1:  # a matrix that had no part in this step
                one.grad = other.grad = None
        for optimizer in optimizers:
            optimizer.step()
        if kept and step == 1:  # what one has saved, the other goes on with
            optimizers[1].load_state_dict(deepcopy(optimizers[0].state_dict()))
    for one, other, start in zip(stock, ours, first, strict=True):
        # One unit in the last place of a bfloat16 near 1, four times; a step is a hundred times larger.
        assert torch.allclose(one, other, rtol=0, atol=4 * 0.02 * 2**-8)
        assert (one - start).abs().max() > 0.01
        assert torch.equal(
            optimizers[0].state[one]["momentum_buffer"], optimizers[1].state[other]["momentum_buffer"]
        )
