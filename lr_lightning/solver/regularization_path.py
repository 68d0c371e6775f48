"""The regularisation path: fits at one strength of the penalty after another, and their cross-validation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.model.design import Design
from lr_lightning.model.losses import losses_of_shares
from lr_lightning.model.objective import Objective, refuse_impossible_factors
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization
from lr_lightning.model.threads import on_one_thread
from lr_lightning.solver import sparse_blocks, thresholds
from lr_lightning.solver.fold_fits import FoldCoefficients, FoldFits
from lr_lightning.solver.fold_rows import FoldRows, Losses, rows_at_a_time
from lr_lightning.solver.path_blocks import Solutions, rough_path, solve_nearby
from lr_lightning.solver.tall_blocks import solve_tall
from lr_lightning.solver.wide_ridges import WideRidges, is_wide

log = logging.getLogger("lr_lightning")


@dataclass(frozen=True)
class CrossValidation:
    """Losses of a path of p penalties by K-fold cross-validation.

    Attributes:
        fold_loss: mean loss of each fold by the fits of the other rows, (p, K).
        fold_weight: Σ v of each fold, (K,).
        mean: of the folds' losses, weighted by the folds, (p,).
        se: standard errors of the means, (p,).
        best: number of the penalty with the lowest mean; of equal ones the strongest.
        one_se: number of the strongest penalty, of those with the same l1_ratio, whose mean is at most the lowest plus
            its standard error.
        logits: of each row, by the fit at penalty `best` that leaves its fold out, (n,), with its offset.
        one_se_logits: the same at penalty `one_se`.
    """

    fold_loss: Tensor
    fold_weight: Tensor
    mean: Tensor
    se: Tensor
    best: int
    one_se: int
    logits: Tensor
    one_se_logits: Tensor


@dataclass(frozen=True)
class Path:
    """Fits at p penalties: l1 = λ·l1_ratio and l2 = λ·(1 − l1_ratio), λ falling within each l1_ratio.

    Attributes:
        l1_ratio: share of L1 in each penalty, (p,).
        lambdas: λ, (p,).
        theta: coefficients (p, d + 1), for the features as they were given, the intercept last.
        loss: mean loss of all rows without penalty, (p,).
        null_loss: that of the intercept and the offset alone.
        converged: whether each fit, and those without a fold, are the optimum, (p,).
        cross_validation: None without folds.
    """

    l1_ratio: Tensor
    lambdas: Tensor
    theta: Tensor
    loss: Tensor
    null_loss: float
    converged: Tensor
    cross_validation: CrossValidation | None = None

    @property
    def nonzero(self) -> Tensor:
        """Number of coefficients that are not 0, without the intercept, (p,)."""
        return (self.theta[:, :-1] != 0).sum(1)

    @property
    def deviance_ratio(self) -> Tensor:
        """Share of the null loss that each fit explains, (p,)."""
        return 1 - self.loss / self.null_loss


class PathStep(NamedTuple):
    """Progress of a path.

    Attributes:
        done: number of penalties done, those of each fold that is fitted by itself included.
        total: number of all.
        value: λ of the last one.
        nonzero: number of its coefficients that are not 0.
        loss: its mean loss.
    """

    done: int
    total: int
    value: float
    nonzero: int
    loss: float


class PoorFoldsError(InputError):
    """Folds that cannot be left out one after the other.

    Attributes:
        problem: what is wrong, with {} in the place of the fold.
        fold: the number of the fold; None where it is not about a single one.
    """

    def __init__(self, problem: str, fold: int | None = None):
        super().__init__(problem.format(fold))
        self.problem, self.fold = problem, fold

    def of(self, culprit: str, names: Sequence[object] | None) -> InputError:
        """The same about an option or a column, and about the folds by their names, if they have any."""
        name = self.fold if names is None or self.fold is None else names[self.fold]
        return InputError(f"{culprit}: {self.problem.format(name)}")


def path(
    rows: Rows,
    *,
    l1_ratio: float | Sequence[float] = 1.0,
    n_lambda: int = 100,
    min_ratio: float = 1e-3,
    lambdas: Sequence[float] | None = None,
    folds: Tensor | None = None,
    features_of_fold: Callable[[int], Tensor | Design] | None = None,
    penalty_factors: Tensor | None = None,
    standardize: bool = True,
    fit_intercept: bool = True,
    served: Standardization | None = None,
    progress: Callable[[PathStep], None] | None = None,
    threads: int | None = None,
) -> Path:
    """Fit at a sequence of penalties, and at the same ones without each fold.

    The sequence runs geometrically from λmax, the smallest λ at which every penalised coefficient is 0, to
    λmax·min_ratio; that of the folds is the same. Every fit is exact: the optimality conditions hold to 1e-10 of λ.
    Each fold is standardised by its own training rows. Definitions as in Friedman, Hastie & Tibshirani 2010,
    "Regularization paths for generalized linear models via coordinate descent", but for the penalty factors, which
    are taken as they are.

    Args:
        rows: features (n, d) on the CPU, targets from 0 to 1, weights v (sample weight times class weight), offsets.
        l1_ratio: share of L1 in the penalty, from 0 (ridge) to 1 (lasso); a path for each of several.
        n_lambda: number of penalties for each l1_ratio, from 1 to 100 000.
        min_ratio: weakest λ relative to the strongest, between 0 and 1.
        lambdas: the sequence itself, falling, at least 0; then `n_lambda` and `min_ratio` are not used.
        folds: number of each row's fold, from 0, (n,), any integer dtype; None for no cross-validation.
        features_of_fold: of all rows as they are where a fold is left out, (n, d), such as with missing values that are
            filled in by what the other rows hold; then a fold is fitted by itself. None where they do not depend on it.
        penalty_factors: of the columns, (d,), at least 0; None for ones.
        standardize: whether the penalty is on the coefficients of standardised features.
        fit_intercept: whether there is an intercept.
        served: the map that has been applied to the features, or None; coefficients are for the original ones.
        progress: is called after each penalty, and after each of a fold that is fitted by itself, in another thread.
        threads: that share a sweep; None takes torch's number of them in the calling thread.

    Raises:
        InputError: if an argument is out of its range, no penalised column can leave 0, or so many do that their
            Hessians are larger than 8 GiB.
        PoorFoldsError: an InputError, if there are less than two folds, or one has no rows, or leaves one class only.

    Example:
        >>> import torch
        >>> from lr_lightning.model.rows import Rows
        >>> from lr_lightning.solver import path
        >>> x = torch.tensor([[-1.5, 1.0], [-0.5, -1.0], [0.5, -1.0], [1.5, 1.0]], dtype=torch.float64)
        >>> found = path(Rows(x, torch.tensor([0.0, 1.0, 0.0, 1.0])), n_lambda=3, min_ratio=0.25)
        >>> [round(value, 4) for value in found.lambdas.tolist()], found.nonzero.tolist()
        ([0.2236, 0.1118, 0.0559], [0, 1, 1])
    """
    ratios = [float(ratio) for ratio in ([l1_ratio] if isinstance(l1_ratio, float | int) else l1_ratio)]
    given = None if lambdas is None else [float(value) for value in lambdas]
    refuse_impossible_penalties(ratios, n_lambda, min_ratio, given)
    if penalty_factors is not None:
        refuse_impossible_factors(penalty_factors, rows.design.shape[1])
        if not bool(penalty_factors.any()):
            raise InputError("penalty_factors: all are 0, so that no penalty has an effect; leave some out")
    if folds is not None:
        _refuse_poor_folds(rows, folds)
    elif not 0 < _share_of_positive(rows) < 1:
        raise InputError("the rows hold one class only, so that there is no penalty to choose")
    objective = Objective(standardize=standardize, fit_intercept=fit_intercept, penalty_factors=penalty_factors)

    def work(stopped: Callable[[], bool]) -> Path:
        alone, paths = None, 1
        n, d = rows.design.shape
        if folds is not None and (features_of_fold is not None or d > max(n, thresholds.MANY_COLUMNS)):
            features = features_of_fold or (lambda _: rows.x)
            alone, paths = partial(_folds_alone, rows, folds, features, objective, served), 2 + int(folds.max())
        fits = FoldFits(FoldRows(rows, None if alone else folds, objective, served))
        return _path(fits, ratios, given, n_lambda, min_ratio, alone, _Tell(stopped, progress, paths))

    return on_one_thread(work, threads)


@torch.no_grad()
def _path(
    fits: FoldFits,
    ratios: list[float],
    given: list[float] | None,
    n_lambda: int,
    min_ratio: float,
    alone: Callable[[Sequence[_Penalty], _Tell], _LeftOut] | None,
    tell: _Tell,
) -> Path:
    null_loss = fits.fit_null()
    start = fits.fit_unpenalised()
    strongest = fits.strongest()
    if given is None and strongest == 0:
        raise InputError("no penalised column is related to the target, so that there is no penalty to choose")
    if not strongest <= thresholds.LARGEST_PENALTY:
        raise InputError(f"penalty_factors: too small, the strongest penalty would be {strongest:g}")
    fractions = [min_ratio ** (k / max(n_lambda - 1, 1)) for k in range(n_lambda)]
    penalties = [
        _Penalty(ratio, value)
        for ratio in ratios
        for value in given or [strongest / max(ratio, thresholds.LEAST_L1_RATIO) * fraction for fraction in fractions]
    ]
    tell.total = len(penalties) * tell.paths
    fitted = _fit_sequence(fits, start, penalties, tell)
    l1_ratio, lambdas = (torch.tensor(column, dtype=torch.float64) for column in list(zip(*penalties, strict=True))[:2])
    loss = torch.stack([losses.training[0] for losses in fitted.losses])
    found = Path(l1_ratio, lambdas, fitted.theta, loss, null_loss, fitted.converged)
    if fits.n_folds:
        left_out = _folds_together(fits, fitted)
    elif alone is not None:
        left_out = alone(penalties, tell)
    else:
        _warn(found, found.loss)
        return found
    found = replace(found, converged=found.converged & left_out.converged)
    _warn(found, left_out.least_loss)
    mean, se, best, one_se = choose(left_out.loss, left_out.weight, l1_ratio, lambdas)
    logits = left_out.logits(best)
    one_se_logits = logits if one_se == best else left_out.logits(one_se)
    by_folds = CrossValidation(left_out.loss, left_out.weight, mean, se, best, one_se, logits, one_se_logits)
    return replace(found, cross_validation=by_folds)


@dataclass
class _Tell:
    """Counts the fits of one path after the other and tells of them; ends the work where somebody has stopped it."""

    stopped: Callable[[], bool]
    progress: Callable[[PathStep], None] | None
    paths: int
    total: int = 0
    done: int = 0

    def __call__(self, value: float, theta: Tensor, losses: Losses) -> None:
        self.done += 1
        if self.progress is not None:
            nonzero = int((theta[:-1] != 0).sum())
            self.progress(PathStep(self.done, self.total, value, nonzero, float(losses.training[0])))
        if self.stopped():
            raise InterruptedError


class _Fitted(NamedTuple):
    """Fits at p penalties: theta (p, d + 1), and what `FoldFits` says of each."""

    theta: Tensor
    losses: list[Losses]
    converged: Tensor
    of_folds: list[FoldCoefficients]


def _fit_sequence(fits: FoldFits, start: Tensor, penalties: Sequence[_Penalty], tell: _Tell) -> _Fitted:
    """The fits at each penalty from the one before, and at the first of each l1_ratio from `start`, without penalty."""
    theta, losses, converged, of_folds = [], [], [], []
    for l1_ratio, group in groupby(penalties, lambda penalty: penalty.l1_ratio):
        fits.move_to(start)
        is_ridge = l1_ratio == 0 and fits.rows.d > thresholds.MANY_COLUMNS and is_wide(fits.rows)
        rounding = thresholds.PATH_ROUNDING * fits.largest_gradient
        for value, found, of_losses in (_fitted_ridges if is_ridge else _fitted)(fits, list(group), rounding):
            converged.append(found)
            theta.append(fits.theta())
            losses.append(of_losses)
            of_folds.append(fits.of_folds())
            tell(value, theta[-1], losses[-1])
    return _Fitted(torch.stack(theta), losses, torch.tensor(converged), of_folds)


def _fitted_ridges(fits: FoldFits, penalties: list[_Penalty], rounding: float) -> Iterator[tuple[float, bool, Losses]]:
    """Move to the ridges of a wide table: as `_fitted`, but without gradients."""
    # The gradient of no penalty is that of a penalty which is rounding.
    values = torch.tensor([max(penalty.value, rounding) for penalty in penalties], dtype=torch.float64)
    found = WideRidges(fits.rows).fits(values[:, None].expand(-1, fits.rows.m), thresholds.FOLD_ROUNDS)
    for penalty, (u, _, converged) in zip(penalties, found, strict=True):
        fits.move_to(u)
        yield penalty.value, bool(converged.all()), fits.rows.losses(fits.rows.every, u)


def _fitted(fits: FoldFits, penalties: list[_Penalty], rounding: float) -> Iterator[tuple[float, bool, Losses]]:
    """Move to the fits at each penalty of an l1_ratio: λ, whether they have converged, and their losses."""
    # The strongest penalty leaves all coefficients at 0 exactly, and without one there is no λ to be precise by.
    first, blocks = penalties[0], penalties[1 : -1 if penalties[-1].value == 0 else None]
    yield first.value, first.fit(fits, rounding), fits.losses()
    number = 1
    for block in _solved_in_blocks(fits, blocks, rounding) if _worth_blocks(fits.rows, blocks) else ():
        for u, converged, training, held_out in zip(block.u, block.converged, *block.losses, strict=True):
            penalty, number = penalties[number], number + 1
            # A fit that has not converged goes on from the penalty before, from where its steps are safe.
            fits.move_to(torch.where(converged[:, None], u, fits.u))
            if bool(converged.all()):
                yield penalty.value, True, Losses(training, held_out)
            else:
                yield penalty.value, penalty.fit(fits, rounding), fits.losses()
    for penalty in penalties[number:]:
        yield penalty.value, penalty.fit(fits, rounding), fits.losses()


def _worth_blocks(rows: FoldRows, penalties: list[_Penalty]) -> bool:
    """Whether to fit at several penalties at once: coefficients are 0 there, and calls cost less than sweeps."""
    many = len(penalties) >= thresholds.LEAST_PENALTIES and len(rows.y) * rows.d >= thresholds.LARGE_ROWS
    return many and penalties[0].l1_ratio >= thresholds.LEAST_L1_RATIO


def _solved_in_blocks(fits: FoldFits, penalties: list[_Penalty], rounding: float) -> Iterator[Solutions]:
    """By the path of a sample of the rows, or the rough path of all of them."""
    l1 = torch.tensor([penalty.l1 for penalty in penalties], dtype=torch.float64)
    l2 = torch.tensor([penalty.l2 for penalty in penalties], dtype=torch.float64)
    if not fits.rows.is_dense:
        return sparse_blocks.solve_nearby(fits, l1, l2, rounding)
    rows, size = fits.rows, thresholds.PATH_SAMPLE_A_COLUMN * fits.rows.d
    if rows.n >= thresholds.WORTH_SAMPLE * size:
        sample = rows.sample(size)
        begin = rough_path(sample, FoldFits(sample).fit_unpenalised()[0], l1, l2)
        return solve_tall(rows, sample, begin, l1, l2, rounding)
    return solve_nearby(rows, fits.u[0], l1, l2, rounding)


class _LeftOut(NamedTuple):
    """What the fits that leave a fold out say, at p penalties.

    Attributes:
        loss: mean loss of each fold by the fit of the other rows, (p, K).
        weight: Σ v of each fold, (K,).
        least_loss: of the rows of a fit, where it is the least of the fits at a penalty, (p,).
        converged: whether all fits of each penalty are the optimum, (p,).
        logits: of each row by the fit that leaves its fold out, at the penalty of a number, (n,), with its offset.
    """

    loss: Tensor
    weight: Tensor
    least_loss: Tensor
    converged: Tensor
    logits: Callable[[int], Tensor]


def _folds_together(fits: FoldFits, fitted: _Fitted) -> _LeftOut:
    """By the fits that share their sweeps with those of all rows."""
    return _LeftOut(
        torch.stack([losses.held_out for losses in fitted.losses]),
        fits.rows.held_weight,
        torch.stack([losses.training[1:].min() for losses in fitted.losses]),
        fitted.converged,
        lambda number: fits.out_of_fold(fitted.of_folds[number]),
    )


def _folds_alone(
    rows: Rows,
    folds: Tensor,
    features: Callable[[int], Tensor | Design],
    objective: Objective,
    served: Standardization | None,
    penalties: Sequence[_Penalty],
    tell: _Tell,
) -> _LeftOut:
    """By fits of one fold after the other: where its features, of all rows, are its own, or columns are many."""
    v = torch.ones(len(rows.y), dtype=torch.float64) if rows.weight is None else rows.weight.double()
    weight = torch.zeros(int(folds.max()) + 1, dtype=torch.float64).index_add_(0, folds.long(), v)
    thetas, loss, least, converged = [], [], [], []
    for fold in range(len(weight)):
        held = folds == fold
        # A row without weight takes no part in means, scales and sums.
        others = rows._replace(x=features(fold), weight=torch.where(held, 0.0, v))
        fits = FoldFits(FoldRows(others, None, objective, served))
        fitted = _fit_sequence(fits, fits.fit_unpenalised(), penalties, tell)
        thetas.append(fitted.theta.to_sparse())
        converged.append(fitted.converged)
        least.append(torch.stack([losses.training[0] for losses in fitted.losses]))
        total = torch.zeros(len(penalties), dtype=torch.float64)
        for part in _parts(held, others):
            z = _logits(others.take(part), fitted.theta, served)
            y, of_part = (t[part].double()[:, None] for t in (rows.y, v))
            total += losses_of_shares(z, y, of_part)[0].sum(0)
        loss.append(total / weight[fold])

    def logits(number: int) -> Tensor:
        out = torch.empty(len(v), dtype=torch.float64)
        for fold, theta in enumerate(thetas):
            left_out = rows._replace(x=features(fold))
            for part in _parts(folds == fold, left_out):
                out[part] = _logits(left_out.take(part), theta[number].to_dense()[None], served)[:, 0]
        return out

    return _LeftOut(torch.stack(loss, 1), weight, torch.stack(least).amin(0), torch.stack(converged).all(0), logits)


def _parts(chosen: Tensor, rows: Rows) -> tuple[Tensor, ...]:
    """Numbers of chosen rows (n,), few enough to be copied."""
    return chosen.nonzero()[:, 0].split(rows_at_a_time(rows.design.shape[1], thresholds.GATHERED_ELEMENTS))


def _logits(rows: Rows, theta: Tensor, served: Standardization | None) -> Tensor:
    """Logits (n, p) of served rows by coefficients (p, d + 1) for the original features."""
    w, b = theta[:, :-1], theta[:, -1]
    if served is not None:
        w, b = w * served.scale, b + w @ served.mean
    z = rows.design.matvec(w.T.contiguous(), b)
    return z if rows.offset is None else z.add_(rows.offset[:, None])


class _Penalty(NamedTuple):
    """λ, and its share of L1."""

    l1_ratio: float
    value: float

    @property
    def l1(self) -> float:
        return self.value * self.l1_ratio

    @property
    def l2(self) -> float:
        return self.value * (1 - self.l1_ratio)

    def fit(self, fits: FoldFits, rounding: float) -> bool:
        """Move to the optima; whether they were reached."""
        return bool(fits.fit(self.l1, self.l2, rounding).all())


def choose(
    fold_loss: Tensor, fold_weight: Tensor, l1_ratio: Tensor, lambdas: Tensor
) -> tuple[Tensor, Tensor, int, int]:
    """Means (p,), their standard errors (p,), and the numbers of the best penalty and of that within one of them.

    See `CrossValidation`; the standard error is that of glmnet.
    """
    share = fold_weight / fold_weight.sum()
    mean = fold_loss @ share
    se = ((fold_loss - mean[:, None]).square() @ share / (len(share) - 1)).sqrt()
    lowest = (mean == mean.min()).nonzero()[:, 0]
    best = int(lowest[lambdas[lowest].argmax()])
    simple = (mean <= mean[best] + se[best]) & (l1_ratio == l1_ratio[best]) & (lambdas >= lambdas[best])
    one_se = int(torch.where(simple, lambdas, -1.0).argmax())
    return mean, se, best, one_se


def _refuse_poor_folds(rows: Rows, folds: Tensor) -> None:
    """Raise PoorFoldsError unless there are two folds at least, and each leaves rows of both classes to be fitted."""
    if folds.dtype.is_floating_point or folds.shape != (len(rows.y),) or not len(folds) or int(folds.min()) < 0:
        raise PoorFoldsError("folds: expected an integer of at least 0 for each row")
    count = int(folds.max()) + 1
    v = torch.ones(len(rows.y), dtype=torch.float64) if rows.weight is None else rows.weight.double()
    of_fold, positive = torch.zeros(2, count, dtype=torch.float64)
    of_fold.index_add_(0, folds.long(), v)
    positive.index_add_(0, folds.long(), v * rows.y)
    if count < 2:
        raise PoorFoldsError("cross-validation needs at least 2 folds")
    total, total_ones = float(of_fold.sum()), float(positive.sum())
    for fold, (weight, ones) in enumerate(zip(of_fold.tolist(), positive.tolist(), strict=True)):
        rest, rest_ones = total - weight, total_ones - ones
        if not weight > 0:
            raise PoorFoldsError("fold {} has no rows of positive weight", fold)
        if not 0 < rest_ones < rest:
            raise PoorFoldsError("without fold {} the rows hold one class only; take fewer folds, or others", fold)


def _share_of_positive(rows: Rows) -> float:
    v = torch.ones(len(rows.y), dtype=torch.float64) if rows.weight is None else rows.weight.double()
    return float(v @ rows.y.to(v) / v.sum())


def refuse_impossible_penalties(
    ratios: Sequence[float], n_lambda: int, min_ratio: float, given: Sequence[float] | None
) -> None:
    """Raise InputError, which begins with the name of the argument of `path`, if one is out of its range."""
    if not ratios or not all(0 <= ratio <= 1 for ratio in ratios):
        raise InputError(f"l1_ratio: expected numbers from 0 to 1, not {ratios}")
    if len(set(ratios)) < len(ratios):
        raise InputError(f"l1_ratio: {ratios} holds a number twice")
    if not 1 <= n_lambda <= thresholds.MOST_PENALTIES:
        raise InputError(f"n_lambda: must be from 1 to {thresholds.MOST_PENALTIES}, not {n_lambda}")
    if not 0 < min_ratio < 1:
        raise InputError(f"min_ratio: must lie between 0 and 1, not {min_ratio}")
    if given is not None:
        if not given or not all(0 <= value <= thresholds.LARGEST_PENALTY for value in given):
            raise InputError(f"lambdas: expected numbers from 0 to {thresholds.LARGEST_PENALTY:g}, not {given}")
        if any(after >= before for before, after in pairwise(given)):
            raise InputError(f"lambdas: must fall strictly, the strongest first; not {given}")


def _warn(found: Path, least_loss: Tensor) -> None:
    """Say which fits have not converged, and from which penalty on classes are separated.

    Args:
        found: the path.
        least_loss: the mean loss of the fit, of those without a fold, that has the least, (p,).
    """
    missed = int((~found.converged).sum())
    if missed:
        log.warning("%d of %d penalties: a fit has not converged", missed, len(found.converged))
    explained = (found.deviance_ratio > thresholds.EXPLAINED).nonzero()[:, 0]
    in_a_fold = (1 - least_loss / found.null_loss > thresholds.EXPLAINED).nonzero()[:, 0]
    if len(explained):
        log.warning(
            "from λ = %.4g on the fits explain more than 99.9 %% of the deviance: the classes are separated, and "
            "coefficients grow without end as λ falls",
            float(found.lambdas[explained[0]]),
        )
    elif len(in_a_fold):
        log.warning(
            "from λ = %.4g on a fit without one of the folds explains more than 99.9 %% of the deviance: its rows are "
            "separated, and its coefficients, and the loss of the fold, grow without end as λ falls",
            float(found.lambdas[in_a_fold[0]]),
        )
