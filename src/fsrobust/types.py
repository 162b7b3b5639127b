"""Shapes as types, and the one error that callers meet.

One letter of a shape means the same thing everywhere: B samples, C channels, H × W pixels, K classes.
"""

import difflib
from collections.abc import Iterable
from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Images: TypeAlias = Float[Tensor, "B C H W"]
"""Pixels in [0, 1], float, NCHW. Normalisation belongs inside the model."""
Labels: TypeAlias = Int[Tensor, " B"]
"""Class indices in [0, K), int64."""
Ids: TypeAlias = Int[Tensor, " B"]
"""Identities of samples, int64; all evaluation noise depends on them, never on a sample's position."""
Logits: TypeAlias = Float[Tensor, "B K"]
"""Scores before the softmax."""
Features: TypeAlias = Float[Tensor, "B F M N"]
"""A feature map: F channels of M × N units."""
Flags: TypeAlias = Bool[Tensor, " B"]
"""One truth value per sample."""
PerSample: TypeAlias = Float[Tensor, " B"]
"""One number per sample."""


class InputError(ValueError):
    """What the caller gave cannot be used; the message says what was expected and what came.

    The command line prints the message alone and exits with status 2.
    """


class NewerFormatError(InputError):
    """A file that a newer version wrote; it may well be whole."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that a table does not hold; it names the nearest and all others.

    >>> str(unknown_name("attack", "pgd2", ["fgsm", "pgd20"]))
    'Unknown attack "pgd2"; did you mean "pgd20"? Known: fgsm, pgd20'
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f'; did you mean "{near[0]}"?' if near else "."
    return InputError(f'Unknown {kind} "{name}"{hint} Known: {", ".join(names)}')
