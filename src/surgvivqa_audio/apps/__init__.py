"""Applications: the demo page, its state and its launcher; the logic knows no Streamlit."""
