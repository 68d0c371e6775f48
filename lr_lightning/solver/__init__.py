"""The exact solver: penalised logistic regression in as few passes over the rows as can be."""

from lr_lightning.solver.moments import column_moments
from lr_lightning.solver.sample import draw_sample, sample_size
from lr_lightning.solver.subsampled_newton import SubsampledNewton

__all__ = ["SubsampledNewton", "column_moments", "draw_sample", "sample_size"]
