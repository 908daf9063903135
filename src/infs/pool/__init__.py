"""Instances of models: started when wanted, shared by requests, disposed of when idle."""
