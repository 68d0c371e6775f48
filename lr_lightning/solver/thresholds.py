"""The numbers at which the solver decides, each with what it weighs and why it has this value.

Costs count multiplications (of an element of x by a number), unless said otherwise.
"""

import torch

_FLOAT64_EPS = torch.finfo(torch.float64).eps

# Which model of the curvature.

# Coefficients; above, no (k, k) matrix is kept. At 2 048 it takes 32 MiB, and its factorisation 0.17 s.
DENSE_LIMIT = 2048
# Cost of a Hessian of all rows that is computed at every Newton step: 2e8 take 25 to 55 ms of CPU time.
# With corrected Hessians alone breast cancer takes 2.4 times as long, 2 000 x 100 1.2 to 1.4 times.
CHEAP_HESSIAN = 2e8
# Cost of a Hessian that is computed because the model predicts a decrease badly, or of a QR of the rows: 0.12 s in
# float32. Without such Hessians tables with weights that differ by orders of magnitude take 1.5 times as long.
AFFORDABLE_HESSIAN = 5e9
# Coefficients up to which every Newton step on a sample computes its Hessian; corrected ones take as long there, and
# end with two digits fewer (30 000 x 5).
FEW_COEFFICIENTS = 64
# Cost of the sample's Hessian, relative to a pass over all rows, from which on L-BFGS is considered: three Hessians
# take as long as the 20 passes more that it needs (20 000 x 300 independent: 0.07 s of CPU time instead of 0.15).
EXPENSIVE_HESSIAN = 130
# Least pivot, and mean square eigenvalue relative to independent columns, at which L-BFGS still takes about 20 passes.
INDEPENDENT_PIVOT = 0.05
INDEPENDENT_SPREAD = 2

# The sample.

# Ridge on the sample's Hessian, in rows: a tenth of the weight of one. Without it separated tables take 1.4 times as
# long, L1 fits of 60 columns 1.15 times.
PRIOR_ROWS = 0.1
# Strongest L1 penalty, relative to the wanted one, from which on a path of penalties leads to it; on 50 000 x 100 a
# path from 200 takes 1.15 times as long as none; without a path 500 x 2 000 at 0.2 % of its limit takes 2.1 times as
# long.
WEAK_PENALTY = 300
# Ratio of the penalties along that path.
PATH_RATIO = 0.1
# Rows of the sample for one of its part that is solved before it, the first ratio that leaves enough: without it an L1
# fit of 200 000 x 200 takes a fifth pass.
PART_RATIOS = (16, 4)
# Rows of that part, at least; five a coefficient besides.
LEAST_PART = 2000
# Decrease of the mean loss at which the path goes on to the next penalty.
PATH_TOLERANCE = 1e-4
# Coordinates that may enter a working set at once, at least: all at once, 5 000 x 20 000 takes 1.7 times as long.
LEAST_ENTERING = 128
# Logit towards the wrong class; the curvature there is 1e-13.
MISCLASSIFIED = 30

# Convergence.

