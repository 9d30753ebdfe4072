from .report import GalleryItem, Report

__all__ = ["GalleryItem", "Report"]
