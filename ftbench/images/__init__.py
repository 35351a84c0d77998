"""Images decoded once into uint8 memory that all runs share, and batches made from it."""

from ftbench.images.decode import UnreadableError, read_image, resized
from ftbench.images.examples import ImageExamples, PreparedImages
from ftbench.images.folders import images_folder, megabytes
from ftbench.images.reporting import reporting
from ftbench.images.scan import Scan, scan
from ftbench.images.sources import DatasetImages, FileImages, ImageSource, stamp_of
from ftbench.images.store import open_store

__all__ = [
    "DatasetImages",
    "FileImages",
    "ImageExamples",
    "ImageSource",
    "PreparedImages",
    "Scan",
    "UnreadableError",
    "images_folder",
    "megabytes",
    "open_store",
    "read_image",
    "reporting",
    "resized",
    "scan",
    "stamp_of",
]
