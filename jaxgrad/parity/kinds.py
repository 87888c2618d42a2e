"""What an operation does with its operands: adds them up, moves or chooses entries, decides."""

from __future__ import annotations

_TORCH = {
    "add": "add sub rsub lerp",
    "move": """
        neg abs clone _to_copy copy select slice index gather embedding index_select expand repeat masked_fill
        constant_pad_nd select_backward slice_backward unfold max_pool2d_with_indices split as_strided flip roll
        where maximum minimum stack cat fill zero zeros_like ones_like
        """,
    "mean": """
        mean nll_loss_forward nll_loss2d_forward var_mean native_layer_norm native_batch_norm native_group_norm
        threshold_backward max_pool2d_with_indices_backward _log_softmax_backward_data
        """,
    "sum": """
        sum cumsum embedding_dense_backward index_add scatter_add index_put native_layer_norm_backward
        native_batch_norm_backward native_group_norm_backward convolution_backward
        """,
    "dot": "mm bmm addmm baddbmm convolution dot mv addmv linear einsum",
}
_JAX = {
    "add": "add sub add_any",
    "move": """
        neg abs broadcast_in_dim slice dynamic_slice gather pad reduce_max reduce_min cummax cummin dynamic_update_slice
        convert_element_type reduce_window_max rev split sort reduce_precision scan_slice scan_stack pmax pmin
        concatenate max min clamp select_n
        """,
    "sum": "reduce_sum cumsum scatter-add scatter_add reduce_window_sum psum select_and_scatter_add",
    "dot": "dot_general conv_general_dilated ragged_dot",
}


DECISIONS = set("floor ceil round trunc sign sgn fix".split())
"""Results that are floating and do not move with what they are made from: decisions, as a comparison is."""


DECOMPOSITIONS = set(
    """
    _linalg_det _linalg_eigh _linalg_slogdet _linalg_solve_ex _linalg_svd geqrf linalg_cholesky_ex linalg_eig
    linalg_inv_ex linalg_ldl_factor_ex linalg_lstsq linalg_lu_factor_ex linalg_lu linalg_qr linalg_solve_triangular
    lu_unpack triangular_solve
    cholesky eig eigh householder_product lu qr schur svd tridiagonal tridiagonal_solve
    """.split()
)
"""What both frameworks compute of matrices, exact for a matrix that is a rounding of its largest entry away."""


def _by_name(table: dict[str, str]) -> dict[str, str]:
    return {name: kind for kind, names in table.items() for name in names.split()}


_TORCH_KINDS, _JAX_KINDS = _by_name(_TORCH), _by_name(_JAX)


def base_name(operation: str) -> str:
    """The name without overload and namespace, in place or not: ``"aten.add_.Tensor"`` is ``"add"``."""
    return operation.split(".")[1].rstrip("_") if operation.startswith("aten.") else operation


def torch_kind(operation: str) -> str:
    """The kind of an ATen operation: ``"aten.add_.Tensor"`` is an ``"add"``."""
    return _TORCH_KINDS.get(base_name(operation), "other")


def jax_kind(primitive: str) -> str:
    """The kind of a JAX primitive."""
    return _JAX_KINDS.get(primitive, "other")
