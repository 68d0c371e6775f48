"""Statistics of a fit: report, standard errors, separation, collinearity, held-out measures."""