# Part of a Newton step at which the line search gives up. Along a direction of almost no curvature a step can be 1e9
# times too long: of a separated table of nearly dependent levels, 1e-6 left 100 passes to do where 1e-14 leaves 6.
SHORTEST_STEP = 1e-14
# Slope at the end of a Newton step, relative to that at its start, from which on a longer one is tried; where most rows
# are predicted well the first steps are twice too short (569 x 30: 6 Hessians instead of 9).
UNDERSTEPPED = 0.1
# Newton steps on the support of an L1 solution, at most; each doubles the digits.
POLISHING_STEPS = 8
# Violation of the optimality conditions that is rounding of the gradient, in standardised coefficients.
GRADIENT_ROUNDING = 4 * _FLOAT64_EPS
# Objective relative to that of the intercept alone, beyond which an L1 fit does not begin where it was told to: breast
# cancer with coefficients of 0.5 begins at 580 times, where logits are 1 000 and Hessians zero.
FAR_START = 10.0
# Violation of the optimality conditions relative to the largest gradient or penalty, beyond which a model that proposes
# no step has failed: an active set ends at 1e-12 of it.
NO_STEP_VIOLATION = 1e-9
# Tolerance of the objective up to which the digits of an L1 solution's coefficients matter.
FINEST_TOLERANCE = 1e-14
# The same of a sparse table: passes are cheap, and the coefficients of rare levels have nine digits only then.
SPARSE_TOLERANCE = 1e-20
# Half the squared Newton decrement, relative to the objective, from which on a step that still moves some row by a good
# part of 1 has no end: what the row has left to lose is less than that of one row of ten million.
FEW_ROWS_LEFT = 1e-10
# Half the squared Newton decrement, relative to the objective, at which Newton's method on the sample ends: a tenth of
# the finest tolerance.
NEGLIGIBLE = 1e-15
# Rejected proposals in a row after which nothing decreases the objective: the step has been halved fifty times.
MAX_REJECTIONS = 25
# Bad predictions of the sample after which it is not asked any more: always asked, tables with weights that differ by
# orders of magnitude take 9 times as long, separated ones 14 times.
MAX_FAILURES = 4
# Largest move of a sampled logit in a step that the sample proposes, relative to 1 + the largest logit: without a limit
# separated tables take 1.7 times as long.
TRUST_RADIUS = 10.0

# Rounding.

# Squared pivot of a matrix of unit diagonal, per column, below which the matrix is singular.
EQUATION_RANK_TOLERANCE = 1e-13
# The same for rows that were rounded to float32, where dependent columns leave squared pivots of 1e-14.
ROUNDED_RANK_TOLERANCE = 1e-11
# The same for a triangular factor's pivot, not squared: logits would lose more than five digits.
FACTOR_RANK_TOLERANCE = 1e-11
# Right-hand side along a singular direction that is rounding, relative to the root of the rank tolerance.
EQUATION_ROUNDING = 0.01
# The same for the gradient of a mean loss in standardised coefficients and a triangular factor.
FACTOR_ROUNDING = 100 * _FLOAT64_EPS
# Squared pivot of a Hessian in float64, below which half of the digits of a Newton step are lost.
HESSIAN_PIVOT = 1e-8
# The same for products in float32.
SINGLE_PIVOT = 2e-6
# Squared pivot below which columns may depend on each other: corrections by gradients in float32 leave less.
SUSPECT_PIVOT = 1e-6

# The quadratic model with an L1 penalty.

# Iterations of the active-set method, at most; rounding might go on for ever.
ACTIVE_SET_ITERATIONS = 200
# Coordinates that leave zero at once, or iterations, after which coordinate descent looks for the signs: without it 2
# 000 x 100 with L1 takes 6 times as long, 5 000 x 20 000 3.6 times.
DESCENT_EVERY = 6
# Sweeps of coordinate descent, at most.
DESCENT_SWEEPS = 30
# Move of a sweep relative to the first, and coefficient, that only a matrix left indefinite by rounding gives.
DIVERGING_SWEEP = 1e6
LARGEST_COEFFICIENT = 1e100
# Size of a triangular matrix from which on SciPy's inverse saves time.
LARGE_TRIANGLE = 256

# The rows' Gram matrix.

# Rows up to which the matrix costs less than the passes that it saves.
FEW_ROWS = 512
# Largest eigenvalue relative to the mean one, from which on L-BFGS takes a hundred passes and more.
GRAM_SPREAD = 4
# Rounding of float32 products relative to the least eigenvalue, 1, that float64 products should avoid.
COARSE = 0.01
# Rounding with which no step can be trusted.
TOO_COARSE = 0.5
# Ridges, each ten times the one before, that are tried on a matrix that rounding has left indefinite.
GRAM_RIDGES = 12

