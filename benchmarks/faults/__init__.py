"""Faults put into the pipeline, one at a time: are they caught, when, and by their right name?"""
