"""Small tables with estimates, profile intervals and tests to all digits.

They were computed by an own Newton in float64 and checked against statsmodels and firthmodels; the two separated rows
by two have a closed form (slope 2·log 7, intercept −log 7). Of the budworms R's MASS prints the interval 0.8229 to
1.3391 for `ldose`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import statsmodels.api as sm

EXAM = np.genfromtxt(Path(__file__).parents[1] / "conf" / "samples" / "exam.csv", delimiter=",", skip_header=1)


def spector():
    data = sm.datasets.spector.load()
    return np.array(data.exog, float), np.array(data.endog, float)


TABLES = {
    "spector": (*spector(), ["GPA", "TUCE", "PSI"]),
    "exam": (EXAM[:, :1], EXAM[:, 1], ["hours"]),
    "students": (np.array([[1.0], [2.0], [3.0]]), np.array([0.0, 0.0, 1.0]), ["hours"]),
    "two_by_two": (np.array([[0.0]] * 3 + [[1.0]] * 3), np.array([0.0] * 3 + [1.0] * 3), ["x"]),
}

# Estimate, standard error, lower and upper end of the profile interval at 95 %, likelihood-ratio statistic.
ML = {
    "spector": {
        "(Intercept)": (
            -13.02134685812,
            4.931324213603,
            -25.16592375722,
            -4.899768254626,
            11.76187586888,
        ),
        "GPA": (2.826112594889, 1.262941075629, 0.6391581694515, 5.756731446437, 6.784213764073),
        "TUCE": (
            0.09515766131791,
            0.1415542056737,
            -0.1702018602991,
            0.4050174978853,
            0.4738788290005,
        ),
        "PSI": (2.378687655093, 1.064564254497, 0.4784665883761, 4.809879337946, 6.203697621532),
    },
    "exam": {
        "(Intercept)": (
            -4.077713431088,
            1.760994314156,
            -8.585000411839,
            -1.267535897779,
            9.532580043753,
        ),
        "hours": (1.504645428373, 0.6287208459454, 0.5291204301902, 3.144944345845, 11.66613029371),
    },
}
FIRTH = {
    "spector": {
        "(Intercept)": (
            -10.43327021717,
            4.159000977766,
            -20.47673717053,
            -3.534569539645,
            9.921550109923,
        ),
        "GPA": (2.284464612115, 1.123564841396, 0.3785460720635, 4.765064352088, 5.699266759127),
        "TUCE": (
            0.07056781612296,
            0.1306278907426,
            -0.164270586041,
            0.3418085374364,
            0.3322097398259,
        ),
        "PSI": (2.006681900165, 0.9534228584814, 0.31444230067, 4.107727164914, 5.49416576717),
    },
    "exam": {
        "(Intercept)": (
            -3.286588823616,
            1.482731977929,
            -7.001260685573,
            -0.875642721388,
            7.940466973171,
        ),
        "hours": (1.201229440272, 0.5148064318861, 0.3833222958464, 2.543221741641, 9.838862920818),
    },
    "students": {
        "(Intercept)": (
            -3.388438374238,
            4.243362854129,
            -19.05023956466,
            1.791844163962,
            1.45347191405,
        ),
        "hours": (1.39814016607, 1.831657333812, -0.9322643288226, 7.32873607843, 1.252116778543),
    },
    "two_by_two": {
        "(Intercept)": (
            -1.945910149072,
            1.745743121899,
            -6.847124571501,
            0.3871591266925,
            2.531016154428,
        ),
        "x": (3.891820298143, 2.468853599409, 0.4388990022424, 9.747960177937, 5.062032308856),
    },
}
FLIC_INTERCEPT = {
    "spector": -10.50132104345,
    "exam": -3.279099342774,
    "students": -3.700770297746,
    "two_by_two": -1.945910149072,
}
PENALIZED = {
    "spector": -10.24141314495,
    "exam": -6.949490545491,
    "students": -1.843120211161,
    "two_by_two": -1.915549001383,
}
EFFECTS = {  # and standard errors; PSI as a difference
    "spector": {
        "GPA": (0.3625808316015, 0.109441152679),
        "TUCE": (0.01220841095868, 0.01779416066988),
        "PSI": (0.3575151636218, 0.1420033906887),
    },
    "exam": {"hours": (0.1910770182078, 0.01764102619144)},
}
BUDWORM = {
    "x": np.array([[male, dose] for male in (1.0, 0.0) for dose in range(6)]),
    "dead": np.array([1.0, 4, 9, 13, 18, 20, 0, 2, 6, 10, 12, 16]),
    "trials": np.full(12, 20.0),
    "coefficients": {
        "(Intercept)": (-4.458068048988, -2.613535969114, 93.96556887177),
        "male": (0.4192124273913, 1.820444558841, 10.22696843467),
        "ldose": (0.8228545156977, 1.339038779259, 112.0415489868),
    },
}
