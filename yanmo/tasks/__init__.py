"""Jobs for a language model: classify, extract, answer, translate, generate; from a file of examples to a report."""
