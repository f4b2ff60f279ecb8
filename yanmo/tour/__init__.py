"""The main job: a walk through all rooms on this machine, from raw text to a language model that writes.

walk (the sequence) · folder (what is kept) · budget (time and size) · stages · nets · writing · show · report
"""
