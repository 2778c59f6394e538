"""From the ISIC downloads to a shard set: tables, duplicates, folds, metadata, images, tar files."""
