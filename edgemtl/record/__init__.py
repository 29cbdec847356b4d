"""What a run leaves: names and layouts of its files, and the one reader of them."""
