"""The commands of `lr-lightning`, a module each with `run(arguments)`."""
