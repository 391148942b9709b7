"""The read path prepares a query, searches, ranks, selects and explains. It changes nothing."""
