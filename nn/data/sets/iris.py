"""Iris: 150 flowers, 4 measurements, 3 species (R. A. Fisher, Annals of Eugenics, 1936)."""

from nn.data.raw import Raw


def make() -> Raw:
    """Return all rows as scikit-learn has them, in centimetres, not divided."""
    from sklearn.datasets import load_iris

    flowers = load_iris()
    y = flowers.target.astype("int64")
    return Raw(flowers.data, y, None, None, classes=3, origin="iris", images=False)
