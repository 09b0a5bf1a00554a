"""Fair shares of an engine: who of its callers is let in next, and what each has used."""
