"""Rows of wide tables, turned so that an L2 penalty has no more coordinates than there are rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lr_lightning.model.design import Dense
from lr_lightning.model.standardization import Standardization
from lr_lightning.solver.fold_rows import FoldRows


class RotatedRows(FoldRows):
    """Fits of an L2 penalty alone, whose coefficients lie in the span of the rows.

    With the penalty's scales s the features are X̃ = L Qᵀ diag(s), L (n, n) and the columns of Q (d, n) orthonormal
    (a QR decomposition of the transpose), and s u = Q v has the penalty ‖v‖² if nothing of it is outside of the span
    (Hastie & Tibshirani 2004, "Efficient quadratic regularization for expression arrays"). Columns without penalty stay
    as they are, after those of L. Rows of weight 0 are left out.

    Args:
        rows: whose L2 penalties are the same in all fits; see `can_be_rotated`.
    """

    def __init__(self, rows: FoldRows) -> None:
        self.__dict__.update(rows.__dict__)
        self._rows = rows
        scale = rows.l2_unit[0, :-1].sqrt()
        self._penalised = (scale > 0).nonzero()[:, 0]
        self._free = ((scale == 0) & ~rows.absent[:-1]).nonzero()[:, 0]
        self._scale = scale[self._penalised]
        kept = (rows._v > 0).nonzero()[:, 0]
        for name in ("y", "_sign", "_v", "_fold", "_offset"):
            values = getattr(rows, name)
            setattr(self, name, None if values is None else values[kept])
        mean, spread = rows.standardization
        x = (rows._design.take(kept).dense(torch.float64) - mean) / spread
        self._q, upper = torch.linalg.qr((x[:, self._penalised] / self._scale).T)
        self._design = Dense(torch.cat([upper.T, x[:, self._free]], 1))
        self.d = self._design.shape[1]
        self.standardization = Standardization.identity(self.d)
        unit = (torch.arange(self.d) < len(upper)).double()
        self.l1_unit = self.l2_unit = pad(unit, (0, 1)).expand(self.m, -1)
        self.absent = pad(torch.zeros(self.d, dtype=torch.bool), (0, 1), value=bool(rows.absent[-1]))
        self.fixed = self.absent.expand(self.m, -1)
        self.__dict__.pop("_rows_of_folds", None)

    def theta(self, u: Tensor) -> Tensor:
        """Coefficients (d + 1,) of the original features, the intercept last."""
        count = self._q.shape[1]
        turned = torch.zeros(self._rows.d + 1, dtype=torch.float64)
        turned[self._penalised] = self._q @ u[:count] / self._scale
        turned[self._free], turned[-1] = u[count:-1], u[-1]
        return self._rows.theta(turned)


def can_be_rotated(rows: FoldRows) -> bool:
    """Whether `RotatedRows` has fewer coordinates: there are more columns than rows, and all fits' penalties agree."""
    agree = bool((rows.l2_unit == rows.l2_unit[0]).all())
    return rows.is_dense and rows.d > rows.n and agree
