"""The read path: a query is prepared, searched, ranked, selected and explained. It changes nothing."""
