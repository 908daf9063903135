"""Measurements of infs against its peers and against the limit of the hardware, as ratios of one run."""
