"""The public port: HTTP/1.1 on llhttp, with as little per request as RFC 9112 allows."""
