"""Config documents: bytes in (`loader.load`), validated `document.Document` out, and what they mean.

Order: ``text`` (bytes → JSON value), ``loader`` (shape by version, then rules), ``canonical``, ``request``.
"""
