"""ImageSet in, training batches and evaluation pairs out: images → resize → pairs → datamodule."""
