"""Which classes a configuration file, an option or a checkpoint may name."""

from __future__ import annotations

from jsonargparse import _common, _util, set_parsing_settings

from lr_lightning.errors import InputError

PACKAGES = ("lr_lightning", "torch.optim", "lightning", "torchmetrics")


def allow_classes(*, custom: bool) -> None:
    """Tell jsonargparse what it may import; a name is checked before its import, and what it leads to after.

    Args:
        custom: any package but those that run commands, open files or unpickle (jsonargparse's own list); otherwise
            `PACKAGES` alone.
    """
    # The settings are jsonargparse's, and of the whole process: begin anew, for they only ever grow.
    denied_by_default = dict.fromkeys(_common.default_import_path_denylist, False)
    _common.parsing_settings["import_path_verdicts"] = denied_by_default
    if custom:
        set_parsing_settings(import_path_denylist=["jsonargparse"])  # the list is enforced once it is added to
    else:
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(PACKAGES))


def refuse_unsuitable_class(path: str, base: type, where: str) -> None:
    """Raise InputError unless `path` may be imported and is a class of kind `base`; `where` says who names it."""
    entry = _common.denying_import_path_entry(path)
    if entry is not None:
        raise InputError(f"{where}: {why_denied(path, entry)}")
    try:
        found = _util.import_object(path)
    except (ImportError, ValueError, AttributeError):
        found = None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{where}: {path} is not the name of a class that fits here")


def why_denied(path: str, entry: str) -> str:
    """Why jsonargparse's list, by its `entry`, does not let a class be named."""
    if entry == "*":
        others = ", ".join(PACKAGES[:-1])
        return f"{path} is no class of {others} or {PACKAGES[-1]}; --allow-custom-classes permits others"
    return f"{path} must not be named here, not even with --allow-custom-classes"
