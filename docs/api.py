"""Write the API pages from the docstrings: python docs/api.py FOLDER. Needs pdoc (extra `test`), and no network."""

import sys
from pathlib import Path

import pdoc
import pdoc.render

import lr_lightning

MODULES = (
    "lr_lightning",
    r"!lr_lightning\.",  # the public names are shown where they are imported from
    "lr_lightning.sklearn",
    "lr_lightning.solver",
    r"!lr_lightning\.solver\.",
    "lr_lightning.statistics.report",
)


def main(folder: str) -> None:
    """Write one HTML page a module, and an index."""
    for name in lr_lightning.__all__:
        # pdoc looks into the module and would not find what is imported when it is first used.
        vars(lr_lightning)[name] = getattr(lr_lightning, name)
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(*MODULES, output_directory=Path(folder))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["docs/api"]))