# Decrement of a step on the Hessian of a working set that has been kept, relative to that before, from which on it is
# computed anew: never, 150 000 x 5 000 with heavy tails took 49 passes instead of 19; at every step, the Zipf table at
# 1 % of λmax takes twice as long.
OLD_HESSIAN = 0.1
# Rows of a sparse table, whose Hessian is taken for that of all, if there are twice as many. With w coordinates in the
# working set each pass divides the distance to the minimum by about the root of `rows / w`. From all rows an L1 fit of
# the Zipf table at 1 % of λmax takes 1.44 times as long.
PART_ROWS = 40_000

# Conjugate gradients.

# Residual at which a step is exact enough, relative to that of no step, however far the minimum is. With 0.01 the Zipf
# table of 200 000 x 50 000 takes 1.12 times as long, with 0.5 1.04 times.
LOOSEST_STEP = 0.1
# The same squared, relative to the rows' mean curvature, with which a level of curvature 1e-6 has ten digits;
# without it the Zipf table takes 1.45 times as long.
FINEST_STEP = 1e-25
# The same for a looser tolerance than the default, and relative to it: the mean curvature is of the objective's size.
STEP_TO_TOLERANCE = 0.1
# Mean square by which a step moves the logits, from which on its length is looked for: if it is always 1,
# 20 000 x 6 000 under a weak L2 penalty take 20 passes instead of 17, and 1.27 times as long.
STRAIGHT = 1e-3
# Slope at the end of a step, relative to that at its start, at which it is long enough; and lengths that are tried, at
# most. With 0.5 the Zipf table takes 1.14 times as long.
LEVEL = 0.1
LENGTHS = 30
# Move of a row's logit from which on the preconditioner is computed anew: never, the Zipf table takes 72 s in
# standardised columns instead of 4.5; at every step, it and 2 500 levels take 1.1 times as long.
OLD_DIAGONAL = 0.5
# Products with the Hessian for a step, at most.
CONJUGATE_GRADIENTS = 200
# What rounding leaves of the difference of two steps, relative to them and the point; were it 0, the logits would be
# computed anew after each step, and the Zipf table take 1.17 times as long.
SAME_DIRECTION = 1e-10

# Drawing a sample.

# Share of the weight of a class that a uniform sample may miss.
RARE_CLASS = 0.05

# Columns that separate.

# Mean loss at which every row is predicted right.
SEPARATED = 1e-8
# Logit of the rows that separating columns set aside: their loss is 4e-18.
SEPARATED_MARGIN = 40.0
# 1 − R² on the columns before, of columns that may depend on them.
SUSPECT_COLUMN = 1e-10
# Share of a column's length that the other columns do not explain, below which it depends on them.
DEPENDENT_COLUMN = 1e-10
# Spread of a sparse column's values beside its least one, relative to their squares, that is rounding.
TWO_VALUED = 1e-12
# Numbers of a product with many vectors.
SEPARATING_BLOCK = 2**24

# Bounds.

# Sweeps of coordinate descent before the exact steps; they find most of the bounds that hold: without them 1 000 x 50
# within bounds takes 1.8 times as long.
BOUND_SWEEPS = 3
# Violation of the optimality conditions that is rounding, relative to the penalty or the largest gradient.
BOUND_ROUNDING = 1e-12

# Newton's method on all rows, and Firth's penalty.

# Elements of the widest matrix of a block, which then stays in the cache.
LIKELIHOOD_BLOCK = 2**18
# Elements of a table that is standardised once instead of in each product, which takes Firth's estimate and profiles of
# 200 x 5 and 1 000 x 50 1.8 times as long.
STANDARDIZED_ONCE = 2**18
# Half the squared Newton decrement, relative to the objective, at which the method ends; a last step squares it.
FULL_TOLERANCE = 1e-16
# Rejected proposals in a row after which nothing decreases the objective.
MAX_HALVINGS = 50
# Multiplications for the curvature of Firth's penalty, which is left out where it takes more. On small tables it costs
# a sixth of a fit, and brings nine right digits of coefficients where seven are.
CHEAP_PENALTY_CURVATURE = 2**24
# Half the squared decrement, relative to the objective, above which a longer step is looked for: without it Firth's
# estimate of 1 000 x 50 takes 1.19 times as long.
FAR_FROM_MAXIMUM = 1e-3
# Half the squared decrement of Σv times the objective, below which a step tells of the curvature of Firth's penalty:
# with every step 1 000 x 50 takes 6 passes instead of 5, with none 240 tables take 1.3 times as many.
CALM = 1.0

