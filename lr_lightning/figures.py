"""The former name of `lr_lightning.plots`, under which notebooks know it."""

from lr_lightning.plots import *  # noqa: F403
