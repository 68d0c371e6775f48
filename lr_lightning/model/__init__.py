"""The model: linear–sigmoid, its features, its objective. Needs torch alone."""
