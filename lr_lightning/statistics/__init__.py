"""What a fit says of its coefficients and of its data: numbers in, numbers and text out."""
