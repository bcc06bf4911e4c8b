"""What a site's activations are measured with beside its SAEs: the MLP neurons of its layer, the
directions of PCA.

Shapes: N tokens, D model width, J neurons.
"""

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_matrix

from saeworks.lm.anatomy import IN, MLP
from saeworks.lm.model import LanguageModel
from saeworks.measure.concepts.choosing import Units


def neuron_site(lm: LanguageModel, site: str) -> str | None:
    """Where the MLP neurons of a site's block are: the input of the last module within the MLP
    that maps another width to the model's. None where there is none (a mixture of experts, a
    block without an MLP, or no block)."""
    block = next(
        (b for b in lm.blocks if site.removesuffix(IN) == b or site.startswith(b + ".")), None
    )
    branch = lm.anatomy.branches.get(block or "", {}).get(MLP)
    if branch is None or branch.module is None:
        return None
    widths = lm.anatomy.widths
    d = widths.get(branch.module)
    inside = [
        name
        for name in widths
        if name.startswith(branch.module + ".") and not name.endswith(IN) and widths[name] == d
        if widths.get(name + IN, d) != d
    ]
    return inside[-1] + IN if inside else None


def positive(values_NJ: Float[np.ndarray, "N J"]) -> csr_matrix:
    """The strictly positive values, sparse."""
    return csr_matrix(np.maximum(values_NJ, 0, dtype=np.float32))


def principal_units(x_ND: Float[np.ndarray, "N D"], fit_N: np.ndarray, most: int) -> Units:
    """PCA directions as units, each way: max(0, ±⟨v, x − x̄⟩), from the largest variance on, `most`
    of them at most.

    Args:
        fit_N: the tokens that mean and directions are of.
    """
    mean_D = x_ND[fit_N].mean(0, dtype=np.float64).astype(np.float32)
    centred_ND = x_ND - mean_D
    fit_ND = centred_ND[fit_N]
    _, axes_DD = np.linalg.eigh((fit_ND.T @ fit_ND).astype(np.float64))
    axes_DV = axes_DD[:, ::-1][:, : max(1, most // 2)].astype(np.float32)
    along_NV = centred_ND @ axes_DV
    return Units(positive(np.concatenate([along_NV, -along_NV], axis=1)))
