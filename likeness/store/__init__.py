"""The data store (ADS): its layout, its packs and maps, committing, proving, copying."""
