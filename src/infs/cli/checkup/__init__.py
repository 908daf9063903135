"""The checks of ``infs doctor``: small functions that look at one thing and say what they found."""
