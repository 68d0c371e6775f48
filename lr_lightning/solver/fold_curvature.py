"""Quadratic models of the losses of several fits, and their minimisers under an L1 penalty.

All vectors hold a row a fit, (f, k), and all tensors are float64 on the CPU. No row of data is touched here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lr_lightning.solver import thresholds
from lr_lightning.solver.quadratic import minimize_l1, solve_spd


class FoldCurvature:
    """Hessians Q (m, k, k) of the mean losses of m fits, each corrected by the gradients that its steps have seen.

    A correction is that of BFGS. While the support of a fit and its signs stay, its corrections of the inverse are
    applied one after another (the two-loop recursion of Nocedal 1980) to one Cholesky factor of the support's block.
    Else, or once they are many, they enter the matrix. When coordinates are added, whose part in them is not known,
    they are dropped.

    Args:
        matrices: (m, k, k).
    """

    def __init__(self, matrices: Tensor) -> None:
        self._uncorrected = self.matrices = matrices
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self._forget()

    @property
    def size(self) -> int:
        """Number of coordinates, k."""
        return self.matrices.shape[1]

    def _forget(self) -> None:
        m, k = self.matrices.shape[:2]
        self._active = torch.zeros(m, k, dtype=torch.bool)
        self._known = torch.zeros(m, dtype=torch.bool)  # whether there is a factor for the active coordinates
        self._ridge = torch.zeros(m, k, dtype=torch.float64)
        self._factor = torch.zeros(m, k, k, dtype=torch.float64) if k <= thresholds.BATCHED else torch.empty(0)
        self._factors: dict[int, tuple[Tensor, Tensor]] = {}

    def grow(self, more: Tensor) -> None:
        """Take coordinates in, before the last one.

        Args:
            more: their columns of the Hessians, (m, k + a, a).
        """
        # Corrected and uncorrected parts would not make a positive definite whole.
        self.matrices = self._uncorrected
        (m, k, _), a = self.matrices.shape, more.shape[2]
        grown = torch.empty(m, k + a, k + a, dtype=torch.float64)
        old, new = slice(k - 1), slice(k - 1, k - 1 + a)
        grown[:, old, old], grown[:, -1, -1] = self.matrices[:, :-1, :-1], self.matrices[:, -1, -1]
        grown[:, old, -1], grown[:, -1, old] = self.matrices[:, :-1, -1], self.matrices[:, -1, :-1]
        grown[:, :, new], grown[:, new, :] = more, more.mT
        self._uncorrected = self.matrices = grown
        self._steps = []
        self._forget()

    def replace(self, fit: int, matrix: Tensor) -> None:
        """A fit's Hessian, anew."""
        self.matrices[fit] = self._uncorrected[fit] = matrix
        self._known[fit] = False
        for _, _, usable in self._steps:
            usable[fit] = False

    def correct(self, fits: Tensor, step: Tensor, change: Tensor) -> None:
        """Learn from steps (f, k) and the changes (f, k) of the gradients of the losses along them."""
        product = (step * change).sum(1)
        usable = torch.zeros(len(self.matrices), dtype=torch.bool)
        usable[fits] = product > thresholds.LEAST_CURVATURE_OF_FOLDS
        root = product.clamp_min(thresholds.LEAST_CURVATURE_OF_FOLDS).rsqrt()[:, None]
        s, y = torch.zeros(2, *self.matrices.shape[:2], dtype=torch.float64)
        s[fits], y[fits] = step * root, change * root
        self._steps.append((s, y, usable))
        if len(self._steps) > thresholds.CORRECTIONS:
            self._absorb(torch.arange(len(self.matrices)))

    def minimize(self, fits: Tensor, u: Tensor, gradient: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
        """The minimisers (f, k) of the models around u, plus penalties.

        Args:
            fits: numbers, (f,).
            u: (f, k).
            gradient: of the losses at u, (f, k).
            l1: strengths, (f, k); infinite where a coordinate stays at 0.
            l2: likewise.
        """
        gradient = gradient + l2 * u
        sign = torch.where(l1 > 0, u.sign(), 0.0)
        active = (sign != 0) | (l1 == 0)
        kept = self._known[fits] & (self._active[fits] == active).all(1) & (self._ridge[fits] == l2).all(1)
        kept &= ~((gradient.abs() > l1) & ~active).any(1)
        found = torch.empty_like(u)
        if bool(kept.any()):
            of = kept.nonzero()[:, 0]
            slope = torch.where(active[of], gradient[of] + torch.where(active[of], sign[of] * l1[of], 0.0), 0.0)
            found[of] = u[of] - self._corrected(fits[of], slope)
            kept[of] = ~((found[of] * sign[of] < 0) | ((sign[of] != 0) & (found[of] == 0))).any(1)
        if not bool(kept.all()):
            of = (~kept).nonzero()[:, 0]
            self._absorb(fits[of])
            found[of] = self._settle(fits[of], u[of], gradient[of], l1[of], l2[of])
        return found

    # ---- corrections

    def _corrected(self, fits: Tensor, slope: Tensor) -> Tensor:
        """The corrected inverse of the active block times the slope, which is 0 elsewhere, (f, k)."""
        q, active, ridge = slope, self._active[fits], self._ridge[fits]
        # A step that has also set coordinates to 0 tells of no block; it waits for `_absorb`.
        steps = [(s[fits], y[fits], one[fits]) for s, y, one in self._steps if bool(one[fits].any())]
        usable = [(s, (y + ridge * s) * active, one & ~((s != 0) & ~active).any(1)) for s, y, one in steps]
        usable = [(s, y, torch.where(one, 1 / (s * y).sum(1), 0.0)) for s, y, one in usable]
        weights = []
        for s, y, inverse in reversed(usable):
            weights.append(inverse * (s * q).sum(1))
            q = q - weights[-1][:, None] * y
        p = self._solve(fits, q)
        for (s, y, inverse), weight in zip(usable, reversed(weights), strict=True):
            p = p + (weight - inverse * (y * p).sum(1))[:, None] * s
        return p

    def _absorb(self, fits: Tensor) -> None:
        """Let the corrections of some fits enter their matrices."""
        steps = [step for step in self._steps if bool(step[2][fits].any())]
        if not steps:
            return
        # Each correction adds y yᵀ, as sᵀy is 1, and takes off b bᵀ / sᵀb, where b = B s by the matrix B before it. The
        # vectors b come first, so that all corrections enter in one product.
        whole = len(fits) == len(self.matrices)
        matrices = self.matrices if whole else self.matrices[fits]
        s, y = (torch.stack([step[i][fits] for step in steps], 1) for i in (0, 1))
        usable = torch.stack([one[fits] for _, _, one in steps], 1)[..., None]
        s, y = s * usable, y * usable
        b = torch.bmm(s, matrices)
        for i in range(len(steps)):
            one = s[:, i, :, None]
            b[:, i] += torch.bmm((y[:, :i] @ one).mT, y[:, :i])[:, 0] - torch.bmm((b[:, :i] @ one).mT, b[:, :i])[:, 0]
            curvature = torch.bmm(b[:, i, None], one)[:, 0]
            b[:, i] *= torch.where(curvature > 0, curvature.rsqrt(), 0.0)
        matrices = torch.baddbmm(matrices, y.mT, y).baddbmm_(b.mT, b, alpha=-1)
        if self.matrices is self._uncorrected and not whole:
            self.matrices = self._uncorrected.clone()
        if whole:
            self.matrices = matrices
        else:
            self.matrices[fits] = matrices
        self._known[fits] = False
        for _, _, one in self._steps:
            one[fits] = False
        self._steps = [step for step in self._steps if bool(step[2].any())]

    # ---- linear systems

    def _factorise(self, fits: Tensor, active: Tensor, l2: Tensor) -> None:
        """Factorise the blocks of the active coordinates (f, k), where that has not been done."""
        same = self._known[fits] & (self._active[fits] == active).all(1) & (self._ridge[fits] == l2).all(1)
        new = (~same).nonzero()[:, 0]
        fits, active, l2 = fits[new], active[new], l2[new]
        self._active[fits], self._ridge[fits] = active, l2
        if self.size <= thresholds.BATCHED:
            on = active.double()
            block = self.matrices[fits] * on[:, :, None] * on[:, None]
            block.diagonal(dim1=1, dim2=2).add_(l2 * on + (1 - on))
            self._factor[fits], self._known[fits] = _cholesky(block)
            return
        for fit in fits.tolist():
            index = self._active[fit].nonzero()[:, 0]
            block = self.matrices[fit].index_select(0, index).index_select(1, index)
            block.diagonal().add_(self._ridge[fit, index])
            factor, self._known[fit] = _cholesky(block)
            self._factors[fit] = index, factor

    def _solve(self, fits: Tensor, rhs: Tensor) -> Tensor:
        """Inverses of the active blocks times right-hand sides (f, k) that are 0 elsewhere; 0 for a singular block."""
        if self.size <= thresholds.BATCHED:
            found = torch.cholesky_solve(rhs[:, :, None], self._factor[fits])[:, :, 0]
            return torch.where(self._known[fits, None], found, 0.0)
        out = torch.zeros_like(rhs)
        for i, fit in enumerate(fits.tolist()):
            if self._known[fit]:
                index, factor = self._factors[fit]
                out[i, index] = torch.cholesky_solve(rhs[i, index, None], factor)[:, 0]
        return out

    # ---- the L1 penalty

    def _settle(self, fits: Tensor, u: Tensor, gradient: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
        """The minimisers by the active-set method of `minimize_l1`, for all fits at once, as `minimize`.

        The gradient is that of the losses and the L2 penalties.
        """
        out, pending, stuck = u.clone(), torch.arange(len(fits)), torch.zeros(len(fits), dtype=torch.bool)
        level = self._times(fits, u) + l2 * u - gradient  # the gradient of the models is Q u + l2 u - level
        finite = torch.where(l1.isinf(), 0.0, l1)
        tolerance = 1e-12 * torch.maximum(finite, gradient.abs().max(1, keepdim=True).values)
        tolerance += thresholds.MODEL_ROUNDING * level.abs().max(1, keepdim=True).values
        for _ in range(thresholds.FOLD_MODEL_STEPS):
            of, u_of, strength, ridge = fits[pending], out[pending], finite[pending], l2[pending]
            allowed, penalised = l1[pending].isfinite(), strength > 0
            nonzero = u_of != 0
            free = (nonzero | ~penalised) & allowed
            entering = allowed & ~free & (gradient.abs() > strength + tolerance[pending])
            sign = torch.where(penalised, torch.where(nonzero, u_of.sign(), -gradient.sign()), 0.0)
            slope = torch.where(free | entering, gradient + strength * sign, 0.0)
            rest = ~((slope.abs() <= tolerance[pending]) | ~free).all(1) | entering.any(1)
            if not bool(rest.any()):
                pending = pending[:0]
                break
            if not bool(rest.all()):
                keep = rest.nonzero()[:, 0]
                pending, of, u_of, strength, ridge, free, entering, sign, slope, gradient = (
                    t[keep] for t in (pending, of, u_of, strength, ridge, free, entering, sign, slope, gradient)
                )
            p = self._orthant_step(of, slope, sign, free, entering, ridge)
            kinked = (u_of != 0) & (strength > 0)
            product = self._times(of, p) + ridge * p
            moved, t = _line_minimum(u_of, p, strength, kinked, (slope * p).sum(1), (p * product).sum(1))
            change = t[:, None] * product
            # Where hundreds of coordinates would cross 0, the line ends at the first ones. To set all of them to 0 may
            # lead lower.
            cut = torch.where(kinked & (u_of * (u_of + p) < 0), 0.0, u_of + p)
            of_cut = self._times(of, cut - u_of) + ridge * (cut - u_of)
            rises = [
                ((gradient + b / 2) * (at - u_of) + strength * (at.abs() - u_of.abs())).sum(1)
                for at, b in ((moved, change), (cut, of_cut))
            ]
            lower = rises[1] < rises[0]
            moved, change = torch.where(lower[:, None], cut, moved), torch.where(lower[:, None], of_cut, change)
            out[pending], stuck[pending] = moved, (t == 0) & ~lower
            moving = ~stuck[pending]
            gradient, pending = (gradient + change)[moving], pending[moving]
        # One that has not settled has come lower: to go on would cost more than the next model, from there.
        for i in stuck.nonzero()[:, 0].tolist():
            index = l1[i].isfinite().nonzero()[:, 0]
            matrix = self.matrices[fits[i]].index_select(0, index).index_select(1, index)
            matrix.diagonal().add_(l2[i, index])
            point = out[i, index]
            out[i] = 0
            out[i, index] = minimize_l1(matrix, matrix @ point - level[i, index], point, l1[i, index])
        return out

    def _orthant_step(
        self, fits: Tensor, slope: Tensor, sign: Tensor, free: Tensor, entering: Tensor, l2: Tensor
    ) -> Tensor:
        """Newton steps with the signs held; entering coordinates that would take the wrong sign stay at zero."""
        active = free | entering
        self._factorise(fits, active, l2)
        p = -self._solve(fits, torch.where(active, slope, 0.0))
        held = torch.zeros_like(active)
        while True:
            wrong = entering & ~held & (p * sign <= 0) & self._known[fits, None]
            if not bool(wrong.any()):
                return p
            held |= wrong
            few = (held.sum(1) <= thresholds.FEW_HELD * active.sum(1)) & (self.size > thresholds.BATCHED)
            for i in (wrong.any(1) & few).nonzero()[:, 0].tolist():
                p[i] = self._held_at_zero(int(fits[i]), p[i], held[i].nonzero()[:, 0])
            rest = (wrong.any(1) & ~few).nonzero()[:, 0]
            if len(rest):
                arguments = (t[rest] for t in (fits, slope, sign, free, entering & ~held, l2))
                p[rest] = self._orthant_step(*arguments)
                entering = entering & few[:, None]

    def _held_at_zero(self, fit: int, p: Tensor, held: Tensor) -> Tensor:
        """The step (k,) to the minimum with some active coordinates held, from the step p (k,) without.

        It costs a product with a few columns of the block's inverse, and no other factor.
        """
        active, factor = self._factors[fit]
        at = torch.searchsorted(active, held)
        unit = torch.zeros(len(active), len(held), dtype=torch.float64)
        unit[at, torch.arange(len(held))] = 1
        inverse = torch.cholesky_solve(unit, factor)
        step = p.clone()
        step[active] -= inverse @ solve_spd(inverse[at], p[held])
        step[held] = 0
        return step

    def _times(self, fits: Tensor, u: Tensor) -> Tensor:
        matrices = self.matrices if len(fits) == len(self.matrices) else None
        if matrices is not None:
            return torch.bmm(matrices, u[:, :, None])[:, :, 0]
        return torch.stack([self.matrices[fit] @ one for fit, one in zip(fits.tolist(), u, strict=True)])


def _cholesky(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors of (…, k, k), which may be changed, and whether there are: rounding may leave one indefinite."""
    factor, info = torch.linalg.cholesky_ex(matrices)
    more = thresholds.EQUATION_RANK_TOLERANCE * matrices.shape[-1]
    for _ in range(thresholds.GRAM_RIDGES):
        if not bool(info.any()):
            break
        # Separated rows leave almost no curvature.
        matrices.diagonal(dim1=-2, dim2=-1).mul_(torch.where(info > 0, 1 + more, 1.0)[..., None])
        factor, info = torch.linalg.cholesky_ex(matrices)
        more *= 10
    return factor, info == 0


def _line_minimum(
    u: Tensor, p: Tensor, l1: Tensor, kinked: Tensor, slope: Tensor, curvature: Tensor
) -> tuple[Tensor, Tensor]:
    """The minima along u + t p, t from 0 to 1, where the objectives are piecewise quadratic, and their t (f,)."""
    times = torch.where(kinked & (u * p < 0), -u / p, torch.inf)
    ordered, order = times.sort(1)
    jumps = torch.cumsum(torch.where(ordered.isfinite(), 2 * (l1 * p.abs()).gather(1, order), 0.0), 1)
    inside = ordered <= 1
    # The slope right after each kink; the first that is not negative ends the search.
    after = slope[:, None] + curvature[:, None] * torch.where(inside, ordered, 0.0) + jumps
    ends = inside & (after >= 0)
    last = torch.where(ends.any(1), ends.double().argmax(1), inside.sum(1))
    passed = torch.nn.functional.pad(jumps, (1, 0)).gather(1, last[:, None])[:, 0] + slope
    t = torch.where(curvature > 0, -passed / curvature, 1.0).clamp(0, 1)
    kink = torch.nn.functional.pad(ordered, (0, 1), value=torch.inf).gather(1, last[:, None])[:, 0]
    t = torch.where(slope < 0, torch.minimum(t, kink), 0.0)
    moved = torch.where(times == t[:, None], 0.0, u + t[:, None] * p)
    return moved, t