# Profiles of the likelihood.

# Elements of the Hessians that are kept at a time, 128 MiB.
PROFILE_HESSIANS = 2**24
# Points of a sweep: one by one 20 000 x 50 take 11 times as long, all 153 of 1 000 x 50 at once 1.14 times.
PROFILE_POINTS = 128
# Steps of a search, at most.
PROFILE_STEPS = 200
# Halvings of a step, at most.
PROFILE_HALVINGS = 60
# Last move of an end, in standard errors: the next one would be its square, or a hundredth with BFGS.
PROFILE_END = 1e-5
# Twice the log-likelihood that a refit has left to gain, at an end.
PROFILE_REFIT = 1e-7
# The same of a test.
PROFILE_TEST = 1e-10
# Ratio of two decrements, above which a Hessian is computed anew: never, 20 000 x 40 very skewed take 25 sweeps instead
# of 11 and 1.16 times as long; in every step, 20 000 x 50 take 1.15 to 3 times as long.
SLOW_PROFILE = 0.25

# The path of sparse rows.

# Fits of sparse rows that share a Hessian where columns in use are few, and the ratio of their strengths: with 10 fits
# 200 000 x 50 000 takes 1.2 to 1.3 times as long, with a ratio of 3 or 8 1.05 times.
SPARSE_FITS = 25
SPARSE_REACH = 5.0
# Fits whose gradients by all columns are computed at once, which for 50 000 columns are 12 MiB: one by one,
# 100 000 x 5 000 with folds takes 1.16 times as long.
CHECKED_FITS = 32
# Strengths for each at which gradients by all columns are computed, beside two more: with 3 or 8 200 000 x 50 000 takes
# 1.1 times as long.
TOLD_STRENGTHS = 5
# Rounding of the products by which those at the others are bounded, relative to the largest.
COMBINED_ROUNDING = 1e-13
# Gradient relative to the strength, from which on a column is near to being used: with 1 200 000 x 50 000 takes 1.04
# times as long, as some turn out to be used in the end; with 0.8 1.2 times.
NEAR = 0.95
# Share of the columns at hand that are near to being used, from which on all of them stay and none are copied: never,
# 200 000 x 50 000 takes 1.05 to 1.1 times as long.
SAME_COLUMNS = 0.7
# What conjugate gradients leave of a step, relative to it: a round leaves a tenth of the violation anyway. With 1e-6
# 5 000 x 20 000 with folds takes 1.16 times as long, with 0.1 20 000 x 3 000 1.1 times.
SHARED_STEP = 1e-3
# Squared number of coordinates relative to the stored numbers of their columns, from which on Hessians are multiplied
# by sweeps and not computed: never, 20 000 x 5 000 takes 8 times as long; always, 200 000 x 50 000 twice as long.
SWEPT_HESSIAN = 4
# What conjugate gradients leave there of a step, at least and at most; between, the root of the violation relative to
# the penalty: with 1e-3 always, 20 000 x 5 000 with folds takes 1.4 times as long.
SWEPT_STEP = (1e-4, 0.1)
# Share of the fits in conjugate gradients, below which those that are done are left out: never, 20 000 x 5 000 with
# folds takes 1.1 times as long.
STILL_SWEPT = 0.7
# Rounds of a block, after which its largest violation is to have fallen, or the block has failed: with 16
# 600 x 3 000 down to penalties at which rows are nearly separated takes 1.3 times as long.
PATIENCE = 4
# Rows up to which fits are made one penalty after the other once blocks fail, as no more columns are in use: if blocks
# are tried on, 600 x 3 000 down to where rows are nearly separated takes 6 times as long.
FEW_ROWS_OF_BLOCKS = 1024

