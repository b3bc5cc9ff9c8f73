"""Print the lowest versions that pyproject.toml allows of what linf needs, as constraints for pip."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

for requirement in PROJECT["dependencies"]:
    if found := re.match(r"([\w-]+)>=([\d.]+)", requirement):
        name, version = found.groups()
        print(f"{name}=={version}{'.*' * (version.count('.') < 2)}")
