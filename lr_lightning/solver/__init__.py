"""The exact solver: penalised logistic regression in as few passes over the rows as can be."""

from lr_lightning.solver.fit import Solution, solve
from lr_lightning.solver.newton import SubsampledNewton
from lr_lightning.solver.regularization_path import CrossValidation, Path, path
from lr_lightning.solver.sampling import draw_sample, sample_size

__all__ = ["CrossValidation", "Path", "Solution", "SubsampledNewton", "draw_sample", "path", "sample_size", "solve"]
