"""The packages of the wheel: `sam3_hyperet`, and the top-level `configs/` as its data in `sam3_hyperet.configs`."""

from setuptools import find_namespace_packages, setup

configs = ["sam3_hyperet.configs", *(f"sam3_hyperet.configs.{name}" for name in find_namespace_packages("configs"))]
setup(
    packages=[*find_namespace_packages(include=["sam3_hyperet*"]), *configs],
    package_dir={"sam3_hyperet.configs": "configs"},
)
