"""From files and tensors to batches. Nothing is imported here: `schema` must stay free of Lightning."""