# The path of penalties.

# A ridge sets no coefficient to 0: its strongest penalty is that of this share of L1.
LEAST_L1_RATIO = 1e-3
# Violation of the optimality conditions that is rounding, relative to the largest gradient.
PATH_ROUNDING = 1e-14
# Columns from which on, where rows are fewer, the Hessians cost more than shared sweeps save: 100 x 300 with folds
# takes 2.7 times as long if folds share none.
MANY_COLUMNS = 512
# Elements of the rows, from which on sweeps cost more than calls: with folds breast cancer, which has 17 000, takes 2.4
# times as long if they are always taken to, 1 000 x 100 0.7 times; 5 000 x 500 takes 1.6 times as long if never.
LARGE_ROWS = 2**16
# Rows for each column of the sample whose path tells where that of all rows is: with 20, 20 000 x 60 with folds takes
# 1.1 times as long; with 100, which is too large a sample of it, 1.8 times.
PATH_SAMPLE_A_COLUMN = 50
# Times as many rows as that sample, from which on it is taken: never, 50 000 x 20 with folds takes 2.1 times as long;
# from twice as many on, 20 000 x 200 1.15 times.
WORTH_SAMPLE = 4
# Strengths that are fitted at once after a sample: with 34, 200 000 x 200 takes 1.5 times as long, with all 99 1.1
# times.
STRENGTHS_A_BLOCK = 50
# Violation relative to the tolerance, from which on only changes of the gradients are summed there: with 1e5 or 3e7
# 200 000 x 200 takes 1.6 times as long; with 3e6 fits of rare positive labels miss 1e-10 of the penalty by half.
ANCHORED = 1e6
# Times the error of these changes that is allowed for, as rows of few different values are rounded alike: it was 0.2 to
# 0.9 times what is expected of independent errors on most tables, and up to 3.9 times on levels of categories.
ROUNDED_ALIKE = 4
# The same where they are summed in float32: terms, of which each may lose digits alike. Were all sums in float64,
# 200 000 x 200 with folds would take 1.1 times as long.
ROUNDED_SUMS = 1000
# Elements of the logits from which they change, 256 MiB: with half of them 200 000 x 200 with folds takes 1.3 times as
# long.
FOLLOWED_LOGITS = 2**26
# Columns of a tile of a Hessian in float32, about: in one product that of 20 000 x 300 takes 1.3 times as long, in
# tiles of 48 that of 100 000 x 50.
ROUNDED_TILE = 75
# Rows of a block, at most: sums in float32 of more terms would lose digits.
ROUNDED_TERMS = 4096
# Elements of the partial sums of a sweep in float32, 256 MiB, if there are several of a fold.
GROUPED_SUMS = 2**25
# Change of a logit, of which the exponential in float32 is finite.
LARGEST_RISE = 80.0
# Penalties that are worth a rough path: with one, 5 of 1 000 x 400 take 1.4 times as long.
LEAST_PENALTIES = 10
# Share of the deviance, beyond which the rows are nearly separated.
EXPLAINED = 0.999
# Strongest penalty: axes of pictures, which go a few decades further, and squares of it stay finite.
LARGEST_PENALTY = 1e150
# Penalties of a path, at most: with ten folds 1 000 of breast cancer take 10 s.
MOST_PENALTIES = 100_000
# Violation of the optimality conditions relative to the penalty.
PATH_VIOLATION = 1e-10
# Ratio of strengths that share a Hessian: if none do 500 x 20 000 takes 3.4 times as long, if all do 1.1 times.
SHARED_HESSIAN = 2.0
# Strengths that share a Hessian, at most: without a limit 5 000 x 500 takes 1.14 times as long.
MOST_SHARING = 10
# Fits that are worth a sweep: all in one, 5 000 x 500 takes 1.12 times as long.
FITS_A_SWEEP = 48
# Rounds of a block, at most.
BLOCK_ROUNDS = 16
# Violation of the optimality conditions of a rough path, relative to the penalty.
ROUGH_VIOLATION = 1e-2
# Violation relative to the tolerance, from which on sums in float32 tell enough: with sums in float64 alone 5 000 x 500
# takes 2.4 times as long, 100 000 x 50 3.6 times. Were curvatures learned from steps that begin below, 200 000 x 200
# with folds would take 1.1 times as long.
FAR_VIOLATION = 3e7
# Share of the coordinates in use that may enter at once, where many more would enter than stay: without it
# 200 x 3 000 takes 5.5 times as long.
ENTERING = 0.1
# Curvature along a step of a block; below, rounding decides.
LEAST_CURVATURE_OF_BLOCK = 1e-25
# Share of the columns in use by a block, from which on all are: with 1 1 000 x 100 takes 1.2 times as long, with 0
# 200 x 3 000 1.8 times.
BLOCK_OF_ALL = 0.7
# Attempts with columns that turn out to be in use, after which fits go on one penalty after the other: with none sparse
# 100 000 x 5 000 with folds takes 7 times as long.
BLOCK_RETRIES = 2
# Bytes of a block's Hessians.
BLOCK_MEMORY = 2**31
# Steps of the active-set method for the model of a block, at most.
MODEL_STEPS = 12
# Coordinates that may enter in any step: if all may, 200 x 3 000 takes 43 times as long.
FEW_ENTERING = 16
# Violation of the optimality conditions of folds that are fitted by themselves, relative to the largest gradient.
ALONE_VIOLATION = 1e-10

