"""The conversation with LM Studio: its wire format, its errors, its models, one HTTP client."""
