"""Answer parser, metrics, intervals and floors: pure functions of rows."""
