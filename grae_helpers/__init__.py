"""Models, losses and measurements behind the book *What the variational family does to a β-VAE*."""

__version__ = "0.1.0"
