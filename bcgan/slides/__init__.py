"""Open any image: find files, decode them, find scale and tissue, cut patches, read annotations."""
