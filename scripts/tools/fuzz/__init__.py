"""Bytes that anybody may send, against everything that reads them."""
