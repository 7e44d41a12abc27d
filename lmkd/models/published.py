r"""The words in which a backbone's `PUBLISHED_NAMES` tells where a published PyTorch network keeps each of its tensors.

    PUBLISHED_NAMES = PublishedNames(
        rules=(
            *conv_norm(r"stage(\d)/block(\d+)/conv(\d)", r"layer\1.\2.conv\3", r"layer\1.\2.bn\3"),  # a layers.ConvNorm
            *layer(r"block(\d+)/dense", r"blocks.\1.mlp.fc1"),                # Conv, Dense, BatchNorm or LayerNorm
            Rule(r"block(\d+)/bias_qkv", (r"blocks.\1.attn.q_bias", r"blocks.\1.attn.v_bias"), join),  # anything else
        ),
        elsewhere=r"fc\.",
    )

A pattern is a regular expression that matches a variable's whole path below "backbone", leaf included; the names of the
tensors take its groups as \1, \2. `join(q_bias, v_bias)` gets the named tensors as NumPy arrays and returns our value:
slices, stacks, reshapes and constants all go there. Where tensors may have other names (another release of the same
network), add a second rule of the same pattern: the first whose tensors are all there is taken.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_NEVER = r"(?!)"


def as_is(value: np.ndarray) -> np.ndarray:
    """Returns the tensor unchanged."""
    return value


def kernel(weight: np.ndarray) -> np.ndarray:
    """Returns the weight of a convolution [out, in, y, x] as [y, x, in, out], that of a linear layer [out, in] as [in, out].

    A depthwise one, [c, 1, y, x], becomes [y, x, 1, c].
    """
    return weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T


class Rule(NamedTuple):
    """Where one variable comes from.

    Attributes:
      pattern: regular expression that the variable's whole path matches ("stem/conv/kernel").
      names: of the PyTorch tensors, with the pattern's groups as in `re.Match.expand`.
      transform: float32 arrays, one a name -> the variable's value. ValueError says that a shape does not fit.
    """

    pattern: str
    names: tuple[str, ...]
    transform: Callable[..., np.ndarray] = as_is


class PublishedNames(NamedTuple):
    """A backbone's table.

    Attributes:
      rules: one or more for every variable.
      elsewhere: regular expression, matched at the start of a tensor's name: what a published network has beyond the
        backbone (a classifier), left out where the backbone alone is filled.
      derived: the same for buffers that hold no weights (index tables, masks), always left out.
    """

    rules: tuple[Rule, ...]
    elsewhere: str = _NEVER
    derived: str = _NEVER


def layer(pattern: str, name: str) -> tuple[Rule, ...]:
    """Returns the rules of a layer with kernel or scale, bias and running statistics, those that it has."""
    return (
        Rule(f"{pattern}/kernel", (f"{name}.weight",), kernel),
        Rule(f"{pattern}/scale", (f"{name}.weight",)),
        Rule(f"{pattern}/bias", (f"{name}.bias",)),
        Rule(f"{pattern}/mean", (f"{name}.running_mean",)),
        Rule(f"{pattern}/var", (f"{name}.running_var",)),
    )


def conv_norm(pattern: str, convolution: str, norm: str) -> tuple[Rule, ...]:
    """Returns the rules of a `layers.ConvNorm` or `layers.DepthwiseConvNorm`."""
    return layer(f"{pattern}/(?:conv|depthwise)", convolution) + layer(f"{pattern}/bn", norm)
