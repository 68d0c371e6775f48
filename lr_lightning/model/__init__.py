"""What is fitted: the linear–sigmoid model, its features, its objective. Needs torch alone."""
