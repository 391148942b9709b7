"""Research: a question goes in, an answer grounded in memories and citing them comes out.

Above it stands the gateway, below it the memory service, of which it knows no more than `recall.Recall`.
"""
