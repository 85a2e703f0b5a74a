"""What linear maps a graph holds: how they are spelled, which grid their weights have, what is known of them."""
