"""Where a network runs."""

import torch

from asr.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Turn auto, cpu or cuda into a device.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch finds no GPU here (use cpu or auto)")
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device {name}: is not known (use cpu, cuda or auto)")
    return torch.device(name)