# Fits of folds at once.

# Elements of the columns: a block stays in a core's cache between the products with it.
FOLD_BLOCK = 2**18
# Rows of a block of a storage that has blocks of its own.
FOLD_BLOCK_ROWS = 2**16
# Partial sums, whatever the number of threads.
FOLD_GROUPS = 16
# The same of sparse rows, where each takes as much memory as all columns.
SPARSE_GROUPS = 4
# Elements of a fold's rows that are copied at a time: with twice as many the Hessians of 1 000 000 x 60 with three
# folds take 1.2 to 1.4 times as long.
GATHERED_ELEMENTS = 2**23
# Elements of columns that are copied, at most.
COPIED_ELEMENTS = 2**28
# Share of the available memory that such a copy may take: there are several, beside what is kept of every row.
COPIED_SHARE = 0.2
# Share of a column's variance that is left of it in a fold's training rows, below which its digits are lost in the
# difference: of a rare column with one row left, a share of 6e-8, violations of 7e-10 were.
NEARLY_CONSTANT = 1e-5
# Violation of the optimality conditions that is rounding, of fits without penalty.
FOLD_EXACT = 1e-15
# Rounds, at most; a fit that rows determine badly might go on for ever.
FOLD_ROUNDS = 100
# Violation of the optimality conditions after a round relative to that before it, from which on the round is slow: with
# 0.2 breast cancer takes 1.25 times as long, with 0.02 ridges of 3 000 x 300 1.2 times.
SLOW_ROUND = 0.05
# Slow rounds of a fit, after which it gets a Hessian of its own: never, breast cancer takes 1.3 times as long.
SLOW_ROUNDS = 4
# Share of the columns in use, from which on all are: with 1 the lasso of 3 000 x 300 takes 1.3 times as long.
FOLDS_OF_ALL = 0.5
# Products up to which every fit gets a Hessian of its own, at the cost of little but calls: without, breast cancer
# takes 1.5 times as long.
HESSIAN_OF_EACH = 2**24
# Slope at the end of a step relative to that at its beginning, from which on it is too long: if none is, ridges of
# separated 2 000 x 30 take 1.3 times as long, and weak lassos of breast cancer diverge.
OVERSHOT = 0.5
# Times that such a step is shortened, at most: to a part that rounding hides.
SHORTENINGS = 40
# Change of a standardised coefficient in a step, at most: with offsets of 1 000 and more nearly all probabilities are 0
# or 1, and steps of 1e30 and more, which 40 shortenings do not bring back, ended in cross-validated losses of 1e30.
LONGEST_STEP = 1e4
# Bytes that the Hessians of folds may take.
FOLD_MEMORY = 2**33
# Violation relative to the tolerance, up to which rounding may decide about slopes: with 0
# 1 000 x 100 and 200 x 3 000 take 1.2 to 1.3 times as long.
ROUNDED_VIOLATION = 100
# Coordinates up to which the systems of all fits are factorised as one batch: without, 60 x 20 with twenty folds takes
# 1.25 times as long.
BATCHED = 64
# Share of the active coordinates, up to which holding some costs less than to factorise the others'
# block: without it lassos of 1 000 x 500 with five folds take 1.3 times as long.
FEW_HELD = 0.1
# Steps of the active-set method for the models of all fits, at most: with 30 lassos of 1 000 x 500 with five folds down
# to penalties at which rows are nearly separated take 1.4 times as long.
FOLD_MODEL_STEPS = 10
# Rounding of a model's gradient, relative to what it is the difference of.
MODEL_ROUNDING = 1e-14
# Curvature along a step; below, rounding decides about the difference of two gradients.
LEAST_CURVATURE_OF_FOLDS = 1e-20
# Corrections of a Hessian that are applied one after another: without a limit 480 penalties of breast cancer with ten
# folds take 1.7 times as long, with one 60 take 1.4 times.
CORRECTIONS = 8

