"""What each published version of the document looks like: one module per version, each told as a change.

``kinds`` is the vocabulary, ``editions`` the index, ``compiled`` turns a version into a validator.
"""
