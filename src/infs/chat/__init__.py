"""Chat: prompts out of templates, tool-call dialects, the parser of the output, and grammars for constraints.

All of it runs in the worker process. Jinja2 and llguidance are imported where they are used.
"""
