"""Run AI models on your own machine."""
