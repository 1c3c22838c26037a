"""Package metadata; the tools' settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = "0.1.0"

setup(
    name="registryd",
    version=VERSION,
    description="A container registry daemon on Twisted: private registry, pull-through mirror, collector",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    package_dir={"registryd": "registryd", "registryd_gc": "gc"},
    packages=[*find_packages(include=["registryd", "registryd.*"]), "registryd_gc", "twisted.plugins"],
    package_data={"registryd": ["py.typed"], "registryd_gc": ["py.typed"]},
    data_files=[("share/registryd/conf", sorted(str(p) for p in Path("conf").glob("*")))],
    install_requires=[
        "attrs>=23.2",
        "cachetools>=5.3,<9",
        "click>=8.1",
        "google-re2>=1.1",
        "klein>=24.8,<26",
        "prometheus_client>=0.21,<1",
        "publicsuffixlist>=1.0,<2",
        "pyopenssl>=24.0",
        "pyyaml>=6.0,<7",
        "service-identity>=24.1",
        "treq>=24.9",
        "twisted>=24.10",
        "werkzeug>=3.0,<4",
        "zope.interface>=6.0",
    ],
    extras_require={
        "docs": ["mkdocs>=1.6,<2"],
        "test": ["hypothesis>=6.100", "pytest>=8.0", "pytest-xdist>=3.5"],
        "lint": [
            "import-linter>=2.0",
            "mypy>=1.13",
            "mypy-zope>=1.0",
            "ruff>=0.8",
            "towncrier>=24.8",
            "types-PyYAML",
            "types-cachetools",
        ],
    },
    entry_points={"console_scripts": ["registryd = registryd.cli:main", "registryd-gc = registryd_gc.__main__:main"]},
    zip_safe=False,
)
