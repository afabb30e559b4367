"""Images and labels: folders of files, or the digits of scikit-learn. Order and augmentation follow from a seed."""

from lightnas_edge.data.dataset import DIGITS, DataSet, load_data, load_images, load_validation_images, training_part
from lightnas_edge.data.loader import Loader, normalise

__all__ = [
    "DIGITS",
    "DataSet",
    "Loader",
    "load_data",
    "load_images",
    "load_validation_images",
    "normalise",
    "training_part",
]
