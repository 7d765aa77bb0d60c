"""Matrix products for Hopper GPUs, Baton's own kernel: few rows of x against weights read at memory speed."""

from baton.kernels.hopper.forms import Form, forms
from baton.kernels.hopper.product import Product

__all__ = ["Form", "Product", "forms"]
