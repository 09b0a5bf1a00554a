"""The audit trail: what a record says, how records are chained, and the thread that writes them."""