# Ridges of folds.

# Rows of the sample for each column: without a sample 100 000 x 50 takes 1.6 times as long.
RIDGE_SAMPLE_A_COLUMN = 100
# Rows of the sample, at least: without it ridges of 20 000 x 10 take 1.11 to 1.13 times as long.
LEAST_RIDGE_SAMPLE = 2000
# Decrement relative to the error of a sample, at which the sample has told all: at 1 20 000 x 300 takes 1.2 times as
# long.
NEGLIGIBLE_OF_SAMPLE = 0.01
# Decrement of fits that leave a fold out: to rounding, 100 000 x 50 takes 1.7 times as long.
RIDGE_TOLERANCE = 1e-10
# Decrement of fits of all rows, whose coefficients a user reads: with 1e-10 their errors are 3e-5 instead of 3e-7, with
# 1e-16 100 000 x 50 takes 1.2 times as long.
RIDGE_EXACT = 3e-13
# Decrement of all fits where a sweep costs next to nothing: 1e-10 takes 0.83 times as long, with errors of 8e-6 instead
# of 5e-9.
RIDGE_FINE = 1e-16
# Decrement relative to that of the step before, both squared, from which on the Hessian is taken anew:
# never, 100 000 x 50 takes 1.2 times as long; at every step, 12 times.
SLOW_RIDGE = 0.1
# The same where every fit has a Hessian of its own: with 0.1 or never 569 x 30 takes 1.2 times as long.
SLOW_RIDGE_OF_EACH = 0.01
# Difference of the rows' curvatures relative to themselves, up to which two points share a Hessian: if
# none do 20 000 x 300 takes 1.75 times as long, if all do 7 times.
ALIKE = 0.03
# Rows by which that is decided: by all, 100 000 x 50 takes 1.1 times as long.
COMPARED_ROWS = 1000
# Multiplications up to which every fit has a Hessian of its own, at the cost of little but calls: without, 569 x 30
# takes 2.5 times as long.
RIDGE_HESSIAN_OF_EACH = 2**26
# Rows for each column, from which on folds are near one another: if they always counted as near 3 000 x 400 would take
# 2.5 times as long, if never 20 000 x 20 3.7 times.
ROWS_A_COLUMN = 30
# Elements of the rows, from which on they are copied in float32 for sweeps whose digits do not matter: with 2**21
# 10 000 x 30 takes 1.14 to 1.26 times as long.
LARGE_RIDGE = 2**18
# Bytes that the factors of Hessians may take; one strength at a time, the ridges above take 3 to 5 times as long.
RIDGE_MEMORY = 2**29
