"""Image files and slides on disk: finding them and reading their bytes, before any pixel is decoded."""
