"""The classes that a configuration file, an option or a checkpoint may name."""

from __future__ import annotations

from lr_lightning.cli.jsonargparse_internals import denying_entry, imported, set_import_policy
from lr_lightning.errors import InputError

PACKAGES = ("lr_lightning", "torch.optim", "lightning", "torchmetrics")


def allow_classes(*, custom: bool) -> None:
    """Tell jsonargparse what it may import. It checks a name before the import, and the imported object after it.

    Args:
        custom: whether any package is allowed but those that run commands, open files or unpickle (jsonargparse's own
            list); otherwise `PACKAGES` alone are.
    """
    if custom:
        set_import_policy(denied=["jsonargparse"])
    else:
        set_import_policy(denied=["*"], allowed=PACKAGES)


def refuse_unsuitable_class(path: str, base: type, where: str) -> None:
    """Raise InputError unless `path` may be imported and is a class of kind `base`; `where` says who names it."""
    entry = denying_entry(path)
    if entry is not None:
        raise InputError(f"{where}: {why_denied(path, entry)}")
    found = imported(path)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{where}: {path} is not the name of a class that fits here")


def why_denied(path: str, entry: str) -> str:
    """Why jsonargparse's list, by its `entry`, does not let a class be named."""
    if entry == "*":
        others = ", ".join(PACKAGES[:-1])
        return f"{path} is no class of {others} or {PACKAGES[-1]}; --allow-custom-classes permits others"
    return f"{path} must not be named here, not even with --allow-custom-classes"
