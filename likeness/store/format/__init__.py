"""What the bytes are: documents, packs, block maps, and the store that reads them."""
