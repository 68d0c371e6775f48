"""The loss of a row and its derivatives by the logit, of one outcome or of trials with both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

_SOFTPLUS_LINEAR = 80  # exp(80) is still finite in float32; the default of 20 costs nine digits


class Outcomes(NamedTuple):
    """Everything but the logits that the losses of n rows depend on.

    Attributes:
        y: targets 0 or 1, or shares of successes between them, (n,), of any dtype.
        weight: v, (n,), not negative, or None for ones.
        offset: added to the logits, (n,), or None.
        shares: whether some targets may lie between 0 and 1; None lets each sweep look at all of them.
    """

    y: Tensor
    weight: Tensor | None = None
    offset: Tensor | None = None
    shares: bool | None = None

    @property
    def may_be_shares(self) -> bool:
        """Whether some targets may lie between 0 and 1."""
        return has_shares(self.y) if self.shares is None else self.shares


def has_shares(y: Tensor) -> bool:
    """Whether targets from 0 to 1, (n,), hold anything between the two."""
    return y.is_floating_point() and bool(y.frac().any())


def fill_losses(out: Tensor, z: Tensor, s: Tensor, weight: Tensor | None) -> None:
    """Fill ``out`` with the losses v·log(1 + exp(s z)) of rows, s = 1 − 2y, and z with s z; shapes are broadcast."""
    z.mul_(s)
    softplus(z, 1, _SOFTPLUS_LINEAR, out=out)  # pyright: ignore[reportCallIssue]
    if weight is not None:
        out.mul_(weight)


def make_residuals(s: Tensor, margin: Tensor, weight: Tensor | None) -> None:
    """Turn s into the residuals v·s·σ(s z), and what `fill_losses` left, s z, into σ(s z)."""
    torch.sigmoid(margin, out=margin)
    s.mul_(margin)
    if weight is not None:
        s.mul_(weight)


def losses_of_shares(z: Tensor, y: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Losses of rows and their derivatives by the logits, each (n,), in the dtype of the logits.

    A loss is v·(y·log(1 + exp(−z)) + (1 − y)·log(1 + exp(z))), its derivative v·((1 − y)·σ(z) − y·σ(−z)). Without the
    two parts, σ(z) − y would cancel for rows of one outcome that are predicted well.

    Args:
        z: logits, (n,).
        y: shares of successes, (n,).
        weight: v, (n,), or None for ones.
    """
    y = y.to(z)
    loss = y * softplus(-z, 1, _SOFTPLUS_LINEAR) + (1 - y) * softplus(z, 1, _SOFTPLUS_LINEAR)
    found = residuals(z, y)
    return (loss, found) if weight is None else (loss * weight, found * weight)


def residuals(z: Tensor, y: Tensor) -> Tensor:
    """(1 − y)·σ(z) − y·σ(−z), the derivative of the loss by the logit, π − y without cancellation.

    Args:
        z: logits, of any shape.
        y: targets, of z's dtype and a shape that broadcasts with it.
    """
    return (1 - y) * torch.sigmoid(z) - y * torch.sigmoid(-z)


def curvature(z: Tensor, weight: Tensor | None = None) -> Tensor:
    """v·σ(z)·σ(−z), the second derivative of the loss by the logit z, in the dtype and shape of z."""
    found = torch.sigmoid(z).mul_(torch.sigmoid(-z))
    return found if weight is None else found.mul_(weight.detach().to(found))
