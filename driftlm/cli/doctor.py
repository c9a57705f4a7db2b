"""The verb `doctor`."""

import platform
from collections.abc import Iterator
from importlib.util import find_spec

import driftlm
from driftlm.storage.locks import refuse_without_locks

EXTRAS = {
    "report": ("altair", "vl_convert"),
    "serve": ("fastapi", "prometheus_client", "uvicorn"),
    "gguf": ("gguf",),
    "data": ("datasets",),
    "dense": ("sentence_transformers",),
    "quantized": ("bitsandbytes",),
    "ner": ("spacy",),
    "ray": ("ray",),
}


def doctor() -> int:
    """Say what is installed and which path will run.

    Platforms that driftlm does not run on are refused.
    """
    refuse_without_locks()
    for line in findings():
        print(line)
    return 0


def findings() -> Iterator[str]:
    """One line a fact, the ones that need a remedy included."""
    import torch

    from driftlm.models.catalogue import BUNDLED

    yield f"driftlm {driftlm.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    for package in ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy", "tyro", "rich"):
        yield f"{package} {installed(package)}"
    yield f"CPU: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        yield f"CUDA: {torch.cuda.get_device_name()}; use it with --device cuda"
    else:
        yield "CUDA: none usable; models run on the CPU in float32 unless --dtype bfloat16 is given"
    bundled = "there" if (BUNDLED / "model.safetensors").exists() else "MISSING; reinstall driftlm or give --model DIR"
    yield f"bundled model: {bundled}"
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        remedy = f'not installed; pip install "driftlm[{extra}]"' if missing else "installed"
        yield f"extra {extra}: {remedy}"


def installed(package: str) -> str:
    """A package's version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "MISSING; reinstall driftlm"
