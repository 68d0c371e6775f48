"""Where `SafeCheckpointIO` is imported from; it is defined in `lr_lightning.training.checkpoint_io`."""

from lr_lightning.training.checkpoint_io import SafeCheckpointIO as SafeCheckpointIO
