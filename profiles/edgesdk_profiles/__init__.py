"""What is known of each target before anything is measured: a folder each, every fact with its source."""
