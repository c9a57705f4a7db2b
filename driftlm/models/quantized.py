"""A base model in 4 or 8 bit, through bitsandbytes (the extra `quantized`)."""

import importlib
import logging
from typing import Any

import torch

from driftlm.core.errors import DriftError


def quantization(bits: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Return what `from_pretrained` needs to load linear maps in so many bits: NF4 or LLM.int8, the head as it is.

    NF4: Dettmers et al. 2023 (arXiv 2305.14314), section 3. LLM.int8: Dettmers et al. 2022 (arXiv 2208.07339), but
    without its outlier columns.

    Args:
        bits: 4 or 8; 0 leaves the model as it is.
        dtype: what is computed in.
        device: that the weights go to.

    Raises:
        DriftError: when bitsandbytes is missing or cannot use the device.

    Example:
        >>> quantization(0, torch.float32, "cpu")
        {}
    """
    if bits == 0:
        return {}
    if bits not in (4, 8):
        raise DriftError(f"`Machine.bits` was {bits}; give 4 or 8, or 0 to leave the model as it is.")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of every cast
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise DriftError(
            f'`Machine.bits` {bits} needs the package bitsandbytes; run pip install "driftlm[quantized]", or give '
            f"`Machine.bits` 0."
        ) from error
    kind = torch.device(device).type
    if kind not in bitsandbytes.supported_torch_devices:
        known = ", ".join(sorted(bitsandbytes.supported_torch_devices))
        raise DriftError(
            f"`Machine.bits` was {bits}, which bitsandbytes {bitsandbytes.__version__} cannot do on `Machine.device` "
            f"{device}; give "
            f"one of {known}, or `Machine.bits` 0."
        )
    from transformers import BitsAndBytesConfig

    if bits == 4:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    else:
        # Which columns hold outliers would depend on all tokens of a window, so that a score would see later ones.
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return {"quantization_config": config, "device_map": {"": device}}


def keep_as_loaded(model: Any) -> None:
    """Do not let 4-bit weights be packed at the first forward pass on a CPU with bfloat16 instructions.

    Packed, they compute in bfloat16 whatever was asked for, give no gradient, and `state_dict` takes them back to other
    weights (bitsandbytes 0.50).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
