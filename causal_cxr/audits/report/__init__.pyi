from .report import ComponentPicture, GalleryItem, Report

__all__ = ["ComponentPicture", "GalleryItem", "Report"]
