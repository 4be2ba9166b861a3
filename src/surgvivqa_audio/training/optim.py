"""One optimizer for small models from random weights: Muon for matrices, AdamW for everything else.

AdamW alone leaves a model of a few million parameters at the floor of most question types for thousands of
steps; orthogonalised updates (Muon) of the weight matrices do not. Embeddings, output heads, convolutions,
norms and biases are not matrices in that sense and stay with AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR

from surgvivqa_audio.errors import ConfigError, ModelError

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # as in torch.optim.Muon
_ITERATIONS = 5
_HEAD_NAMES = ("lm_head", "proj_out", "ctc_head")


def orthogonal(updates: Tensor) -> Tensor:
    """The nearest orthogonal matrices of (n, rows, columns), about, by five Newton-Schulz steps in bfloat16.

    What ``torch.optim.Muon`` makes of them one by one, to the rounding of a bfloat16.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = updates.shape[1] > updates.shape[2]
    x = updates.bfloat16()
    x = (x.mT if tall else x).contiguous()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class ManyMuon(Muon):
    """``torch.optim.Muon`` for models of many small matrices: those of one shape are updated together.

    One by one, a hundred small products a step take longer than their arithmetic: 39 ms of a step of 450 in
    the tiny Whisper, 18 together.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                updates = orthogonal(torch.stack([self._momentum(each, group) for each in parameters]))
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-rate)

    def _momentum(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        kept = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(kept, group["momentum"])


class MuonAdamW(torch.optim.Optimizer):
    """Muon and AdamW behind one ``step``; works with LR schedulers, clipping and ``Trainer``.

    Args:
        matrices: named 2-D parameters for Muon.
        others: named parameters for AdamW.
        lr_muon: learning rate of the matrices, scaled by ``sqrt(max(1, rows / columns))``.
        lr_adamw: learning rate of the others.
        weight_decay: decoupled decay of parameters with two or more dimensions.
        momentum: Nesterov momentum of Muon.
        betas: of AdamW.
    """

    def __init__(
        self,
        matrices: Iterable[tuple[str, nn.Parameter]],
        others: Iterable[tuple[str, nn.Parameter]],
        *,
        lr_muon: float,
        lr_adamw: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
    ) -> None:
        named_matrices, named_others = list(matrices), list(others)
        self.names = {id(parameter): name for name, parameter in (*named_matrices, *named_others)}
        self.inner: list[torch.optim.Optimizer] = []
        if named_matrices:
            group = [parameter for _, parameter in named_matrices]
            self.inner.append(ManyMuon(group, lr=lr_muon, weight_decay=weight_decay, momentum=momentum))
        wide = [parameter for _, parameter in named_others if parameter.ndim >= 2]
        flat = [parameter for _, parameter in named_others if parameter.ndim < 2]
        groups = [
            {"params": parameters, "weight_decay": decay}
            for parameters, decay in ((wide, weight_decay), (flat, 0.0))
            if parameters
        ]
        if groups:
            self.inner.append(AdamW(groups, lr=lr_adamw, betas=betas))
        shared = [group for optimizer in self.inner for group in optimizer.param_groups]
        super().__init__([dict(group) for group in shared], {"lr": lr_adamw})
        # the very dictionaries of the inner optimizers, so that a scheduler's learning rates reach them
        self.param_groups = shared

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.inner:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """States of both optimizers, in a fixed order."""
        return {"inner": [optimizer.state_dict() for optimizer in self.inner]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for optimizer, state in zip(self.inner, state_dict["inner"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.inner for group in optimizer.param_groups]

    def state_tensors(self) -> dict[str, Tensor]:
        """The state as a flat table of tensors by parameter name, for a safetensors file."""
        table: dict[str, Tensor] = {}
        for optimizer in self.inner:
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    tensor = value if isinstance(value, Tensor) else torch.tensor(float(value))
                    table[f"{self.names[id(parameter)]}|{key}"] = tensor.detach().contiguous()
        return table

    def load_state_tensors(self, table: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_tensors` returned.

        Raises:
            ModelError: the table names a parameter that this optimizer does not have.
        """
        owners = {
            self.names[id(parameter)]: (optimizer, parameter)
            for optimizer in self.inner
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for entry, tensor in table.items():
            name, key = entry.rsplit("|", 1)
            if name not in owners:
                raise ModelError(f"optimizer state names unknown parameter '{name}'; start without --resume")
            optimizer, parameter = owners[name]
            optimizer.state[parameter][key] = tensor.clone()


def split_parameters(
    model: nn.Module,
) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """Trainable parameters as ``(matrices for Muon, others)``; shared weights appear once."""
    heads = {
        id(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        or (isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in _HEAD_NAMES)
    }
    matrices: list[tuple[str, nn.Parameter]] = []
    others: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim == 2 and id(parameter) not in heads
            (matrices if is_matrix else others).append((name, parameter))
    return matrices, others


def build_optimizer(
    model: nn.Module,
    lr_muon: float,
    lr_adamw: float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.95,
    betas: tuple[float, float] = (0.9, 0.98),
) -> MuonAdamW:
    """Muon for the 2-D weights of ``model``, AdamW for embeddings, heads, convolutions, norms and biases.

    Raises:
        ConfigError: the model has no trainable parameter.
    """
    matrices, others = split_parameters(model)
    if not matrices and not others:
        raise ConfigError("no trainable parameter; check which parts the recipe freezes")
    return MuonAdamW(
        matrices,
        others,
        lr_muon=lr_muon,
        lr_adamw=lr_adamw,
        weight_decay=weight_decay,
        momentum=momentum,
        betas=betas,
    )


def lr_factor(progress: float, warmup: float = 0.03, floor: float = 0.02) -> float:
    """Multiplier of the learning rate at ``progress`` in 0..1: linear warm-up, then cosine to ``floor``."""
    if progress < warmup:
        return max(progress / warmup, floor)
    along = min((progress - warmup) / max(1.0 - warmup, 1e-9), 1.0)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * along))


def cosine_schedule(optimizer: torch.optim.Optimizer, steps: int, warmup: float = 0.03) -> LambdaLR:
    """:func:`lr_factor` over a fixed number of steps, as a stock scheduler."""
    return LambdaLR(optimizer, lambda step: lr_factor(step / max(steps, 1), warmup))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's learning rate to ``factor`` times its initial value (budgets in minutes)."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor
