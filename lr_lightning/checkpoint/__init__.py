"""Reading and validation of checkpoint files, without executing anything in them."""
