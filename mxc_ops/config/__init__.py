"""Config documents: bytes in (`loader.load`), validated `document.Document` out, and what they mean.

``text`` (bytes → JSON value) → ``loader`` (shape by version, then cross-field rules) → ``canonical`` → ``request``.
"""
