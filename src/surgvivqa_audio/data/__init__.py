"""REAL-Colon-VQA as it really is: import, audit, splits, statistics, frame stores, fetch and viewer."""
