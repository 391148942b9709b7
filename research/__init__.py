"""Research answers questions from memories, and cites them.

The gateway is above it. Of the memory service below it, research knows only the protocol `context.recall.Recall`.
"""
